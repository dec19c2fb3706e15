"""Reads chosen frames of a clip: files of a folder, or frames of a video by PyAV.

A frame is found by its time stamp, not by counting from a key frame or by the frame rate, so it is the frame that a
decode of the whole video gives.
"""

import bisect
import contextlib
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from cbjax.data import decode
from cbjax.data.clips.finding import A_CLIP, frames_in, pyav
from cbjax.data.clips.pixels import rgb
from cbjax.data.decode import DecodeError
from cbjax.data.listing import LARGEST
from cbjax.data.records import quote
from cbjax.host.writers import read_regular

Choose = Callable[[int], Sequence[int]]  # number of frames -> positions of the wanted ones, never falling
_DIGITS = re.compile(r"(\d+)")


def frames(path: str, choose: Choose, max_pixels: int = decode.MAX_PIXELS) -> Generator[bytes | np.ndarray, None, None]:
    """Yields the chosen frames of a clip: encoded images of a folder, or pixels [H, W, 3] uint8 of a video.

    Frames of a folder are in the order of the numbers in their names: 2.jpg comes before 10.jpg. Names must differ in
    numbers alone, for other images beside them, such as a cover or the optical flow, are no frames of the clip.

    Args:
      path: a folder of frames, or a video.
      choose: takes the number of frames and returns the wanted positions, which may repeat but never fall.
      max_pixels: most pixels of a frame of a video.

    Raises:
      DecodeError: if it is neither, and from the iterator if the clip has no frame or a chosen one cannot be read.
      DataError: if PyAV is needed and not installed.
    """
    if os.path.isdir(path):
        return _of_folder(path, choose)
    if os.path.exists(path) and not os.path.isfile(path):
        raise DecodeError("it is a pipe, a socket or a device")  # opening one would wait
    if os.path.isfile(path) and not os.path.getsize(path):
        raise DecodeError("the file is empty")
    return _of_video(path, choose, max_pixels)


def in_order(names: Sequence[str]) -> list[str]:
    """Sorts names by the numbers in them and the text between these; 1.jpg and 01.jpg, by all their letters."""
    parts = [[int(part) if part.isdecimal() else part for part in _DIGITS.split(name)] for name in names]
    return [name for _, name in sorted(zip(parts, names, strict=True))]


def name_of(path: str, position: int) -> str:
    """Returns what to call a frame of a clip in messages: its file in a folder, or its number from 0."""
    return _names(path)[position] if os.path.isdir(path) else str(position)


def _numbers(names):
    """Returns the numbers in which names such as frame_7.jpg differ, as in most folders; none if they differ in more.

    By these, names are sorted in less than half of the time.
    """
    if not names:
        return []
    first, last = min(names), max(names)
    alike = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), 0)
    start = len(first[:alike].rstrip("0123456789"))
    ending = os.path.splitext(first)[1]
    parts = [name[start : -len(ending)] for name in names]
    same = all(map(str.isdecimal, parts)) and all(name.endswith(ending) for name in names)
    return list(map(int, parts)) if same else []


def _names(folder):
    names = frames_in(folder)
    if numbers := _numbers(names):
        return [name for _, name in sorted(zip(numbers, names, strict=True))]
    names = in_order(names)
    series: dict[str, list[str]] = {}
    for name in names:
        series.setdefault(_DIGITS.sub("0", os.path.splitext(name)[0]), []).append(name)
    # Names that have nothing in common, such as hashes, are one series in the order of their letters.
    if 1 < len(series) < len(names):
        raise DecodeError(
            f"it holds several series of frames, {quote([one[0] for one in series.values()], 3)}: leave one there"
        )
    return names


def _of_folder(path, choose):
    try:
        names = _names(path)
        if not names:
            raise DecodeError("the folder has no frame, such as 000000.jpg")
        position, data = -1, b""
        for wanted in choose(len(names)):
            if wanted != position:
                position, data = wanted, read_regular(os.path.join(path, names[wanted]), LARGEST)
            yield data
    except OSError as error:
        raise DecodeError(f"a frame cannot be read: {error.filename or path}: {error.strerror or error}") from None


def every_frame(path: str) -> Iterator[np.ndarray]:
    """Yields all frames of a video in order, [H, W, 3] uint8; errors as in `frames`."""
    with _told(), opened(path) as (container, stream):
        yield from map(rgb, container.decode(stream))


