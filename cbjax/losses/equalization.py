"""Equalization losses: examples of other classes do not push the answers for rare classes down."""

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.losses.arguments import Given, as_floats, check_share, checked
from cbjax.losses.one_vs_rest import one_vs_rest_terms, sum_over_classes
from cbjax.losses.softmax import by_shares, one_of_classes, others_over_own
from cbjax.types import Array


def rare_classes(counts: Array, share: float | Array) -> Array:
    """Returns which classes have less than `share` of the training images [C].

    Args:
      counts: [C] training images of each class.
      share: lambda of the papers, in [0, 1]; a traced one is not checked.

    Raises:
      ValueError: if the share is not in [0, 1].
    """
    check_share("share", share)
    if not isinstance(counts, jax.core.Tracer) and not isinstance(share, jax.core.Tracer):
        # In float64, where 1/1000 is the share of each of 1000 equal classes; in float32 it is more.
        known = np.asarray(counts, np.float64)
        return jnp.asarray(known / known.sum() < np.asarray(share, np.float64))
    counts = as_floats(counts)
    return counts < jnp.asarray(share, counts.dtype) * counts.sum()


def equalization_mask(keys: Array, rare: Array, chance: float | Array) -> Array:
    """Draws which rare classes are left out, for each example and class by itself.

    Args:
      keys: [B] random keys, one for each example. Keys of the examples' places in the global batch make the mask
        independent of the number of devices.
      rare: [C] which classes may be left out (`rare_classes`).
      chance: of each, in [0, 1] (gamma of the papers).

    Returns:
      [B, C] true for what is left out, except where the class is true of the example (the losses see to that).

    Raises:
      ValueError: if the chance is not in [0, 1]; a traced one is not checked.
    """
    check_share("chance", chance)
    chance = jnp.asarray(chance, jnp.float32)
    drawn = jax.vmap(lambda key: jax.random.bernoulli(key, chance, rare.shape))(keys)
    return drawn & rare[None, :]


def equalization_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    masked: Array,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes sigmoid cross entropy without the terms of masked classes, weighted by class.

    Args:
      masked: [C] or [B, C] true for the classes whose "no" does not count. The term of a true class always counts.
        `rare_classes` is the published choice, `equalization_mask` draws among them.

    Other arguments, result and errors are those of `sigmoid_cross_entropy`. With floats for labels, a class above 0 is
    true.

    Source: Tan et al. 2020, eqs. 3 to 5. The detector's code draws nothing, and excepts background, which images of one
    class do not have.
    """
    given = checked(logits, labels, class_weights, example_weights, ignore)
    out = _left_out(given, masked)
    return sum_over_classes(given, lambda logits, labels: jnp.where(out, 0.0, one_vs_rest_terms(logits, labels)))


def softmax_equalization_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    masked: Array,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes softmax cross entropy as if masked classes were not there, weighted by class.

    Args:
      masked: [C] or [B, C] true for the classes that leave the sum of the softmax. A true class never does.
        `equalization_mask` draws them as published.

    Other arguments, result and errors are those of `softmax_cross_entropy`. With shares for labels, a class with a
    share above 0 is true.

    Source: Tan et al. 2020, eqs. 10 to 12, and BagofTricks' code. The first form of that code overflows for large
    logits; this one takes out logits, not exponentials.
    """
    given = one_of_classes("softmax_equalization_loss", logits, labels, class_weights, example_weights, ignore)
    kept = jnp.where(_left_out(given, masked), -jnp.inf, given.logits)
    return by_shares(given, jax.nn.softplus(others_over_own(given._replace(logits=kept))))


def _left_out(given: Given, masked: Array) -> Array:
    masked = jnp.asarray(masked)
    if masked.dtype != bool or masked.shape not in (given.logits.shape, given.logits.shape[1:]):
        raise ValueError(
            f"masked must be [C] or [B, C], true for what is left out, got {masked.dtype} of shape {masked.shape} for "
            f"logits of shape {given.logits.shape}"
        )
    return (masked if masked.ndim == 2 else masked[None, :]) & ~given.is_true
