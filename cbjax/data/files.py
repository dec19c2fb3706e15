"""Reads images that are files, and lists a tree that has a folder for each class."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cbjax.data import levels, listing, overlaps
from cbjax.data.image_kinds import AN_IMAGE, SUFFIXES, VIDEOS
from cbjax.data.records import DataError, Encoded, Source, Split, alike, check_names, quote
from cbjax.host.storage import is_remote, why_no_path, why_out_of_reach
from cbjax.host.writers import read_regular

VALIDATION_FOLDERS = ("validation", "val", "valid")
SPLIT_FOLDERS = ("train", "training", "test", "testing", *VALIDATION_FOLDERS)
_SIZES = 1000  # number of files whose size is looked up
_LOOKED_UP = 10_000  # most files that are looked up; a million would take minutes
_AT_ONCE = 16  # files looked up at a time: a network's disk answers each after milliseconds


class Files:
    """A `records.Store` of files, given by paths [N] that are absolute or relative to a root."""

    def __init__(self, root: str | os.PathLike, paths: Sequence[str] | np.ndarray):
        self._root = os.fspath(root)
        # One array of bytes: a million Python strings would take three times the memory, again in each process.
        self._paths = np.char.encode(np.asarray(paths, np.str_), "utf-8", "surrogateescape")

    def name(self, position: int) -> str:
        """Returns the path."""
        path = self._paths[position].decode("utf-8", "surrogateescape")
        return path if is_remote(path) else os.path.join(self._root, path)

    def read(self, position: int) -> bytes:
        """Returns the file's content."""
        path = self.name(position)
        return as_path(path).read_bytes() if is_remote(path) else read_regular(path, listing.LARGEST)

    def fingerprint(self, positions: np.ndarray) -> bytes:
        """Joins the paths; they stay the same if a file is missing or was repaired."""
        return self._paths[positions].tobytes()

    def sizes(self, positions: np.ndarray) -> bytes:
        """Joins the sizes of some files, evenly spread: they change if all files are made again."""
        return np.array([self._size(position) for position in _spread(positions, _SIZES)], np.int64).tobytes()

    def missing(self, positions: np.ndarray) -> list[int]:
        """Returns the positions where no file is, of up to 10,000 that are looked up; none in buckets."""

        def missing(part):
            paths = ((int(position), self.name(position)) for position in part)
            return [position for position, path in paths if not is_remote(path) and not self._is_there(path)]

        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(missing, np.array_split(_spread(positions, _LOOKED_UP), _AT_ONCE))
            return [position for part in found for position in part]

    def are_there(self) -> bool:
        """Returns whether any of a few files, evenly spread, exists.

        Raises:
          DataError: if they are in a bucket that cannot be reached.
        """
        remote = next((path for path in map(self.name, range(len(self._paths))) if is_remote(path)), None)
        if remote is not None:
            require_file(as_path(remote), "an image of the list")
            return True
        return any(self._size(position) >= 0 for position in _spread(np.arange(len(self._paths)), 20))

    def _is_there(self, path):
        return os.path.exists(path)

    def _size(self, position):
        try:
            path = self.name(position)
            return as_path(path).stat().length if is_remote(path) else os.path.getsize(path)
        except OSError:
            return -1


@dataclasses.dataclass(frozen=True)
class Medium:
    """What is in a tree or on a list: images, or clips as `clips.medium` describes them.

    Attributes:
      noun: for messages.
      one: what one is, for messages.
      example: the files of a class, for messages.
      search: (root, folder below it) -> what is found there.
      store: (root, paths [N]) -> a store of them.
      num_frames: as in `Encoded`.
      endings: of files that are counted where none belongs, beside the folders of classes.
    """

    noun: str = "image"
    one: str = AN_IMAGE
    example: str = "CLASS/*.jpg"
    search: Callable[[Any, str], listing.Found] = listing.search
    store: Callable[..., Files] = Files
    num_frames: int = 0
    endings: tuple[str, ...] = SUFFIXES

    @property
    def layout(self) -> str:
        return f"root/train/{self.example} with val and test likewise, or root/{self.example} without splits"


IMAGES = Medium()


def _spread(positions, number):
    return positions[np.unique(np.linspace(0, len(positions) - 1, min(number, len(positions))).astype(int))]


