"""Sums over the examples of a split, which are merged on the device."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array

CALIBRATION_BINS = 15


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
