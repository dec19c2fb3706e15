"""Converts PyAV's frames to RGB pixels, upright as a player shows them."""

import threading
from typing import Any

import numpy as np

_memory = threading.local()


def rgb(frame: Any) -> np.ndarray:
    """Returns the pixels of PyAV's frame as a player shows them, [H, W, 3] uint8.

    Phones store a picture as their sensor lies, and mark how it is to be turned or mirrored.
    """
    from av.video.reformatter import VideoReformatter

    if not hasattr(_memory, "reformatter"):
        # PyAV up to 18 makes a converter for each frame, which keeps megabytes and starts a thread for each core.
        _memory.reformatter = VideoReformatter()
    pixels = _memory.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    matrix = _display_matrix(frame)
    return pixels if matrix is None else turned_by(pixels, matrix)


def turned_by(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turns and mirrors an image as a display matrix says; one of another angle than 0, 90, 180 or 270 changes nothing.

    Args:
      pixels: [H, W, 3].
      matrix: [3, 3] integers, whose first rows are (a, b, …) and (c, d, …): the pixel in column x of row y is shown in
        column a x + c y of row b x + d y, moved into sight.

    Source: ISO/IEC 14496-12, 6.2.2; FFmpeg's libavutil/display.h.
    """
    (a, b), (c, d) = np.sign(matrix[:2, :2]).tolist()
    if b == c == 0 != a * d:
        return pixels[::d, ::a]
    if a == d == 0 != b * c:
        return pixels.swapaxes(0, 1)[::b, ::c]
    return pixels


def _display_matrix(frame):
    """Returns a frame's display matrix, [3, 3] integers, or None."""
    from av.sidedata import sidedata

    # Not `frame.side_data`, which would make the frame refer to itself: its pixels would stay until a collection.
    container: Any = sidedata.SideDataContainer
    try:
        data = container(frame).get(sidedata.Type.DISPLAYMATRIX)
    except ValueError:  # a kind of side data that this PyAV does not know
        return None
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)
