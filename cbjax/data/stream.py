"""Streams batches on the host: reads, decodes and crops encoded images ahead of the step that needs them.

A batch depends on its step alone, not on the number of threads, worker processes and hosts. So an iterator is never
saved: a resumed run makes a new one that begins at its step.
"""

import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from cbjax.data.batches import Batches, Partners
from cbjax.data.decode import DecodeError
from cbjax.data.records import DataError, Encoded, Split
from cbjax.host import machine

Transform = Callable[[bytes, int], np.ndarray]  # encoded image or clip, place in the sequence -> its pixels, uint8
PADDING = -1
_CHUNK = 16  # images that a thread makes at a time: Grain's overhead for an element is a tenth of an image's time
_CHUNK_OF_CLIPS = 1  # a clip takes as long as many images, and all threads must find work in a small batch


class Sweep:
    """Every position of a split once, in batches of one size; `PADDING` fills up the last batch."""

    def __init__(self, num_examples: int, batch_size: int):
        self.num_examples, self.batch_size = num_examples, batch_size
        self.num_steps = math.ceil(num_examples / batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Returns the [B] positions of one step."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.where(positions < self.num_examples, positions, PADDING)

    def places(self, step: int) -> np.ndarray:
        """Returns [B], as `Batches.places`."""
        return np.arange(self.batch_size)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read. Only on_bad_image can change a pixel.

    Attributes:
      num_threads: threads that decode at the same time, in each worker process if there are some; None for as many
        threads in all as there are cores.
      num_workers: processes besides this one; 0 for threads only. One process makes an estimated 3,000 images a second
        at most, on any number of cores: its threads wait for each other a quarter of a millisecond an image.
      on_bad_image: "error", or "skip": an image that can't be read becomes black and is masked.
      report: called with (name, reason) of each skipped image, possibly many times.
    """

    num_threads: int | None = None
    num_workers: int = 0
    on_bad_image: str = "error"
    report: Callable[[str, str], None] = lambda name, reason: None


def stream(
    split: Split,
    batches: Batches | Partners | Sweep,
    transform: Transform,
    reading: Reading,
    *,
    start: int,
    stop: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields this process's share of the batches of steps start to stop - 1.

    The shares of all processes, joined in order, are the global batch; it does not depend on their number.

    Args:
      split: encoded images with their labels.
      batches: the images of each step.
      transform: makes an image of the network's size.
      reading: how images are read.
      start, stop: first step, and the step after the last.
      process_index: index of this process.
      process_count: number of processes; divides the batch size.

    Returns:
      A generator of {"image" uint8 [B / process_count, H, W, 3], "label" [B / process_count, …], "mask" bool}; the
      images of clips are [B / process_count, T, H, W, 3]. Closing it ends its threads.

    Raises:
      DataError: from the generator, at the first image that can't be read, unless bad images are skipped.
      ValueError: if the processes do not divide the batch.
    """
    if batches.batch_size % process_count:
        raise ValueError(f"process_count must divide the batch size, {batches.batch_size}, got {process_count}")
    skip = reading.on_bad_image == "skip"
    processes = process_index, process_count
    chunks = _Chunks(split, batches, transform, skip, start, stop, processes, in_processes=reading.num_workers > 0)
    return _batches(chunks, reading)


def make_image(images: Encoded, transform: Transform, position: int, place: int = 0) -> tuple[str, np.ndarray | None]:
    """Makes the image at a position; returns ("", image), or (reason, None) for a bad image."""
    try:
        data = images.read(position)
    except FileNotFoundError:
        return "there is no such file", None
    except Exception as error:  # the readers of files, buckets and records each raise their own errors
        return f"it cannot be read ({getattr(error, 'strerror', None) or repr(error)})", None
    try:
        return "", transform(data, place)
    except DecodeError as error:
        return f"it cannot be decoded ({error})", None


def _batches(chunks, reading):
    iterator = iter(_grain_dataset(chunks, reading))
    try:
        for step in range(chunks.start, chunks.stop):
            parts = []
            for _ in range(chunks.per_batch):
                part = next(iterator)
                for name, reason in part.pop("bad"):
                    reading.report(name, reason)
                if "error" in part:
                    raise DataError(part["error"])
                parts.append(part)
            batch = {key: np.concatenate([part[key] for part in parts]) for key in ("label", "mask")}
            yield {"image": chunks.take(step, parts), **batch}
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _grain_dataset(chunks, reading):
    import grain

    threads = reading.num_threads
    if threads is None:
        threads = math.ceil(machine.cores() / max(1, reading.num_workers))
    # Two batches ahead, plus work for every thread.
    ahead = 2 * chunks.per_batch + threads if threads else 0
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    )
    if reading.num_workers:
        _parse_absl_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=reading.num_workers, per_worker_buffer_size=-(-ahead // reading.num_workers)
            ),
            start_worker,
        )
    return dataset


