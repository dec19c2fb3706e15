"""Describes a data set without reading it: the shape of its images, and how many each class has."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from cbjax.config import ConfigError
from cbjax.data import longtail, splits

# Name -> training images, test (or validation) images, classes, and shape [H, W, channels] if it is fixed.
# Source: the data sets' pages at tensorflow.org/datasets.
KNOWN: dict[str, tuple[int, int, int, tuple[int, int, int] | None]] = {
    "digits": (1797, 0, 10, (8, 8, 1)),
    "mnist": (60000, 10000, 10, (28, 28, 1)),
    "fashion_mnist": (60000, 10000, 10, (28, 28, 1)),
    "cifar10": (50000, 10000, 10, (32, 32, 3)),
    "cifar20": (50000, 10000, 20, (32, 32, 3)),
    "cifar100": (50000, 10000, 100, (32, 32, 3)),
    "imagenet2012": (1281167, 50000, 1000, None),
    "i_naturalist2017": (579184, 95986, 5089, None),
    "i_naturalist2018": (437513, 24426, 8142, None),
    "places365_small": (1803460, 36500, 365, None),
    "egtea": (6372, 2022, 19, None),  # split 1, without the validation
}


class UnknownSizes(ConfigError):
    """The number of classes or images, or their size, is not known without the data and was not given."""


@dataclasses.dataclass(frozen=True)
class AbstractData:
    """The shapes of a data set.

    Attributes:
      image_shape: [H, W, channels], uint8; [T, H, W, channels] of clips.
      counts: [C] training images of each class, those included that are made up; divided evenly if only their sum is
        known.
      num_test: images of the test split.
      resident: whether all images lie on every device.
    """

    image_shape: tuple[int, ...]
    counts: np.ndarray
    num_test: int
    resident: bool


def describe(
    config: ConfigDict, *, num_classes: int | None = None, num_images: int | None = None, image_size: int | None = None
) -> AbstractData:
    """Describes the data of a config without reading them.

    Args:
      config: resolved configuration.
      num_classes: C; None to take it from the data's name.
      num_images: training images before any are held out or left out; None to take them from the data's name.
      image_size: side of the square images that the network gets; None to take it from the data's name, or from
        `data.image_size` if images are cropped to it.

    Raises:
      UnknownSizes: if the number of classes or images or their size is neither known nor given.
      ConfigError: if they do not fit the config.
    """
    data = config.data
    known = KNOWN.get(data.name)
    given = {"--classes": num_classes or (known and known[2]), "--images": num_images or (known and known[0])}
    if data.name == "arrays":
        given["--image_size"] = image_size
    missing = [flag for flag, value in given.items() if not value]
    if missing:
        raise UnknownSizes(
            f"data.name={data.name!r} does not say how many classes and training images there are and of what size, "
            f"and the data are not read: give {' and '.join(missing)}"
        )
    classes, train = int(given["--classes"] or 0), int(given["--images"] or 0)
    test = known[1] if known else train  # of unknown data the most that is likely
    if data.classes:
        train, test = train * len(data.classes) // classes, test * len(data.classes) // classes
        classes = len(data.classes)
    if train < 2 * classes:
        raise ConfigError(f"--images must be at least 2 for each of the {classes} classes; got {train}")
    available = np.full(classes, train // classes, np.int64)
    available[: train % classes] += 1
    held_out = splits.per_class(available, data.validation, "data.validation")
    if not test:  # the test images too come from the training split
        held_out_test = splits.per_class(available, data.test, "data.test")
        held_out, test = held_out + held_out_test, int(held_out_test.sum())
    held_out = held_out + splits.per_class(available, data.meta, "data.meta")
    if (used := available <= held_out).any():
        raise ConfigError(
            f"data.validation, data.test and data.meta hold out {held_out[used][0]} images of a class that has "
            f"{available[used][0]} (--images divided by --classes): none is left to train on"
        )
    options = {"imbalance": data.imbalance, "counts": data.counts, "train_size": data.train_size}
    if data.majority_ratio is not None:
        options["majority_ratio"] = data.majority_ratio
    counts = longtail.counts_within(available - held_out, data.longtail, **options)
    if data.synthesis != "none":  # about as many as the largest class has
        counts = np.full_like(counts, counts.max())
    fixed = known[3] if known else None
    side = image_size or data.image_size
    shape = fixed if fixed and not image_size else (side, side, fixed[2] if fixed else 3)
    return AbstractData(
        image_shape=(data.frames, *shape) if data.frames else shape,
        counts=counts,
        num_test=max(test, 1),
        resident=data.name == "arrays" or fixed is not None,
    )
