"""Decodes the bytes of an image file to RGB pixels: with Pillow's results, and faster for JPEG."""

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
# EXIF orientation -> Pillow's name for the operation that turns the image upright.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Each thread keeps its buffer: new memory for each image costs a third of the time, since the system clears it.
_memory = threading.local()
_LARGEST_BUFFER = 1 << 25
# libjpeg's warning about a file whose head was changed to fewer rows: the other rows are extraneous bytes.
_REST = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
_ROWS_BELOW = 8  # rows to decode beyond the last one needed: libjpeg blends colours of the next two or three rows


class DecodeError(ValueError):
    """The bytes are not an image, or not a whole one. The message does not name the file."""


class JpegHead(NamedTuple):
    """The head of a JPEG that simplejpeg decodes exactly as Pillow does.

    Attributes:
      height, width: in pixels.
      height_at: offset of the height in the file; 0 if the last rows can't be left out.
    """

    height: int
    width: int
    height_at: int


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image of one of the kinds in `image_kinds.NAMES`. The content decides the kind, not the file's name.

    All kinds become RGB as in Pillow's `convert("RGB")`, which drops the alpha channel. Grey of 16 bits is scaled to 8;
    colours of 16 bits keep their upper 8. EXIF's orientation is applied. If a file holds several pictures (GIF, TIFF,
    WebP), the first is used.

    Args:
      data: the content of a file.
      max_pixels: most pixels, height times width in the head; a larger image is refused before it is decoded.

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
            f"it has {height} × {width} = {height * width} pixels, but data.max_pixels allows {max_pixels}: make it "
            "smaller, or raise data.max_pixels if the image can be trusted"
        )


