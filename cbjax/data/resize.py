"""Resizes a part of an image on the host, with Pillow's BILINEAR filter: a triangle as wide as the reduction."""

import functools
import importlib.util
import threading
from collections.abc import Callable

import numpy as np

Box = tuple[float, float, float, float]  # top, left, height, width in pixels


def resize(pixels: np.ndarray, box: Box, side: int) -> np.ndarray:
    """Resizes a box of an image to a square.

    It uses cykooz.resizer if installed, else Pillow. cykooz.resizer takes a fifth of Pillow's time, and pixels agree to
    one level of 255; it has no wheels for Linux on ARM.

    Args:
      pixels: [H, W, 3] uint8.
      box: part of the image; its corners may lie between pixels.
      side: side of the square, in pixels.

    Returns:
      [side, side, 3] uint8.
    """
    return _resizer()(pixels, box, side)


@functools.cache
def _resizer() -> Callable[[np.ndarray, Box, int], np.ndarray]:
    return _by_pillow if importlib.util.find_spec("cykooz_resizer") is None else _by_cykooz()


def _by_cykooz():
    # Imported only once: even a repeated import takes a tenth of the time of a resize.
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    smooth = ResizeAlg.convolution(FilterType.bilinear)
    memory = threading.local()

    def resize(pixels, box, side):
        height, width = pixels.shape[:2]
        top, left, box_height, box_width = box
        if getattr(memory, "side", None) != side:
            memory.side, memory.result = side, ImageData(side, side, PixelType.U8x3)
            memory.resizer, memory.whole = Resizer(), ResizeOptions(smooth)
        options = memory.whole
        if box != (0, 0, height, width):
            options = ResizeOptions(smooth, crop_box=CropBox(left, top, box_width, box_height))
        # The resizer needs bytes without gaps, and `tobytes` copies a part of an image row by row.
        memory.resizer.resize(ImageData(width, height, PixelType.U8x3, pixels.tobytes()), memory.result, options)
        return np.frombuffer(memory.result.get_buffer(), np.uint8).reshape(side, side, 3)

    return resize


def _by_pillow(pixels, box, side):
    from PIL import Image

    top, left, height, width = box
    resized = Image.fromarray(pixels).resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    return np.asarray(resized)
