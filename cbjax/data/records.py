"""The records that the data modules hand to each other."""

import dataclasses

import numpy as np


class DataError(ValueError):
    """The data, or what was asked of them, does not fit; the message says the rule, what came and what to do."""


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


def quote(names, limit: int = 20) -> str:
    """Joins names for a message, the first `limit` of them in full."""
    names = [f"'{name}'" for name in names]
    rest = len(names) - limit
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:limit])} and {rest} more"