def _of_video(path, choose, max_pixels):
    with _told():
        with opened(path) as (container, stream):
            decode.refuse_large(stream.codec_context.height, stream.codec_context.width, max_pixels)
            times, keys = _times(container, stream)
            if times:
                yield from _at_times(path, container, stream, times, keys, choose)
                return
        # Some AVI files tell no times. Then all frames are decoded, once to count them and once to take the chosen.
        with opened(path) as (container, stream):
            count = sum(1 for _ in container.decode(stream))
        if not count:
            raise DecodeError("the video has no frame")
        with opened(path) as (container, stream):
            yield from _by_counting(container.decode(stream), choose(count))


@contextlib.contextmanager
def _told():
    """Turns errors of PyAV and of the disk into a DecodeError."""
    av = pyav()
    try:
        yield
    except (av.FFmpegError, OSError, UnicodeError) as error:
        raise DecodeError(f"the video cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """Opens a video for this thread alone, and closes it: (PyAV's container, its first stream of pictures).

    Raises:
      DecodeError: if it has no moving pictures, or they are of an unknown codec.
      av.FFmpegError, OSError: if it cannot be opened.
    """
    av = pyav()
    # The prefix and the option let a file open no other address, whatever its name and content say.
    with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise DecodeError(f"it is a single image; a clip is {A_CLIP}")
        cover = av.stream.Disposition.attached_pic
        stream = next((one for one in container.streams.video if not one.disposition & cover), None)
        if stream is None:
            raise DecodeError("the file has no video in it")
        if stream.codec_context is None:
            raise DecodeError("PyAV does not know the codec of the video")
        stream.codec_context.thread_count = 1  # clips are decoded side by side already
        yield container, stream


def _times(container, stream):
    """Returns the time stamps of all frames, in order, and those of the key frames; nothing if a frame has none.

    Packets are read and not decoded. The head's own number of frames is often wrong: 0, or another stream's.
    """
    times, keys = [], []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:  # the last packet is empty; an edit list may cut frames off
            continue
        if packet.pts is None:
            return [], []
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    times.sort()
    return (times, sorted(keys)) if len(set(times)) == len(times) else ([], [])


def _at_times(path, container, stream, times, keys, choose):
    positions = choose(len(times))
    walk = _Walk(container, stream, keys, {times[position] for position in positions})
    last, pixels = -1, None
    for position in positions:
        if position != last:
            frame = walk.to(times[position])
            if frame is None:
                # Such as a picture that is shown before its key frame: go from the beginning.
                with opened(path) as (other, its_stream):
                    frame = next((one for one in other.decode(its_stream) if one.pts == times[position]), None)
            if frame is None:
                raise DecodeError(f"frame {position} of {len(times)} is damaged")
            last, pixels = position, rgb(frame)
        yield pixels


class _Walk:
    """Walks forward through a video; it goes back to a key frame only where that saves decoding.

    Frames are not decoded if they are not wanted and no other frame refers to them, which the codec marks.
    """

    def __init__(self, container, stream, keys, wanted):
        self._container, self._stream, self._keys, self._wanted = container, stream, keys, wanted
        self._decoder: Any = None
        self._at = 0  # time of the last decoded frame

    def to(self, time: int) -> Any:
        """Returns the frame of a time; None if it is not met."""
        key = self._keys[max(0, bisect.bisect_right(self._keys, time) - 1)] if self._keys else time
        if self._decoder is None or key > self._at:
            self._container.seek(key, stream=self._stream, backward=True, any_frame=False)
            self._decoder = _needed(self._container, self._stream, self._wanted)
        for frame in self._decoder:
            if frame.pts is None:
                continue
            self._at = frame.pts
            if frame.pts >= time:
                return frame if frame.pts == time else None
        return None


# Not a method: a walk that is held by its own decoder would stay, with the decoder's pictures, until a collection.
def _needed(container, stream, wanted):
    """Yields the frames of the wanted times, and those that others refer to."""
    for packet in container.demux(stream):
        stream.codec_context.skip_frame = "NONREF" if packet.size and packet.pts not in wanted else "DEFAULT"
        yield from packet.decode()


def _by_counting(decoded, chosen):
    position, pixels = -1, None
    for wanted in chosen:
        while position < wanted:
            frame, position = next(decoded, None), position + 1
            if frame is None:
                raise DecodeError(f"frame {wanted} is damaged")
            pixels = None
        if pixels is None:
            pixels = rgb(frame)
        yield pixels
