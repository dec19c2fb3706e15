"""SAM and ImbSAM: gradients from where the loss is higher, around any objective, for a minimum that is flat."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cbjax.types import Array, TrainState


class Found(NamedTuple):
    """What one pass over the global batch finds, the same on all devices but for `correct`.

    Attributes:
      value: [], the reduced loss, of the chosen examples alone where some are chosen.
      grads: its gradient.
      batch_stats: running statistics after the batch.
      remembered: the objective's next state.
      correct: [], examples of this device that are classified rightly.
    """

    value: Array
    grads: Any
    batch_stats: Any
    remembered: Any
    correct: Array


# Labels [B] -> which examples count in the value and the gradient, [B]. What the value is divided by does not change.
Chosen = Callable[[Array], Array]
Around = Callable[[Callable[[Any, Chosen | None], Found], TrainState], Found]  # (gradient, state) -> Found


def once(gradient: Callable[[Any, Chosen | None], Found], state: TrainState) -> Found:
    """Takes the gradient at the parameters: no sharpness."""
    return gradient(state.params, None)


def sam(gradient: Callable[[Any, Chosen | None], Found], state: TrainState) -> Found:
    """Takes the gradient at params + radius * g / |g|, where g is the gradient at the parameters.

    g is that of the global batch, so that all devices move by the same step; |g| is the norm over all parameters.
    Both passes see the same images, crops and dropout. All else that a step finds is that of the first pass: the loss,
    BatchNorm's running statistics, and the objective's next state. The second pass normalises by the batch's own
    statistics, at the moved parameters. Weight decay is the optimiser's and is not part of g.

    Source: Foret et al. 2021, eq. 2 and algorithm 1 with p = 2. The authors take g over each device's share; here 1 and
    N devices agree.
    """
    first = gradient(state.params, None)
    there = _uphill(state.params, first.grads, state.settings.method["sharpness.radius"])
    return first._replace(grads=gradient(there, None).grads)


def imbsam(gradient: Callable[[Any, Chosen | None], Found], state: TrainState) -> Found:
    """Adds the head classes' gradient at the parameters to the tail classes' at params + radius * t / |t|.

    t is the tail classes' gradient at the parameters. Tail classes have fewer training images than
    `sharpness.tail_below`; in the authors' code fewer than 20, for CIFAR-100. Both parts are divided as the whole loss
    is. Statistics and states are as in `sam`. A batch without tail classes gives the plain gradient.

    Source: Zhou et al. 2023 (ImbSAM), eq. 6, and the first form of the authors' code. That lets each pass update
    BatchNorm's running statistics, and reports the tail's loss at the moved parameters. Since September 2023 their code
    doubles the tail's loss, in PyTorch and MindSpore, which the paper does not.
    """

    def is_tail(labels):
        return state.settings.counts[labels] < state.settings.method["sharpness.tail_below"]

    head = gradient(state.params, lambda labels: ~is_tail(labels))
    tail = gradient(state.params, is_tail)
    there = _uphill(state.params, tail.grads, state.settings.method["sharpness.radius"])
    grads = jax.tree.map(jnp.add, head.grads, gradient(there, is_tail).grads)
    return head._replace(value=head.value + tail.value, grads=grads)


def _uphill(params, grads, radius):
    """Returns the parameters moved by `radius` along the gradient; not moved if the gradient is 0."""
    norm = optax.tree.norm(grads)
    factor = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1.0), 0.0)
    return jax.tree.map(lambda leaf, slope: leaf + (factor * slope).astype(leaf.dtype), params, grads)
