"""From the bytes of an image file to RGB pixels: what Pillow makes of them, and faster for JPEG."""

import io
import math
import threading
from typing import Any

import numpy as np

_ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> Pillow's name of the operation that turns the image upright.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# New memory for each image costs a third of the time: the system gives and clears it page by page.
_memory = threading.local()
_LARGEST_BUFFER = 1 << 25


class DecodeError(ValueError):
    """The bytes are no image, or not a whole one; the message has no name of a file."""


def decode(data: bytes) -> np.ndarray:
    """Decodes an image of any kind; its content decides which, not a file's name.

    Grey, palette, transparent, CMYK and YCCK images become RGB as by Pillow's `convert("RGB")`, which drops the alpha
    channel; 16 bits of grey are scaled to 8; EXIF's orientation is applied.

    Args:
      data: the content of a file.

    Returns:
      [H, W, 3] uint8.

    Raises:
      DecodeError: if it is not a whole image.
    """
    if _plain_jpeg_size(data) is not None:
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    return _decode_any(data)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of what `decode` gives where that is known without decoding: for plain JPEGs."""
    return _plain_jpeg_size(data)


def decode_at_least(data: bytes, height: int, width: int) -> tuple[np.ndarray, int]:
    """As `decode`, at 1/2, 1/4 or 1/8 of the size where the file allows it.

    Args:
      data: the content of a file.
      height, width: in pixels, which the result is to have at least; where the image is smaller, it has its own size.

    Returns:
      [H, W, 3] uint8, which this thread's next call may overwrite, and the 1, 2, 4 or 8 by which its sides were divided
      and rounded up.
    """
    size = _plain_jpeg_size(data)
    if size is not None:
        # Only powers of two: the other scales of libjpeg take longer than the whole image.
        scale = 1
        while scale < 8 and math.ceil(size[0] / (2 * scale)) >= height and math.ceil(size[1] / (2 * scale)) >= width:
            scale *= 2
        pixels = _decode_jpeg(data, scale, size, _buffer(size))
        if pixels is not None:
            return pixels, scale
    return _decode_any(data), 1


def _plain_jpeg_size(data):
    """Returns (height, width) of a JPEG that simplejpeg decodes as Pillow does; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "Gray", "RGB"):
        return None
    # Pillow finds the orientation, so that the two agree on every odd header.
    return (height, width) if not _may_have_exif(data) or _orientation(data) == 1 else None


def _may_have_exif(data):
    """Walks the segments in front of a JPEG's pixels; says yes where they are not as they should be."""
    start = 2
    while data[start : start + 1] == b"\xff":
        marker, length = data[start + 1 : start + 2], int.from_bytes(data[start + 2 : start + 4])
        if marker == b"\xda":
            return False
        if marker == b"\xe1" and data[start + 4 : start + 9] == b"Exif\0":
            return True
        start += 2 + length
    return True


def _buffer(size):
    """Returns this thread's memory for an image of that size, None for one too large to keep."""
    needed = 3 * size[0] * size[1]
    if needed > _LARGEST_BUFFER:
        return None
    if len(getattr(_memory, "buffer", b"")) < needed:
        _memory.buffer = np.empty(needed, np.uint8)
    return _memory.buffer


def _decode_jpeg(data, scale=1, size=(0, 0), buffer=None):
    import simplejpeg

    options: dict[str, Any] = {} if buffer is None else {"buffer": buffer}
    if scale > 1:
        options |= {"min_height": math.ceil(size[0] / scale), "min_width": math.ceil(size[1] / scale), "min_factor": 2}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **options)
    except ValueError:
        # It refuses whatever libjpeg warns of, stray bytes too, which Pillow forgives; a truncated file neither does.
        return None


def _orientation(data):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged header: each of its readers raises its own, and `decode` will say what matters
        return 1


def _decode_any(data):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            turn = _UPRIGHT.get(_exif(image).get(_ORIENTATION))
            return np.ascontiguousarray(_rgb(image.transpose(Image.Transpose[turn]) if turn else image))
    except Image.DecompressionBombError as error:
        raise DecodeError(str(error)) from None
    except Image.UnidentifiedImageError:
        what = "the file is empty" if not data else "its content is no image that Pillow knows"
        raise DecodeError(what) from None
    except DecodeError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        raise DecodeError(str(error) or type(error).__name__) from None


def _exif(image):
    try:
        return image.getexif()
    except Exception:  # a damaged EXIF block says nothing of the pixels
        return {}


def _rgb(image):
    if image.mode.startswith("I"):
        # Pillow cuts these off at 255; scaled, white stays white: 65535 / 257 = 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError(f"its pixels, {values.min()} to {values.max()}, are not of 16 bits")
        return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise DecodeError("its pixels are floating point numbers, whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        # The same pixels, without Pillow's advice to go this way.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
