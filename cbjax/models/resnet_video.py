"""3D ResNets for clips of frames, as published with weights of Kinetics.

Layers, strides and padding are those of the published code, so that its weights give equal logits
(`cbjax.models.pretrained`): torchvision's for `r3d18`, github.com/kenshohara/3D-ResNets-PyTorch for all others. For T
frames of H x W pixels these are the sizes, rounded up; the mean over all of the last stage follows:

                 r3d18                 all others
    stem         T     H/2    W/2      T      H/2    W/2      3x7x7 and 7x7x7
    stage 1      T     H/2    W/2      T/2    H/4    W/4      after the pooling of all others
    stage 2      T/2   H/4    W/4      T/4    H/8    W/8
    stage 3      T/4   H/8    W/8      T/8    H/16   W/16
    stage 4      T/8   H/16   W/16     T/16   H/32   W/32
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import BatchNorm, convolution, initializer, relu
from cbjax.models.resnet_imagenet import DTYPES, BasicBlock, Block, ResNet, again
from cbjax.types import Array, Model

CHANNELS = ("rgb", "bgr")
STEMS = {"pooled": (7, 7, 7), "plain": (3, 7, 7)}  # name -> size of the kernel


def resnet_video(
    num_classes: int,
    *,
    blocks: tuple[int, ...],
    block: str,
    stem: str = "pooled",
    width: int = 64,
    cardinality: int = 32,
    initialization: str = "he",
    final_bias: float = 0.0,
    head: str = "linear",
    channels: str = "rgb",
    zero_last_scale: bool = True,
    batch_norm_axis: str | None = None,
    batch_norm_size: int | None = None,
    dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Builds a 3D ResNet or ResNeXt.

    Args:
      num_classes: C, at least 2.
      blocks: how many blocks each of the four stages has.
      block: one of BLOCKS: "resnext", bottlenecks whose 3x3x3 convolution is grouped; "basic", two 3x3x3 convolutions;
        "basic_a", the same with shortcuts without parameters.
      stem: "pooled", a 7x7x7 convolution and max pooling; or "plain", a 3x7x7 convolution alone.
      width: channels of the stem, 64 in the paper.
      cardinality: groups of a "resnext" block's convolution; it must divide 2 width.
      initialization: "glorot" or "he", for the convolutions; the authors draw like "he", but by the number of outputs.
      final_bias: value at which the last biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.
      channels: order in which the network sees the colours of its RGB input: "rgb", or "bgr" for weights that were
        trained so.
      zero_last_scale: whether the last BatchNorm scale of each block starts at 0 (Goyal et al. 2017), or at 1 as the
        authors'.
      batch_norm_axis: mesh axis over which BatchNorm's statistics are synchronised; None for each device's own.
      batch_norm_size: clips of a group with statistics of its own; None for all that a device has.
      dtype: "float32" or "bfloat16", for activations and convolutions. Parameters, BatchNorm's statistics, features and
        logits are always float32.
      remat: whether the backward pass computes the inside of blocks again and does not keep it: less memory, more time.

    Returns:
      The model for clips [B, T, H, W, 3], T at least 1, H and W at least 32. Its features are [B, 8 width], with
      "resnext" blocks [B, 32 width].

    Raises:
      ValueError: if an option is not one of those above; when the model is used, if clips are smaller.

    Source: Hara et al. 2018 (Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?) and Tran et al.
    2018 (A Closer Look at Spatiotemporal Convolutions for Action Recognition); strides are those of the code.
    """
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(BLOCKS)}, not {block!r}")
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(STEMS)}, not {stem!r}")
    if cardinality < 1 or (block == "resnext" and 2 * width % cardinality):
        raise ValueError(f"cardinality must divide {2 * width}, twice the width; got {cardinality}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if channels not in CHANNELS:
        raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, not {channels!r}")
    convolve = functools.partial(convolution, axes=3, kernel_init=initializer(initialization), dtype=DTYPES[dtype])
    kind: Callable[..., Block] = again(BLOCKS[block], remat)
    backbone = ResNet(
        blocks,
        functools.partial(kind, cardinality=cardinality) if block == "resnext" else kind,
        width,
        convolve,
        functools.partial(BatchNorm, axis_name=batch_norm_axis, group_size=batch_norm_size),
        nn.initializers.zeros if zero_last_scale else nn.initializers.ones,
        stem=STEMS[stem],
        pooled=stem == "pooled",
        reverse_channels=channels == "bgr",
    )
    return linen.model(backbone, num_classes, nn.initializers.normal(0.01), final_bias, head, clips=True)


class ResNeXtBlock(Block):
    """1x1x1, grouped 3x3x3 with the stride, and 1x1x1 convolutions: two, two and four times as wide as the stage."""

    cardinality: int = 32

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        outputs = self.convolution(2 * self.width, size=1, name="convolution1")(inputs)
        outputs = relu(self.norm(name="norm1")(outputs, train))
        grouped = self.convolution(2 * self.width, stride=self.stride, groups=self.cardinality, name="convolution2")
        outputs = relu(self.norm(name="norm2")(grouped(outputs), train))
        outputs = self.convolution(4 * self.width, size=1, name="convolution3")(outputs)
        outputs = self.norm(scale_init=self.last_scale_init, name="norm3")(outputs, train)
        return self.join(inputs, outputs, train)


class PaddedBlock(BasicBlock):
    """Two 3x3x3 convolutions beside a shortcut without parameters (option A).

    A shortcut with a stride of 2 keeps every second frame, row and column. Channels that it lacks are zeros, after the
    others. The authors' code stops the gradient there; this one does not.
    """

    def join(self, inputs: Array, outputs: Array, train: bool) -> Array:
        """Adds a block's input, made to fit, to its output."""
        if inputs.shape != outputs.shape:
            inputs = inputs[:, :: self.stride, :: self.stride, :: self.stride]
            inputs = jnp.pad(inputs, (*((0, 0),) * 4, (0, outputs.shape[-1] - inputs.shape[-1])))
        return relu(outputs + inputs)


BLOCKS: dict[str, type[Block]] = {"resnext": ResNeXtBlock, "basic": BasicBlock, "basic_a": PaddedBlock}
# Name -> the arguments that make it. "resnet3d18_a" is the `resnet-18-kinetics` of 2018. With a head for 400 classes
# they have 33,371,472, 33,409,104, 33,235,280, 26,685,264 and 48,340,816 parameters.
NETWORKS: dict[str, dict[str, Any]] = {
    "r3d18": {"blocks": (2, 2, 2, 2), "block": "basic", "stem": "plain"},
    "resnet3d18": {"blocks": (2, 2, 2, 2), "block": "basic", "stem": "pooled"},
    "resnet3d18_a": {"blocks": (2, 2, 2, 2), "block": "basic_a", "stem": "pooled"},
    "resnext3d50": {"blocks": (3, 4, 6, 3), "block": "resnext", "stem": "pooled"},
    "resnext3d101": {"blocks": (3, 4, 23, 3), "block": "resnext", "stem": "pooled"},
}
