"""The record of a measured landscape: the loss and the accuracy of each class at each point."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, repr=False)
class Surface:
    """Losses and accuracies along one direction or over two.

    Attributes:
      axes: the coordinates along each direction, [X] or [X] and [Y].
      loss: [X] or [X, Y], the mean over images, in nats unless the loss is a user's own; not weighted by classes. NaN
        where it is not measured; infinite or NaN where the network's loss is.
      class_loss: [X, C] or [X, Y, C], the mean over the images of each class; NaN for a class without images.
      class_accuracy: in the same shape, the share of the class's images that are recognised, in [0, 1].
      class_count: [C] images of each class that were measured.
      class_names: [C].
      counts: [C] training images.
      groups: name -> classes: many, medium, few, and those of `evaluation.groups`.
      marks: name -> coordinates of networks, as of the runs of a plane.
      path: [E, 1 or 2] coordinates of a run's checkpoints, or None.
      about: what was measured: kind, runs, split, seed, options; JSON values.
      folder: where it is kept, or None.
    """

    axes: tuple[np.ndarray, ...]
    loss: np.ndarray
    class_loss: np.ndarray
    class_accuracy: np.ndarray
    class_count: np.ndarray
    class_names: tuple[str, ...]
    counts: np.ndarray
    groups: Mapping[str, np.ndarray]
    marks: Mapping[str, tuple[float, ...]]
    path: np.ndarray | None
    about: Mapping[str, Any]
    folder: pathlib.Path | None = None

    @property
    def balanced_loss(self) -> np.ndarray:
        """[X] or [X, Y], the mean over classes of their losses."""
        return self._over(self.class_loss, np.arange(len(self.class_names)))

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """[X] or [X, Y], the mean over classes of their accuracies."""
        return self._over(self.class_accuracy, np.arange(len(self.class_names)))

    def group_loss(self, name: str) -> np.ndarray:
        """Returns the mean over the classes of a group of their losses, [X] or [X, Y]."""
        return self._over(self.class_loss, self._classes(name))

    def group_accuracy(self, name: str) -> np.ndarray:
        """Returns the mean over the classes of a group of their accuracies, [X] or [X, Y]."""
        return self._over(self.class_accuracy, self._classes(name))

    def weighted_loss(self, class_weights: Any) -> np.ndarray:
        """Returns the mean over images of their losses times the weights of their classes, as CB and CDB train with.

        Args:
          class_weights: [C].
        """
        shares = np.asarray(class_weights) * self.class_count / max(int(self.class_count.sum()), 1)
        return np.sum(np.where(self.class_count > 0, self.class_loss * shares, 0.0), axis=-1)

    def _classes(self, name: str) -> np.ndarray:
        if name not in self.groups:
            raise ValueError(f"there is no group {name!r} of classes; there are {', '.join(self.groups)}")
        return self.groups[name]

    def _over(self, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
        there = classes[self.class_count[classes] > 0]
        if not there.size:
            return np.full(self.loss.shape, np.nan)
        return values[..., there].mean(axis=-1)

    def __repr__(self) -> str:
        about, size = self.about, " x ".join(str(len(axis)) for axis in self.axes)
        groups = [f"{name} {len(classes)}" for name, classes in self.groups.items()]
        finite = self.loss[np.isfinite(self.loss)]
        lines = [
            f"Surface of {size} points: {about['kind']}" + (f" in {self.folder}" if self.folder else ""),
            f"  runs: {', '.join(run['workdir'] for run in about['runs'])}",
            f"  {about['runs'][0]['split']} images: {int(self.class_count.sum())} of {len(self.class_names)} classes "
            f"({', '.join(groups)})",
            f"  loss {finite.min():.4g} to {finite.max():.4g}" if finite.size else "  loss nowhere finite",
        ]
        return "\n".join(lines)
