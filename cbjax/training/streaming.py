"""The streaming input path: the host decodes and sends a batch while the devices use the one before."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cbjax.data import Split
from cbjax.data.sampling import Batches
from cbjax.data.stream import Reading, Transform, stream
from cbjax.parallel import sharding
from cbjax.types import Array, Batch, TrainState


def make_advance(
    program: Callable[..., tuple[TrainState, dict[str, Any]]],
    examples: Split,
    batches: Batches,
    transform: Transform,
    reading: Reading,
    *,
    num_steps: int,
    mesh: Mesh,
) -> Callable[[TrainState, int, int], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, first, last) -> (state, metrics), which takes the one step `first`.

    Args:
      program: from `make_program`, on the same mesh.
      examples: the training images, encoded.
      batches: the order of the images.
      transform: (encoded image, place in the training sequence) -> image of the network's size.
      reading: how images are read.
      num_steps: steps of the whole training; nothing after them is read.
      mesh: the devices.

    Returns:
      The function. It reads ahead for the next step. If another step is asked for, it starts again there.
    """
    index, count = sharding.place_among_processes(mesh)
    reader = _Reader(
        lambda first: stream(
            examples, batches, transform, reading, start=first, stop=num_steps, process_index=index, process_count=count
        ),
        mesh,
        share=batches.batch_size // mesh.devices.size,
    )

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
      normalize: (settings of the state, uint8 images) -> the network's input.
      mesh: the devices.
      kind: "shard_map" or "pmap".
    """

    def step(state, batch):
        return train_step(state, {**batch, "image": normalize(state.settings, batch["image"])})

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


class _Reader:
    """Hands out the batch of a step on the devices; holds the next one ready."""

    def __init__(self, open_at: Callable[[int], Iterator[dict[str, Any]]], mesh: Mesh, share: int):
        self._open_at, self._mesh, self._share = open_at, mesh, share
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
            divided = None if batch is None else sharding.divide(with_stand_ins(batch, self._share), self._mesh)
            self._ahead = (divided, None)
        except Exception as error:
            self._ahead = (None, error)
