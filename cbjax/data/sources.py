"""Loads sources of images by name, and lists which are ready to use."""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cbjax.data import array_records, arrays, files, lists, tfds
from cbjax.data.clips import egtea, finding
from cbjax.data.records import DataError, Source, Split, quote


def load_digits() -> Source:
    """Returns scikit-learn's 1,797 scans of handwritten digits, [1797, 8, 8, 1] uint8; 174 to 183 of each class.

    Their 17 grey levels are spread over 0 to 255, so every normalisation works as for other images.
    """
    rows = _digits()
    images = np.rint(rows[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Source(Split(images, rows[:, -1].astype(np.int32)), None, None, tuple(str(i) for i in range(10)))


@functools.cache
def _digits():
    """Returns the 64 grey levels of each image and its label, [1797, 65]."""
    # The file is read by itself where it can be found, because scikit-learn takes a second to import.
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = pathlib.Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn import datasets

    digits = datasets.load_digits()
    return np.column_stack([digits.data, digits.target])


# Config keys below `data` that say where images are; each loader takes the ones it needs.
PLACES = (
    "data_dir",
    "file",
    "root",
    "train_list",
    "validation_list",
    "test_list",
    "image_size",
    "frames",
    "egtea_split",
)


def _lists(places):
    return {split: places.get(f"{split}_list") for split in ("train", "validation", "test")}


# Each loader takes a mapping of the given places.
SOURCES: dict[str, Callable[[Mapping[str, Any]], Source]] = {
    "digits": lambda places: load_digits(),
    "arrays": lambda places: arrays.load(places.get("file")),
}
_HINTS = {
    "arrays": "your own .npz: --config.data.file=PATH",
    "list": "your own images: --config.data.train_list=FILE, a line `path label` each, --config.data.root=DIR",
    "csv": "your own images: --config.data.train_list=FILE with the columns path,label, --config.data.root=DIR",
    "folder": "your own images: --config.data.root=DIR with CLASS/*.jpg, or with train/CLASS/*.jpg, val, test; videos: "
    "also --config.data.frames=T",
    "egtea": "EGTEA Gaze+: --config.data.root=DIR with action_annotation and cropped_clips or extracted_frames",
}
# Name here -> TFDS's name, and the feature used as label.
_PREPARED = {
    "mnist": ("mnist", "label"),
    "fashion_mnist": ("fashion_mnist", "label"),
    "cifar10": ("cifar10", "label"),
    "cifar20": ("cifar100", "coarse_label"),
    "cifar100": ("cifar100", "label"),
}
# Sets that are too large for memory, by TFDS's own names.
_STREAMED = ("imagenet2012", "i_naturalist2017", "i_naturalist2018", "places365_small")


def _load_prepared(name, label, places):
    return tfds.load(name, label, data_dir=places.get("data_dir"))


def _load_streamed(name, places):
    return array_records.load(name, places.get("data_dir"), places["image_size"])


def _own(places):
    """Returns the root, the image size and the medium of a user's own images or clips."""
    frames = places.get("frames", 0)
    return places.get("root"), places["image_size"], finding.medium(frames) if frames else files.IMAGES


SOURCES |= {name: functools.partial(_load_prepared, *which) for name, which in _PREPARED.items()}
SOURCES |= {name: functools.partial(_load_streamed, name) for name in _STREAMED}
SOURCES |= {
    "list": lambda places: lists.load_lists(_lists(places), *_own(places)),
    "csv": lambda places: lists.load_csv(_lists(places), *_own(places)),
    "folder": lambda places: files.load_folder(*_own(places)),
    "egtea": lambda places: egtea.load(
        places.get("root"), places["image_size"], places.get("frames", 0), places.get("egtea_split", 1)
    ),
}


def load(name: str, *, image_size: int = 224, **places: Any) -> Source:
    """Loads a source. Small sets are read whole; for large ones only labels are read, and images as they are needed.

    Args:
      name: one of `SOURCES`, or "tfds:NAME" for any image classification set that TFDS prepared.
      image_size: side of the images to make, if they are read as they are needed.
      **places: the other `PLACES`. data_dir: the TFDS folder; None for $CBJAX_DATA_DIR, else TFDS's default. file: the
        .npz of "arrays". root: the folder of images. train_list, validation_list, test_list: files that list images.
        frames: to take from each clip; 0 for images. egtea_split: 1, 2 or 3.

    Raises:
      DataError: if the name is unknown, or the data are missing or do not fit.
    """
    if name.startswith(array_records.PREFIX):
        return _load_streamed(name, {**places, "image_size": image_size})
    if name not in SOURCES:
        known = quote([*SOURCES, f"{array_records.PREFIX}NAME"])
        raise DataError(f"data.name={name!r} is unknown; it is one of {known}")
    return SOURCES[name]({**places, "image_size": image_size})


class Readiness(NamedTuple):
    """One source as `cbjax datasets` lists it.

    images is None if the number is unknown without the data, ready is None if the data are the user's own files.
    """

    name: str
    images: int | None
    ready: bool | None
    where_or_command: str


def describe(data_dir: str | os.PathLike | None = None) -> list[Readiness]:
    """Lists the sources. It reads only descriptions, no images, and imports no large package."""
    rows = []
    for name in SOURCES:
        if name == "digits":
            ready = importlib.util.find_spec("sklearn") is not None
            where = "comes with scikit-learn" if ready else "pip install scikit-learn"
            rows.append(Readiness(name, 1797, ready, where))
        elif name in _HINTS:
            rows.append(Readiness(name, None, None, _HINTS[name]))
        else:
            rows.append(_describe_prepared(name, data_dir))
    known = {_PREPARED.get(name, (name, ""))[0] for name in SOURCES}
    root = tfds.data_folder(data_dir)
    # NAME/VERSION, or NAME/CONFIG/VERSION.
    for description in sorted([*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]):
        if (name := description.parent.parent.relative_to(root).as_posix()) not in known:
            known.add(name)
            rows.append(_describe_prepared(array_records.PREFIX + name, data_dir))
    return rows


def _describe_prepared(name: str, data_dir: str | os.PathLike | None) -> Readiness:
    streamed = name not in _PREPARED
    stored = name.removeprefix(array_records.PREFIX) if streamed else _PREPARED[name][0]
    try:
        prepared = tfds.find(stored, data_dir, splits=("train",)) if streamed else tfds.find(stored, data_dir)
    except DataError as error:
        return Readiness(name, None, False, error.command)
    return Readiness(name, sum(prepared.sizes.values()), True, os.fspath(prepared.folder))
