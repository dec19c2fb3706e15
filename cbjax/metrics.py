"""Metrics of a split: sums that are merged on the device, and figures that the host computes from them in float64."""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array

CALIBRATION_BINS = 15
MANY, FEW = 100, 20  # more training images than MANY, fewer than FEW
SMALL = 200  # if the largest class has fewer images, groups are thirds


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassificationSums:
    """Sums over the examples of a split, [C] or smaller; parts can be merged in any order.

    It has the methods that a `clu.metrics.Collection` calls, so it can be part of one. Give its field of the collection
    to `summarize`.

    An example whose highest logit is NaN or infinite has no answer: it counts as wrong and predicts no class.

    Attributes:
      loss: [] float32, sum of the losses.
      count: [] int32, examples.
      correct: [C] int32, examples of each class that were predicted right.
      total: [C] int32, examples of each class.
      predicted: [C] int32, examples predicted as each class.
      top5: [C] int32, examples of each class whose class is among the 5 highest logits.
      calibration: [3, 15] float32: examples, sum of their confidence, and correct examples in each bin of confidence.
        Bins are equally wide, open below and closed above. Examples without an answer are left out.
      unanswered: [] int32, examples without an answer.
    """

    loss: Array
    count: Array
    correct: Array
    total: Array
    predicted: Array
    top5: Array
    calibration: Array
    unanswered: Array

    @classmethod
    def from_outputs(
        cls, logits: Array, labels: Array, losses: Array, mask: Array, confidence: Array
    ) -> "ClassificationSums":
        """Sums one batch. The lower class wins a tie between logits, in the prediction and in the 5 highest.

        Args:
          logits: [B, C] scores.
          labels: [B] integers in [0, C); an example with another label does not count.
          losses: [B] losses to sum.
          mask: [B], 0 or False for padding, which does not count.
          confidence: [B] probability of the predicted class, in [0, 1].
        """
        num_classes = logits.shape[1]
        labels, confidence = labels.astype(jnp.int32), confidence.astype(jnp.float32)
        mask = mask.astype(bool) & (labels >= 0) & (labels < num_classes)
        labels = jnp.where(mask, labels, 0)
        answered = has_answer(logits)
        predicted = jnp.argmax(logits, axis=1).astype(jnp.int32)
        correct = (predicted == labels) & answered
        true_logit = jnp.take_along_axis(logits, labels[:, None], axis=1)
        later = labels[:, None] <= jnp.arange(num_classes, dtype=jnp.int32)[None, :]
        not_ahead = (true_logit > logits) | ((true_logit == logits) & later)
        top5 = answered & (num_classes - not_ahead.sum(axis=1) < 5)
        confident = mask & answered & ~jnp.isnan(confidence)
        confidence = jnp.where(confident, confidence, 0.0)
        bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1, 0, CALIBRATION_BINS - 1)
        per_bin = jnp.stack([jnp.ones_like(confidence), confidence, correct.astype(jnp.float32)])
        per_bin = jnp.where(confident[None, :], per_bin, 0.0)
        return cls(
            loss=jnp.where(mask, losses, 0.0).astype(jnp.float32).sum(),
            count=mask.sum(dtype=jnp.int32),
            correct=_count(labels, mask & correct, num_classes),
            total=_count(labels, mask, num_classes),
            predicted=_count(predicted, mask & answered, num_classes),
            top5=_count(labels, mask & top5, num_classes),
            calibration=jnp.zeros((3, CALIBRATION_BINS), jnp.float32).at[:, bins].add(per_bin),
            unanswered=(mask & ~answered).sum(dtype=jnp.int32),
        )

    @classmethod
    def from_model_output(
        cls,
        *,
        logits: Array,
        labels: Array,
        losses: Array | None = None,
        mask: Array | None = None,
        confidence: Array | None = None,
        **_: Any,
    ) -> "ClassificationSums":
        """Sums one batch; `clu.metrics.Collection` calls it like this.

        Args:
          logits, labels: as in `from_outputs`.
          losses: [B]; None for the softmax cross entropy, in nats.
          mask: [B]; None if no example is padding.
          confidence: [B]; None for the highest softmax probability.
        """
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask)
        log_chances = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
        if losses is None:
            places = jnp.clip(labels.astype(jnp.int32), 0, logits.shape[1] - 1)
            losses = -jnp.take_along_axis(log_chances, places[:, None], axis=1)[:, 0]
        confidence = jnp.exp(log_chances.max(axis=1)) if confidence is None else jnp.asarray(confidence)
        return cls.from_outputs(logits, labels, losses, mask, confidence)

    @classmethod
    def empty(cls) -> "ClassificationSums":
        """Returns the sums over no examples, as scalars, which can be merged with any shapes."""
        floats = {"loss", "calibration"}
        names = cls.__dataclass_fields__
        return cls(**{name: jnp.zeros((), jnp.float32 if name in floats else jnp.int32) for name in names})

    def merge(self, other: "ClassificationSums") -> "ClassificationSums":
        """Returns the sums over both parts."""
        return jax.tree.map(operator.add, self, other)

    def reduce(self) -> "ClassificationSums":
        """Adds up stacked sums, such as one for each device."""
        return jax.tree.map(lambda parts: parts.sum(axis=0, dtype=parts.dtype), self)

    def compute(self) -> Array:
        """Returns the accuracy over all examples; `summarize` has the other figures."""
        return self.correct.sum(dtype=self.count.dtype) / self.count


