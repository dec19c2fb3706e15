"""ResNets for ImageNet: four stages of basic or bottleneck blocks (He et al. 2015, table 1)."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import BatchNorm, convolution, initializer, relu, unchanged
from cbjax.types import Array, Model

# Depth: blocks of each stage, and whether they are bottlenecks.
DEPTHS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LEAST_SIZE = 32  # the network divides height and width by 32


def resnet_imagenet(
    num_classes: int,
    *,
    depth: int,
    width: int = 64,
    initialization: str = "he",
    final_bias: float = 0.0,
    head: str = "linear",
    zero_last_scale: bool = True,
    batch_norm_axis: str | None = None,
    batch_norm_size: int | None = None,
    dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Builds a ResNet of 10 to 152 layers; bottlenecks have their stride in the 3x3 convolution (version 1.5).

    Layers and padding are those of torchvision, so that its weights give equal logits (`cbjax.models.pretrained`).

    Args:
      num_classes: C, at least 2.
      depth: one of DEPTHS.
      width: channels of the stem and of the first stage, 64 in the papers; each later stage has twice as many.
      initialization: "glorot" or "he", for the convolutions; the head's kernel is normal with deviation 0.01 (Goyal).
      final_bias: value at which the last biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.
      zero_last_scale: whether the last BatchNorm scale of each block starts at 0, so that blocks start as identities
        (Goyal et al. 2017, section 5.1), or at 1.
      batch_norm_axis: mesh axis over which BatchNorm's statistics are synchronised; None for each device's own.
      batch_norm_size: images of a group with statistics of its own; None for all that a device has.
      dtype: "float32" or "bfloat16", for activations and convolutions. Parameters, BatchNorm's statistics, features and
        logits are always float32.
      remat: whether the backward pass computes the inside of blocks again and does not keep it: less memory, more time.

    Returns:
      The model for images [B, H, W, channels], H and W at least 32; its features are [B, 8 width], with bottlenecks
      [B, 32 width].

    Raises:
      ValueError: if an option is not one of those above; when the model is used, if images are smaller.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, not {depth}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    blocks, bottleneck = DEPTHS[depth]
    backbone = ResNet(
        blocks,
        again(Bottleneck if bottleneck else BasicBlock, remat),
        width,
        functools.partial(convolution, kernel_init=initializer(initialization), dtype=DTYPES[dtype]),
        functools.partial(BatchNorm, axis_name=batch_norm_axis, group_size=batch_norm_size),
        nn.initializers.zeros if zero_last_scale else nn.initializers.ones,
    )
    return linen.model(backbone, num_classes, nn.initializers.normal(0.01), final_bias, head)


def again(block: type["Block"], remat: bool) -> type["Block"]:
    """Returns the block, whose inside the backward pass computes again if `remat`."""
    # `train` is the third argument after the module and the activations.
    return nn.remat(block, static_argnums=(2,)) if remat else block


class ResNet(nn.Module):
    """The network up to the mean over pixels: [B, H, W, channels] -> [B, D] float32.

    With a stem of three axes it takes clips, [B, T, H, W, channels]. The stem keeps all frames; the pooling and each
    stage but the first halve their number, as they do height and width.
    """

    blocks: tuple[int, ...]
    block: Callable[..., "Block"]
    width: int
    convolution: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]
    last_scale_init: nn.initializers.Initializer
    stem: tuple[int, ...] = (7, 7)
    pooled: bool = True
    reverse_channels: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool, attend: Callable[[Array], Array] = unchanged) -> Array:
        axes = len(self.stem)
        if min(images.shape[-3:-1]) < LEAST_SIZE:
            size = "x".join(map(str, images.shape[-3:-1]))
            kind = "ResNets for ImageNet need images" if axes == 2 else "ResNets for video need frames"
            raise ValueError(f"{kind} of at least {LEAST_SIZE}x{LEAST_SIZE}, not {size}")
        if self.reverse_channels:
            images = images[..., ::-1]
        outputs = self.convolution(self.width, stride=(1, 2, 2)[-axes:], size=self.stem, name="stem")(images)
        outputs = relu(self.norm(name="stem_norm")(outputs, train))
        if self.pooled:
            outputs = nn.max_pool(outputs, (3,) * axes, (2,) * axes, ((1, 1),) * axes)
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                outputs = self.block(
                    self.width * 2**stage,
                    2 if stage > 0 and index == 0 else 1,
                    self.convolution,
                    self.norm,
                    self.last_scale_init,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(outputs, train)
        outputs = attend(outputs)
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        return jnp.mean(outputs, axis=tuple(range(1, axes + 1)))


class Block(nn.Module):
    """Convolutions with BatchNorm beside a shortcut, ReLU after their sum (version 1)."""

    width: int
    stride: int
    convolution: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]
    last_scale_init: nn.initializers.Initializer

    def join(self, inputs: Array, outputs: Array, train: bool) -> Array:
        """Adds a block's input to its output, through a projection where the two differ in shape (option B)."""
        if inputs.shape != outputs.shape:
            project = self.convolution(outputs.shape[-1], stride=self.stride, size=1, name="projection")
            inputs = self.norm(name="projection_norm")(project(inputs), train)
        return relu(outputs + inputs)


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        outputs = self.convolution(self.width, stride=self.stride, name="convolution1")(inputs)
        outputs = relu(self.norm(name="norm1")(outputs, train))
        outputs = self.convolution(self.width, name="convolution2")(outputs)
        outputs = self.norm(scale_init=self.last_scale_init, name="norm2")(outputs, train)
        return self.join(inputs, outputs, train)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide."""

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        outputs = self.convolution(self.width, size=1, name="convolution1")(inputs)
        outputs = relu(self.norm(name="norm1")(outputs, train))
        outputs = self.convolution(self.width, stride=self.stride, name="convolution2")(outputs)
        outputs = relu(self.norm(name="norm2")(outputs, train))
        outputs = self.convolution(4 * self.width, size=1, name="convolution3")(outputs)
        outputs = self.norm(scale_init=self.last_scale_init, name="norm3")(outputs, train)
        return self.join(inputs, outputs, train)
