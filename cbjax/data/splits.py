"""Chooses the images to hold out, before any imbalance is made, by index arithmetic on labels.

An amount to hold out is 0 or None, a whole number of images per class, or a fraction in (0, 1).
"""

import fractions
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from cbjax.data import longtail, shuffle
from cbjax.data.records import DataError, quote

Amount = int | float | None


def is_fraction(amount: Amount, key: str) -> bool:
    """Returns whether an amount is a fraction; raises DataError, with the config key, if it is no amount at all."""
    if amount is None:
        return False
    if isinstance(amount, numbers.Real) and not isinstance(amount, bool) and 0 <= amount < float("inf"):
        if amount == int(amount):
            return False
        if amount < 1:
            return True
    raise DataError(f"{key} must be 0, a whole number of images per class, or a fraction in (0, 1), got {amount!r}")


def per_class(available: np.ndarray, amount: Amount, key: str) -> np.ndarray:
    """Returns [C] int64: the number of images that an amount asks for in each class; fractions are truncated."""
    if is_fraction(amount, key):
        return _shares(available, amount, key)
    return np.full(len(available), int(amount or 0), np.int64)


def split_by_class(
    labels: np.ndarray,
    held_out: Mapping[str, Amount],
    *,
    classes: Sequence[int],
    class_names: Sequence[str],
    seed: int,
    kind: str = "natural",
    **options,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Cuts training images into held-out splits, in the given order, and the images to train on.

    If the training images stay as they are (kind "natural"), a class that is too small for an amount gives all but one
    image. Every other kind raises an error.

    Args:
      labels: [N] integers.
      held_out: name of a split ("test", "validation") -> amount to take.
      classes: the labels to use, in class order.
      class_names: [C] their names.
      seed: at least 0.
      kind, **options: how many training images to keep, as in `longtail.counts_within`.

    Returns:
      sorted positions in labels for "train" and each split in `held_out`; notes on classes that gave fewer.

    Raises:
      DataError: if a class has too few images.
    """
    orders = longtail.orders_by_class(labels, classes, seed)
    available = np.array([len(order) for order in orders], np.int64)
    indices: dict[str, np.ndarray] = {}
    notes: list[str] = []
    if kind != "natural":
        require_images(available, class_names)
    elif not available.all():
        notes.append(f"no training images of classes {_named(class_names, available == 0)}")
    taken = np.zeros_like(available)
    for name, amount in held_out.items():
        wanted = per_class(available, amount, f"data.{name}")
        given = np.minimum(wanted, np.maximum(available - taken - 1, 0))
        short = (given < wanted) & (available > 0)
        if short.any() and (kind != "natural" or short[available > 0].all()):
            i = int(np.argmax(short))
            raise DataError(
                f"data.{name}={amount} takes {wanted[i]} images of class '{class_names[i]}', which has "
                f"{available[i] - taken[i]} and must keep one for training: hold out fewer"
            )
        if amount:
            indices[name] = longtail.cut(orders, taken, taken + given)
        if (fewer := short & (given > 0)).any():
            named = _named(class_names, fewer)
            notes.append(f"fewer {name} images than asked for, to leave one for training: classes {named}")
        taken = taken + given
    kept = longtail.counts_within(available - taken, kind, class_names=class_names, **options)
    indices["train"] = longtail.cut(orders, taken, taken + kept)
    return indices, tuple(notes)


def draw_by_class(
    labels: np.ndarray, name: str, amount: Amount, *, classes: Sequence[int], class_names: Sequence[str], seed: int
) -> np.ndarray:
    """Draws from a split that the source brings. An amount of 0 or None takes the whole split.

    Arguments and errors are as in `split_by_class`; `name` is the split's name.

    Returns:
      sorted positions in labels.
    """
    orders = longtail.orders_by_class(labels, classes, seed, name)
    available = np.array([len(order) for order in orders], np.int64)
    try:
        wanted = per_class(available, amount, f"data.{name}") if amount else available
    except DataError as error:
        raise DataError(f"{error}, or 0 for the whole of the source's own {name} split") from None
    if (wanted > available).any():
        i = int(np.argmax(wanted > available))
        raise DataError(
            f"data.{name}={amount} images per class, but the source's own {name} split has {available[i]} of class "
            f"'{class_names[i]}': ask for fewer, or 0 for the whole split"
        )
    return longtail.cut(orders, 0, wanted)


def split_multi_hot(
    labels: np.ndarray, held_out: Mapping[str, Amount], *, class_names: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """Cuts images with multi-hot labels [N, C] into random fractions of all images, and the rest, "train".

    Each class keeps a positive training image. Arguments, result and errors as in `split_by_class`.
    """
    require_images(labels.sum(axis=0), class_names)
    order = shuffle.permutation(len(labels), seed, 1, 0)
    stays = order[np.argmax(labels[order] > 0, axis=0)]
    candidates = order[~np.isin(order, stays)]
    indices, taken = {}, 0
    for name, amount in held_out.items():
        count = _share_of_all(len(labels), name, amount)
        if taken + count > len(candidates):
            raise DataError(f"data.{name}={amount} of {len(labels)} images leaves a class with none: hold out fewer")
        if amount:
            indices[name] = np.sort(candidates[taken : taken + count])
        taken += count
    indices["train"] = np.setdiff1d(np.arange(len(labels)), candidates[:taken])
    return indices


def draw_multi_hot(labels: np.ndarray, name: str, amount: Amount, seed: int) -> np.ndarray:
    """Draws a random fraction of a split that the source brings, as sorted positions; 0 or None takes all of it."""
    count = _share_of_all(len(labels), name, amount) if amount else len(labels)
    return np.sort(shuffle.permutation(len(labels), seed, 1, longtail.SPLIT_KEYS[name])[:count])


def require_images(available: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises DataError if a class has no training image."""
    if not np.all(available):
        raise DataError(
            f"every class needs a training image; these have none: {_named(class_names, np.equal(available, 0))}: "
            "add images or leave out the class"
        )


def _shares(counts: np.ndarray, amount: Amount, key: str) -> np.ndarray:
    # Exact fractions: in binary floating point 0.29 · 100 would be truncated to 28.
    shares = np.array([int(count * fractions.Fraction(str(amount))) for count in counts.tolist()], np.int64)
    if not shares.any():
        raise DataError(
            f"{key}={amount} of at most {counts.max()} images is less than one: "
            "ask for a larger fraction or a whole number"
        )
    return shares


def _share_of_all(count: int, name: str, amount: Amount) -> int:
    if not amount:
        return 0
    if not is_fraction(amount, f"data.{name}"):
        raise DataError(
            f"data.{name}={amount} is a number per class, but an image with multi-hot labels has no single class: "
            "give a fraction of all images in (0, 1)"
        )
    return int(_shares(np.array([count]), amount, f"data.{name}")[0])


def _named(class_names: Sequence[str], mask: np.ndarray) -> str:
    return quote([class_names[i] for i in np.flatnonzero(mask).tolist()])
