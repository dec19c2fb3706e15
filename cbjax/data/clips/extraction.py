"""Extracts the frames of videos to folders of JPEGs, in several processes, and goes on where it was stopped."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from cbjax.data.clips import finding, reading
from cbjax.data.decode import DecodeError
from cbjax.data.image_kinds import VIDEOS
from cbjax.data.records import DataError, quote
from cbjax.data.stream import start_worker
from cbjax.host import machine
from cbjax.host.locks import locked

LOCK = ".frames.lock"  # file in the folder of the results while they are made


class Plan(NamedTuple):
    """What is to be extracted.

    Attributes:
      source: folder of the videos.
      out: folder of the results.
      waiting: paths of videos, relative to `source`, whose frames are not there.
      done: the number of those whose frames are there.
      newer: paths of videos that were changed after their frames were made.
      left_out: as in `listing.Found`.
    """

    source: str
    out: str
    waiting: list[str]
    done: int
    newer: list[str]
    left_out: dict[str, list[str]]


def plan(source: str | os.PathLike, out: str | os.PathLike) -> Plan:
    """Finds the videos below `source` whose frames are not below `out`.

    Raises:
      DataError: if there is no such folder or no video in it, one of the folders lies in the other, `out` is a file, or
        the frames of two videos would be in one folder, or of one inside another's.
    """
    if not os.path.isdir(source):
        raise DataError(f"there is no folder {source}")
    if os.path.exists(out) and not os.path.isdir(out):
        raise DataError(f"the frames need a folder, but {out} is a file")
    places = [os.path.join(os.path.realpath(folder), "") for folder in (source, out)]
    if places[0].startswith(places[1]) or places[1].startswith(places[0]):
        raise DataError(
            f"videos and frames must be in folders apart, or a training finds each clip twice; got {source} and {out}"
        )
    paths, left_out = finding.videos(source)
    if not paths:
        raise DataError(f"{source} has no video ({', '.join(VIDEOS)})")
    folders: dict[str, str] = {}
    for path in paths:
        other = folders.setdefault(_folder(path), path)
        if other != path:
            raise DataError(f"{source}: {quote([other, path])} would have one folder of frames: rename one of them")
    for folder, path in folders.items():
        if other := next((folders[one] for one in _above(folder) if one in folders), ""):
            raise DataError(
                f"{source}: the frames of {path} would be in those of {other}, where nobody looks for clips: rename "
                "one of them"
            )
    waiting, newer = [], []
    for folder, path in folders.items():
        try:
            made = os.stat(os.path.join(out, folder))
        except OSError:
            waiting.append(path)
            continue
        if os.stat(os.path.join(source, path)).st_mtime > made.st_mtime:
            newer.append(path)
    return Plan(os.fspath(source), os.fspath(out), waiting, len(paths) - len(waiting), newer, left_out)


def extract(
    what: Plan, *, quality: int = 95, workers: int | None = None, progress: Callable[[int], None] = lambda count: None
) -> list[tuple[str, str]]:
    """Writes out/CLIP/000000.jpg … for each waiting video; a clip's folder appears at once, when it is complete.

    Args:
      what: from `plan`.
      quality: of the JPEGs, 1 to 100; chroma has half the resolution.
      workers: processes; None for one a core.
      progress: called with the number of videos that are done, those included that cannot be decoded.

    Returns:
      (path, reason) of each video that cannot be decoded; the others' frames are there.

    Raises:
      OSError: if frames cannot be written, such as on a full disk.
      DataError: if PyAV is not installed, or another process extracts to the same folder.
    """
    finding.pyav()
    if not what.waiting:
        return []
    os.makedirs(what.out, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = os.path.join(what.out, LOCK)
        try:
            # Each process would take the other's half-made folders for remains.
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise DataError(
                f"another process extracts frames to {what.out}: call this again when it has ended"
            ) from None
        stack.callback(pathlib.Path(lock).unlink, missing_ok=True)  # a search for clips would report it
        return _extract_all(what, quality, workers, progress)


def _extract_all(what, quality, workers, progress):
    failed, count = [], what.done
    own = _OwnProcess()
    threads = concurrent.futures.ThreadPoolExecutor(min(workers or machine.cores(), max(1, len(what.waiting))))
    try:
        running = {}
        for path in what.waiting:
            task = os.path.join(what.source, path), os.path.join(what.out, _folder(path)), quality
            running[threads.submit(own.call, _extract_one, *task)] = path
        for future in concurrent.futures.as_completed(running):
            if reason := future.result():
                failed.append((running[future], reason))
            count += 1
            progress(count)
    finally:
        threads.shutdown(cancel_futures=True)
        own.close()
    return sorted(failed)


def _folder(path):
    return os.path.splitext(path)[0]


def _above(folder):
    while folder := os.path.dirname(folder):
        yield folder


class _OwnProcess:
    """Calls a function in a process of the calling thread's own; one that dies ends no other call."""

    def __init__(self):
        self._local, self._all = threading.local(), []

    def call(self, function, *arguments):
        if not hasattr(self._local, "pool"):
            # A process that is forked off one with threads may hang.
            context = multiprocessing.get_context("spawn")
            self._local.pool = concurrent.futures.ProcessPoolExecutor(1, context, start_worker)
            self._all.append(self._local.pool)
        try:
            return self._local.pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            del self._local.pool
            return "the process that decoded it ended, perhaps for want of memory"

    def close(self):
        for pool in self._all:
            pool.shutdown()


def _extract_one(video, folder, quality):
    """Writes a video's frames; returns why it cannot be decoded, or nothing."""
    import simplejpeg

    if os.path.isdir(folder):  # made since it was looked for
        return ""
    parent, name = os.path.split(folder)
    partial = os.path.join(parent, f".{name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    os.makedirs(partial)
    try:
        count = 0
        for pixels in reading.every_frame(video):
            with open(os.path.join(partial, f"{count:06d}.jpg"), "wb") as file:
                file.write(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling="420"))
            count += 1
        if not count:
            return "the video has no frame"
        os.rename(partial, folder)
    except DecodeError as error:
        return str(error)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)
    return ""
