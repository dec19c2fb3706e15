"""Computes class weights from counts of training images, on the host: in float64, with float32 [C] results."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def effective_number(counts: Any, beta: float) -> np.ndarray:
    """Computes the effective number of samples of each class, (1 - beta^n) / (1 - beta).

    Args:
      counts: [C] whole numbers of training images, at least 1.
      beta: overlap of new samples with old ones, in [0, 1]; 0 gives 1, and 1 is the limit, n.

    Returns:
      [C] effective numbers of images, float32.

    Raises:
      ValueError: if counts are traced, not whole numbers, or 0 in a class, or if beta is out of range.

    Source: Cui et al. 2019, eq. 5.
    """
    counts, beta = _checked_counts(counts), _checked_beta(beta)
    _refuse_zeros(counts, "effective_number")
    return _effective_number(counts, beta).astype(np.float32)


def uniform(num_classes: int) -> np.ndarray:
    """Returns the weight 1 for each class, [C] float32."""
    return np.ones(num_classes, np.float32)


def inverse_frequency(counts: Any, *, zero_count: str = "error") -> np.ndarray:
    """Computes class weights proportional to 1/n.

    Args:
      counts: [C] whole numbers of training images.
      zero_count: what to do about a class without images: "error" raises, "ignore" gives it the weight 0.

    Returns:
      [C] weights, float32, whose sum is the number of classes that have images.

    Raises:
      ValueError: if counts are traced, not whole numbers, 0 in all classes, or 0 in a class with zero_count="error".
    """
    return _inverse(_checked_counts(counts), lambda counts: counts, zero_count)


def inverse_sqrt_frequency(counts: Any, *, zero_count: str = "error") -> np.ndarray:
    """Computes class weights proportional to 1/sqrt(n); arguments, result and errors as for `inverse_frequency`."""
    return _inverse(_checked_counts(counts), np.sqrt, zero_count)


def class_balanced(counts: Any, beta: float, *, zero_count: str = "error") -> np.ndarray:
    """Computes class weights proportional to the inverse of the effective number of samples.

    Args:
      counts: [C] whole numbers of training images in the whole training set, not in a batch.
      beta: in [0, 1]; 0 gives equal weights, 1 the weights of `inverse_frequency`.
      zero_count: what to do about a class without images: "error" raises, "ignore" gives it the weight 0.

    Returns:
      [C] weights, float32, whose sum is the number of classes that have images.

    Raises:
      ValueError: as `inverse_frequency`, and if beta is out of range.

    Source: Cui et al. 2019, section 4; scaled as in the authors' code.
    """
    beta = _checked_beta(beta)
    return _inverse(_checked_counts(counts), lambda counts: _effective_number(counts, beta), zero_count)


WEIGHTS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": uniform,
    "inverse_frequency": inverse_frequency,
    "inverse_sqrt_frequency": inverse_sqrt_frequency,
    "class_balanced": class_balanced,
}


def _effective_number(counts: np.ndarray, beta: float) -> np.ndarray:
    if beta == 0:
        return np.ones_like(counts)
    if beta == 1:
        return counts
    # Near beta = 1, 1 - beta**n would lose the digits that expm1 keeps; log(beta) and 1 - beta lose none.
    return -np.expm1(counts * np.log(beta)) / (1.0 - beta)


def _inverse(counts: np.ndarray, size: Any, zero_count: str) -> np.ndarray:
    """Returns weights proportional to 1/size(counts), 0 for empty classes, that sum to the number of other classes."""
    if zero_count not in ("error", "ignore"):
        raise ValueError(f"zero_count must be 'error' or 'ignore', got {zero_count!r}")
    present = counts > 0
    if zero_count == "error" or not present.any():
        _refuse_zeros(counts, "a class weight")
    weights = np.zeros_like(counts)
    weights[present] = 1.0 / size(counts[present])
    return (weights * (present.sum() / weights.sum())).astype(np.float32)


def _checked_counts(counts: Any) -> np.ndarray:
    if isinstance(counts, jax.core.Tracer):
        raise ValueError(
            "counts must be known numbers, got a traced array: compute class weights outside of jit, vmap and grad, "
            "and pass them to the step as an argument"
        )
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"counts must be [C], one number of images a class, got shape {counts.shape}")
    wrong = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts)))
    if wrong.any():
        raise ValueError(
            f"counts must be whole numbers of images, at least 0, got {counts[wrong][:5].tolist()} "
            f"in classes {np.flatnonzero(wrong)[:5].tolist()}"
        )
    return counts


def _refuse_zeros(counts: np.ndarray, what: str) -> None:
    empty = np.flatnonzero(counts == 0)
    if empty.size == counts.size:
        raise ValueError(f"{what} needs training images, got counts of 0 in all {counts.size} classes")
    if empty.size:
        raise ValueError(
            f"{what} needs at least one training image in each class, got counts of 0 in {empty.size} of "
            f"{counts.size} classes: {empty[:20].tolist()}{' ...' if empty.size > 20 else ''}; drop these classes, or "
            "pass zero_count='ignore' to give them the weight 0"
        )


def _checked_beta(beta: float) -> float:
    if isinstance(beta, jax.core.Tracer):
        raise ValueError("beta must be a known number, got a traced one: compute class weights outside of jit")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    return float(beta)
