"""Convolutions as the reference ResNets have them: without bias, padded alike on both sides."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike


def convolution(
    width: int, *, stride: int = 1, size: int = 3, kernel_init, name: str, dtype: DTypeLike = jnp.float32
) -> nn.Conv:
    """Returns the layer [B, H, W, D] -> [B, ceil(H/stride), ceil(W/stride), width], computed in `dtype`."""
    # Padding is fixed, as in all references: "SAME" would pad a strided convolution on the right alone.
    padding = (size // 2, size // 2)
    return nn.Conv(
        width,
        (size, size),
        stride,
        (padding, padding),
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )
