"""What the networks are built of: how kernels start, convolutions, ReLU and BatchNorm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cbjax.types import Array

# "glorot": uniform, TensorFlow's default for convolutions and dense layers. The CB authors' CIFAR code keeps it.
# "he": PyTorch's kaiming_normal_ with its defaults (fan-in, a normal that is not truncated). The LDAM and CDB authors
# use it for convolutions and dense layers.
INITIALIZATIONS: dict[str, Callable[..., Any]] = {
    "glorot": nn.initializers.glorot_uniform(),
    "he": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
}


def initializer(name: str) -> Callable[..., Any]:
    """Returns the initialiser (key, shape, dtype) -> kernel of that name; a ValueError lists the known ones."""
    if name not in INITIALIZATIONS:
        raise ValueError(f"initialization must be one of {', '.join(INITIALIZATIONS)}, not {name!r}")
    return INITIALIZATIONS[name]


def convolution(
    width: int,
    *,
    stride: int | tuple[int, ...] = 1,
    size: int | tuple[int, ...] = 3,
    axes: int = 2,
    groups: int = 1,
    kernel_init,
    name: str,
    dtype: DTypeLike = jnp.float32,
) -> nn.Conv:
    """Returns the layer [B, H, W, D] -> [B, ceil(H/stride), ceil(W/stride), width], computed in `dtype`.

    Three axes are those of clips, [B, T, H, W, D]. Of g groups, each sees 1/g of the D channels alone.
    """
    # Padding is fixed, as in all references: "SAME" would pad a strided convolution on the right alone.
    sizes = (size,) * axes if isinstance(size, int) else size
    return nn.Conv(
        width,
        sizes,
        stride,
        [(size // 2, size // 2) for size in sizes],
        feature_group_count=groups,
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def relu(inputs: Array) -> Array:
    """Computes max(x, 0); the gradient at 0 is 0 and NaN stays NaN, as in `jax.nn.relu`.

    On CPU, XLA gives `maximum` to a library as a call of its own, but fuses `where` with the BatchNorm and the sum
    around it. A step of ResNet-32 then takes 0.6 of the time.
    """
    return jnp.where(inputs <= 0, 0, inputs)


def unchanged(maps: Array) -> Array:
    """Returns what it is given: the activations before the pooling of a network without attention."""
    return maps


class BatchNorm(nn.Module):
    """Normalises each channel over the batch in training, and by running statistics in evaluation.

    Written out because a step of ResNet-32 on CPU takes 1.15 times as long with Flax's own.

    Running statistics are `momentum * running + (1 - momentum) * batch`. The variance of the batch divides by n, as in
    Flax. TensorFlow's fused kernel (the CB authors) and PyTorch (the CDB and LDAM authors) divide by n - 1, which
    differs by a factor of at most 1.0002 for batches of 128 images of 32x32. No gradient flows through running
    statistics. If the batch is cut into groups, each group has its own statistics, and the running ones use their mean.

    Activations may be bfloat16; parameters, statistics and the arithmetic are float32 at least.

    Attributes:
      momentum: share of the running statistics that a step keeps.
      epsilon: added to the variance.
      axis_name: mesh axis over whose devices the statistics are taken; None for each device's own (Goyal et al. 2017).
      group_size: images of a group; it must divide B in training. None for one group of all the device's images.
      scale_init: initialiser of the scale.

    Source: Ioffe and Szegedy 2015, algorithms 1 and 2; groups: Goyal et al. 2017 (32 images), Hoffer et al. 2017.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    group_size: int | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        """Maps activations [B, ..., D] to normalised ones of the same shape and type.

        Raises:
          ValueError: in training, if the groups do not divide the batch or are to be synchronised.
        """
        channels = (inputs.shape[-1],)
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels)
        values = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        if train:
            if self.group_size is not None:
                values = self._grouped(values, self.group_size)
            mean, variance = _moments(values, self.group_size is not None, self.axis_name)
            if not self.is_initializing():
                running_mean.value = self._blend(running_mean.value, mean)
                running_variance.value = self._blend(running_variance.value, variance)
        else:
            mean, variance = running_mean.value, running_variance.value
        # One multiplication and one addition for each activation; all else is done on D numbers of each group.
        factor = _wide(scale, variance) * jax.lax.rsqrt(variance + self.epsilon)
        offset = _wide(bias, mean) - mean * factor
        outputs = values * _wide(factor, values) + _wide(offset, values)
        return outputs.reshape(inputs.shape).astype(inputs.dtype)

    def _grouped(self, values: Array, size: int) -> Array:
        """Makes [B, ..., D] into [groups, images of a group, ..., D]."""
        if self.axis_name is not None:
            raise ValueError("BatchNorm takes its statistics over groups or over all devices, not both")
        if size < 1 or values.shape[0] % size:
            raise ValueError(
                f"the images of a BatchNorm group must divide the {values.shape[0]} that a device takes at once; "
                f"got {size}"
            )
        return values.reshape(-1, size, *values.shape[1:])

    def _blend(self, running: Array, batch: Array) -> Array:
        if batch.ndim == 2:
            batch = batch.mean(axis=0)
        return self.momentum * running + (1 - self.momentum) * jax.lax.stop_gradient(batch)


def _moments(values: Array, grouped: bool, axis_name: str | None) -> tuple[Array, Array]:
    """Returns mean and variance, [groups, D] or [D]; over all devices of the axis if there is one."""
    axes = tuple(range(int(grouped), values.ndim - 1))
    # Both sums take one pass over the activations. Rounding can make their difference negative.
    moments = jnp.mean(values, axes), jnp.mean(jnp.square(values), axes)
    mean, mean_of_squares = moments if axis_name is None else jax.lax.pmean(moments, axis_name)
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)


def _wide(channels: Array, like: Array) -> Array:
    """Shapes [D] or [groups, D] so that it broadcasts to `like` [(groups,) ..., D] without rank promotion."""
    *groups, depth = channels.shape
    return channels.reshape(*groups, *(1,) * (like.ndim - channels.ndim), depth)