def as_path(path: str | os.PathLike) -> Any:
    """Returns a path that may be remote or begin with a tilde.

    Raises:
      DataError: if it is a URL of a kind that cannot be read, or not a path at all.
    """
    from etils import epath

    if problem := why_no_path(os.fspath(path)):
        raise DataError(f"{path!r} {problem}")
    return epath.Path(path).expanduser()


def require_reach(path: str | os.PathLike) -> None:
    """Raises DataError if a path is in a bucket that this machine cannot reach."""
    if problem := why_out_of_reach(path):
        raise DataError(f"{os.fspath(path)} cannot be read: {problem}")


def read_whole(file: Any, what: str) -> bytes:
    """Returns the content of a regular file.

    Args:
      file: from `as_path`.
      what: what the file is for; ends the message "there is no file …".

    Raises:
      DataError: if there is no such file, it is a folder, a pipe or a device, or cannot be read.
    """
    require_file(file, what)
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error})") from None


def require_file(file: Any, what: str) -> None:
    """Raises DataError unless the file is a regular file or is in a bucket; arguments as in `read_whole`."""
    require_reach(file)
    try:
        # The `is_file` of an epath is true for a pipe and a device.
        if file.is_file() if is_remote(os.fspath(file)) else os.path.isfile(file):
            return
        if file.is_dir():
            raise DataError(f"{file} is a folder; it must be a file, {what}")
        if file.exists():
            raise DataError(f"{file} is a pipe, a socket or a device; it must be a file, {what}")
    except DataError:
        raise
    except Exception as error:  # each kind of bucket raises its own errors, also if its package is not installed
        raise DataError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    raise DataError(f"there is no file {file}, {what}")


def check_outside(data: Any, workdir: str | os.PathLike) -> None:
    """Checks that no file of a work directory would be taken for a class of a tree of folders.

    Args:
      data: the config's `data` keys.
      workdir: where a run writes.

    Raises:
      DataError: if it lies where the classes are.
    """
    if data.name != "folder" or not data.root or is_remote(data.root) or is_remote(workdir):
        return
    root, place = os.path.realpath(data.root), os.path.realpath(workdir)
    splits = [os.path.join(root, name) for name in ("train", *VALIDATION_FOLDERS, "test")]
    if any(os.path.commonpath((one, place)) == one for one in (splits if os.path.isdir(splits[0]) else [root])):
        raise DataError(
            f"--workdir must lie outside of the images, where its folders would be classes; got {place}, and data.root "
            f"is {root}: choose another --workdir"
        )


