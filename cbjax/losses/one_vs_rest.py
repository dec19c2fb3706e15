"""Losses of C yes-or-no answers: sigmoid cross entropy, and what other one-vs-rest losses share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cbjax.losses.arguments import Given, as_floats, checked, one_hot
from cbjax.types import Array


def sigmoid_cross_entropy(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the cross entropy of C one-vs-rest tasks of each example, weighted by class.

    Args:
      logits: [B, C] scores, any real or infinite.
      labels: [B] integers in [0, C), or [B, C] multi-hot: 0 and 1, or floats between them. An example with another
        integer label, such as -100, has loss 0 and no gradient; other values of [B, C] are not detected. Labels of
        just 0 and 1 have no gradient by themselves.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. With integer labels
        all C terms of an example have the weight of its true class; with multi-hot labels each has its own weight.
      example_weights: [B] that each loss is multiplied by at last; None for 1.
      ignore: [B] true for an example with loss 0 and no gradient, whatever its logits and label are; None for none.

    Returns:
      [B] losses in nats, summed over classes, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels [B] are not integers, or there is only one class for them.

    Source: Cui et al. 2019, eq. 12.
    """
    given = checked(logits, labels, class_weights, example_weights, ignore)
    return sum_over_classes(given, one_vs_rest_terms)


def one_vs_rest_terms(logits: Array, labels: Array) -> Array:
    """Returns the cross entropy of each of the C yes-or-no answers, [B, C]; their sum is `sigmoid_cross_entropy`."""
    logits, labels = as_floats(logits), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        return jax.nn.softplus(-margins(logits, labels))
    # For a label of 0 or 1 only one side counts and keeps its digits; the other side may be infinite.
    positive = jnp.where(labels > 0, labels * jax.nn.softplus(jnp.where(labels > 0, -logits, 0.0)), 0.0)
    return positive + jnp.where(labels < 1, (1.0 - labels) * jax.nn.softplus(jnp.where(labels < 1, logits, 0.0)), 0.0)


def margins(logits: Array, labels: Array) -> Array:
    """Returns [B, C] logits with the sign changed for negative labels."""
    return jnp.where(one_hot(labels, logits) if labels.ndim == 1 else labels > 0, logits, -logits)


def sum_over_classes(given: Given, terms: Callable[[Array, Array], Array]) -> Array:
    """Weighs the terms (logits, labels) -> [B, C] of all classes and returns their sums [B]."""
    each = terms(given.logits, given.labels)
    return given.weigh(each.sum(axis=1) if given.is_hard else each)
