"""Finds clips: videos, and folders of frames."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cbjax.data import listing
from cbjax.data.files import Files, Medium
from cbjax.data.image_kinds import SUFFIXES, VIDEOS
from cbjax.data.records import DataError
from cbjax.host.storage import is_remote

A_CLIP = f"a video ({', '.join(VIDEOS)}) or a folder of frames (000000.jpg …)"  # for messages


class ClipFiles(Files):
    """A `records.Store` of clips; a path leads to a video or to a folder of frames."""

    def __init__(self, root: str | os.PathLike, paths: Sequence[str] | np.ndarray):
        super().__init__(root, paths)
        if remote := next((path for path in (os.fspath(root), *paths) if is_remote(path)), None):
            raise DataError(f"{remote}: clips are read from this machine's disks only: copy them first")
        if any(is_video(path) and not os.path.isdir(os.path.join(root, path)) for path in paths):
            pyav()  # its absence is said at once, not at the first clip

    def read(self, position: int) -> bytes:
        """Returns the clip's path as bytes; raises OSError if nothing is there."""
        path = self.name(position)
        os.stat(path)
        return os.fsencode(path)

    def _is_there(self, path):
        return bool(frames_in(path)) if os.path.isdir(path) else os.path.exists(path)

    def _size(self, position):
        try:
            path = self.name(position)
            # The size of a folder depends on the disk's format.
            return len(os.listdir(path)) if os.path.isdir(path) else os.path.getsize(path)
        except OSError:
            return -1


class _Search(listing.Search):
    other = listing.NO_CLIP

    def takes_file(self, path: str) -> bool:
        return is_video(path)

    def takes_folder(self, folder: str) -> bool:
        if folder == self.folder:
            return False
        held = contents(folder)
        if held.is_clip and held.folders:
            self._left_out[listing.INSIDE] += held.folders
        if held.is_empty:
            self._left_out[listing.EMPTY].append(os.path.basename(folder))
        return held.is_clip

    def found(self) -> listing.Found:
        found = super().found()
        taken = set(found.paths)
        twice = [is_video(path) and os.path.splitext(path)[0] in taken for path in found.paths]
        names = [os.path.basename(path) for path, out in zip(found.paths, twice, strict=True) if out]
        paths = [path for path, out in zip(found.paths, twice, strict=True) if not out]
        left_out = {**found.left_out, listing.TWICE: names} if names else found.left_out
        return listing.Found(paths, found.inodes[~np.array(twice, bool)], left_out)


def search(root: Any, below: str = "") -> listing.Found:
    """Finds the clips in and below a folder; arguments and errors as in `listing.search`.

    A file with one of the endings in `VIDEOS` is a clip, unless a folder of its name has its frames. So is a folder,
    other than the one that is searched, if it holds an image and no video; nothing below it is looked at.
    """
    if is_remote(os.fspath(root)):
        raise DataError(f"{root}: clips are read from this machine's disks only: copy them first")
    return _Search(root, below).found()


def videos(root: str | os.PathLike) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the paths of the videos in and below a folder, relative to it, and the names of what was left out."""
    found = search(root)
    folders = [path for path in found.paths if os.path.isdir(os.path.join(root, path))]
    paths = sorted(set(found.paths).difference(folders))
    return paths, {**found.left_out, listing.FRAMES: list(map(os.path.basename, folders))}


class Contents(NamedTuple):
    """What a folder holds.

    Attributes:
      is_clip: whether the folder as a whole is a clip: it holds an image and no video, told by the files' endings.
      folders: names of the folders in it.
      is_empty: whether it holds nothing, not even a hidden file.
    """

    is_clip: bool
    folders: list[str]
    is_empty: bool


def contents(folder: str | os.PathLike[str]) -> Contents:
    """Looks at a folder's files and folders, those that are hidden left out."""
    frames, videos, folders, is_empty = False, False, [], True
    with os.scandir(os.fspath(folder)) as entries:
        for entry in entries:
            is_empty, name = False, entry.name
            if name.startswith(".") or (frames and name.lower().endswith(SUFFIXES)):
                continue
            if entry.is_dir():
                folders.append(name)
            else:
                videos = videos or is_video(name)
                frames = frames or (is_frame(name) and entry.is_file())
    return Contents(frames and not videos, folders, is_empty)


def is_video(name: str) -> bool:
    """Returns whether a file of this name is a video."""
    return name.lower().endswith(VIDEOS)


def is_frame(name: str) -> bool:
    """Returns whether a file of this name is a frame of its folder."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def frames_in(folder: str) -> list[str]:
    """Returns the names of a folder's frames, in any order."""
    with os.scandir(folder) as entries:
        # A link that leads nowhere is a frame that cannot be read, and is named as such.
        return [entry.name for entry in entries if is_frame(entry.name) and not entry.is_dir()]


def medium(num_frames: int) -> Medium:
    """Returns what `files` and `lists` must know of clips, of which so many frames are used each."""
    return Medium("clip", A_CLIP, "CLASS/*.mp4 or CLASS/CLIP/*.jpg", search, ClipFiles, num_frames, VIDEOS)


def pyav() -> Any:
    """Returns PyAV; raises DataError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"videos are read by PyAV, which is not installed ({error})", "pip install 'cbjax[video]'"
        ) from None
    return av
