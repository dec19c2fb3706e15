"""Eigenvalues of a symmetric matrix that is known by its products with vectors: Lanczos and what follows from it.

Pure NumPy on the host. Source: Golub and Van Loan 2013, sections 10.1 to 10.3; Ghorbani et al. 2019 for the density.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

EXACT = 4_000_000  # numbers in a vector up to which all is kept in float64


@dataclasses.dataclass(frozen=True)
class Ritz:
    """What Lanczos finds from one start vector.

    Attributes:
      values: [k] Ritz values, rising; the outer ones approach eigenvalues from inside.
      weights: [k] squares of the first components, sum 1: a quadrature of the spectrum as the start vector sees it.
      residuals: [k] bounds: an eigenvalue is at most so far from the Ritz value.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


def rademacher(size: int, seed: int, number: int) -> np.ndarray:
    """Returns a vector [size] of ±1, the number-th of a seed."""
    return np.random.default_rng([seed, number]).choice(np.array([-1.0, 1.0]), size)


def lanczos(product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int) -> Ritz:
    """Takes Lanczos steps with full reorthogonalisation.

    Without it rounding brings found eigenvalues back as copies, ever more of them. Equal eigenvalues of the matrix are
    found once.

    Args:
      product: [P] -> [P], by a symmetric matrix.
      start: [P], not 0.
      steps: at least 1; fewer are taken where the vectors found span all that the start vector reaches.

    Raises:
      ValueError: if a product is not finite.
    """
    size = start.size
    steps = min(steps, size)
    exact = np.float64 if size <= EXACT else np.float32
    basis: np.ndarray = np.empty((steps, size), exact)
    basis[0] = np.asarray(start, np.float64) / float(np.linalg.norm(start))
    diagonal: list[float] = []
    off: list[float] = []
    for step in range(steps):
        vector: np.ndarray = np.asarray(product(basis[step])).astype(exact)
        if not np.isfinite(vector).all():
            raise ValueError("a product with the matrix is not finite")
        diagonal.append(float(basis[step] @ vector))
        for _ in range(2):  # twice is enough
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
        off.append(float(np.linalg.norm(vector)))
        scale = max(map(abs, (*diagonal, *off[:-1])), default=0.0)
        if step + 1 == steps or off[-1] <= 1e-6 * max(scale, 1e-30):
            break
        basis[step + 1] = vector / off[-1]
    matrix = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return Ritz(values, vectors[0] ** 2, np.abs(off[-1] * vectors[-1]))


def trace(found: Sequence[Ritz], size: int) -> tuple[float, float]:
    """Returns the trace of a P x P matrix by Hutchinson's estimate, and its standard error.

    With ±1 as start vectors, the first diagonal of Lanczos times P is v^T H v, whose mean is the trace.

    Args:
      found: of start vectors of ±1.
      size: P.

    Returns:
      Mean and standard error; NaN for the error of a single one.
    """
    samples = np.array([size * (one.weights @ one.values) for one in found])
    error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
    return float(samples.mean()), float(error)


def density(found: Sequence[Ritz], points: int = 1000, width: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Returns the density of eigenvalues by stochastic Lanczos quadrature: Gaussians around the Ritz values.

    Args:
      found: of random start vectors.
      points: of the grid.
      width: standard deviation of the Gaussians, as a share of the range of the values.

    Returns:
      Grid [points] and density [points], whose integral is 1.

    Source: Ghorbani et al. 2019, algorithm 2. PyHessian's width is sqrt(1e-5 max(1, range)), which hides a spectrum
    whose range is below 0.01.
    """
    values = np.concatenate([one.values for one in found])
    low, high = values.min(), values.max()
    deviation = width * max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-30)
    grid = np.linspace(low - 6 * deviation, high + 6 * deviation, points)
    total = np.zeros(points)
    for one in found:
        distances = (grid[:, None] - one.values[None]) / deviation
        total += (np.exp(-0.5 * distances**2) @ one.weights) / (deviation * np.sqrt(2 * np.pi))
    return grid, total / len(found)
