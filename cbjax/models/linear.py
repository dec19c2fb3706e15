"""Softmax regression: a classifier right on the pixels, the smallest baseline."""

from collections.abc import Callable

from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import initializer, unchanged
from cbjax.types import Array, Model


def linear(num_classes: int, *, initialization: str = "glorot", final_bias: float = 0.0, head: str = "linear") -> Model:
    """Builds one linear layer on the pixels; its loss is convex for softmax cross entropy.

    Args:
      num_classes: C, at least 2.
      initialization: "glorot" or "he".
      final_bias: value at which the biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.

    Returns:
      The model for images [B, H, W, channels]; its features are the pixels, [B, H W channels].

    Raises:
      ValueError: if an option is not one of those above.
    """
    return linen.model(Pixels(), num_classes, initializer(initialization), final_bias, head)


class Pixels(nn.Module):
    """The pixels in one row: [B, H, W, channels] -> [B, H W channels]."""

    @nn.compact
    def __call__(self, images: Array, train: bool, attend: Callable[[Array], Array] = unchanged) -> Array:
        return attend(images).reshape(images.shape[0], -1)
