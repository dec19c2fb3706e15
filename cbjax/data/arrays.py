"""Reads a user's own images and labels from one .npz file."""

import os
from typing import Any

import numpy as np

from cbjax.data import overlaps
from cbjax.data.files import as_path, require_file
from cbjax.data.records import DataError, Source, Split, alike, check_names, is_text, quote
from cbjax.host import npz

_SPLITS = ("train", "validation", "test")
_LAYOUT = (
    "a file holds images and labels, or train_images and train_labels; it may also hold validation_images, "
    "validation_labels, test_images, test_labels and class_names"
)


def load(file: str | os.PathLike | None) -> Source:
    """Reads a user's .npz.

    Args:
      file: its path. Images are [N, H, W] or [N, H, W, channels], uint8 or float. Labels are [N] whole numbers or
        strings, or [N, C] zeros and ones (multi-hot). class_names are [C] strings. Without class_names, C is the
        largest label plus one; if labels are strings, the classes are the sorted strings.

    Raises:
      DataError: if the file or anything in it does not fit.
    """
    if not file:
        raise DataError("data.name='arrays' reads your own .npz: set data.file to its path")
    try:
        arrays = read(file)
    except DataError as error:
        raise DataError(f"data.file: {error}") from None
    try:
        return as_source(arrays)
    except DataError as error:
        raise DataError(f"{os.fspath(file)}: {error}") from None


