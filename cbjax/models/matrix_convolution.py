"""A convolution and its 2x2 max-pool as one matrix product, for small images.

XLA's convolutions on CPU are slow for kernels with few channels. They are some four times slower inside `lax.scan`, and
become grouped ones under `vmap` over models. A matrix product is fast in all three cases. It does about twice the
arithmetic of the convolution and copies its input several times, so it is for LeNet-sized layers only.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cbjax.types import Array


class ConvolutionAndPool(nn.Module):
    """A k x k convolution with bias and its 2x2 max-pool; parameters as those of `nn.Conv`."""

    width: int
    size: int
    padding: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        shape = (self.size, self.size, inputs.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        # Adding one number to a whole window moves its maximum by that number, so the bias can come after pooling.
        return convolve_and_pool(inputs, kernel, self.padding) + bias[None, None, None]


def convolve_and_pool(images: Array, kernel: Array, padding: int) -> Array:
    """Computes the 2x2 max-pool, stride 2, of a convolution with stride 1.

    A tile of two output rows and 2t output columns (t = 2 where the pooled width is even, else 1) sees k + 1 input rows
    and 2t + k - 1 input columns. These pixels, flattened, times a banded matrix give the whole tile at once. Small
    tiles waste little arithmetic on the band's zeros; wide tiles copy fewer pixels twice. The matrix's columns are
    sorted first by an output's position in its 2x2 window, so that pooling is the maximum of four slices.

    Equal values in a window share its gradient; XLA's own pooling gives all of it to the first.

    Args:
      images: [B, H, W, D]; the convolution's output height and width must be even.
      kernel: [k, k, D, E] with k odd, as for `lax.conv_general_dilated` in HWIO order.
      padding: rows and columns of zeros added on each side.

    Returns:
      [B, (H + 2 padding - k + 1)/2, (W + 2 padding - k + 1)/2, E].

    Raises:
      ValueError: if the kernel's size is even or an output size is odd.
    """
    size = kernel.shape[0]
    images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    batch, height, width, channels = images.shape
    rows, columns = height - size + 1, width - size + 1
    if size % 2 == 0 or rows % 2 or columns % 2:
        raise ValueError(
            f"the kernel's size must be odd and the output's height and width even: {size}, {rows}, {columns}"
        )
    step = 4 if columns % 4 == 0 else 2
    seen = step + size - 1
    pairs = images.reshape(batch, height // 2, 2, width, channels)
    tiles = []
    for left in range(0, columns, step):
        band = pairs[:, :, :, left : left + seen].reshape(batch, height // 2, -1)
        tiles.append(jnp.concatenate([band[:, i : i + rows // 2] for i in range((size + 1) // 2)], axis=2))
    matrix = _banded_matrix(kernel, seen)
    outputs = jnp.stack(tiles, axis=2).reshape(-1, matrix.shape[0]) @ matrix
    phases = outputs.reshape(outputs.shape[0], 4, -1)
    return jnp.max(phases, axis=1).reshape(batch, rows // 2, columns // 2, -1)


def _banded_matrix(kernel: Array, width: int) -> Array:
    """Lays a kernel [k, k, D, E] out as [(k + 1) * width * D, 4 * columns/2 * E] for input rows of `width` pixels."""
    size = kernel.shape[0]
    columns = width - size + 1
    # Output (2r + p, 2v + q) sees input (2r + p + i, 2v + q + j) through kernel[i, j].
    row, phase, offset = np.ogrid[: size + 1, :2, :size]
    row_mask = (row == phase + offset).astype(np.float32)
    column, column_phase, pooled, column_offset = np.ogrid[:width, :2, : columns // 2, :size]
    column_mask = (column == 2 * pooled + column_phase + column_offset).astype(np.float32)
    matrix = jnp.einsum("api,uqvj,ijde->audpqve", row_mask, column_mask, kernel)
    return matrix.reshape((size + 1) * width * kernel.shape[2], -1)
