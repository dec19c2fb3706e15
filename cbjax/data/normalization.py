"""Finds the mean and standard deviation to normalise images by, on the host."""

import numpy as np

from cbjax.data.records import DataError, Encoded, quote

# Name -> (mean, std) per channel; a single value holds for every channel. In pixels of 0 to 255.
NORMALIZATIONS = {
    "none": ((0.0,), (1.0,)),
    "unit": ((0.0,), (255.0,)),
    "symmetric": ((128.0,), (128.0,)),  # x / 128 - 1, as CB's cifar_main.py
    "cifar": (tuple(255 * x for x in (0.4914, 0.4822, 0.4465)), tuple(255 * x for x in (0.2023, 0.1994, 0.2010))),
    "imagenet": (tuple(255 * x for x in (0.485, 0.456, 0.406)), tuple(255 * x for x in (0.229, 0.224, 0.225))),
    # 3D-ResNets-PyTorch: for its weights of 2018 (Kinetics-400), and for those of 2020 (Kinetics-700 among others).
    "kinetics": ((114.7748, 107.7354, 99.475), (1.0,) * 3),
    "kinetics700": (tuple(255 * x for x in (0.4345, 0.4051, 0.3775)), tuple(255 * x for x in (0.2768, 0.2713, 0.2737))),
    "kinetics_torchvision": (  # of its video networks
        tuple(255 * x for x in (0.43216, 0.394666, 0.37645)),
        tuple(255 * x for x in (0.22803, 0.22145, 0.216989)),
    ),
}


def resolve(name: str, images: np.ndarray | Encoded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and std per channel of a named normalisation.

    Args:
      name: "standardize" for mean and std of the images, or one of `NORMALIZATIONS`.
      images: [N, H, W, channels] the training images.

    Raises:
      DataError: if the name is unknown or does not fit the images' dtype or channels.
    """
    channels = images.shape[-1]
    if name == "standardize":
        if isinstance(images, Encoded):
            raise DataError(
                "data.normalization='standardize' needs the training images in memory, but these are read as they are "
                "needed: use 'imagenet'"
            )
        means, deviations = mean_and_std(images)
        if not (deviations > 0).all():
            raise DataError(
                f"data.normalization='standardize' divides by the deviation of each channel, but channel "
                f"{np.argmin(deviations)} is constant over all training images: use 'unit' or 'none'"
            )
        return tuple(means.tolist()), tuple(deviations.tolist())
    if name not in NORMALIZATIONS:
        known = quote(["standardize", *NORMALIZATIONS])
        raise DataError(f"data.normalization={name!r} is unknown; it is one of {known}")
    mean, std = NORMALIZATIONS[name]
    if name != "none" and images.dtype != np.uint8:
        raise DataError(
            f"data.normalization={name!r} expects uint8 images of 0 to 255, got {images.dtype}: "
            "use 'standardize' or 'none'"
        )
    if len(mean) not in (1, channels):
        raise DataError(
            f"data.normalization={name!r} has {len(mean)} channels, but the images have {channels}: "
            "use 'standardize' or 'unit'"
        )
    return mean * (channels // len(mean)), std * (channels // len(std))


def mean_and_std(images: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Returns the [channels] float64 mean and deviation of images [N, H, W, channels], a block at a time."""
    blocks = range(0, len(images), block)
    pixels = images[..., 0].size
    zero = np.zeros(images.shape[3])
    mean = sum((images[i : i + block].sum(axis=(0, 1, 2), dtype=np.float64) for i in blocks), zero) / pixels
    squares = sum((np.square(images[i : i + block] - mean).sum(axis=(0, 1, 2)) for i in blocks), zero)
    return mean, np.sqrt(squares / pixels)
