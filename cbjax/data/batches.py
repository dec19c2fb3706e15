"""Computes the training order: the batch of any step is index arithmetic, so a run can resume at any step."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from cbjax.data import shuffle

_PARTNERS = 10  # key of the partners' random order, different from all other keys
Order = Callable[[int], np.ndarray]  # epoch -> [N] positions of that epoch


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the epoch's random order of range(num_examples); epochs count from 0."""
    return shuffle.permutation(num_examples, seed, 2, epoch)


class Batches:
    """The orders of all epochs, one after another, cut into batches of one size.

    A batch may run across the end of an epoch, so no image is dropped and all batches have one shape. A batch depends
    on its step alone.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, *, order: Order | None = None):
        """Describes the sequence.

        Args:
          num_examples: N, positions in an epoch.
          batch_size: B; may be above N.
          seed: at least 0.
          order: epoch -> [N] positions, a pure function; None for a new permutation each epoch.

        Raises:
          ValueError: if num_examples or batch_size is not a whole number of at least 1.
        """
        for name, value in (("num_examples", num_examples), ("batch_size", batch_size)):
            if value != int(value) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        self.num_examples = int(num_examples)
        self.batch_size = int(batch_size)
        if order is None:
            order = functools.partial(epoch_order, seed, num_examples=self.num_examples)
        self._make_order = order
        self._order = _remembered(order)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _order=_remembered(state["_make_order"]))

    def indices(self, step: int) -> np.ndarray:
        """Returns the [B] positions of one step; steps count from 0."""
        return self.indices_between(step, step + 1)[0]

    def places(self, step: int) -> np.ndarray:
        """Returns [B]: the place in its step's batch by which each image is cropped, its own."""
        return np.arange(self.batch_size)

    def indices_between(self, start: int, stop: int) -> np.ndarray:
        """Returns the [S, B] positions of steps start to stop - 1."""
        if not 0 <= start <= stop:
            raise ValueError(f"steps must satisfy 0 <= start <= stop, got {start} and {stop}")
        first, last = start * self.batch_size, stop * self.batch_size
        pieces = [np.zeros(0, np.int64)]
        for epoch in range(first // self.num_examples, -(-last // self.num_examples)):
            offset = epoch * self.num_examples
            order = self._order(epoch)
            if len(order) != self.num_examples:
                raise ValueError(f"an epoch's order must have {self.num_examples} positions, got {len(order)}")
            pieces.append(order[max(first - offset, 0) : last - offset])
        return np.concatenate(pieces).reshape(stop - start, self.batch_size)

    def epoch_end(self, epoch: int) -> int:
        """Returns the number of steps after which `epoch` epochs are complete."""
        return -(-epoch * self.num_examples // self.batch_size)


class Partners:
    """The images of `Batches` in another random order within each batch, for methods that mix images.

    An order depends on the seed and the step alone.
    """

    def __init__(self, batches: Batches, seed: int):
        self.batch_size = batches.batch_size
        self._batches, self._seed = batches, seed

    def places(self, step: int) -> np.ndarray:
        """Returns [B]: for each place in a batch, the place of its partner in the same batch."""
        return shuffle.permutation(self.batch_size, self._seed, _PARTNERS, step)

    def places_between(self, start: int, stop: int) -> np.ndarray:
        """Returns the [S, B] places of the steps start to stop - 1."""
        places = [self.places(step) for step in range(start, stop)]
        return np.stack(places) if places else np.zeros((0, self.batch_size), np.int64)

    def indices(self, step: int) -> np.ndarray:
        """Returns the [B] positions of the partners at one step."""
        return self._batches.indices(step)[self.places(step)]

    def indices_between(self, start: int, stop: int) -> np.ndarray:
        """Returns the [S, B] positions of the partners at the steps start to stop - 1."""
        return np.take_along_axis(self._batches.indices_between(start, stop), self.places_between(start, stop), axis=1)


def _remembered(order: Order) -> Order:
    """Keeps the last orders, so that several threads do not make the same one."""
    # A step needs one epoch's order, or two at the end of an epoch; the third is for steps that are read ahead.
    kept, lock = functools.lru_cache(maxsize=3)(order), threading.Lock()

    def remembered(epoch):
        with lock:
            return kept(epoch)

    return remembered