def read(file: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz by name; a DataError says why it cannot be read."""
    path = as_path(file)
    require_file(path, "a .npz that numpy.savez wrote")
    try:
        with path.open("rb") as stream:
            return npz.read(stream)
    except npz.NpzError as error:
        raise DataError(f"{path} {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None


def as_source(arrays: dict[str, np.ndarray]) -> Source:
    """Returns arrays, by the names that `load` reads, as a source; a DataError says what does not fit."""
    arrays = dict(arrays)
    given_names = arrays.pop("class_names", None)
    plain = not any(key.startswith(tuple(f"{name}_" for name in _SPLITS)) for key in arrays)
    prefixes = {"train": ""} if plain else {name: f"{name}_" for name in _SPLITS}
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    known: set[str] = set()
    for name, prefix in prefixes.items():
        keys = (f"{prefix}images", f"{prefix}labels")
        known.update(keys)
        missing = [key for key in keys if key not in arrays]
        if name != "train" and len(missing) == 2:
            continue
        if missing:
            raise DataError(f"there is no {quote(missing)} among its keys {quote(sorted(arrays))}; {_LAYOUT}")
        pairs[name] = arrays[keys[0]], arrays[keys[1]]
    if unknown := sorted(set(arrays) - known):
        raise DataError(f"unknown key {quote(unknown)}; {_LAYOUT}")

    images = {name: _images(pair[0], f"{prefixes[name]}images") for name, pair in pairs.items()}
    for name, array in images.items():
        if array.shape[1:] != images["train"].shape[1:] or array.dtype != images["train"].dtype:
            raise DataError(
                f"all splits must have images of one shape and dtype; {name} images are {_kind(array)}, training "
                f"images are {_kind(images['train'])}"
            )
        count = len(pairs[name][1]) if pairs[name][1].ndim else 0
        if count != len(array):
            raise DataError(f"there are {len(array)} {name} images and {count} {name} labels: each image needs one")
    labels, class_names = _labels({name: pair[1] for name, pair in pairs.items()}, given_names)
    splits = {name: Split(images[name], labels[name]) for name in pairs}
    notes = tuple(overlaps.of_arrays(images))
    return Source(splits["train"], splits.get("validation"), splits.get("test"), class_names, notes)


def _images(images: np.ndarray, key: str) -> np.ndarray:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(f"{key} must be [N, H, W] or [N, H, W, channels], no side of 0, got shape {images.shape}")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] in (1, 3) and min(images.shape[2:]) > 4:
        raise DataError(
            f"{key} of shape {images.shape} seem to be [N, channels, H, W]; channels come last: "
            "images.transpose(0, 2, 3, 1)"
        )
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which is refused below
            images = images.astype(np.float32, copy=False)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        if not finite.all():
            raise DataError(
                f"{key} must be finite, but {np.sum(~finite)} images have NaN or infinite pixels, "
                f"the first is image {np.argmin(finite)}"
            )
    elif images.dtype != np.uint8:
        raise DataError(f"{key} must be uint8 (0 to 255) or float, got {images.dtype}: {_as_uint8(images)}")
    return images


def _as_uint8(images: np.ndarray) -> str:
    """Returns advice: how images of another dtype become uint8 or float with nothing lost silently."""
    if images.dtype == bool:
        return "use 255 * images.astype('uint8')"
    if images.dtype.kind not in "iu":
        return "convert them to real numbers"
    low, high = images.min(), images.max()
    if low >= 0 and high <= 255:
        return f"use images.astype('uint8'), which changes none of its values, {low} to {high}"
    return (
        f"its values, {low} to {high}, do not fit, and images.astype('uint8') would wrap around: use "
        f"images.astype('float32'), with data.normalization=standardize, or scale them to 0 to 255 first, as in "
        f"((images - {low:.0f}.) * (255 / {max(1, int(high) - int(low))})).round().astype('uint8')"
    )


def _labels(labels: dict[str, np.ndarray], names: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    if names is not None:
        names = read_class_names(names)
    kinds = {name: label_kind(array, name) for name, array in labels.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(f"all splits must have one kind of labels, got {kinds}")
    convert = {"string": _from_strings, "integer": _from_integers, "multi-hot": _from_multi_hot}[kinds["train"]]
    return convert(labels, names)


def label_kind(labels: np.ndarray, name: str) -> str:
    if labels.ndim == 1 and labels.dtype.kind in "US":
        return "string"
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return "integer"
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iufb":
        return "multi-hot"
    raise DataError(
        f"{name} labels must be [N] whole numbers or strings, or [N, C] zeros and ones, "
        f"got shape {labels.shape} of {labels.dtype}"
    )


def _from_strings(labels, names):
    labels = {name: decode_text(array, f"{name} labels") for name, array in labels.items()}
    if names is None:
        names = tuple(np.unique(labels["train"]).tolist())
    index = {name: i for i, name in enumerate(names)}
    for name, array in labels.items():
        if unknown := sorted(set(array.tolist()) - set(index)):
            raise DataError(
                f"{name} labels {quote(unknown)} are not among the classes {quote(names)}{alike(unknown, names)}"
            )
    check_names(names, "labels")
    _require_two(names)
    return {name: np.array([index[x] for x in array.tolist()], np.int32) for name, array in labels.items()}, names


def _from_integers(labels, names):
    largest = max(int(array.max()) for array in labels.values())
    for name, array in labels.items():
        if array.min() < 0:
            raise DataError(f"labels count from 0, but {name} labels have {array.min()}: relabel, or drop those images")
    if names is None:
        present = np.unique(labels["train"])
        if len(present) <= largest:
            missing = np.setdiff1d(np.arange(min(largest, 10**6) + 1), present)
            raise DataError(
                f"integer labels must be 0 to C - 1, each with a training image; the largest is {largest}, and these "
                f"have no image: {quote(missing)}: relabel with np.unique(labels, return_inverse=True), or drop images"
            )
        names = tuple(str(i) for i in range(largest + 1))
    if largest >= len(names):
        raise DataError(f"label {largest} has no class name: class_names has {len(names)}, for 0 to {len(names) - 1}")
    _require_two(names)
    return {name: array.astype(np.int32) for name, array in labels.items()}, names


def _from_multi_hot(labels, names):
    classes = labels["train"].shape[1]
    for name, array in labels.items():
        if not np.isin(array, (0, 1)).all():
            other = array[~np.isin(array, (0, 1))][0]
            raise DataError(f"{name} labels [N, C] must be zeros and ones, got {other}")
        if array.shape[1] != classes:
            raise DataError(f"{name} labels have {array.shape[1]} classes, training labels have {classes}")
    names = names if names is not None else tuple(str(i) for i in range(classes))
    if len(names) != classes:
        raise DataError(f"class_names has {len(names)} names, but labels [N, C] have {classes} classes")
    return {name: array.astype(np.float32) for name, array in labels.items()}, names


def read_class_names(names: np.ndarray) -> tuple[str, ...]:
    """Returns the class names of a file as text; raises DataError if they cannot be used."""
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"class_names must be [C] strings, got shape {names.shape} of {names.dtype}")
    decoded = decode_text(names, "class_names")
    values, counts = np.unique(decoded, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"class_names must differ, but these are repeated: {quote(values[counts > 1])}")
    check_names(decoded.tolist(), "class_names")
    return tuple(decoded.tolist())


def decode_text(strings: np.ndarray, key: str) -> np.ndarray:
    """Decodes bytes as UTF-8; raises DataError for anything that is not text."""
    how = "decode them as they were written, as in np.char.decode(labels, 'latin-1'), and save them again"
    try:
        strings = np.char.decode(strings, "utf-8") if strings.dtype.kind == "S" else strings
    except UnicodeDecodeError as error:
        raise DataError(f"{key} must be UTF-8, but one is {error.object!r}: {how}") from None
    except ValueError as error:  # a number that stands for no character
        raise DataError(f"{key} must be text ({error}): {how}") from None
    for name in np.unique(strings).tolist():
        if not is_text(name):
            raise DataError(f"{key} must be text, but {name!a} has half of a surrogate pair: {how}")
    return strings


def _require_two(names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise DataError(f"there must be at least 2 classes, got {quote(names) or 'none'}")


def _kind(images: np.ndarray) -> str:
    return f"{images.shape[1:]} of {images.dtype}"