def start_worker(*_: Any) -> None:
    """Prepares a worker process: it ignores Ctrl-C, and it ends when its parent does."""
    # Ctrl-C in a terminal reaches the workers too, but the run needs them until it has saved its state.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    # Without this a worker whose parent was killed would wait for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _parse_absl_flags():
    # Grain hands this process's absl flags to its workers. Only absl's own programs have parsed them already.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["cbjax"])


class _Chunks:
    """Grain's random access source: the batches of this process, cut into chunks of images."""

    def __init__(self, split, batches, transform, skip, start, stop, processes, in_processes):
        self._images: Encoded = split.images
        self._labels = split.labels
        self._batches, self._transform, self._skip = batches, transform, skip
        self.start, self.stop = start, max(stop, start)
        self._size = batches.batch_size // processes[1]
        self._first = processes[0] * self._size
        self._chunk = _CHUNK_OF_CLIPS if self._images.num_frames else _CHUNK
        self.per_batch = math.ceil(self._size / self._chunk)
        # With threads, all chunks of a step fill one array, so its images need not be copied to join them.
        self._whole: dict[int, np.ndarray] = {}
        self._lock = None if in_processes else threading.Lock()

    def __len__(self) -> int:
        return (self.stop - self.start) * self.per_batch

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} chunks)"

    def __getitem__(self, chunk: Any) -> dict[str, Any]:
        step, part = divmod(int(chunk), self.per_batch)
        step += self.start
        places = np.arange(part * self._chunk, min((part + 1) * self._chunk, self._size)) + self._first
        positions, places = self._batches.indices(step)[places], self._batches.places(step)[places]
        mask = positions != PADDING
        images = self._place(step, part * self._chunk, len(places))
        made: dict[str, Any] = {"image": images, "label": self._labels[positions], "mask": mask, "bad": []}
        for i in np.flatnonzero(mask).tolist():
            position, place = int(positions[i]), step * self._batches.batch_size + int(places[i])
            reason, image = make_image(self._images, self._transform, position, place)
            if image is not None:
                images[i] = image
            if reason and not self._skip:
                # Handed over, not raised: the consumer must get the earlier steps first.
                advice = "repair it or leave it out, or set data.on_bad_image=skip"
                return {**made, "error": f"{self._images.name(position)}: {reason}; {advice}"}
            if reason:
                mask[i] = False
                made["bad"].append((self._images.name(position), reason))
        images[~mask] = 0
        made["label"] = np.where(mask.reshape(-1, *[1] * (made["label"].ndim - 1)), made["label"], 0)
        return made

    def _place(self, step, first, count):
        shape = self._images.shape[1:]
        if self._lock is None:
            return np.empty((count, *shape), np.uint8)
        with self._lock:
            if step not in self._whole:
                self._whole[step] = np.empty((self._size, *shape), np.uint8)
            return self._whole[step][first : first + count]

    def take(self, step: int, parts: list[dict[str, Any]]) -> np.ndarray:
        """Returns the images of a step, once all its chunks are there."""
        if self._lock is None:
            return np.concatenate([part["image"] for part in parts])
        return self._whole.pop(step)
