"""The records of a Hessian's eigenvalues."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbjax.landscape import lanczos
from cbjax.landscape.lanczos import Ritz


@dataclasses.dataclass(frozen=True, repr=False)
class Spectrum:
    """The eigenvalues of the mean loss's Hessian over some images.

    Attributes:
      name: "all images", a group, or "class NAME".
      images: how many.
      classes: of these images.
      size: P, parameters: the number of eigenvalues.
      found: from each start vector.
    """

    name: str
    images: int
    classes: np.ndarray
    size: int
    found: tuple[Ritz, ...]

    @property
    def largest(self) -> float:
        """The largest eigenvalue, approached from below."""
        return max(float(one.values[-1]) for one in self.found)

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue, approached from above; below 0 at a saddle."""
        return min(float(one.values[0]) for one in self.found)

    @property
    def residuals(self) -> tuple[float, float]:
        """Bounds on the errors of `smallest` and `largest`: an eigenvalue is at most so far from each."""
        low = min(self.found, key=lambda one: one.values[0])
        high = max(self.found, key=lambda one: one.values[-1])
        return float(low.residuals[0]), float(high.residuals[-1])

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues, by Hutchinson's estimate."""
        return lanczos.trace(self.found, self.size)[0]

    @property
    def trace_error(self) -> float:
        """The standard error of `trace`; NaN with a single start vector."""
        return lanczos.trace(self.found, self.size)[1]

    def top(self, count: int) -> np.ndarray:
        """Returns the largest Ritz values, falling, of the start vector that found the largest."""
        return max((one.values for one in self.found), key=lambda values: values[-1])[::-1][:count]

    def density(self, points: int = 1000, width: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        """Returns a grid of eigenvalues and their density, as `lanczos.density`."""
        return lanczos.density(self.found, points, width)

    def __repr__(self) -> str:
        error = "" if np.isnan(self.trace_error) else f" ± {self.trace_error:.2g}"
        return (
            f"Spectrum({self.name}: {self.images} images, eigenvalues {self.smallest:.4g} to {self.largest:.4g}, "
            f"trace {self.trace:.4g}{error})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Curvature:
    """The curvature of the loss at a run's network.

    Attributes:
      parts: a spectrum for each part of the images.
      class_names: [C].
      counts: [C] training images.
      about: what was measured, JSON values.
      folder: where it is kept.
    """

    parts: tuple[Spectrum, ...]
    class_names: tuple[str, ...]
    counts: np.ndarray
    about: Mapping[str, Any]
    folder: pathlib.Path | None = None

    def __getitem__(self, name: str) -> Spectrum:
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"there is no part {name!r}; there are {', '.join(part.name for part in self.parts)}")

    def __repr__(self) -> str:
        run = self.about["runs"][0]
        lines = [f"Curvature of {run['workdir']}, step {run['step']}, {run['split']} images"]
        return "\n".join([*lines, *(f"  {part!r}" for part in self.parts)])