def load_folder(root: str | os.PathLike | None, image_size: int, medium: Medium = IMAGES) -> Source:
    """Lists a tree with a folder for each class: root/train/CLASS/*.jpg, or root/CLASS/*.jpg without splits.

    Next to train there may be validation (or val, valid) and test. Without a test folder the validation split becomes
    the test split, as with ImageNet. Notes tell what lies in no class folder, and which split has none.

    Args:
      root: the tree's root.
      image_size: side of the images to make.
      medium: what the tree holds.

    Raises:
      DataError: if there is no such tree, it has other splits but no train, a class has no image, or a split has a
        class that training lacks.
    """
    if not root:
        raise DataError("data.name='folder' reads a tree with a folder for each class: set data.root to its root")
    place = as_path(root)
    require_reach(place)
    if not place.is_dir():
        raise DataError(f"data.root: there is no folder {place}")
    top = levels.read(place, medium.endings)
    present = set(top.folders)
    below = {"train": "train" if "train" in present else ""}
    if not below["train"]:
        if splits_alone := sorted(name for name in present if name.lower() in SPLIT_FOLDERS):
            raise DataError(
                f"data.root: {place} has {quote(splits_alone)} but no folder train; it must be {medium.layout}: "
                f"name the folder of the training {medium.noun}s train, or give one of these as data.root"
            )
    else:
        for split, names in (("validation", VALIDATION_FOLDERS), ("test", ("test",))):
            given = [name for name in names if name in present]
            if len(given) > 1:
                raise DataError(f"{place} has {quote(given)}, but only one can be the {split} split: remove one")
            if given:
                below[split] = given[0]
    listed, unused = dict[str, dict[str, listing.Found]](), list[str]()
    notes = list(top.beside(f"{place}", medium.noun)) if below["train"] else []
    for split, folder in below.items():
        level = levels.read(place / folder, medium.endings) if folder else top
        if level.folders or split == "train":
            listed[split] = class_folders(place, level, folder, medium)
            notes += level.beside(folder or f"{place}", medium.noun)
        else:
            unused.append(level.unused(folder, medium.noun))
    notes += unused
    class_names = tuple(sorted(listed["train"]))
    index = {name: label for label, name in enumerate(class_names)}
    if len(class_names) < 2:
        where = place / "train" if "train" in present else place
        raise DataError(
            f"{where}: there must be a folder for each of 2 classes or more, got {quote(class_names) or 0}; it must be "
            f"{medium.layout}, but it holds {quote(_entries(where), 5) or 'nothing'}: set data.root to the "
            "folder that holds the class folders or train"
        )
    if empty := [name for name in class_names if not listed["train"][name].paths]:
        left_out = listing.describe({name: listed["train"][name].left_out for name in empty})
        others = (other for name in empty for other in listed["train"][name].left_out.get(listing.NO_IMAGE, ()))
        videos = not medium.num_frames and any(other.lower().endswith(VIDEOS) for other in others)
        advice = ": set data.frames=10 if the videos are clips" if videos else ""
        raise DataError(
            f"{place}: every class needs a training {medium.noun}, {medium.one}; these have none: {quote(empty)}: add "
            f"{medium.noun}s or "
            f"remove the folder{''.join(f'; {line}' for line in left_out)}{advice}"
        )
    splits = dict[str, Split]()
    for split, classes in listed.items():
        if unknown := sorted(set(classes) - set(index)):
            raise DataError(
                f"{place}: {split} has classes that training lacks, {quote(unknown)}{alike(unknown, index)}: rename or "
                "move them"
            )
        chosen = sorted(classes)
        files = [path for name in chosen for path in classes[name].paths]
        labels = np.repeat([index[name] for name in chosen], [len(classes[name].paths) for name in chosen])
        if not files:
            raise DataError(f"{place}: the {split} split has no {medium.noun}, {medium.one}")
        splits[split] = make_split(medium.store(place, files), labels, image_size, medium.num_frames)
        notes += listing.describe({name: classes[name].left_out for name in chosen}, f"{split}: ")
    folders = [classes[name] for classes in listed.values() for name in sorted(classes)]
    paths = [os.path.join(place, path) for folder in folders for path in folder.paths]
    pairs = listing.same_files(paths, np.concatenate([folder.inodes for folder in folders]))
    notes += overlaps.judge(
        pairs, paths, {split: splits[split].labels for split in splits}, class_names, str(place), medium.noun
    )[1]
    source = with_test(splits, class_names)
    return dataclasses.replace(source, notes=source.notes + tuple(notes), no_test="; ".join(unused))


def make_split(
    store: Any, labels: np.ndarray | Sequence[int], image_size: int, num_frames: int = 0, without: Sequence[int] = ()
) -> Split:
    """Returns the images of a store with their labels.

    Args:
      store: of N images.
      labels: [N] of all of them.
      image_size, num_frames: as in `Encoded`.
      without: positions of images that are left out.
    """
    kept = np.setdiff1d(np.arange(len(labels)), without)
    return Split(Encoded(store, kept, image_size, num_frames), np.asarray(labels, np.int32)[kept])


def with_test(splits: dict[str, Split], class_names: tuple[str, ...]) -> Source:
    """Returns a source of these splits; without a test split the validation split becomes the test split."""
    validation, test = splits.get("validation"), splits.get("test")
    if test is None and validation is not None:
        note = "there is no labelled test split: the validation split is used as the test split"
        return Source(splits["train"], None, validation, class_names, (note,))
    return Source(splits["train"], validation, test, class_names)


def _entries(place):
    """Returns the names of a folder's files and folders."""
    return sorted(path.name for path in place.iterdir())


def class_folders(root, level, split="", medium=IMAGES):
    """Returns class name -> what was found in its folder, of a level of a tree; paths are relative to the root."""
    check_names(level.folders, f"{root / split}")
    return {name: medium.search(root, os.path.join(split, name)) for name in level.folders}
