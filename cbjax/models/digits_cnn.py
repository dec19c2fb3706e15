"""A small network for 8x8 digits that trains in seconds on a CPU."""

from collections.abc import Callable

from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import initializer, relu, unchanged
from cbjax.models.matrix_convolution import ConvolutionAndPool
from cbjax.types import Array, Model


def digits_cnn(num_classes: int, *, initialization: str = "he", final_bias: float = 0.0, head: str = "linear") -> Model:
    """Builds two 3x3 convolutions with 16 and 32 channels, each with 2x2 max-pooling, and one hidden layer of 64.

    It has no BatchNorm, so runs on different numbers of devices agree to rounding.

    Args:
      num_classes: C, at least 2.
      initialization: "glorot" or "he".
      final_bias: value at which the last biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.

    Returns:
      The model for images [B, 8, 8, channels]; its features are [B, 64].

    Raises:
      ValueError: if an option is not one of those above; when the model is used, if images are not 8x8.
    """
    kernel_init = initializer(initialization)
    return linen.model(DigitsCNN(kernel_init), num_classes, kernel_init, final_bias, head)


class DigitsCNN(nn.Module):
    """The network up to its hidden layer: [B, 8, 8, channels] -> [B, 64]."""

    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, images: Array, train: bool, attend: Callable[[Array], Array] = unchanged) -> Array:
        if images.shape[1:3] != (8, 8):
            raise ValueError(f"digits_cnn needs images [B, 8, 8, channels], not {list(images.shape)}")
        outputs = ConvolutionAndPool(16, 3, 1, self.kernel_init, name="convolution1")(images)
        outputs = ConvolutionAndPool(32, 3, 1, self.kernel_init, name="convolution2")(relu(outputs))
        outputs = attend(relu(outputs)).reshape(outputs.shape[0], -1)
        return relu(nn.Dense(64, kernel_init=self.kernel_init, name="dense")(outputs))
