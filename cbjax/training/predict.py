"""Predictions of a trained model on images that it has not seen."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.data.clips.given import ClipFit
from cbjax.data.given import Fit
from cbjax.metrics import has_answer
from cbjax.types import Array, NonFiniteLoss, Trained

LEAST = 8  # images of a batch: on a CPU, smaller batches can give other last bits
MOST = 256


def images_at_once(shape: Sequence[int]) -> int:
    """Returns how many images [H, W, channels], or clips [T, H, W, channels] of as many frames, make a batch."""
    frames = shape[0] if len(shape) == 4 else 1
    return max(LEAST, 1 << (MOST // frames).bit_length() - 1)


def make_predict(
    logits: Callable[[Trained, Array], Array],
    trained: Trained,
    *,
    fit: Fit | ClipFit,
    normalize: Callable[[Array], Array],
    probabilities: Callable[[Array], Array],
    batch_size: int | None = None,
) -> Callable[..., np.ndarray]:
    """Returns images, in the units that the model was trained on -> probabilities [N, C] float32.

    Args:
      logits: an objective's, (trained, images) -> [B, C].
      trained: what it reads, on one device.
      fit: brings images to the model's size.
      normalize: images -> the network's input.
      probabilities: logits -> [B, C].
      batch_size: the most images at a time; None for `images_at_once`. Batches are filled up to a power of two, so
        that few images take little work and all N share a few programs.
    """
    most = batch_size or images_at_once(fit.shape)

    @jax.jit
    def compiled(trained, images):
        scores = logits(trained, normalize(images))
        return jnp.where(has_answer(scores)[:, None], probabilities(scores), jnp.nan)

    def predict(images: Any, *, allow_nan: bool = False) -> np.ndarray:
        """Returns the probability of each class for each image, [N, C].

        Args:
          images: an array [N, H, W] or [N, H, W, channels]; a path or a Pillow image; or a list of paths, Pillow images
            and arrays, each of its own size. An array of the model's own size is taken as it is. Other sizes are
            resized and cropped as for evaluation. If the run was trained on clips: paths to clips, or arrays
            [frames, H, W, 3] uint8.
          allow_nan: gives a row of NaN for an image whose outputs are NaN, instead of raising.

        Raises:
          NonFiniteLoss: if the network's outputs for an image are NaN; an argmax of them would be class 0.
          ValueError: if an image cannot be read, or its range of numbers or its channels differ from the training's.
            Arrays that may be in other units bring a warning.
        """
        rows: list[np.ndarray] = []
        fitted = fit.all(images)
        while part := list(itertools.islice(fitted, most)):
            # After a whole batch, the program for whole batches is compiled, so the rest uses it too.
            size = most if rows else min(most, max(LEAST, 1 << (len(part) - 1).bit_length()))
            padded = np.zeros((size, *fit.shape), fit.dtype)
            padded[: len(part)] = part
            rows.append(np.asarray(compiled(trained, padded))[: len(part)])
        if rows:
            chances = np.concatenate(rows)
            lost = np.isnan(chances).any(axis=1)
            chances[lost] = np.nan
            if lost.any() and not allow_nan:
                raise NonFiniteLoss(
                    f"the network's outputs are NaN for {lost.sum()} of {len(lost)} images, the first of them image "
                    f"{np.argmax(lost)}: its weights, or these images, have numbers that are not finite or too large"
                )
            return chances
        empty = np.zeros((most, *fit.shape), fit.dtype)
        return np.zeros((0, jax.eval_shape(compiled, trained, empty).shape[1]), np.float32)

    return predict
