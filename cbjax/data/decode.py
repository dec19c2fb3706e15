"""From the bytes of an image file to RGB pixels: what Pillow makes of them, and faster for JPEG."""

import functools
import io
import math
import re
import threading
from typing import Any, NamedTuple

import numpy as np

from cbjax.data.image_kinds import HEAD, NAMES, kind_of

MAX_PIXELS = 178_956_970  # Pillow's own limit: a quarter of 2^31 bytes at three bytes a pixel
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
# What libjpeg says of a file whose other rows were left out: it came upon them, and then upon the end of the image.
_REST = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
_ROWS_BELOW = 8  # libjpeg mixes into a row the colours of the next two or three


class DecodeError(ValueError):
    """The bytes are no image, or not a whole one; the message has no name of a file."""


class JpegHead(NamedTuple):
    """What stands before the pixels of a JPEG that simplejpeg decodes as Pillow does.

    Attributes:
      height, width: in pixels.
      height_at: where the file says its height; 0 where the last rows can't be left out.
    """

    height: int
    width: int
    height_at: int


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image of one of `image_kinds.NAMES`; its content decides which, not a file's name.

    Grey, palette, transparent, CMYK and YCCK images become RGB as by Pillow's `convert("RGB")`, which drops the alpha
    channel; 16 bits of grey are scaled to 8, of 16 bits of a colour the upper 8 are kept; EXIF's orientation is
    applied. Of several pictures in a file (GIF, TIFF, WebP) the first is taken.

    Args:
      data: the content of a file.
      max_pixels: height times width that an image may have, by what its head says; nothing of a larger one is decoded.

    Returns:
      [H, W, 3] uint8.

    Raises:
      DecodeError: if it is not a whole image, or too large.
    """
    head = jpeg_head(data)
    if head is not None:
        refuse_large(head.height, head.width, max_pixels)
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    return decode_any(data, max_pixels)


def refuse_large(height: int, width: int, max_pixels: int) -> None:
    """Raises DecodeError if an image has more pixels than it may."""
    if height * width > max_pixels:
        raise DecodeError(
            f"it has {height} × {width} = {height * width} pixels, and data.max_pixels allows {max_pixels}: make it "
            "smaller, or raise data.max_pixels if the image can be trusted"
        )


def decode_at_least(
    data: bytes, head: JpegHead, height: int, width: int, bottom: int | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, int]:
    """As `decode`, at 1/2, 1/4 or 1/8 of the size and without the last rows where the file allows it, for training.

    By libjpeg's fast cosine transform, tf.data's default: some 1.4 levels of 255 apart, and 7 % more images a second.

    Args:
      data: the content of a file.
      head: `jpeg_head(data)`, not None.
      height, width: in pixels, which the whole image is to have at least; where it is smaller, it has its own size.
      bottom: rows of the file's image that are needed, in pixels; None for all.
      max_pixels: as in `decode`, of the whole image.

    Returns:
      [H, W, 3] uint8, which this thread's next call may overwrite, and the 1, 2, 4 or 8 by which its sides were divided
      and rounded up.

    Raises:
      DecodeError: as `decode`, though not always if damaged below `bottom`; it is if cut off there.
    """
    refuse_large(head.height, head.width, max_pixels)
    # Only powers of two: the other scales of libjpeg take longer than the whole image.
    scale = 1
    while scale < 8 and -(-head.height // (2 * scale)) >= height and -(-head.width // (2 * scale)) >= width:
        scale *= 2
    rows = head.height
    if bottom is not None and head.height_at:
        rows = min(rows, bottom + _ROWS_BELOW * scale)
    pixels = _decode_part(data, head, scale, rows)
    return (decode_any(data, max_pixels), 1) if pixels is None else (pixels, scale)


def jpeg_head(data: bytes) -> JpegHead | None:
    """Reads what stands before the pixels of a plain JPEG; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # of a sampling that it has no name for, 4:4:1
        return None
    if colorspace not in ("YCbCr", "Gray", "RGB"):
        return None
    may_have_exif, height_at = _walk(data)
    # Pillow finds the orientation, so that the two agree on every odd header.
    if may_have_exif and _orientation(data) != 1:
        return None
    if data[height_at : height_at + 4] != height.to_bytes(2) + width.to_bytes(2):
        height_at = 0
    return JpegHead(height, width, height_at)


