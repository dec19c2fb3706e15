"""Converts images that a person hands over, of any size and kind, to what a network was trained on."""

import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cbjax.data.crops import EvalTransform
from cbjax.data.decode import MAX_PIXELS, DecodeError, decode, of_pillow
from cbjax.data.files import IMAGES, Medium, as_path
from cbjax.data.listing import LARGEST
from cbjax.data.records import DataError
from cbjax.host.storage import is_remote
from cbjax.host.writers import read_regular

NARROW = 8  # if pixels span less than 1/8 of the training's span, their units may differ


@dataclasses.dataclass(frozen=True)
class Fit:
    """Converts an image to the size, the channels and the dtype of a run's images.

    A photo (a file or a Pillow image) is treated as in evaluation. If the run's images are read as they are needed, its
    shorter side is resized and its middle cropped. If they had one size from the start, it is resized to that size. An
    array of the right size is used as it is; any other array is treated like a photo.

    Attributes:
      shape: [height, width, channels] of the network's input.
      dtype: "uint8" or "float32".
      span: smallest and largest pixel of the training images; None if unknown.
      transform: the transform of evaluation; None if images had one size from the start.
    """

    shape: tuple[int, int, int]
    dtype: str
    span: tuple[float, float] | None
    transform: EvalTransform | None

    @property
    def medium(self) -> Medium:
        """What `files` must know to list images."""
        return IMAGES

    def file(self, path: str | os.PathLike) -> np.ndarray:
        """Reads an image file; a DataError says why it cannot be read."""
        place = as_path(path)
        try:
            data = place.read_bytes() if is_remote(path) else read_regular(place, LARGEST)
            return self.photo(decode(data, MAX_PIXELS if self.transform is None else self.transform.max_pixels))
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file") from None
        except (DecodeError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: it cannot be read ({reason})") from error

    def photo(self, pixels: np.ndarray) -> np.ndarray:
        """Converts the pixels [H, W, 3] uint8 of a photo to the network's input; raises DataError."""
        if self.dtype != "uint8":
            raise DataError(
                f"the run was trained on {self.dtype} arrays of {self._units()}, but a photo has pixels of 0 to 255: "
                "give arrays in the units of the training"
            )
        if self.transform is not None:
            return self.transform.of_pixels(pixels)
        fitted = self._resized(_in_channels(pixels, self.shape[2]))
        self._check_units(fitted.min(), fitted.max())
        return fitted

    def array(self, pixels: np.ndarray) -> np.ndarray:
        """Converts one image, an array [H, W] or [H, W, channels], to the network's input; raises DataError."""
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        channels = self.shape[2]
        if pixels.ndim != 3 or 0 in pixels.shape or (pixels.shape[2] != channels and pixels.shape[2] not in (1, 3)):
            raise DataError(
                f"an image must be an array [height, width] or [height, width, {channels}], channels last; got "
                f"{list(pixels.shape)}"
            )
        pixels = self._numbers(pixels)
        if pixels.shape != self.shape:
            pixels = _in_channels(pixels, channels)
        if pixels.shape == self.shape:
            return pixels
        return self._resized(pixels) if self.transform is None else self.transform.of_pixels(pixels)

    def all(self, images: Any) -> Iterator[np.ndarray]:
        """Yields each image in the network's size.

        Args:
          images: an array [N, H, W] or [N, H, W, channels]; a path or a Pillow image; or a list of paths, Pillow images
            and arrays, each of its own size.

        Raises:
          DataError: from the iterator, if an image cannot be read or does not fit the training's images.
        """
        low, high = np.inf, -np.inf
        if isinstance(images, str | os.PathLike) or _is_pillow(images):
            images = [images]
        if not isinstance(images, Sequence) or not all(map(_is_one, images)):
            images = self._stacked(images)
        for image in images:
            if isinstance(image, str | os.PathLike):
                yield self.file(image)
            elif _is_pillow(image):
                try:
                    yield self.photo(of_pillow(image))
                except OSError as error:  # Pillow reads the pixels of an open image only here
                    raise DataError(f"{image}: it cannot be read ({error})") from error
            else:
                fitted = self.array(np.asarray(image))
                low, high = min(low, fitted.min()), max(high, fitted.max())
                yield fitted
        if low <= high and (note := self._note(low, high)):
            warnings.warn(note, stacklevel=4)

    def _check_units(self, low, high):
        """Raises DataError if pixels lie further outside the training's range than that range is wide."""
        if self.span is not None:
            width = self.span[1] - self.span[0]
            if low < self.span[0] - width or high > self.span[1] + width:
                raise DataError(f"{self._both_units(low, high)}: convert them to the units of the training")

    def _note(self, low, high):
        """Checks the smallest and the largest pixel of given arrays; returns a note if they look odd, else None.

        Images that span less than an eighth of the training's range may be in other units, or dark.
        """
        self._check_units(low, high)
        if self.span is not None and 0 < high - low < (self.span[1] - self.span[0]) / NARROW:
            return f"{self._both_units(low, high)}: predictions are wrong if the units differ"
        return None

    def _both_units(self, low, high):
        return f"the images' pixels are {low:g} to {high:g}, but the training's were {self._units()}"

    def _units(self):
        return "unknown units" if self.span is None else f"{self.span[0]:g} to {self.span[1]:g}"

    def _stacked(self, images):
        images = np.asarray(images)
        size, channels = self.shape[:2], self.shape[2]
        if images.ndim == 3 and images.shape[1:] != size and images.shape[2] in (1, 3, 4):
            raise DataError(f"one image of shape {list(images.shape)}: give it in a list, [image]")
        if images.ndim not in (3, 4):
            raise DataError(
                f"images must be an array [N, height, width, {channels}], or a list of arrays, paths or Pillow images; "
                f"got {'numbers' if images.ndim == 0 else list(images.shape)} of {images.dtype}"
            )
        return images

    def _numbers(self, pixels):
        """Returns the pixels in the training's dtype; raises DataError if that would change values."""
        given, wanted = pixels.dtype, np.dtype(self.dtype)
        if given == wanted:
            whole = pixels
        elif wanted == np.uint8 and given.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 255:
            whole = pixels.astype(np.uint8)
        elif wanted.kind == given.kind == "f":
            whole = pixels.astype(wanted)
        else:
            what = f"{given} of {pixels.min():g} to {pixels.max():g}" if given.kind in "iuf" else str(given)
            hint = ""
            if wanted == np.uint8 and given.kind == "f":
                hint = ": use images.astype('uint8'), or (255 * images).round().astype('uint8') if they are 0 to 1"
            raise DataError(f"images must be {wanted}, as in the training ({self._units()}); got {what}{hint}")
        if wanted.kind == "f" and not np.isfinite(whole).all():
            raise DataError("images must be finite, but one has NaN or infinite pixels")
        return whole

    def _resized(self, pixels):
        from PIL import Image

        height, width, _ = self.shape
        if pixels.shape[:2] == (height, width):
            return pixels
        # Channel by channel: Pillow has no images of two channels, and none of floats in colour.
        planes = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
            for plane in np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        ]
        return np.stack(planes, axis=-1)


def _is_pillow(image):
    return hasattr(image, "convert") and hasattr(image, "getexif")


def _is_one(image):
    return isinstance(image, str | os.PathLike) or _is_pillow(image) or getattr(image, "ndim", 0) in (2, 3)


def _in_channels(pixels, channels):
    """Converts an image of 1 or 3 channels to the network's number: RGB to grey as Pillow does, or grey repeated."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        from PIL import Image

        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    raise DataError(f"images must have {channels} channels, as in the training; got {pixels.shape[2]}")
