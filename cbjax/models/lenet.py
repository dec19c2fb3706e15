"""LeNet-5 for 28x28 images (LeCun et al. 1998, in today's usual form: max-pooling, ReLU, dense layers)."""

from collections.abc import Callable

from flax import linen as nn

from cbjax.models import linen
from cbjax.models.layers import initializer, relu, unchanged
from cbjax.models.matrix_convolution import ConvolutionAndPool
from cbjax.types import Array, Model


def lenet5(num_classes: int, *, initialization: str = "glorot", final_bias: float = 0.0, head: str = "linear") -> Model:
    """Builds LeNet-5: 5x5 convolutions with 6 (padding 2) and 16 channels, each with 2x2 max-pooling, then 120, 84, C.

    With 10 classes and one channel it has 61,706 parameters.

    Args:
      num_classes: C, at least 2.
      initialization: "glorot" or "he".
      final_bias: value at which the last biases start: 0, or -log(C - 1) for one-vs-rest losses.
      head: "linear", or "normalized" (LDAM): cosines, without bias.

    Returns:
      The model for images [B, 28, 28, channels]; its features are [B, 84].

    Raises:
      ValueError: if an option is not one of those above; when the model is used, if images are not 28x28.
    """
    kernel_init = initializer(initialization)
    return linen.model(LeNet5(kernel_init), num_classes, kernel_init, final_bias, head)


class LeNet5(nn.Module):
    """The network up to its last hidden layer: [B, 28, 28, channels] -> [B, 84]."""

    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, images: Array, train: bool, attend: Callable[[Array], Array] = unchanged) -> Array:
        if images.shape[1:3] != (28, 28):
            raise ValueError(f"lenet5 needs images [B, 28, 28, channels], not {list(images.shape)}")
        outputs = ConvolutionAndPool(6, 5, 2, self.kernel_init, name="convolution1")(images)
        outputs = ConvolutionAndPool(16, 5, 0, self.kernel_init, name="convolution2")(relu(outputs))
        outputs = attend(relu(outputs)).reshape(outputs.shape[0], -1)
        for index, width in enumerate((120, 84)):
            outputs = relu(nn.Dense(width, kernel_init=self.kernel_init, name=f"dense{index + 1}")(outputs))
        return outputs
