"""Evaluation of a whole split: every example counts once; sums are divided once, at the end."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cbjax import metrics
from cbjax.config.class_groups import Groups
from cbjax.data import DataError, Split
from cbjax.data.stream import Reading, Sweep, Transform, stream
from cbjax.parallel.sharding import data_parallel, divide, gather, place_among_processes, spread
from cbjax.types import Array, Batch, NonFiniteLoss, Trained, TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model does on one split.

    Attributes:
      metrics: overall figures by name (`metrics.summarize`).
      per_class: [C] accuracy of each class (average precision for multi-hot labels), NaN for a class without examples.
      outputs: [N] predicted classes, or [N, C] probabilities for multi-hot labels, in the order of the split; -1, or
        NaN, for an image that was skipped or has no answer.
      calibration: [3, bins]; for each bin of confidence the number of examples, the sum of their confidences and the
        number predicted rightly. None for multi-hot labels.
      class_count: [C] examples of each class that were read.
      count: examples that were read.
      unanswered: how many of these have a highest output that is NaN or infinite.
    """

    metrics: dict[str, float]
    per_class: np.ndarray
    outputs: np.ndarray
    class_count: np.ndarray
    calibration: np.ndarray | None = None
    count: int = 0
    unanswered: int = 0

    def check(self, where: str) -> "Evaluation":
        """Returns itself, or raises NonFiniteLoss where the outputs or the loss are not finite.

        Args:
          where: what was evaluated and when, the start of the message.
        """
        if self.unanswered:
            what = f"the network's outputs for {self.unanswered} of {self.count} images are NaN or infinite"
        elif not math.isfinite(self.metrics["loss"]):
            what = f"the loss is {self.metrics['loss']}"
        else:
            return self
        raise NonFiniteLoss(
            f"{where}: {what}; a smaller optim.learning_rate or a longer optim.warmup usually helps, and `cbjax eval` "
            "says how an earlier checkpoint does"
        )


# One pass over a split: state -> an iterator of (sums over a batch, outputs of its images), not fetched yet.
Visit = Callable[[TrainState], Iterator[tuple[Any, Array]]]


def make_visit(
    program: Callable[..., Any], images: np.ndarray, labels: np.ndarray, batch_size: int, mesh: Mesh
) -> Visit:
    """Returns what goes over a split in memory, in order. Splits of all sizes share the program.

    Args:
      program: from `make_program`, on the same mesh.
      images: [N, H, W, channels], N at least 1.
      labels: [N] integers or [N, C] multi-hot.
      batch_size: a multiple of the number of devices; the last batch is filled up with masked examples.
      mesh: the devices.
    """
    index, count = place_among_processes(mesh)
    share = batch_size // count

    def visit(state):
        trained = Trained.of(state)
        for first in range(index * share, index * share + math.ceil(len(labels) / batch_size) * batch_size, batch_size):
            places = np.arange(first, first + share)
            there = places < len(labels)
            chosen = np.where(there, places, 0)
            batch = {"image": images[chosen], "label": labels[chosen], "mask": there}
            yield program(trained, divide(batch, mesh))

    return visit


def make_streamed_visit(
    program: Callable[..., Any], examples: Split, transform: Transform, reading: Reading, batch_size: int, mesh: Mesh
) -> Visit:
    """As `make_visit`, for encoded images that are read again each time. All processes together read each image once.

    Args:
      program: from `make_program`, on the same mesh.
      examples: the images with their labels.
      transform: (encoded image, position) -> image of the network's size.
      reading: how images are read; one that is skipped is masked.
      batch_size, mesh: as for `make_visit`.
    """
    sweep = Sweep(len(examples), batch_size)
    index, count = place_among_processes(mesh)

    def visit(state):
        trained = Trained.of(state)
        options = {"start": 0, "stop": sweep.num_steps, "process_index": index, "process_count": count}
        for batch in stream(examples, sweep, transform, reading, **options):
            yield program(trained, divide(batch, mesh))

    return visit


def make_evaluate(
    visit: Visit, labels: np.ndarray, *, counts: np.ndarray, groups: Groups, mesh: Mesh
) -> Callable[[TrainState], Evaluation]:
    """Returns state -> Evaluation of a split.

    Args:
      visit: goes over it with a program of `step.make_eval_step`; images that it masks count nowhere.
      labels: [N] integers or [N, C] multi-hot.
      counts: [C] training images, for the groups many, medium and few.
      groups: name -> classes, for further groups.
      mesh: the devices.
    """

    def evaluate(state):
        total, outputs = zip(*visit(state), strict=True)
        # Fetched once every batch is on its way.
        chosen = np.concatenate(gather(outputs, mesh))[: len(labels)]
        return _summarize(jax.device_get(total), chosen, labels, counts, groups)

    return evaluate


def make_cohort_evaluate(
    program: Callable[..., Any],
    splits: Sequence[Split],
    *,
    counts: Sequence[np.ndarray],
    groups: Sequence[Groups],
    batch_size: int,
    mesh: Mesh,
) -> Callable[[TrainState], list[Evaluation]]:
    """As `make_visit` and `make_evaluate`, for runs side by side: their states, [K, …] -> an Evaluation of each.

    Args:
      program: `make_batch_evaluation`, compiled by `sharding.run_parallel` with the arguments 2 and 3 shared.
      splits: one for each run, all of one size.
      counts, groups: one for each run.
      batch_size: any.
      mesh: the devices over which the runs are spread.
    """
    (size,) = {len(split) for split in splits}
    images, labels = (np.stack(part) for part in zip(*((one.images, one.labels) for one in splits), strict=True))
    data = spread({"image": images, "label": labels}, mesh)

    def evaluate(state):
        total, outputs = jax.device_get(tuple(zip(*_run(program, state, data, size, batch_size), strict=True)))
        outputs = np.concatenate(outputs, axis=1)[:, :size]
        return [
            _summarize(jax.tree.map(lambda leaf, k=k: leaf[k], total), outputs[k], labels[k], counts[k], groups[k])
            for k in range(len(splits))
        ]

    return evaluate


def _run(program, state, data, size, batch_size):
    """Calls a program for each batch of a split, the last one filled up; yields the sums and the outputs of each."""
    num_batches = math.ceil(size / batch_size)
    indices = np.zeros(num_batches * batch_size, np.int32)
    indices[:size] = np.arange(size)
    mask = np.arange(num_batches * batch_size) < size
    trained = Trained.of(state)
    for batch in range(num_batches):
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        yield program(trained, data, indices[part], mask[part])


def make_program(
    eval_step: Callable[[Trained, Batch], Any], normalize: Callable[[Any, Array], Array], mesh: Mesh, kind: str
) -> Callable[..., Any]:
    """Returns the compiled (state, batch of raw images) -> (sums, outputs [B]).

    Args:
      eval_step: (state, batch) -> (sums, outputs), as from `step.make_eval_step`, with the axis "data".
      normalize: (settings of the state, raw images) -> the model's input.
      mesh: the devices.
      kind: "shard_map" or "pmap".
    """

    def step(state, batch):
        return eval_step(state, {**batch, "image": normalize(state.settings, batch["image"])})

    return data_parallel(step, mesh, split=(None, 0), split_outputs=(None, 0), kind=kind)


def make_batch_evaluation(
    eval_step: Callable[[Trained, Batch], Any], normalize: Callable[[Any, Array], Array]
) -> Callable[..., Any]:
    """Returns (state, data, indices [B], mask [B]) -> (sums, outputs [B]) of a run whose whole split is on the device,
    for runs side by side."""

    def evaluate_batch(state, data, chosen, mask):
        image = normalize(state.settings, data["image"][chosen])
        return eval_step(state, {"image": image, "label": data["label"][chosen], "mask": mask})

    return evaluate_batch


def _summarize(sums, outputs, labels, counts, groups):
    # In float64, so that the sum over many float32 batches loses nothing.
    total = jax.tree.map(lambda *parts: np.sum(np.asarray(parts), axis=0, dtype=_wide(parts[0])), *sums)
    total = total if labels.ndim > 1 else vars(total)
    count, unanswered = int(total["count"]), int(total["unanswered"])
    if count == 0:
        raise DataError(f"all {len(labels)} images of a split were skipped, see bad_images.jsonl: are the files there?")
    if labels.ndim == 1:
        sums = metrics.ClassificationSums(**total)
        figures, per_class = metrics.summarize(sums, counts, groups), metrics.per_class_accuracy(sums)
        return Evaluation(figures, per_class, outputs, sums.total, sums.calibration, count, unanswered)
    of_class = total["total"].astype(np.int64)
    loss, there = float(total["loss"] / total["count"]), (outputs >= 0).all(axis=1)
    outputs = np.where(there[:, None], outputs, np.nan)
    if labels[there].any():
        figures = metrics.summarize_multilabel(outputs[there], labels[there], loss, counts, groups)
        per_class = metrics.average_precision(outputs[there], labels[there])
    else:  # nothing is left to rank
        figures, per_class = {"loss": loss, "balanced_accuracy": math.nan}, np.full(labels.shape[1], np.nan)
    if unanswered:
        figures["unanswered"] = unanswered / count
    return Evaluation(figures, per_class, outputs, of_class, None, count, unanswered)


def _wide(array):
    return np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64
