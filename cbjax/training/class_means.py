"""The mean features of each class over the training images: what a classifier by the nearest class mean is made of."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax.data import DataError, Dataset
from cbjax.data.records import quote
from cbjax.parallel import sharding
from cbjax.training.evaluate import Visit
from cbjax.training.input_paths import InputPath, ReportBad
from cbjax.types import NonFiniteLoss, TrainState

BATCHES = 32  # how many batches' features lie on the devices before they are fetched


@dataclasses.dataclass(frozen=True)
class ClassMeans:
    """What `models.two_stages.nearest_mean` compares an image's features with.

    Attributes:
      means: [C, D] float64.
      center: [D] float64, which is first subtracted from features; 0 for cosines.
      images: how many images were averaged.
    """

    means: np.ndarray
    center: np.ndarray
    images: int


def find_means(
    config: ConfigDict,
    dataset: Dataset,
    path: InputPath,
    program: Callable[..., Any],
    mesh: Mesh,
    report: ReportBad,
    state: TrainState,
) -> ClassMeans:
    """Averages the features of each class in passes over the training images, in order and as an evaluation sees them.

    For "cosine" these are the means of the features. "euclidean" takes two passes: the mean over all training images is
    subtracted from the features, which are then scaled to length 1, as in the authors' code; the means are not scaled
    again. Features are float32, sums float64 on the host, so the number of devices adds nothing to their errors.

    Args:
      config: resolved.
      dataset: its data.
      path: how images reach the devices.
      program: `Programs.features`, on the same mesh.
      mesh: the devices.
      report: is told of images that are skipped, which count nowhere.
      state: of the network.

    Raises:
      DataError: if no image of a class can be read.
      NonFiniteLoss: if an image's features are NaN or infinite.
    """
    examples, names = dataset.train, dataset.class_names
    visit = path.visit(config, program, examples, report, config.evaluation.batch_size or config.batch_size, mesh)
    sums, counts = _sums(visit, state, examples.labels, len(names), mesh, lambda features: features)
    if not counts.all():
        without = [names[i] for i in np.flatnonzero(counts == 0)]
        raise DataError(
            f"stage.name={config.stage.name} needs a training image of every class that can be read; there is none of "
            f"{quote(without)}"
        )
    images = int(counts.sum())
    if config.stage.name != "ncm" or config.stage.similarity == "cosine":
        return ClassMeans(sums / counts[:, None], np.zeros(sums.shape[1]), images)
    center = sums.sum(axis=0) / images
    sums, _ = _sums(visit, state, examples.labels, len(names), mesh, lambda features: _unit(features - center))
    return ClassMeans(sums / counts[:, None], center, images)


def _sums(
    visit: Visit,
    state: TrainState,
    labels: np.ndarray,
    num_classes: int,
    mesh: Mesh,
    change: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums [C, D] of the classes' changed features, and the number [C] of images that were read."""
    batches, first, sums, counts = visit(state), 0, None, np.zeros(num_classes, np.int64)
    while some := list(itertools.islice(batches, BATCHES)):
        lost, outputs = zip(*some, strict=True)
        features = np.concatenate(sharding.gather(outputs, mesh))[: len(labels) - first].astype(np.float64)
        if wrong := int(np.sum(jax.device_get(lost))):
            raise NonFiniteLoss(f"the features of {wrong} of {len(labels)} training images are NaN or infinite")
        there = np.isfinite(features).all(axis=1)
        of_class = labels[first : first + len(features)][there]
        sums = np.zeros((num_classes, features.shape[1])) if sums is None else sums
        np.add.at(sums, of_class, change(features[there]))
        counts += np.bincount(of_class, minlength=num_classes)
        first += len(features)
    assert sums is not None, "there are training images"
    return sums, counts


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors [N, D] to length 1; a vector of length 0 stays 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
