"""Computes the scores [C] of every image of a split, for figures that need more than the predicted classes."""

import concurrent.futures
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from cbjax.data import Encoded
from cbjax.host import machine
from cbjax.metrics import average_precision, roc_auc
from cbjax.training import components, input_paths
from cbjax.training.restore import Examined
from cbjax.types import Run

BATCH = 256
ONE_VS_REST = (
    "probabilities are one-vs-rest: each is the chance of a yes for its class, so those of an image do not sum to 1"
)


def meaning(run: Run) -> str | None:
    """Returns what to know about a run's probabilities before they are read; None for a softmax."""
    return ONE_VS_REST if components.loss_facts(run.config).one_vs_rest else None


def with_areas(found: Examined) -> Examined:
    """Adds the areas under each class's ROC and precision-recall curves, and their means over classes, macro_….

    An area is NaN, and left out of the mean, for a class without images, and under the ROC curve for one without images
    of other classes. Images without an answer count nowhere.
    """
    assert found.run.predict is not None, "a restored run predicts"
    chances = of_split(found, found.run.predict)
    labels, there = found.split.labels, np.isfinite(chances).all(axis=1)
    of_class = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(chances.shape[1])
    scores = chances[there], of_class[there]
    areas = {"roc_auc": roc_auc(*scores), "pr_auc": average_precision(*scores)}
    means = {f"macro_{name}": _mean(values) for name, values in areas.items()}
    evaluation = dataclasses.replace(found.evaluation, metrics={**found.evaluation.metrics, **means})
    return dataclasses.replace(found, evaluation=evaluation, areas=areas, chances=chances)


def of_split(found: Examined, score: Callable[..., np.ndarray]) -> np.ndarray:
    """Returns the scores [N, C] of all images; arguments as of `in_batches`."""
    return np.concatenate([scores for _, scores in in_batches(found, score)])


def in_batches(found: Examined, score: Callable[..., np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the place of a batch's first image and the batch's scores [B, C]; NaN for images that cannot be read.

    Args:
      found: the images.
      score: images -> [B, C], such as `found.run.predict`.
    """
    images = found.split.images
    transform = input_paths.evaluation_transform(found.run.config)

    def pixels(position):
        assert isinstance(images, Encoded) and transform is not None, "encoded images come from a streamed source"
        try:
            return transform(images.read(position), position)  # which may choose the frames of a clip
        except (ValueError, OSError):  # the evaluation has reported it
            return None

    with concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluation has reported it
        for first in range(0, len(images), BATCH):
            last = min(first + BATCH, len(images))
            if not isinstance(images, Encoded):
                yield first, score(images[first:last], allow_nan=True)
                continue
            found_pixels = list(pool.map(pixels, range(first, last)))
            there = [i for i, one in enumerate(found_pixels) if one is not None]
            scores = np.full((last - first, len(found.counts)), np.nan)
            if there:
                scores[there] = score(np.stack([found_pixels[i] for i in there]), allow_nan=True)
            yield first, scores


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan
