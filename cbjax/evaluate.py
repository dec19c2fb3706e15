"""Evaluation of a whole split: every example once, counted in sums and divided once at the end."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cbjax import metrics
from cbjax.data import Split
from cbjax.data.stream import Reading, Sweep, Transform, stream
from cbjax.groups import Groups
from cbjax.sharding import data_parallel, divide, gather, place_among_processes, replicate
from cbjax.types import Array


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model does on one split.

    Attributes:
      metrics: overall figures by name (`metrics.summarize`).
      per_class: [C] accuracy of each class (average precision for multi-hot labels), NaN for a class without examples.
      outputs: [N] predicted classes, or [N, C] probabilities for multi-hot labels, in the order of the split.
      calibration: [3, bins] examples, their confidences and those predicted rightly, summed by bin of confidence; None
        for multi-hot labels.
    """

    metrics: dict[str, float]
    per_class: np.ndarray
    outputs: np.ndarray
    calibration: np.ndarray | None = None


def make_evaluate(
    eval_step: Callable[..., Any],
    normalize: Callable[[Array], Array],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    counts: np.ndarray,
    groups: Groups,
    batch_size: int,
    mesh: Mesh,
    kind: str,
) -> Callable[[Any, Any], Evaluation]:
    """Places a split on the devices and returns (params, batch_stats) -> Evaluation, compiled once.

    Args:
      eval_step: from `train_step.make_eval_step`, with the axis "data".
      normalize: raw images to the model's input.
      images: [N, H, W, channels], N at least 1.
      labels: [N] integers or [N, C] multi-hot.
      counts: [C] training images, for the groups many, medium and few.
      groups: name -> classes, the groups to give beside these.
      batch_size: a multiple of the number of devices; the last batch is filled up with masked examples.
      mesh: the devices.
      kind: "shard_map" or "pmap".
    """
    size = len(labels)
    num_batches = math.ceil(size / batch_size)
    indices = np.zeros(num_batches * batch_size, np.int32)
    indices[:size] = np.arange(size)
    mask = np.arange(num_batches * batch_size) < size

    compiled = make_program(eval_step, normalize, mesh, kind)
    data = replicate({"image": images, "label": labels}, mesh)

    def evaluate(params, batch_stats):
        total, outputs = [], []
        for batch in range(num_batches):
            part = slice(batch * batch_size, (batch + 1) * batch_size)
            sums, output = compiled(params, batch_stats, data, indices[part], mask[part])
            total.append(sums)
            outputs.append(output)
        # Fetched once every batch is on its way.
        return _summarize(jax.device_get(total), np.concatenate(gather(outputs, mesh))[:size], labels, counts, groups)

    return evaluate


def make_program(
    eval_step: Callable[..., Any], normalize: Callable[[Array], Array], mesh: Mesh, kind: str
) -> Callable[..., Any]:
    """Returns the compiled (params, batch_stats, data, indices [B], mask [B]) -> (sums, outputs [B]).

    Arguments as `make_evaluate`; data has "image" and "label" of the whole split, on every device.
    """

    def step(params, batch_stats, data, chosen, mask):
        batch = {"image": normalize(data["image"][chosen]), "label": data["label"][chosen], "mask": mask}
        return eval_step(params, batch_stats, batch)

    return data_parallel(step, mesh, split=(None, None, None, 0, 0), split_outputs=(None, 0), kind=kind)


def make_streamed_evaluate(
    eval_step: Callable[..., Any],
    normalize: Callable[[Array], Array],
    examples: Split,
    transform: Transform,
    reading: Reading,
    *,
    counts: np.ndarray,
    groups: Groups,
    batch_size: int,
    mesh: Mesh,
    kind: str,
) -> Callable[[Any, Any], Evaluation]:
    """As `make_evaluate`, of encoded images that are read anew each time; every image once on any number of processes.

    Args:
      examples: the images with their labels.
      transform: (encoded image, position) -> image of the network's size.
      reading: how images are read; one that is skipped counts nowhere, and its output is that of a black image.
      The others are those of `make_evaluate`.
    """
    sweep = Sweep(len(examples), batch_size)
    index, count = place_among_processes(mesh)

    compiled = make_streamed_program(eval_step, normalize, mesh, kind)

    def evaluate(params, batch_stats):
        total, outputs = [], []
        options = {"start": 0, "stop": sweep.num_steps, "process_index": index, "process_count": count}
        for batch in stream(examples, sweep, transform, reading, **options):
            sums, output = compiled(params, batch_stats, divide(batch, mesh))
            total.append(sums)
            outputs.append(output)
        chosen = np.concatenate(gather(outputs, mesh))[: len(examples)]
        return _summarize(jax.device_get(total), chosen, examples.labels, counts, groups)

    return evaluate


def make_streamed_program(
    eval_step: Callable[..., Any], normalize: Callable[[Array], Array], mesh: Mesh, kind: str
) -> Callable[..., Any]:
    """Returns the compiled (params, batch_stats, batch) -> (sums, outputs [B]) of raw images."""

    def step(params, batch_stats, batch):
        return eval_step(params, batch_stats, {**batch, "image": normalize(batch["image"])})

    return data_parallel(step, mesh, split=(None, None, 0), split_outputs=(None, 0), kind=kind)


def _summarize(sums, outputs, labels, counts, groups):
    # In float64, where the sum of many float32 batches loses nothing.
    total = jax.tree.map(lambda *parts: np.sum(np.asarray(parts), axis=0, dtype=_wide(parts[0])), *sums)
    if labels.ndim == 1:
        figures, per_class = metrics.summarize(total, counts, groups), metrics.per_class_accuracy(total)
        return Evaluation(figures, per_class, outputs, total.calibration)
    loss = float(total["loss"] / total["count"])
    figures = metrics.summarize_multilabel(outputs, labels, loss, counts, groups)
    return Evaluation(figures, metrics.average_precision(outputs, labels), outputs)


def _wide(array):
    return np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64
