"""Defines the records that the data modules hand to each other, and checks class names."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from cbjax.host.text import one_line


class DataError(ValueError):
    """The data are missing or do not fit; the message says the rule, what came and what to do.

    Attributes:
      command: a shell command that helps, or ""; it ends the message.
    """

    def __init__(self, message: str, command: str = ""):
        super().__init__(f"{message}:\n  {command}" if command else message)
        self.command = command


class Store(Protocol):
    """Random access to the encoded images (JPEG, PNG …) of a set; picklable, and safe for many threads at once.

    A store of clips reads a clip's path, and the transform reads the frames that it needs.
    """

    def read(self, position: int) -> bytes:
        """Returns an image's encoded bytes; raises OSError or the record reader's errors if it can't be read."""
        ...

    def name(self, position: int) -> str:
        """Returns a name for the image in messages: its file, or its place in the set."""
        ...

    def fingerprint(self, positions: np.ndarray) -> bytes:
        """Returns bytes that differ for other images; no image is read, and missing files do not matter."""
        ...

    def sizes(self, positions: np.ndarray) -> bytes:
        """Returns bytes that likely change if the images are made again under their names; empty if they can't be."""
        ...

    def missing(self, positions: np.ndarray) -> list[int]:
        """Returns the positions where nothing is, among as many as can be looked up in seconds, evenly spread."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded images that stay where they are until a batch needs them; indexed like an array of images.

    Attributes:
      store: reads them.
      positions: [N] int64, the images' positions in the store.
      image_size: side in pixels of the square images to make.
      num_frames: T, the images to make of each clip; 0 if these are single images.
    """

    store: Store
    positions: np.ndarray
    image_size: int
    num_frames: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chosen: np.ndarray) -> "Encoded":
        """Returns the images at the chosen positions; nothing is read."""
        return dataclasses.replace(self, positions=self.positions[chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, channels] of the decoded and cropped images; [N, T, H, W, channels] of clips."""
        frames = (self.num_frames,) if self.num_frames else ()
        return (len(self), *frames, self.image_size, self.image_size, 3)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded pixels."""
        return np.dtype(np.uint8)

    def read(self, position: int) -> bytes:
        """Returns the encoded bytes of one of these images, as `Store.read`."""
        return self.store.read(int(self.positions[position]))

    def name(self, position: int) -> str:
        """Returns a name for one of these images in messages."""
        return self.store.name(int(self.positions[position]))

    def fingerprint(self) -> bytes:
        """Returns bytes that differ for other images, as `Store.fingerprint`."""
        return self.store.fingerprint(self.positions)

    def sizes(self) -> bytes:
        """Returns bytes that likely change if the images are made again, as `Store.sizes`."""
        return self.store.sizes(self.positions)

    def missing(self) -> list[str]:
        """Returns the names of images that are not there, among those that `Store.missing` looks up."""
        return [self.store.name(position) for position in self.store.missing(self.positions)]


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
      images: [N, H, W, channels] uint8 or float32 in memory, or `Encoded` ones, images or clips, that are read as they
        are needed.
      labels: [N] int32 in [0, C), or [N, C] float32 multi-hot.
    """

    images: np.ndarray | Encoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2


@dataclasses.dataclass(frozen=True)
class Source:
    """Whole splits as a loader gives them, before images are chosen.

    Attributes:
      train: the images to train on; missing splits are taken from them.
      validation: the source's own held-out split, or None.
      test: the source's own test split, or None.
      class_names: [C] names in label order.
      notes: lines for the user.
      no_test: why folders that are there give no test split; "" if there are no such.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    no_test: str = ""


def noun_of(shape: Sequence[int]) -> str:
    """Returns what to call data of a shape in messages: images [H, W, channels] or clips [T, H, W, channels]."""
    return "clip" if len(shape) == 4 else "image"


def quote(names: Iterable[object], limit: int = 20) -> str:
    """Joins names for a message; after the first `limit` names it only counts."""
    quoted = [f"'{one_line(name)}'" for name in names]
    rest = len(quoted) - limit
    return ", ".join(quoted) if rest <= 0 else f"{', '.join(quoted[:limit])} and {rest} more"


def check_names(names: Iterable[str], where: str) -> None:
    """Checks that each class has a name, and that a reader can tell the names apart.

    Raises:
      DataError: if a name is empty, or two differ only in spaces around them or in how accents are encoded.
    """
    known: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise DataError(f"{where}: every class needs a name, got {name!r}: name it, or leave out its images")
        other = known.setdefault(_plain(name), name)
        if other != name:
            raise DataError(
                f"{where}: classes must have names that differ, but {other!a} and {name!a} look the same "
                "(accents or spaces are written in two ways): give both the same name"
            )


def alike(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Returns the end of a message: a known name that looks the same as an unknown one, or nothing."""
    plain = {_plain(name): name for name in known}
    for name in unknown:
        if _plain(name) in plain:
            other = ascii(plain[_plain(name)])
            return f" ({name!a} looks the same as {other}: accents or spaces are written in two ways)"
    return ""


def is_text(name: str) -> bool:
    """Returns whether a name can be written as UTF-8; a lone half of a surrogate pair cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _plain(name):
    return unicodedata.normalize("NFC", name).strip()
