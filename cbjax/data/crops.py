"""Crops, flips and recolours images on the host: encoded images in, uint8 images of the network's input size out.

Each result depends only on the image and its place in the training sequence. So the number of threads and processes
does not change a pixel.
"""

import dataclasses
import math
import threading
from collections.abc import Sequence

import numpy as np

from cbjax.data import decode
from cbjax.data.resize import resize

_RATIOS = (3 / 4, 4 / 3)  # width over height of a random crop
_TRIES = 10
DRAWS = 4 * _TRIES + 5  # random numbers for each image: 4 for every try of a crop, 1 for the flip, 4 for the colours
_LUMA = (299, 587, 114)  # thousandths of R, G and B in Pillow's grey, ITU-R 601
_LARGE = 2**24  # pixels of a resized image: sides of 256 and 65,536
_memory = threading.local()


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Cuts a random crop from an encoded image, resizes it, mirrors half of them and changes colours.

    Attributes:
      image_size: side of the result in pixels.
      seed: seed of the run, at least 0.
      smallest_area: least share of the image's area in a crop, in (0, 1]; 0.08 and 0.05 are usual.
      flip: whether half of the images are mirrored left to right.
      color_jitter: brightness, contrast and saturation are multiplied by 1 ± this at most; 0 for none.
      max_pixels: most pixels of an encoded image; a larger one is refused.
      crop: one of `BOXES`. "area": an area of at least `smallest_area`; "square": as high or as wide as the image.

    Source: Szegedy et al. 2015 (crops), Goyal et al. 2017; as torchvision's RandomResizedCrop and ColorJitter.
    """

    image_size: int
    seed: int
    smallest_area: float = 0.08
    flip: bool = True
    color_jitter: float = 0.0
    max_pixels: int = decode.MAX_PIXELS
    crop: str = "area"

    def __call__(self, data: bytes, position: int) -> np.ndarray:
        """Returns [image_size, image_size, 3] uint8.

        Args:
          data: an encoded image.
          position: the image's place in the whole training sequence, over all epochs; each place has its own
            randomness.

        Raises:
          DecodeError: if it is not a whole image, or too large.
        """
        return self.by_draws(data, uniform(self.seed, position, DRAWS))

    def by_draws(self, data: bytes | np.ndarray, draws: Sequence[float]) -> np.ndarray:
        """Does the same with random numbers that are drawn already.

        Args:
          data: an encoded image, or its pixels [H, W, 3] uint8.
          draws: at least [DRAWS] uniform numbers in [0, 1).

        Returns and raises as the call.
        """
        head = decode.jpeg_head(data) if isinstance(data, bytes) else None
        if head is None or not isinstance(data, bytes):
            pixels = decode.decode_any(data, self.max_pixels) if isinstance(data, bytes) else data
            reduced = 1
            box = BOXES[self.crop](draws, pixels.shape[:2], self.smallest_area)
        else:
            box = BOXES[self.crop](draws, (head.height, head.width), self.smallest_area)
            top, _, height, width = box
            pixels, reduced = decode.decode_at_least(
                data,
                head,
                math.ceil(self.image_size * head.height / height),
                math.ceil(self.image_size * head.width / width),
                bottom=top + height,
                max_pixels=self.max_pixels,
            )
        image = _cut(pixels, [side / reduced for side in box], self.image_size)
        if self.flip and draws[4 * _TRIES] < 0.5:
            image = _mirrored(image)
        if self.color_jitter:
            image = jitter(image, draws[4 * _TRIES + 1 :], self.color_jitter)
        return image


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Resizes the shorter side of an encoded image and crops its centre.

    Attributes:
      image_size: side of the result in pixels.
      resize: shorter side before the crop, in pixels; 256 for 224 is usual.
      max_pixels: as in `TrainTransform`.

    Source: Krizhevsky et al. 2012; as torchvision's Resize and CenterCrop, to the pixel.
    """

    image_size: int
    resize: int
    max_pixels: int = decode.MAX_PIXELS

    def __call__(self, data: bytes, position: int = 0) -> np.ndarray:
        """Returns [image_size, image_size, 3] uint8; the position does not matter. Raises as `TrainTransform`."""
        # Pillow at full size, though it is slow: published accuracies and weights were measured this way.
        return self.of_pixels(decode.decode(data, self.max_pixels))

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Does the same with an image [H, W, 3] uint8 that is decoded already."""
        from PIL import Image

        sides = pixels.shape[:2]
        height, width = (int(self.resize * side / min(sides)) for side in sides)
        top, left = (round((side - self.image_size) / 2) for side in (height, width))
        image = Image.fromarray(pixels)
        if height * width > _LARGE:
            # The whole of a thin image may take gigabytes, so only its middle is resized. This may change a pixel by 1.
            y, x = sides[0] / height, sides[1] / width
            box = (left * x, top * y, (left + self.image_size) * x, (top + self.image_size) * y)
            return np.asarray(image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR, box))
        resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return resized[top : top + self.image_size, left : left + self.image_size]


def uniform(seed: int, position: int, count: int) -> list[float]:
    """Returns `count` random numbers in [0, 1), a pure function of the arguments.

    They are made from raw bits, which NumPy never changes; numbers from `Generator` may differ between versions.
    """
    # The generator is kept: a new one first asks the system for randomness and takes three times as long.
    if getattr(_memory, "seed", None) != seed:
        _memory.seed, _memory.generator = seed, np.random.Philox(key=seed)
        _memory.state = _memory.generator.state
    _memory.state["state"]["counter"][1] = position
    _memory.generator.state = _memory.state
    return [(bits >> 11) * 2.0**-53 for bits in _memory.generator.random_raw(count).tolist()]


def random_box(draws: Sequence[float], size: tuple[int, int], smallest_area: float) -> tuple[int, int, int, int]:
    """Returns a random (top, left, height, width) within an image.

    Area and the logarithm of width over height are uniform. A box that does not fit is drawn again, up to 10 times;
    then the result is the largest centred box with an allowed ratio.

    Args:
      draws: at least [40] uniform numbers in [0, 1).
      size: (height, width) of the image.
      smallest_area: least area of the box, as a share of the image's area.
    """
    height, width = size
    low, high = (math.log(ratio) for ratio in _RATIOS)
    for start in range(0, 4 * _TRIES, 4):
        chance = draws[start : start + 4]
        area = height * width * (smallest_area + (1 - smallest_area) * chance[0])
        ratio = math.exp(low + (high - low) * chance[1])
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(chance[2] * (height - box_height + 1)), int(chance[3] * (width - box_width + 1))
            return top, left, box_height, box_width
    box_width = min(width, max(1, round(height * _RATIOS[1])))
    box_height = min(height, max(1, round(width / _RATIOS[0])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_square(draws: Sequence[float], size: tuple[int, int], smallest_area: float) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the largest square at a random place; arguments as for `random_box`."""
    height, width = size
    side = min(size)
    return int(draws[2] * (height - side + 1)), int(draws[3] * (width - side + 1)), side, side


