"""Figures that the host computes in float64 from the sums of a split, or from its scores."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cbjax.metrics.decisions import f1, geometric_mean, matthews
from cbjax.metrics.groups import class_groups
from cbjax.metrics.ranking import average_precision
from cbjax.metrics.sums import ClassificationSums


def per_class_accuracy(sums: ClassificationSums) -> np.ndarray:
    """Returns the share of each class's examples that was predicted right, [C] float64; NaN for an empty class."""
    return _divide(sums.correct, sums.total)


def summarize(
    sums: ClassificationSums, counts: Any | None = None, groups: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Computes the figures of a split with integer labels.

    Args:
      sums: sums over all examples of the split.
      counts: [C] training images, for the groups many, medium and few; None leaves these out.
      groups: name -> class indices, for further groups.

    Returns:
      Over examples: accuracy, and loss, the mean of the losses that were summed.
      Over classes that have examples: balanced_accuracy and macro_recall (two names of one figure), macro_precision (a
      class that is never predicted has precision 0), macro_f1, geometric_mean (of the recalls) and worst_accuracy.
      matthews: Matthews' correlation, NaN if the split has one class only.
      Over classes of a group that have examples: many_, medium_ and few_accuracy, and NAME_accuracy (recall) and
      NAME_precision for each of `groups`. A group without examples is left out.
      Also ece, the expected calibration error; top5_accuracy if there are more than 5 classes; and "unanswered", the
      share of examples without an answer, if there are any: they count as wrong, and not in ece.
      All but the loss and matthews are in [0, 1].

    Raises:
      ValueError: if there are no examples, or counts are not [C].
    """
    sums = jax.device_get(sums)  # NumPy computes in float64 below
    count = int(sums.count)
    if count == 0:
        raise ValueError("a summary needs at least one example, got none")
    recall = per_class_accuracy(sums)
    precision = np.where(np.isfinite(recall), np.nan_to_num(_divide(sums.correct, sums.predicted)), np.nan)
    figures = {"accuracy": float(np.sum(sums.correct) / count), "loss": float(sums.loss) / count}
    if recall.size > 5:
        figures["top5_accuracy"] = float(np.sum(sums.top5) / count)
    figures |= _over_classes(recall, counts, groups)
    figures["macro_recall"] = figures["balanced_accuracy"]
    figures["macro_precision"] = float(np.nanmean(precision))
    figures["macro_f1"] = float(np.nanmean(f1(sums.correct, sums.total, sums.predicted)))
    figures["geometric_mean"] = geometric_mean(sums.correct, sums.total)
    figures["matthews"] = matthews(sums.correct, sums.total, sums.predicted, int(sums.unanswered))
    figures["ece"] = expected_calibration_error(sums)
    if sums.unanswered:
        figures["unanswered"] = int(sums.unanswered) / count
    return figures | _means(precision, groups or {}, "precision")


def expected_calibration_error(sums: ClassificationSums) -> float:
    """Returns the mean gap between confidence and accuracy over bins of confidence, weighted by their examples.

    NaN if no example has an answer.

    Source: Guo et al. 2017, eq. 3, with 15 bins.
    """
    examples, confidence, correct = np.asarray(sums.calibration, np.float64)
    return float(np.abs(confidence - correct).sum() / (examples.sum() or np.nan))


def summarize_multilabel(
    scores: Any, labels: Any, loss: float, counts: Any | None = None, groups: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Computes the figures of a split with multi-hot labels; a class's accuracy is its average precision.

    Args:
      scores: [N, C] probabilities or logits.
      labels: [N, C] multi-hot.
      loss: mean loss of an example.
      counts: [C] training images, for the groups many, medium and few; None leaves these out.
      groups: name -> class indices, for further groups.

    Returns:
      loss, mean_average_precision, and the figures of `summarize` over classes: balanced_accuracy (the same number as
      mean_average_precision, so that model selection reads one key), worst_, many_, medium_, few_ and NAME_accuracy.
      There is no NAME_precision, because without a threshold nothing is predicted.

    Raises:
      ValueError: if the shapes do not fit together, or no class has a positive.
    """
    precision = average_precision(scores, labels)
    if not np.isfinite(precision).any():
        raise ValueError("a summary needs at least one positive label, got none")
    figures = {"loss": float(loss), **_over_classes(precision, counts, groups)}
    figures["mean_average_precision"] = figures["balanced_accuracy"]
    return figures


def _divide(part: Any, whole: Any) -> np.ndarray:
    """Returns part / whole in float64, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _over_classes(accuracy: np.ndarray, counts: Any | None, groups: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns balanced, worst and group accuracy from the accuracy of each class, which may be NaN."""
    figures = {"balanced_accuracy": float(np.nanmean(accuracy)), "worst_accuracy": float(np.nanmin(accuracy))}
    if counts is not None and np.shape(counts) != accuracy.shape:
        raise ValueError(f"counts must be [C] for {accuracy.size} classes, got shape {np.shape(counts)}")
    by_count = {} if counts is None else class_groups(counts)
    return figures | _means(accuracy, {**by_count, **(groups or {})}, "accuracy")


def _means(values: np.ndarray, groups: Mapping[str, Any], what: str) -> dict[str, float]:
    """Returns NAME_what for each group: the mean over its classes that are not NaN; groups without any are left out."""
    measured = {name: values[classes] for name, classes in groups.items() if np.isfinite(values[classes]).any()}
    return {f"{name}_{what}": float(np.nanmean(of_group)) for name, of_group in measured.items()}
