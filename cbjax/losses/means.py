"""The mean of losses over a batch, also over one that is divided among devices."""

import jax
import jax.numpy as jnp

from cbjax.losses.arguments import as_floats
from cbjax.types import Array


def weighted_mean(losses: Array, weights: Array | None = None, axis_name: str | None = None) -> Array:
    """Returns sum(weights * losses) / sum(weights), both sums over the whole batch.

    Inside `pmap` and `shard_map`, name their axis: then each device has its share of the batch, and all get the mean of
    the whole. The mean of the devices' own means is another number as soon as their weights differ.

    The gradient by parameters that all devices share: average it over the axis, `jax.lax.pmean(gradient, axis_name)`.
    Under `shard_map` with its default checks it is the whole gradient already, and averaging does not change it.

    Args:
      losses: [B], one device's share, not yet multiplied by these weights.
      weights: [B], at least 0, not all of them 0; None for 1. Give examples that do not count (a label of -100, or
        padding) the weight 0. With class_weights[labels] it is the mean of PyTorch's weighted cross entropy.
      axis_name: of the mapped axis; None where a device has the whole batch.

    Returns:
      [] the mean, float32 (float64 for float64 losses); 0 if all weights are 0.

    Raises:
      ValueError: if the shapes differ.
    """
    # Which answers are right would make weights 0 or 1. In float16 the number of 70,000 examples is infinite.
    losses = as_floats(losses)
    weights = jnp.ones_like(losses) if weights is None else jnp.asarray(weights, losses.dtype)
    if losses.ndim != 1 or weights.shape != losses.shape:
        raise ValueError(f"losses and weights must be [B], got shapes {losses.shape} and {weights.shape}")
    # An example of weight 0 does not count even if its loss is not finite. A finite one keeps its slope by the weight.
    losses = jnp.where((weights == 0) & ~jnp.isfinite(losses), 0.0, losses)
    sums = jnp.sum(weights * losses), jnp.sum(weights)
    total, amount = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return jnp.where(amount > 0, total / jnp.where(amount > 0, amount, 1.0), 0.0)