BOXES = {"area": random_box, "square": random_square}


def jitter(image: np.ndarray, draws: Sequence[float], strength: float) -> np.ndarray:
    """Changes brightness, contrast and saturation by random factors, in random order.

    Args:
      image: [H, W, 3] uint8.
      draws: [4] uniform numbers in [0, 1): the three factors and the order.
      strength: factors are within 1 ± strength, and at least 0.
    """
    factors = [max(0.0, 1 - strength + 2 * strength * float(draw)) for draw in draws[:3]]
    order = list(range(3))
    chance = int(draws[3] * 6)
    order = [order.pop(chance % 3), order.pop(chance // 3), *order]
    values = image.astype(np.float32)
    for change in order:
        values = np.clip(values * factors[change] + (1 - factors[change]) * _background(values, change), 0, 255)
    return np.rint(values).astype(np.uint8)


def _background(values, change):
    """Returns the image that a change fades to: black, the mean grey, or each pixel's own grey."""
    if change == 0:
        return np.float32(0)
    grey = values @ np.array(_LUMA, np.float32) / 1000
    return grey.mean() if change == 1 else grey[..., None]


def _mirrored(image):
    # Channel by channel: NumPy copies reversed rows of three-byte pixels five times slower.
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        result[..., channel] = image[:, ::-1, channel]
    return result


def _cut(pixels, box, side):
    """Resizes a box to a square; its corners may lie between pixels. Only the needed part is copied."""
    top, left, height, width = box
    row, column = int(top), int(left)
    part = pixels[row : math.ceil(top + height), column : math.ceil(left + width)]
    # The sides of a reduced image were rounded up, so its last pixels cover less than a whole one. Stay inside.
    height, width = min(height, part.shape[0] - (top - row)), min(width, part.shape[1] - (left - column))
    return resize(part, (top - row, left - column, height, width), side)