def has_answer(logits: Array) -> Array:
    """Returns whether each row of logits [B, C] gives an answer, [B]: its highest value is neither NaN nor infinite."""
    return jnp.isfinite(logits.max(axis=1))


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
      Over examples: accuracy, and loss in nats.
      Over classes that have examples: balanced_accuracy and macro_recall (two names of one figure), macro_precision (a
      class that is never predicted has precision 0) and worst_accuracy.
      Over classes of a group that have examples: many_, medium_ and few_accuracy, and NAME_accuracy (recall) and
      NAME_precision for each of `groups`. A group without examples is left out.
      Also ece, the expected calibration error; top5_accuracy if there are more than 5 classes; and "unanswered", the
      share of examples without an answer, if there are any: they count as wrong, and not in ece.
      All but the loss are in [0, 1].

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


def class_groups(counts: Any) -> dict[str, np.ndarray]:
    """Groups classes by their number of training images.

    "many" has more than 100 images, "medium" 20 to 100, "few" fewer than 20. If the largest class has under 200 images,
    the groups are thirds of the classes by rank instead. If 3 does not divide C, one extra class goes to the middle
    group, or two go to the outer groups. Classes with equal counts are in one group, that of their middle rank.

    Args:
      counts: [C] training images.

    Returns:
      Group -> class indices in rising order; empty groups are left out.

    Raises:
      ValueError: if counts are not [C].
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"counts must be [C], one number of images a class, got shape {counts.shape}")
    if counts.max() < SMALL:
        larger = (counts[None, :] > counts[:, None]).sum(axis=1)
        equal = (counts[None, :] == counts[:, None]).sum(axis=1)
        # The middle rank of equal classes, counted in half ranks to stay a whole number.
        group = 3 * (2 * larger + equal) // (2 * counts.size)
    else:
        group = np.where(counts > MANY, 0, np.where(counts >= FEW, 1, 2))
    members = {name: np.flatnonzero(group == place) for place, name in enumerate(("many", "medium", "few"))}
    return {name: classes for name, classes in members.items() if classes.size}


def average_precision(scores: Any, labels: Any) -> np.ndarray:
    """Computes the average precision of each class: the mean precision at the scores of its positives.

    Equal scores count as one threshold, and nothing is interpolated.

    Args:
      scores: [N, C] probabilities or logits.
      labels: [N, C] multi-hot.

    Returns:
      [C] float64, NaN for a class without a positive.

    Raises:
      ValueError: if the shapes differ or are not [N, C].
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels) > 0
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N, C], got shapes {scores.shape} and {labels.shape}")
    result = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-scores[:, c], kind="stable")
        falling, positive = -scores[order, c], labels[order, c]
        retrieved = np.searchsorted(falling, falling, side="right")
        result[c] = (np.cumsum(positive)[retrieved - 1] / retrieved)[positive].mean()
    return result


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


def confusion_matrix(predictions: Any, labels: Any, num_classes: int) -> np.ndarray:
    """Counts examples by true class (rows) and predicted class (columns), [C, C] int64, on the host.

    Examples whose label or prediction is not a class, such as -1, do not count.
    """
    predictions, labels = np.asarray(predictions, np.int64), np.asarray(labels, np.int64)
    known = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    places = (labels * num_classes + predictions)[known]
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def _count(classes: Array, mask: Array, num_classes: int) -> Array:
    return jnp.zeros(num_classes, jnp.int32).at[classes].add(mask.astype(jnp.int32))


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
