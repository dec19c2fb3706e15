"""Converts clips that a person hands over to what a network was trained on."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cbjax.data.clips import finding
from cbjax.data.clips.sampling import frames_at
from cbjax.data.clips.transforms import EvalClip
from cbjax.data.decode import DecodeError
from cbjax.data.files import Medium, as_path
from cbjax.data.records import DataError
from cbjax.host.storage import is_remote


@dataclasses.dataclass(frozen=True)
class ClipFit:
    """Converts a clip to the frames of a run's clips, as in evaluation. It is to clips what `given.Fit` is to images.

    Attributes:
      transform: the transform of evaluation.
    """

    transform: EvalClip
    dtype = "uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """[T, height, width, channels] of the network's input."""
        return (self.transform.num_frames, self.transform.image_size, self.transform.image_size, 3)

    @property
    def medium(self) -> Medium:
        """What `files` must know to list clips."""
        return finding.medium(self.transform.num_frames)

    def file(self, path: str | os.PathLike) -> np.ndarray:
        """Reads a video or a folder of frames; a DataError says why it cannot be read."""
        if is_remote(path):
            raise DataError(f"{path}: clips are read from this machine's disks only: copy them first")
        place = os.fspath(as_path(path))
        if not os.path.exists(place):
            raise DataError(f"{path}: there is no such file or folder")
        try:
            return self.transform(os.fsencode(place))
        except DecodeError as error:
            raise DataError(f"{path}: it cannot be read ({error})") from error

    def array(self, pixels: np.ndarray) -> np.ndarray:
        """Converts the frames of one clip, [F, height, width, 3] of 0 to 255, any F; raises DataError for others."""
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise DataError(
                "a clip must be a path, or an array [frames, height, width, 3]; got "
                f"{list(pixels.shape) if pixels.ndim else type(pixels.item()).__name__}"
            )
        if pixels.dtype != np.uint8 and (pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255):
            span = f" of {pixels.min():g} to {pixels.max():g}" if pixels.dtype.kind in "iuf" else ""
            raise DataError(
                f"a clip's pixels must be whole numbers from 0 to 255; got {pixels.dtype}{span}: convert them to uint8"
            )
        pixels = pixels.astype(np.uint8, copy=False)
        if pixels.shape == self.shape:
            return pixels
        chosen = frames_at(len(pixels), self.transform.places())
        return np.stack([self.transform.image.of_pixels(pixels[position]) for position in chosen])

    def all(self, images: Any) -> Iterator[np.ndarray]:
        """Yields each clip in the network's size.

        Args:
          images: a path; a list of paths and of arrays [F, H, W, 3] of 0 to 255; or an array [N, F, H, W, 3].

        Raises:
          DataError: from the iterator, if a clip cannot be read or does not fit.
        """
        if isinstance(images, str | os.PathLike):
            images = [images]
        shape = getattr(images, "shape", None)
        if not shape and not isinstance(images, Sequence):
            raise DataError(f"clips must be paths or arrays [frames, height, width, 3]; got {type(images).__name__}")
        if shape and len(shape) == 4:
            raise DataError(f"one clip of shape {list(shape)}: give it in a list, [clip]")
        for one in images:
            yield self.file(one) if isinstance(one, str | os.PathLike) else self.array(_as_array(one))


def _as_array(clip):
    try:
        return np.asarray(clip)
    except ValueError:
        raise DataError("the frames of a clip must be of one size: resize them, or write them to a folder") from None
