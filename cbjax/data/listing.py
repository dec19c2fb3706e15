"""Finds the images in a folder: regular files, each once. It also counts the files that it leaves out.

`clips.finding` finds clips by the same search.
"""

import collections
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cbjax.data.image_kinds import HEAD, SUFFIXES, kind_of
from cbjax.data.records import quote
from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import is_remote

LARGEST = 1 << 31  # most bytes of a file that is read; no image has more
NO_IMAGE = "not an image by its content"
NO_CLIP = "not a video by its ending, and not in a folder of frames"
TWICE = "a video whose frames are in a folder of its name"
INSIDE = "in a folder of frames"
EMPTY = "an empty folder"
FRAMES = "a folder of frames already"
HIDDEN = "hidden"
SPECIAL = "a pipe, a socket or a device"
BROKEN = "a link that leads nowhere, or a file that may not be read"
REPEATED = "found before under another path"
ABOVE = "a link to a folder that contains this one"


class Found(NamedTuple):
    """The images in and below a folder.

    Attributes:
      paths: sorted, relative to the given root.
      inodes: [N] int64, each file's number on its disk; two paths to one file have the same. Empty if not known.
      left_out: reason, one of those above -> names of the files left out.
    """

    paths: list[str]
    inodes: np.ndarray
    left_out: dict[str, list[str]]


def search(root: Any, below: str = "") -> Found:
    """Finds the images in and below a folder.

    A file with one of the `SUFFIXES` is an image; for any other file the first bytes decide. Links are followed, but
    only once to each folder. A file that is reached twice counts once, under its own name if a link leads to it too.

    Args:
      root: folder that paths are relative to.
      below: folder to search, relative to the root; "" for the root.

    Raises:
      OSError: if the folder cannot be listed.
    """
    if is_remote(os.fspath(root)):
        return _search_remote(root, below)
    return Search(root, below).found()


def describe(left_out: Mapping[str, Mapping[str, list[str]]], what: str = "") -> tuple[str, ...]:
    """Returns a line for each reason why files were left out.

    Args:
      left_out: name of a class (or "") -> reason -> names of files.
      what: start of each line, such as the name of a split.
    """
    lines = []
    for reason in (NO_IMAGE, NO_CLIP, TWICE, INSIDE, EMPTY, FRAMES, HIDDEN, SPECIAL, BROKEN, REPEATED, ABOVE):
        by_class = {name: reasons[reason] for name, reasons in left_out.items() if reasons.get(reason)}
        if by_class:
            total, names = sum(map(len, by_class.values())), next(iter(by_class.values()))
            classes = ", ".join(f"{quote([name])} {len(files)}" for name, files in list(by_class.items())[:10] if name)
            more = f" and {len(by_class) - 10} more classes" if len(by_class) > 10 else ""
            of_classes = f"; by class: {classes}{more}" if classes else ""
            count = "1 file," if total == 1 else f"{total} files, each"
            lines.append(f"{what}left out {count} {reason}, such as {quote(names[:1])}{of_classes}")
    return tuple(lines)


def same_files(paths: Iterable[str], inodes: np.ndarray) -> list[tuple[int, int]]:
    """Returns pairs of positions (first, later) whose paths lead to the same file.

    Args:
      paths: [N] whole paths.
      inodes: [N] the files' numbers, or empty.
    """
    if not len(inodes):
        return []
    order = np.argsort(inodes, kind="stable")
    starts = np.flatnonzero(np.diff(inodes[order]) == 0)
    if not len(starts):
        return []
    paths = list(paths)
    first, pairs = -1, []
    for i in starts.tolist():
        if first < 0 or inodes[order[i]] != inodes[first]:
            first = int(order[i])
        if _is_same(paths[first], paths[order[i + 1]]):
            pairs.append((first, int(order[i + 1])))
    return pairs


def inodes_of(paths: Iterable[str]) -> np.ndarray:
    """Returns each file's number on its disk, [N] int64, for `same_files`; a missing file gets a unique number."""
    found = []
    for position, path in enumerate(paths):
        try:
            found.append(os.stat(path).st_ino)
        except OSError:
            found.append((1 << 64) - 1 - position)
    return np.array(found, np.uint64).astype(np.int64)


