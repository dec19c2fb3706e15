"""Figures of the predicted classes that users of scikit-learn and imbalanced-learn know: F1, G-mean, Matthews."""

from typing import Any

import numpy as np


def f1(correct: Any, total: Any, predicted: Any) -> np.ndarray:
    """Computes the F1 of each class, the harmonic mean of its precision and its recall.

    Args:
      correct: [C] examples of each class that were predicted right, such as `ClassificationSums.correct`.
      total: [C] examples of each class.
      predicted: [C] examples predicted as each class.

    Returns:
      [C] float64; NaN for a class without examples, 0 for one that has examples and is never predicted.

    Source: `sklearn.metrics.f1_score`. Its macro average counts a class that is predicted and has no example as 0,
    unless its `labels` leave that class out; a mean over the classes that have examples is `labels=np.unique(y_true)`.
    """
    correct, total, predicted = (np.asarray(one, np.float64) for one in (correct, total, predicted))
    return np.divide(2 * correct, total + predicted, out=np.full(total.shape, np.nan), where=total > 0)


def geometric_mean(correct: Any, total: Any) -> float:
    """Computes the geometric mean of the recalls of all classes that have examples.

    Args:
      correct: [C] examples of each class that were predicted right.
      total: [C] examples of each class.

    Returns:
      A share; 0 if a class that has examples is never predicted right, NaN if no class has an example.

    Source: `imblearn.metrics.geometric_mean_score` with `average="multiclass"` and no correction, after Kubat and
    Matwin 1997. It counts a class that is predicted and has no example as recall 0, so the mean is 0 then, unless its
    `labels` leave that class out.
    """
    correct, total = np.asarray(correct, np.float64), np.asarray(total, np.float64)
    recall = correct[total > 0] / total[total > 0]
    if recall.size == 0:
        return float("nan")
    # By logarithms: the product of a thousand recalls can be smaller than any float.
    return float(np.exp(np.mean(np.log(recall)))) if recall.all() else 0.0


def matthews(correct: Any, total: Any, predicted: Any, unanswered: int = 0) -> float:
    """Computes Matthews' correlation between the predicted and the true classes.

    Args:
      correct: [C] examples of each class that were predicted right.
      total: [C] examples of each class.
      predicted: [C] examples predicted as each class.
      unanswered: examples without an answer: as predictions, one more class.

    Returns:
      A number in [-1, 1], 0 for chance and if all predictions are of one class. NaN if all examples are of one class:
      there is nothing to tell apart.

    Source: `sklearn.metrics.matthews_corrcoef`, after Gorodkin 2004, eq. 8. It gives 0 for examples of one class too.
    """
    correct, total = np.asarray(correct, np.float64), np.asarray(total, np.float64)
    predicted = np.append(np.asarray(predicted, np.float64), float(unanswered))
    count = total.sum()
    of_labels, of_predictions = count**2 - total @ total, count**2 - predicted @ predicted
    if of_labels == 0:
        return float("nan")
    if of_predictions == 0:
        return 0.0
    together = correct.sum() * count - total @ predicted[:-1]
    # Two roots, because the product of both would leave float64's whole numbers sooner.
    return float(together / (np.sqrt(of_labels) * np.sqrt(of_predictions)))
