"""BatchNorm, per device or synchronised over a mesh axis."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cbjax.types import Array


class BatchNorm(nn.Module):
    """Normalises each channel over the batch in training, and by running statistics in evaluation.

    Written out because a step of ResNet-32 on CPU takes 1.15 times as long with Flax's own.

    Running statistics are `momentum * running + (1 - momentum) * batch`, with the variance of the batch divided by n,
    as in Flax. TensorFlow's fused kernel (the CB authors') and PyTorch (CDB's and LDAM's) divide by n - 1 there, a
    factor of at most 1.0002 for batches of 128 images of 32x32. No gradient flows through them.

    Attributes:
      momentum: share of the running statistics that a step keeps.
      epsilon: added to the variance.
      axis_name: mesh axis over whose devices the statistics are taken; None for each device's own (Goyal et al. 2017).

    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        """Maps activations [B, ..., D] to normalised ones of the same shape."""
        channels = (inputs.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            mean, variance = _moments(inputs, self.axis_name)
            if not self.is_initializing():
                running_mean.value = self._blend(running_mean.value, mean)
                running_variance.value = self._blend(running_variance.value, variance)
        else:
            mean, variance = running_mean.value, running_variance.value
        # One multiplication and one addition for each activation; all else is done on D numbers.
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return inputs * _wide(factor, inputs) + _wide(bias - mean * factor, inputs)

    def _blend(self, running: Array, batch: Array) -> Array:
        return self.momentum * running + (1 - self.momentum) * jax.lax.stop_gradient(batch)


def _moments(inputs: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Returns mean and variance [D] of activations [B, ..., D], over all devices of the axis where one is named."""
    axes = tuple(range(inputs.ndim - 1))
    # Both in one pass over the activations; rounding can take the difference of the two below zero.
    moments = jnp.mean(inputs, axes), jnp.mean(jnp.square(inputs), axes)
    mean, mean_of_squares = moments if axis_name is None else jax.lax.pmean(moments, axis_name)
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)


def _wide(channels: Array, like: Array) -> Array:
    """Shapes [D] so that it broadcasts to `like` [B, ..., D] without rank promotion."""
    return channels.reshape((1,) * (like.ndim - 1) + (-1,))
