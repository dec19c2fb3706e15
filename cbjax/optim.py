"""Learning rate schedules with warm-up, and SGD as both papers use it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cbjax.types import Array


def step_schedule(
    learning_rate: float | Array,
    boundaries: Sequence[int],
    factor: float,
    warmup_steps: int = 0,
    warmup_from: float = 0.0,
) -> optax.Schedule:
    """Returns a schedule that multiplies the rate by `factor` at each boundary, after a linear warm-up.

    Steps count from 0, warm-up included. A boundary is the first step at the lower rate. Step `warmup_steps` is the
    first at the full rate; a step s before it has the rate warmup_from + (rate - warmup_from) s / warmup_steps.

    Args:
      learning_rate: rate after warm-up.
      boundaries: steps at which the rate falls, in any order, each at least 0.
      factor: factor of each fall, above 0.
      warmup_steps: length of the warm-up in steps.
      warmup_from: rate at step 0 of a warm-up.

    Returns:
      (step) -> [] learning rate, float32; steps may be traced.

    Raises:
      ValueError: if a boundary or the warm-up is negative or the factor is not positive.

    Source: Cui et al. 2019 (x 0.01 at two epochs, warm-up from 0); Goyal et al. 2017 (warm-up from the base rate).
    """
    if any(boundary < 0 for boundary in boundaries):
        raise ValueError(f"boundaries must be steps, at least 0, got {tuple(boundaries)}")
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    falls = np.sort(np.asarray(boundaries, np.int32)) - warmup_steps
    decays = np.float64(factor) ** np.arange(len(falls) + 1)

    def decayed(step):
        return learning_rate * jnp.asarray(decays, jnp.float32)[jnp.searchsorted(falls, step, side="right")]

    return _warmed_up(decayed, learning_rate, warmup_steps, warmup_from)


def cosine_schedule(
    learning_rate: float | Array, num_steps: int, warmup_steps: int = 0, warmup_from: float = 0.0
) -> optax.Schedule:
    """Returns a schedule that falls along half a cosine from the end of the warm-up to 0 at step `num_steps`.

    Args:
      learning_rate: rate after warm-up.
      num_steps: number of all steps, warm-up included; the last step, num_steps - 1, has a rate just above 0.
      warmup_steps: length of the warm-up in steps, below num_steps; its rates are as in `step_schedule`.
      warmup_from: rate at step 0 of a warm-up.

    Returns:
      (step) -> [] learning rate, float32; 0 from step num_steps on. Steps may be traced.

    Raises:
      ValueError: if the warm-up is negative or takes all the steps.

    Source: Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    if not warmup_steps < num_steps:
        raise ValueError(f"warmup_steps must be below num_steps, got {warmup_steps} of {num_steps}")

    def decayed(step):
        progress = jnp.clip(step / (num_steps - warmup_steps), 0.0, 1.0)
        return learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return _warmed_up(decayed, learning_rate, warmup_steps, warmup_from)


def sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float | Array = 0.0,
    decay_mask: Any | None = None,
) -> optax.GradientTransformation:
    """Returns stochastic gradient descent with momentum and coupled weight decay.

    As in the code of both papers, the gradient of weight_decay |params|^2 / 2 is added before the momentum.

    Args:
      schedule: learning rate, or (step) -> learning rate.
      momentum: share of the running sum of gradients that is kept, in [0, 1).
      nesterov: whether to look one step ahead.
      weight_decay: coefficient, at least 0.
      decay_mask: pytree of bools, or a function from parameters to such a pytree; None decays all.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov),
    )


def of_part(tx: optax.GradientTransformation, trained: Any) -> optax.GradientTransformation:
    """Returns `tx` for a part of the parameters. The others get updates of 0, and need no memory for momentum.

    Args:
      tx: the optimiser.
      trained: pytree of bools in the shape of the parameters.
    """
    names = jax.tree.map(lambda on: "trained" if on else "frozen", trained)
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, names)


def scaled(tx: optax.GradientTransformation, factors: Any) -> optax.GradientTransformation:
    """Returns `tx` with the learning rate of each parameter multiplied by a factor, a pytree of numbers."""

    def multiply(updates, params):
        return jax.tree.map(lambda update, factor: (factor * update).astype(update.dtype), updates, factors)

    return optax.chain(tx, optax.stateless(multiply))


def decay_mask(params: Any, *, rule: str = "all", last_bias: bool = True) -> Any:
    """Returns which parameters decay, as a pytree of bools in the shape of `params`.

    Args:
      params: parameters, nested dicts whose leaves are named as in Flax (BatchNorm's are "scale" and "bias").
      rule: "all" (the CIFAR code of both papers), or "kernels", which leaves out biases and BatchNorm.
      last_bias: whether the bias of the head, params["head"]["bias"], decays; with "kernels" it never does.

    Returns:
      Pytree of bools.

    Raises:
      ValueError: if the rule is unknown.

    Source: Cui et al. 2019: no decay of the last bias for sigmoid losses.
    """
    if rule not in ("all", "kernels"):
        raise ValueError(f"rule must be 'all' or 'kernels', got {rule!r}")

    def decays(path, _):
        names = [getattr(key, "key", None) for key in path]
        if rule == "kernels" and names[-1] in ("bias", "scale"):
            return False
        return last_bias or names[-2:] != ["head", "bias"]

    return jax.tree_util.tree_map_with_path(decays, params)


def _warmed_up(
    decayed: optax.Schedule, learning_rate: float | Array, warmup_steps: int, warmup_from: float
) -> optax.Schedule:
    """Returns a schedule that rises to the rate and then follows `decayed`, whose step 0 is the end of the warm-up."""
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")

    def rising(step):
        return warmup_from + (learning_rate - warmup_from) * (step / warmup_steps)

    schedule = optax.join_schedules([rising, decayed], [warmup_steps]) if warmup_steps else decayed
    return lambda step: jnp.asarray(schedule(jnp.asarray(step)), jnp.float32)
