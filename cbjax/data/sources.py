"""Where images come from, by name."""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cbjax.data import arrays, tfds
from cbjax.data.records import DataError, Source, Split, quote


def load_digits() -> Source:
    """Returns scikit-learn's 1,797 scans of handwritten digits, [1797, 8, 8, 1] uint8; 174 to 183 of each class.

    Their 17 grey levels are spread over 0 to 255, so that every normalisation applies as to other images.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(Split(images, digits.target.astype(np.int32)), None, None, tuple(str(i) for i in range(10)))


# Each loader takes data_dir and file, either of which may be None.
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": lambda data_dir, file: load_digits(),
    "arrays": lambda data_dir, file: arrays.load(file),
}
# Name here -> TFDS's name and the feature that serves as label.
_PREPARED = {
    "mnist": ("mnist", "label"),
    "fashion_mnist": ("fashion_mnist", "label"),
    "cifar10": ("cifar10", "label"),
    "cifar20": ("cifar100", "coarse_label"),
    "cifar100": ("cifar100", "label"),
}


def _load_prepared(name, label, data_dir, file):
    return tfds.load(name, label, data_dir=data_dir)


SOURCES |= {name: functools.partial(_load_prepared, *which) for name, which in _PREPARED.items()}


def load(name: str, *, data_dir: str | os.PathLike | None = None, file: str | os.PathLike | None = None) -> Source:
    """Loads a source whole into memory.

    Args:
      name: one of `SOURCES`.
      data_dir: the TFDS folder; None for $CBJAX_DATA_DIR, else TFDS's default.
      file: the .npz of "arrays".

    Raises:
      DataError: if the name is unknown, or the data are missing or do not fit.
    """
    if name not in SOURCES:
        raise DataError(f"data.name={name!r} is unknown; it is one of {quote(SOURCES)}")
    return SOURCES[name](data_dir=data_dir, file=file)


class Readiness(NamedTuple):
    """One source as `cbjax datasets` lists it; images is None where it is not known without the data."""

    name: str
    images: int | None
    ready: bool
    where_or_command: str


def describe(data_dir: str | os.PathLike | None = None) -> list[Readiness]:
    """Lists the sources, looking at descriptions only: no image is read and no large package imported."""
    rows = []
    for name in SOURCES:
        if name == "digits":
            ready = importlib.util.find_spec("sklearn") is not None
            where = "comes with scikit-learn" if ready else "pip install scikit-learn"
            rows.append(Readiness(name, 1797, ready, where))
        elif name == "arrays":
            rows.append(Readiness(name, None, True, "your own .npz: --config.data.file=PATH"))
        else:
            rows.append(_describe_prepared(name, data_dir))
    return rows


def _describe_prepared(name: str, data_dir: str | os.PathLike | None) -> Readiness:
    stored, _ = _PREPARED[name]
    try:
        prepared = tfds.find(stored, data_dir)
    except DataError as error:
        return Readiness(name, None, False, error.command)
    return Readiness(name, sum(prepared.sizes.values()), True, os.fspath(prepared.folder))