def _walk(data):
    """Walks the segments in front of a JPEG's pixels.

    Returns:
      Whether there may be EXIF, yes where they are not as they should be; and where the height stands if the pixels
      follow row by row, in one scan and without restarts, else 0.
    """
    start, exif, in_order, height_at, components = 2, False, True, 0, b""
    while data[start : start + 1] == b"\xff":
        marker, length = data[start + 1 : start + 2], int.from_bytes(data[start + 2 : start + 4])
        if marker == b"\xda":
            return exif, height_at if in_order and data[start + 4 : start + 5] == components else 0
        if marker == b"\xe1" and data[start + 4 : start + 9] == b"Exif\0":
            exif = True
        elif marker in (b"\xc0", b"\xc1"):
            height_at, components = start + 5, data[start + 9 : start + 10]
        elif marker == b"\xdd":
            in_order = False
        start += 2 + length
    return True, 0


def _buffer(needed):
    """Returns this thread's memory of that many bytes; new memory where they are too many to keep."""
    if needed > _LARGEST_BUFFER:
        return np.empty(needed, np.uint8)
    if len(getattr(_memory, "buffer", b"")) < needed:
        _memory.buffer = np.empty(needed, np.uint8)
    return _memory.buffer[:needed]


def _decode_jpeg(data):
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        # It refuses whatever libjpeg warns of, stray bytes too, which Pillow forgives; a truncated file neither does.
        return None


def _decode_part(data, head, scale, rows):
    """As `_decode_jpeg`, faster, on a smaller scale and of the first rows alone."""
    import simplejpeg

    if rows < head.height:
        # libjpeg decodes row by row and stops where the image is said to end.
        data = bytearray(data)
        data[head.height_at : head.height_at + 2] = rows.to_bytes(2)
    size, options = (rows, head.width), {}
    if scale > 1:
        options = {"min_height": math.ceil(rows / scale), "min_width": math.ceil(head.width / scale), "min_factor": 2}
        size = simplejpeg.decode_jpeg_header(data, **options)[:2]
    buffer = _buffer(3 * size[0] * size[1])
    try:
        return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, fastdct=True, **options)
    except ValueError as error:
        # The pixels are there by then. Anything else that it may say comes first and is what it says.
        if rows < head.height and _REST.fullmatch(str(error)):
            return buffer.reshape(*size, 3)
        return None


def open_image(data: bytes) -> Any:
    """Returns an image of Pillow's that has read its head alone.

    As Pillow's `open`, but of the kinds that are meant, and without its limit of pixels, which is one for the whole
    process.

    Raises:
      DecodeError: if it is of no such kind, or its head is damaged.
    """
    kind = kind_of(data[:HEAD])
    if kind is None:
        what = "the file is empty" if not data else f"its content is no image of the kinds {', '.join(NAMES)}"
        raise DecodeError(what)
    opened = _openers()
    if kind not in opened:
        raise DecodeError(
            f"it is {kind}, which this machine's Pillow cannot read: install another, or convert the image"
        )
    try:
        return opened[kind](io.BytesIO(data), "")
    except Exception as error:  # each kind raises its own
        raise DecodeError(f"it begins as {kind}, and its head is cut off or damaged ({error})") from None


@functools.cache
def _openers():
    from PIL import Image

    Image.init()
    return {kind: Image.OPEN[kind][0] for kind in NAMES if kind in Image.OPEN}


def _orientation(data):
    try:
        with open_image(data) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged header: each of its readers raises its own, and `decode` will say what matters
        return 1


def decode_any(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `decode`, by Pillow alone."""
    try:
        with open_image(data) as image:
            refuse_large(image.height, image.width, max_pixels)
            return of_pillow(image)
    except DecodeError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        raise DecodeError(str(error) or type(error).__name__) from None


def of_pillow(image: Any) -> np.ndarray:
    """Returns the pixels [H, W, 3] uint8 of a Pillow image, as `decode` does; errors are Pillow's own."""
    from PIL import Image

    image.load()
    turn = _UPRIGHT.get(_exif(image).get(_ORIENTATION))
    return np.ascontiguousarray(_rgb(image.transpose(Image.Transpose[turn]) if turn else image))


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
