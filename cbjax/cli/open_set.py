"""Figures of `cbjax eval --open`: how well a run notices that an image shows none of the classes it knows."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from cbjax.cli import predictions
from cbjax.data import DataError
from cbjax.host.output import say
from cbjax.host.storage import Place, is_remote
from cbjax.training import inputs, scores
from cbjax.training.restore import Examined
from cbjax.workdir import data_facts


def check(images: str | os.PathLike) -> pathlib.Path:
    """Returns the path of images of unknown classes; raises DataError if there is nothing."""
    source = pathlib.Path(os.path.expanduser(images))
    if is_remote(images) or not source.exists():
        raise DataError(f"--open must be a file or folder on this machine; there is no {os.fspath(images)}")
    return source


def with_open(
    found: Examined,
    workdir: str | os.PathLike,
    images: str | os.PathLike,
    below: float,
    tell: Callable[[str], None] = say,
) -> Examined:
    """Adds the figures of `measure`, for an evaluated split and images of unknown classes.

    Args:
      found: the split, one label an image; images that cannot be read count nowhere.
      workdir: of the run.
      images: image files, folders and arrays, as for `cbjax predict`.
      below: the least probability of a known class.
      tell: takes a line for the user.

    Raises:
      DataError: if an image cannot be read, or the split's labels are multi-hot.
      NonFiniteLoss: if the network's outputs for an image are NaN.
    """
    if found.split.labels.ndim != 1:
        raise DataError("--open needs one label an image, and these are multi-hot")
    assert found.run.predict is not None, "a restored run predicts"
    source = check(images)
    fit = inputs.fit_given(found.run.config, data_facts.read(Place(workdir).files))

    def bad(error: DataError) -> None:
        raise error

    unknown = [
        predictions.probabilities(found.run.predict, names, pixels, source, tell).max(axis=1)
        for names, pixels in predictions.read(source, fit, bad, tell, alone=True)
    ]
    chances = scores.of_split(found, found.run.predict)
    there = np.isfinite(chances).all(axis=1)
    own = measure(chances[there], found.split.labels[there], np.concatenate(unknown), below)
    evaluation = dataclasses.replace(found.evaluation, metrics={**found.evaluation.metrics, **own})
    return dataclasses.replace(found, evaluation=evaluation)


def measure(chances: np.ndarray, labels: np.ndarray, unknown: np.ndarray, below: float) -> dict[str, float]:
    """Computes how a threshold on the largest probability tells known classes from unknown ones.

    An image is answered "open" where its largest probability is below the threshold.

    Args:
      chances: [N, C] probabilities of images of known classes.
      labels: [N] their classes.
      unknown: [M] the largest probability of each image of unknown classes.
      below: the threshold.

    Returns:
      "open_accuracy": the share of unknown images that are answered "open". "open_known_accuracy": the share of known
      images that are answered rightly, so not "open". "open_f_measure": 2 R / (2 R + W + M), where R known images are
      answered rightly, the other W are not, and M unknown images are not answered "open".

    Source: Liu et al. 2019 (OLTR), and the authors' utils.py (F_measure) after its correction of January 2020; their
      threshold is 0.1, for 1000 and for 365 classes.
    """
    highest = chances.max(axis=1)
    right = int(np.sum((chances.argmax(axis=1) == labels) & ~(highest < below)))
    wrong, missed = len(chances) - right, int(np.sum(~(unknown < below)))
    return {
        "open_accuracy": 1 - missed / len(unknown),
        "open_known_accuracy": right / len(chances),
        "open_f_measure": 2 * right / (2 * right + wrong + missed),
    }
