"""The records that the data modules hand to each other."""

import dataclasses
from collections.abc import Iterable

import numpy as np


class DataError(ValueError):
    """The data, or what was asked of them, does not fit; the message says the rule, what came and what to do.

    Attributes:
      command: the shell command that helps, where there is one; it ends the message.
    """

    def __init__(self, message: str, command: str = ""):
        super().__init__(f"{message}:\n  {command}" if command else message)
        self.command = command


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels, in memory.

    Attributes:
      images: [N, H, W, channels] uint8 or float32.
      labels: [N] int32 in [0, C), or [N, C] float32 multi-hot.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2


@dataclasses.dataclass(frozen=True)
class Source:
    """What a loader gives: whole splits as they came, before any choice of images.

    Attributes:
      train: the images to train on, from which missing splits are taken.
      validation: the source's own held-out split, or None.
      test: the source's own test split, or None.
      class_names: [C] names in label order.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]


def quote(names: Iterable[object], limit: int = 20) -> str:
    """Joins names for a message, the first `limit` of them in full."""
    quoted = [f"'{name}'" for name in names]
    rest = len(quoted) - limit
    return ", ".join(quoted) if rest <= 0 else f"{', '.join(quoted[:limit])} and {rest} more"
