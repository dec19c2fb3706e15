"""The streaming input path: the host decodes and sends a batch while the devices use the one before."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cbjax.data import Split
from cbjax.data.batches import Batches, Partners
from cbjax.data.stream import Reading, Transform, stream
from cbjax.objectives.mixing import PARTNER
from cbjax.parallel import sharding
from cbjax.training.resident import TRAIN
from cbjax.types import Array, Batch, TrainState

# name -> encoded images, their order, and (encoded image, place in that order) -> image of the network's size
Streams = Mapping[str, tuple[Split, Batches | Partners, Transform]]


def make_advance(
    program: Callable[..., tuple[TrainState, dict[str, Any]]],
    streams: Streams,
    reading: Reading,
    *,
    num_steps: int,
    mesh: Mesh,
) -> Callable[[TrainState, int, int], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, first, last) -> (state, metrics), which takes the one step `first`.

    Args:
      program: from `make_program`, on the same mesh.
      streams: the images of each stream. Each that is read has threads of its own.
      reading: how images are read.
      num_steps: steps of the whole training; nothing after them is read.
      mesh: the devices.

    Returns:
      The function. It reads ahead for the next step. If another step is asked for, it starts again there.
    """
    reader = _Reader(lambda first: _batches(streams, reading, first, num_steps, mesh), mesh)

    def advance(state, first, last):
        if last != first + 1:
            raise ValueError(f"a streamed dispatch takes one step, got {first} to {last}")
        result = program(state, reader.take(first))
        # The device computes while the host waits for the next batch and sends it.
        reader.look_ahead()
        return result

    return advance


def make_program(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
    normalize: Callable[[Any, Array], Array],
    mesh: Mesh,
    kind: str,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Returns the compiled (state, batch of raw images) -> (state, metrics).

    Args:
      train_step: from `step.make_train_step`, with the axis "data".
      normalize: (settings of the state, uint8 images) -> the network's input; of each stream's images.
      mesh: the devices.
      kind: "shard_map" or "pmap".
    """

    def prepared(state, batch):
        more = {name: prepared(state, part) for name, part in batch.items() if isinstance(part, dict)}
        return {**batch, "image": normalize(state.settings, batch["image"]), **more}

    def step(state, batch):
        return train_step(state, prepared(state, batch))

    return sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind, donate=(0,))


def with_stand_ins(batch: dict[str, np.ndarray], share: int) -> dict[str, np.ndarray]:
    """Replaces skipped images by other ones, so that BatchNorm's statistics come from real images alone.

    The places stay masked: nothing else counts them. A stand-in comes from the same device's share, so that the number
    of processes does not matter; a share without any image stays black.

    Args:
      batch: of `data.stream.stream`.
      share: images of a device.

    Returns:
      The batch. A masked place has the image before it, or the first of the share if there is none before it.
    """
    if batch["mask"].all():
        return batch
    chosen = np.arange(len(batch["mask"]))
    for start in range(0, len(chosen), share):
        places = chosen[start : start + share]
        there = places[batch["mask"][places]]
        if there.size:
            places[:] = there[np.maximum(np.searchsorted(there, places, side="right") - 1, 0)]
    return {**batch, "image": batch["image"][chosen]}


def with_partners(batch: dict[str, Any], partners: dict[str, np.ndarray]) -> dict[str, Any]:
    """Adds each image's partner. If that was skipped the image is its own partner, and so stays as it is.

    Args:
      batch: with stand-ins for its skipped images.
      partners: a batch of `data.stream.stream`, of the same size.

    Returns:
      The batch, with "image" and "label" of the partners under `PARTNER`.
    """
    there = partners["mask"]
    if there.all():
        return {**batch, PARTNER: {"image": partners["image"], "label": partners["label"]}}
    chosen = {
        name: np.where(there.reshape(-1, *[1] * (partners[name].ndim - 1)), partners[name], batch[name])
        for name in ("image", "label")
    }
    return {**batch, PARTNER: chosen}


def _batches(streams: Streams, reading: Reading, first: int, stop: int, mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Yields this process's share of the batches of the steps; those of other streams lie in it under their names."""
    index, count = sharding.place_among_processes(mesh)
    # `Partners` are the images of the same batch, and one process has all of them. Of several processes each reads its
    # images' partners once more: an image's pixels are a function of its place in the training sequence.
    taken = {name: order for name, (_, order, _) in streams.items() if isinstance(order, Partners) and count == 1}
    with contextlib.ExitStack() as opened:
        read = {
            name: opened.enter_context(
                contextlib.closing(
                    stream(*one, reading, start=first, stop=stop, process_index=index, process_count=count)
                )
            )
            for name, one in streams.items()
            if name not in taken
        }
        for step in range(first, stop):
            parts = {name: next(batches) for name, batches in read.items()}
            for name, order in taken.items():
                places = order.places(step)
                parts[name] = {key: values[places] for key, values in parts[TRAIN].items()}
            partners = parts.pop(PARTNER, None)
            for name, part in parts.items():
                parts[name] = with_stand_ins(part, streams[name][1].batch_size // mesh.devices.size)
            batch = parts.pop(TRAIN) | parts
            yield batch if partners is None else with_partners(batch, partners)


class _Reader:
    """Hands out the batch of a step on the devices; holds the next one ready."""

    def __init__(self, open_at: Callable[[int], Iterator[dict[str, Any]]], mesh: Mesh):
        self._open_at, self._mesh = open_at, mesh
        self._iterator: Any = None
        self._step = -1  # whose batch the iterator gives next
        self._ahead: Any = None

    def take(self, step: int) -> Batch:
        if step != self._step:
            if self._iterator is not None:
                self._iterator.close()
            self._iterator, self._step, self._ahead = self._open_at(step), step, None
        self.look_ahead()
        batch, error = self._ahead
        if error is not None:
            self._step = -1
            raise error
        self._step, self._ahead = step + 1, None
        return batch

    def look_ahead(self) -> None:
        """Waits for the next batch and sends it, if that is not done yet. An error is raised only by `take`."""
        if self._ahead is not None:
            return
        try:
            batch = next(self._iterator, None)
            divided = None if batch is None else sharding.divide(batch, self._mesh)
            self._ahead = (divided, None)
        except Exception as error:
            self._ahead = (None, error)
