"""Figures of rankings: how far the scores of a class put its own examples before the others."""

from typing import Any

import numpy as np


def average_precision(scores: Any, labels: Any) -> np.ndarray:
    """Computes the average precision of each class: the mean precision at the scores of its positives.

    This is the area under the precision-recall curve that `sklearn.metrics.average_precision_score` gives. Equal scores
    count as one threshold, and nothing is interpolated.

    Args:
      scores: [N, C] probabilities or logits.
      labels: [N, C] multi-hot.

    Returns:
      [C] float64, NaN for a class without a positive.

    Raises:
      ValueError: if the shapes differ or are not [N, C].
    """
    scores, labels = _checked(scores, labels)
    result = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-scores[:, c], kind="stable")
        falling, positive = -scores[order, c], labels[order, c]
        retrieved = np.searchsorted(falling, falling, side="right")
        result[c] = (np.cumsum(positive)[retrieved - 1] / retrieved)[positive].mean()
    return result


def roc_auc(scores: Any, labels: Any) -> np.ndarray:
    """Computes the area under the ROC curve of each class against all others.

    It is the chance that a random positive has a higher score than a random negative; equal scores count half.

    Args:
      scores: [N, C] probabilities or logits.
      labels: [N, C] multi-hot.

    Returns:
      [C] float64, NaN for a class without a positive or without a negative.

    Raises:
      ValueError: if the shapes differ or are not [N, C].

    Source: `sklearn.metrics.roc_auc_score` of each column; `multi_class="ovr"` is the mean over classes.
    """
    scores, labels = _checked(scores, labels)
    result = np.full(scores.shape[1], np.nan)
    positives = labels.sum(axis=0)
    for c in np.flatnonzero((positives > 0) & (positives < len(labels))):
        others = np.sort(scores[~labels[:, c], c])
        mine = scores[labels[:, c], c]
        below = np.searchsorted(others, mine, side="left") + np.searchsorted(others, mine, side="right")
        result[c] = below.sum() / (2 * len(mine) * len(others))
    return result


def _checked(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels) > 0
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N, C], got shapes {scores.shape} and {labels.shape}")
    return scores, labels
