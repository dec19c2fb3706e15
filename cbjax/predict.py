"""Predictions of a trained model on images that it has not seen."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cbjax.types import Array, Model


def make_predict(
    model: Model,
    params: Any,
    batch_stats: Any,
    *,
    image_shape: tuple[int, ...],
    image_dtype: str,
    normalize: Callable[[Array], Array],
    probabilities: Callable[[Array], Array],
    batch_size: int = 256,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns images [N, H, W, channels], in the units that the model was trained on -> probabilities [N, C] float32.

    Grey images may come as [N, H, W]. Batches have one shape, so that any N is one program.
    """

    @jax.jit
    def compiled(params, batch_stats, images):
        return probabilities(model.apply(params, batch_stats, normalize(images), train=False)[0])

    def predict(images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class for each image.

        Raises:
          ValueError: if the images do not have the shape or the kind of numbers that the model was trained on.
        """
        images = np.asarray(images)
        if np.issubdtype(images.dtype, np.floating) != np.issubdtype(np.dtype(image_dtype), np.floating):
            raise ValueError(
                f"images must be {image_dtype}, in the units that the model was trained on; got {images.dtype}"
                + (": give pixels of 0 to 255" if image_dtype == "uint8" else "")
            )
        if image_shape[-1] == 1 and images.shape[1:] == image_shape[:-1]:
            images = images[..., None]
        if images.shape[1:] != image_shape:
            wanted = ", ".join(map(str, image_shape))
            raise ValueError(
                f"images must have the shape [N, {wanted}] that the model was trained on; got {list(images.shape)}"
            )
        rows = []
        for batch in range(math.ceil(len(images) / batch_size)):
            part = images[batch * batch_size : (batch + 1) * batch_size]
            padded = np.zeros((batch_size, *image_shape), images.dtype)
            padded[: len(part)] = part
            rows.append(np.asarray(compiled(params, batch_stats, padded))[: len(part)])
        if rows:
            return np.concatenate(rows)
        classes = jax.eval_shape(
            compiled, params, batch_stats, np.zeros((batch_size, *image_shape), images.dtype)
        ).shape[1]
        return np.zeros((0, classes), np.float32)

    return predict