class Search:
    """One search for images; arguments as for `search`. A subclass may look for others than images.

    Attributes:
      other: reason why a file is left out that is not looked for.
      folder: the one that is searched.
    """

    other = NO_IMAGE

    def __init__(self, root: str | os.PathLike, below: str = ""):
        self._root, self.folder = os.path.join(root, ""), os.path.join(root, below)
        self._files: dict[str, int] = {}  # path of an image -> its number
        self._first: dict[int, str] = {}  # number -> path under which the image is listed
        self._folders: set[tuple[int, int]] = set()
        self._above = {_identity(path) for path in _parents(os.path.realpath(self.folder))}
        self._left_out: dict[str, list[str]] = collections.defaultdict(list)

    def takes_file(self, path: str) -> bool:
        """Returns whether a regular file is one of those that are looked for; raises OSError if it cannot be told."""
        return path.lower().endswith(SUFFIXES) or _kind(path) is not None

    def takes_folder(self, folder: str) -> bool:
        """Returns whether a folder is, as a whole, one of what is looked for; files in it are then not searched."""
        return False

    def found(self) -> Found:
        """Searches; raises OSError if the folder cannot be listed."""
        links = self._walk(self.folder)
        while links:  # after all files that are not links, in an order that does not depend on the disk
            links = [deeper for link in sorted(links) for deeper in self._follow(link)]
        paths = sorted(self._files)
        inodes = np.array([self._files[path] for path in paths], np.uint64).astype(np.int64)
        return Found([path[len(self._root) :] for path in paths], inodes, dict(self._left_out))

    def _walk(self, top: str) -> list[str]:
        """Takes the files in and below a folder; returns the links found there."""
        waiting, links = [top], []
        while waiting:
            folder = waiting.pop()
            identity = _identity(folder)
            if identity in self._folders:
                self._left_out[REPEATED].append(os.path.basename(folder))
                continue
            self._folders.add(identity)
            if self.takes_folder(folder):
                self._files[folder] = identity[1]
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        self._left_out[HIDDEN].append(entry.name)
                    elif entry.is_file(follow_symlinks=False):
                        self._take(entry.path, entry.inode())
                    elif entry.is_symlink():
                        links.append(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        self._left_out[SPECIAL].append(entry.name)
        return links

    def _follow(self, link: str) -> list[str]:
        name = os.path.basename(link)
        try:
            about = os.stat(link)
        except OSError:  # nothing there, a ring of links, or no permission
            self._left_out[BROKEN].append(name)
            return []
        if stat.S_ISDIR(about.st_mode):
            if (about.st_dev, about.st_ino) in self._above:
                self._left_out[ABOVE].append(name)
                return []
            return self._walk(link)
        if stat.S_ISREG(about.st_mode):
            self._take(link, about.st_ino)
        else:
            self._left_out[SPECIAL].append(name)
        return []

    def _take(self, path: str, inode: int) -> None:
        try:
            if not self.takes_file(path):
                self._left_out[self.other].append(os.path.basename(path))
                return
        except OSError:
            self._left_out[BROKEN].append(os.path.basename(path))
            return
        first = self._first.setdefault(inode, path)
        if first != path and _is_same(first, path):
            kept, other = sorted((first, path), key=lambda one: (os.path.islink(one), one))
            del self._files[first]
            self._first[inode] = kept
            self._files[kept] = inode
            self._left_out[REPEATED].append(os.path.basename(other))
            return
        self._files[path] = inode


def _search_remote(root: Any, below: str) -> Found:
    paths: list[str] = []
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    start = len(os.fspath(root).rstrip("/")) + 1
    for path in LiteralPath(root / below).rglob("*"):
        # The name decides: opening a file in a bucket takes tens of milliseconds.
        if path.name.startswith("."):
            left_out[HIDDEN].append(path.name)
        elif path.name.lower().endswith(SUFFIXES):
            paths.append(os.fspath(path)[start:])
        elif "." in path.name:
            left_out[NO_IMAGE].append(path.name)
    return Found(sorted(paths), np.zeros(0, np.int64), dict(left_out))


def _kind(path):
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        return kind_of(file.read(HEAD))


def _identity(path):
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _parents(path):
    while path != (above := os.path.dirname(path)):
        path = above
        yield path


def _is_same(path, other):
    """Returns whether two paths lead to one file; both files have the same number."""
    try:
        # Equal numbers are not enough: a network disk may give many files one number.
        return os.path.realpath(path) == os.path.realpath(other) or (
            os.stat(path).st_nlink > 1 and os.path.samefile(path, other)
        )
    except OSError:
        return False
