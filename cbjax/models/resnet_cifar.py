"""ResNets for CIFAR: three stages of basic blocks with 16, 32 and 64 channels (He et al. 2015, section 4.2)."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import BatchNorm, convolution, initializer, relu, unchanged
from cbjax.types import Array, Model

WIDTHS = (16, 32, 64)
SHORTCUTS = ("average", "subsample", "projection")


def resnet_cifar(
    num_classes: int,
    *,
    depth: int,
    shortcut: str = "average",
    initialization: str = "glorot",
    final_bias: float = 0.0,
    head: str = "linear",
    batch_norm_axis: str | None = None,
    batch_norm_size: int | None = None,
) -> Model:
    """Builds a ResNet of 6n + 2 layers for images of about 32x32.

    Args:
      num_classes: C, at least 2.
      depth: number of layers, 6n + 2.
      shortcut: how a block's input is made to fit where the size halves and the channels double. "average": mean over
        2x2 pixels (the CB authors); "subsample": every second pixel (He et al.'s option A; LDAM's and CDB's authors);
        both add channels of zeros, half of them on each side. "projection": 1x1 convolution and BatchNorm (option B).
      initialization: "glorot" (the CB authors) or "he" (LDAM's and CDB's).
      final_bias: value at which the last biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.
      batch_norm_axis: mesh axis over which BatchNorm's statistics are synchronised; None for each device's own.
      batch_norm_size: images of a group with statistics of its own; None for all that a device has.

    Returns:
      The model; its features are [B, 64].

    Raises:
      ValueError: if an option is not one of those above.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 with n at least 1, not {depth}")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut must be one of {', '.join(SHORTCUTS)}, not {shortcut!r}")
    kernel_init = initializer(initialization)
    norm = functools.partial(BatchNorm, axis_name=batch_norm_axis, group_size=batch_norm_size)
    backbone = ResNet((depth - 2) // 6, shortcut, kernel_init, norm)
    return linen.model(backbone, num_classes, kernel_init, final_bias, head)


class ResNet(nn.Module):
    """The network up to the mean over pixels: [B, H, W, channels] -> [B, 64]."""

    blocks_per_stage: int
    shortcut: str
    kernel_init: nn.initializers.Initializer
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, images: Array, train: bool, attend: Callable[[Array], Array] = unchanged) -> Array:
        outputs = convolution(WIDTHS[0], kernel_init=self.kernel_init, name="stem")(images)
        outputs = relu(self.norm(name="stem_norm")(outputs, train))
        for stage, width in enumerate(WIDTHS):
            for index in range(self.blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage{stage + 1}_block{index + 1}"
                block = Block(width, stride, self.shortcut, self.kernel_init, self.norm, name=name)
                outputs = block(outputs, train)
        return jnp.mean(attend(outputs), axis=(1, 2))


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, ReLU after their sum (version 1)."""

    width: int
    stride: int
    shortcut: str
    kernel_init: nn.initializers.Initializer
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        convolve = functools.partial(convolution, self.width, kernel_init=self.kernel_init)
        outputs = convolve(stride=self.stride, name="convolution1")(inputs)
        outputs = relu(self.norm(name="norm1")(outputs, train))
        outputs = self.norm(name="norm2")(convolve(name="convolution2")(outputs), train)
        if self.stride == 1:
            return relu(outputs + inputs)
        if self.shortcut == "projection":
            inputs = convolve(stride=self.stride, size=1, name="projection")(inputs)
            return relu(outputs + self.norm(name="projection_norm")(inputs, train))
        return relu(outputs + _shrink(inputs, self.width, self.stride, self.shortcut))


def _shrink(inputs: Array, width: int, stride: int, shortcut: str) -> Array:
    """Makes [B, H, W, D] into [B, ceil(H/stride), ceil(W/stride), width] without parameters."""
    if shortcut == "average":
        # With an odd size, windows at the edge hold fewer pixels; their mean is over the pixels they hold.
        window = (stride, stride)
        inputs = nn.avg_pool(inputs, window, window, padding="SAME", count_include_pad=False)
    else:
        inputs = inputs[:, ::stride, ::stride]
    channels = (width - inputs.shape[-1]) // 2
    return jnp.pad(inputs, ((0, 0), (0, 0), (0, 0), (channels, channels)))