def decode_at_least(
    data: bytes, head: JpegHead, height: int, width: int, bottom: int | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, int]:
    """Decodes a JPEG for training, faster: at 1, 1/2, 1/4 or 1/8 of its size, and without last rows if possible.

    It uses libjpeg's fast cosine transform, the default of tf.data: pixels differ by some 1.4 levels of 255, and 7 %
    more images are decoded a second.

    Args:
      data: the content of a file.
      head: `jpeg_head(data)`, not None.
      height, width: least size of the whole decoded image in pixels; a smaller image keeps its own size.
      bottom: number of rows that are needed, in pixels of the file's image; None for all.
      max_pixels: as in `decode`, for the whole image.

    Returns:
      [H, W, 3] uint8, which this thread's next call may overwrite; and the divisor of its sides, 1, 2, 4 or 8. Divided
      sides are rounded up.

    Raises:
      DecodeError: as `decode`. Damage below `bottom` is not always found; a file that is cut off there is.
    """
    refuse_large(head.height, head.width, max_pixels)
    # Only powers of two: libjpeg's other scales take longer than decoding the whole image.
    scale = 1
    while scale < 8 and -(-head.height // (2 * scale)) >= height and -(-head.width // (2 * scale)) >= width:
        scale *= 2
    rows = head.height
    if bottom is not None and head.height_at:
        rows = min(rows, bottom + _ROWS_BELOW * scale)
    pixels = _decode_part(data, head, scale, rows)
    return (decode_any(data, max_pixels), 1) if pixels is None else (pixels, scale)


def jpeg_head(data: bytes) -> JpegHead | None:
    """Reads the head of a plain JPEG; returns None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError for a sampling that it does not know, 4:4:1
        return None
    if colorspace not in ("YCbCr", "Gray", "RGB"):
        return None
    may_be_turned, height_at = _walk(data)
    # Pillow reads the orientation, so that both decoders agree on every odd header.
    if may_be_turned and _orientation(data) != 1:
        return None
    if data[height_at : height_at + 4] != height.to_bytes(2) + width.to_bytes(2):
        height_at = 0
    return JpegHead(height, width, height_at)


def _walk(data):
    """Walks the segments in front of a JPEG's pixels.

    Returns:
      Whether there may be an orientation, in EXIF or else in XMP; True if the segments are malformed.
      The offset of the height if the pixels follow row by row, in one scan and without restarts; else 0.
    """
    start, turned, in_order, height_at, components = 2, False, True, 0, b""
    while data[start : start + 1] == b"\xff":
        marker, length = data[start + 1 : start + 2], int.from_bytes(data[start + 2 : start + 4])
        if marker == b"\xda":
            return turned, height_at if in_order and data[start + 4 : start + 5] == components else 0
        if marker == b"\xe1" and data[start + 4 : start + 9] == b"Exif\0":
            turned = True
        # Most XMP tells no orientation; asking Pillow for each would cost more than this search.
        elif marker == b"\xe1" and data[start + 4 : start + 9] == b"http:":
            turned = turned or data.find(b"tiff:Orientation", start, start + 2 + length) >= 0
        elif marker in (b"\xc0", b"\xc1"):
            height_at, components = start + 5, data[start + 9 : start + 10]
        elif marker == b"\xdd":
            in_order = False
        start += 2 + length
    return True, 0


def _buffer(needed):
    """Returns that many bytes of this thread's kept memory; new memory if they are too many to keep."""
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
        # simplejpeg refuses whatever libjpeg warns of. Pillow tries next: it forgives stray bytes, but not truncation.
        return None


def _decode_part(data, head, scale, rows):
    """Decodes as `_decode_jpeg`, but faster: at a smaller scale, and only the first rows."""
    import simplejpeg

    if rows < head.height:
        # libjpeg decodes row by row and stops at the height that the head gives.
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
        # This warning comes last, when the pixels are complete. Any other problem would be reported instead of it.
        if rows < head.height and _REST.fullmatch(str(error)):
            return buffer.reshape(*size, 3)
        return None


def open_image(data: bytes) -> Any:
    """Opens an image with Pillow; only its head is read.

    Unlike Pillow's `open` it takes only the kinds in `image_kinds.NAMES`, and ignores Pillow's limit of pixels, which
    holds for the whole process.

    Raises:
      DecodeError: if it is not of these kinds, or its head is damaged.
    """
    kind = kind_of(data[:HEAD])
    if kind is None:
        what = "the file is empty" if not data else f"its content is not an image of the kinds {', '.join(NAMES)}"
        raise DecodeError(what)
    opened = _openers()
    if kind not in opened:
        raise DecodeError(
            f"it is {kind}, which this machine's Pillow cannot read: install another Pillow, or convert the image"
        )
    try:
        return opened[kind](io.BytesIO(data), "")
    except Exception as error:  # each kind raises its own
        raise DecodeError(f"it begins as {kind}, but its head is cut off or damaged ({error})") from None


@functools.cache
def _openers():
    from PIL import Image

    Image.init()
    return {kind: Image.OPEN[kind][0] for kind in NAMES if kind in Image.OPEN}


def _orientation(data):
    try:
        with open_image(data) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged header raises many kinds of errors; `decode` will say what matters
        return 1


def decode_any(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes as `decode` does, with Pillow only."""
    try:
        with open_image(data) as image:
            refuse_large(image.height, image.width, max_pixels)
            return of_pillow(image)
    except DecodeError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        raise DecodeError(str(error) or type(error).__name__) from None


def of_pillow(image: Any) -> np.ndarray:
    """Returns the pixels [H, W, 3] uint8 of a Pillow image, converted as in `decode`; errors are Pillow's own."""
    from PIL import Image

    image.load()
    turn = _UPRIGHT.get(_exif(image).get(_ORIENTATION))
    return np.ascontiguousarray(_rgb(image.transpose(Image.Transpose[turn]) if turn else image))


def _exif(image):
    try:
        return image.getexif()
    except Exception:  # the pixels may be fine although the EXIF block is damaged
        return {}


def _rgb(image):
    if image.mode.startswith("I"):
        # Pillow would cut values off at 255. Scaling keeps white white: 65535 / 257 = 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError(f"its pixels, {values.min()} to {values.max()}, do not fit into 16 bits")
        return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise DecodeError("its pixels are floating point numbers, and their range is not known")
    if image.mode == "P" and "transparency" in image.info:
        # This gives the same pixels and avoids Pillow's warning.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
