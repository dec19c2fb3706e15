"""Encoded images that are files, and the tree of folders that holds a class each."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbjax.data.records import DataError, Encoded, Source, Split, quote
from cbjax.storage import is_remote

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
_VALIDATION_FOLDERS = ("validation", "val", "valid")
_SPLIT_FOLDERS = ("train", "training", "test", "testing", *_VALIDATION_FOLDERS)
_LAYOUT = "root/train/CLASS/*.jpg with val and test likewise, or root/CLASS/*.jpg where there are no splits"
_SIZES = 1000  # how many files are asked for their size


class Files:
    """A `records.Store` of files: paths [N] relative to a root, or absolute."""

    def __init__(self, root: str | os.PathLike, paths: Sequence[str] | np.ndarray):
        self._root = os.fspath(root)
        # One array of bytes: a million Python strings would take three times as much, and each process a copy of them.
        self._paths = np.char.encode(np.asarray(paths, np.str_), "utf-8", "surrogateescape")

    def name(self, position: int) -> str:
        """Returns the path."""
        return os.path.join(self._root, self._paths[position].decode("utf-8", "surrogateescape"))

    def read(self, position: int) -> bytes:
        """Returns the file's content."""
        path = self.name(position)
        if is_remote(path):
            return as_path(path).read_bytes()
        with open(path, "rb", buffering=0) as file:  # Python's buffer takes longer than the system's
            return file.read()

    def fingerprint(self, positions: np.ndarray) -> bytes:
        """Joins the paths: they are what a list says, also of a file that is gone or was repaired."""
        return self._paths[positions].tobytes()

    def sizes(self, positions: np.ndarray) -> bytes:
        """Joins the sizes of some files, evenly spread: where all were made anew, they differ."""
        return np.array([self._size(position) for position in _spread(positions, _SIZES)], np.int64).tobytes()

    def are_there(self) -> bool:
        """Says whether some of the files exist: looks for a few, evenly spread, until one does."""
        return any(self._size(position) >= 0 for position in _spread(np.arange(len(self._paths)), 20))

    def _size(self, position):
        try:
            path = self.name(position)
            return as_path(path).stat().length if is_remote(path) else os.path.getsize(path)
        except OSError:
            return -1


def _spread(positions, number):
    return positions[np.unique(np.linspace(0, len(positions) - 1, min(number, len(positions))).astype(int))]


def as_path(path: str | os.PathLike) -> Any:
    """Returns a path that may be remote or begin with a tilde."""
    from etils import epath

    return epath.Path(path).expanduser()


def load_folder(root: str | os.PathLike | None, image_size: int) -> Source:
    """Lists a tree with a folder for each class: root/train/CLASS/*.jpg, or root/CLASS/*.jpg without splits.

    Beside train there may be validation (or val, valid) and test. Where there is no test, the images to validate on are
    the ones to test on, as with ImageNet.

    Args:
      root: the tree's root.
      image_size: side of the images to make.

    Raises:
      DataError: if there is no such tree, it has other splits and no train, a class has no image, or a split has a
        class that training has not.
    """
    if not root:
        raise DataError("data.name='folder' reads a tree with a folder for each class: set data.root to its root")
    place = as_path(root)
    if not place.is_dir():
        raise DataError(f"data.root: there is no folder {place}")
    present = set(_folders(place))
    if "train" not in present:
        if splits_alone := sorted(name for name in present if name.lower() in _SPLIT_FOLDERS):
            raise DataError(
                f"data.root: {place} has {quote(splits_alone)} and no folder train; it must be {_LAYOUT}: name the "
                "folder of the training images train, or give one of these as data.root"
            )
        listed = {"train": _classes(place)}
    else:
        listed = {"train": _classes(place, "train")}
        for split, names in (("validation", _VALIDATION_FOLDERS), ("test", ("test",))):
            given = [name for name in names if name in present]
            if len(given) > 1:
                raise DataError(f"{place} has {quote(given)}, and one of them must be the {split} split: remove one")
            if given and _folders(place / given[0]):
                listed[split] = _classes(place, given[0])
    class_names = tuple(sorted(listed["train"]))
    index = {name: label for label, name in enumerate(class_names)}
    if len(class_names) < 2:
        where = place / "train" if "train" in present else place
        raise DataError(
            f"{where}: there must be a folder for each of 2 classes or more, got {quote(class_names) or 0}; it must be "
            f"{_LAYOUT}, and there is {quote(_entries(where), 5) or 'nothing'}: set data.root to the folder above "
            "those of the classes or above train"
        )
    if empty := [name for name in class_names if not listed["train"][name]]:
        raise DataError(
            f"{place}: every class needs a training image, a file that ends in {', '.join(SUFFIXES)}; without one: "
            f"{quote(empty)}: add images or remove the folder"
        )
    splits = {}
    for split, files in listed.items():
        if unknown := sorted(set(files) - set(index)):
            raise DataError(f"{place}: {split} has classes that training lacks, {quote(unknown)}: rename or move them")
        paths = [path for name in sorted(files) for path in files[name]]
        labels = np.repeat([index[name] for name in sorted(files)], [len(files[name]) for name in sorted(files)])
        if not paths:
            raise DataError(f"{place}: the {split} split has no image, a file that ends in {', '.join(SUFFIXES)}")
        splits[split] = make_split(Files(place, paths), labels, image_size)
    return with_test(splits, class_names)


def make_split(store: Any, labels: np.ndarray | Sequence[int], image_size: int) -> Split:
    """Returns the whole of a store with its labels [N]."""
    return Split(Encoded(store, np.arange(len(labels)), image_size), np.asarray(labels, np.int32))


def with_test(splits: dict[str, Split], class_names: tuple[str, ...]) -> Source:
    """Returns a source of these splits; what would be validated on is tested on where there is nothing else to."""
    validation, test = splits.get("validation"), splits.get("test")
    if test is None and validation is not None:
        note = "there is no labelled test split: the validation split is tested on"
        return Source(splits["train"], None, validation, class_names, (note,))
    return Source(splits["train"], validation, test, class_names)


def _folders(place):
    if is_remote(os.fspath(place)):
        return [entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    with os.scandir(place) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]


def _entries(place):
    """Returns the names of a folder's files and folders."""
    return sorted(path.name for path in place.iterdir())


def _classes(root, split=""):
    """Returns class name -> sorted paths of its images, relative to the root."""
    return {name: list_images(root, root / split / name) for name in _folders(root / split)}


def list_images(root: Any, folder: Any) -> list[str]:
    """Returns the sorted paths, relative to the root, of the images in and below a folder; hidden ones are left out."""
    if is_remote(os.fspath(root)):
        files = [os.fspath(path) for path in folder.rglob("*")]
    else:
        files = [os.path.join(where, file) for where, _, names in os.walk(folder, followlinks=True) for file in names]
    start = len(os.fspath(root).rstrip("/")) + 1
    return sorted(
        file[start:] for file in files if file.lower().endswith(SUFFIXES) and not os.path.basename(file).startswith(".")
    )
