"""Chooses how many training images each class keeps, and which.

Counts are in class order: class 0 is the largest, as in CB.
"""

import bisect
import decimal
import fractions
import math
from collections.abc import Callable, Sequence

import numpy as np

from cbjax.data import shuffle
from cbjax.data.records import DataError, quote

KINDS = ("natural", "exponential", "step", "counts", "majority")
SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}


def exponential_counts(max_count: int, num_classes: int, imbalance: float) -> np.ndarray:
    """Returns [C] int64 counts that fall exponentially from max_count to max_count / imbalance.

    Class i keeps the whole part of max_count · imbalance^(-i / (C - 1)).

    Args:
      max_count: images of class 0.
      num_classes: C, at least 2.
      imbalance: largest count over smallest, at least 1 and at most max_count.

    Raises:
      DataError: if an argument is out of range, or the last class would be empty.

    Source: Cui et al. 2019, section 5.1; truncated, not rounded, as in the authors' data_utils.py.
    """
    _check_imbalance(max_count, num_classes, imbalance)
    # In binary floating point 300 · 27^(-1/3) is 99.99…, which truncates to 99. With sixty decimal digits the powers
    # are off by less than 1e-50, so a value raised by 1e-40 truncates to the true whole part.
    with decimal.localcontext(prec=60):
        factor = decimal.Decimal(str(imbalance)) ** (decimal.Decimal(-1) / (num_classes - 1))
        nudge = decimal.Decimal("1e-40")
        return np.array([int(int(max_count) * factor**i + nudge) for i in range(num_classes)], np.int64)


def step_counts(max_count: int, num_classes: int, imbalance: float) -> np.ndarray:
    """Returns [C] int64 counts: max_count for the first half of the classes, max_count / imbalance for the others.

    If the number of classes is odd, the middle class is large. Arguments and errors as in `exponential_counts`.

    Source: Cao et al. 2019 (LDAM-DRW), `imb_type="step"`; their code leaves the last class empty if the number is odd.
    """
    _check_imbalance(max_count, num_classes, imbalance)
    small = int(max_count / fractions.Fraction(str(imbalance)))
    large_classes = (num_classes + 1) // 2
    return np.array([max_count] * large_classes + [small] * (num_classes - large_classes), np.int64)


def majority_counts(total: int, ratio: float) -> np.ndarray:
    """Returns [2] int64 counts of a majority class 0 and a minority class 1 that sum to total.

    Args:
      total: images of both classes.
      ratio: share of class 0, at least 0.5 and below 1. The minority's share is truncated to whole images.

    Raises:
      DataError: if ratio is out of range or leaves the minority without an image.

    Source: Sinha et al. 2020, section 4.1 (MNIST, 4 against 9).
    """
    if not 0.5 <= ratio < 1:
        raise DataError(f"data.majority_ratio must be at least 0.5 and below 1, got {ratio}")
    minority = int(total * (1 - fractions.Fraction(str(ratio))))
    if minority < 1:
        raise DataError(
            f"data.majority_ratio={ratio} of {total} images leaves no image for the minority class: "
            "lower the ratio or take more images"
        )
    return np.array([total - minority, minority], np.int64)


def counts_within(
    available: np.ndarray,
    kind: str,
    *,
    imbalance: float = 1.0,
    counts: Sequence[int] | np.ndarray = (),
    majority_ratio: float = 0.5,
    train_size: int | None = None,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Chooses how many of each class's available images to train on.

    For "exponential" and "step" the largest class gets as many images as possible while every class has enough; in
    balanced data that is all of its images.

    Args:
      available: [C] images of each class.
      kind: one of `KINDS`.
      imbalance: for "exponential" and "step".
      counts: [C] for "counts"; a 0 leaves the class out of training (see `weights.zero_count`).
      majority_ratio: for "majority".
      train_size: total for "majority"; None for as many as possible.
      class_names: [C] for messages; None for the class indices.

    Returns:
      [C] int64, never above available.

    Raises:
      DataError: if the kind is unknown or a class has too few images.
    """
    num_classes, largest, total = len(available), int(available.max()), int(available.sum())
    if kind == "natural":
        return np.array(available, np.int64)
    if kind in ("exponential", "step"):
        counts_of = exponential_counts if kind == "exponential" else step_counts
        _check_room(available, counts_of, imbalance, class_names)
        return _largest_within(available, largest, lambda size: counts_of(size, num_classes, imbalance))
    if kind == "majority":
        if num_classes != 2:
            raise DataError(f"data.longtail='majority' needs two classes, got {num_classes}: name two in data.classes")
        if train_size is None:
            return _largest_within(available, total, lambda size: majority_counts(size, majority_ratio))
        wanted = majority_counts(train_size, majority_ratio)
    elif kind == "counts":
        wanted = np.asarray(counts, np.int64)
        if wanted.shape != (num_classes,) or wanted.min() < 0 or not wanted.any():
            raise DataError(
                f"data.counts must have one count of at least 0 for each of the {num_classes} classes and one above 0, "
                f"got {tuple(counts)}"
            )
    else:
        raise DataError(f"data.longtail={kind!r} is unknown; it is one of {quote(KINDS)}")
    short = np.flatnonzero(wanted > available)
    if short.size:
        i = short[0]
        raise DataError(
            f"data.longtail={kind!r} asks for {wanted[i]} training images of class "
            f"'{_name(class_names, i)}', which has only {available[i]} left: ask for fewer"
        )
    return wanted


def orders_by_class(labels: np.ndarray, classes: Sequence[int], seed: int, split: str = "train") -> list[np.ndarray]:
    """Returns each class's positions in `labels` [N], in random order.

    Every subset is cut from the front of these orders. So a smaller subset of a class is part of each larger one, and
    each class is drawn independently of the others.

    Args:
      labels: [N] integers.
      classes: the labels to look for.
      seed: at least 0.
      split: "train", "validation" or "test"; each has its own draws.
    """
    by_label = np.argsort(labels, kind="stable")
    starts, stops = (np.searchsorted(labels[by_label], classes, side=side) for side in ("left", "right"))
    orders = []
    for label, start, stop in zip(classes, starts, stops, strict=True):
        order = shuffle.permutation(stop - start, seed, 0, SPLIT_KEYS[split], label)
        orders.append(by_label[start:stop][order])
    return orders


def cut(orders: Sequence[np.ndarray], start, stop) -> np.ndarray:
    """Returns the sorted positions from start [C] to stop [C] of each class's order."""
    start, stop = np.broadcast_to(start, len(orders)), np.broadcast_to(stop, len(orders))
    return np.sort(np.concatenate([order[a:b] for order, a, b in zip(orders, start, stop, strict=True)]))


def subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Draws counts[c] images of each class c.

    Args:
      labels: [N] integers in [0, C).
      counts: [C] whole numbers.
      seed: at least 0.

    Returns:
      [sum of counts] sorted positions in labels. With the same seed, smaller counts give a subset of larger ones.

    Raises:
      DataError: if a class has fewer images than asked for.
    """
    available = np.bincount(labels, minlength=len(counts))
    wanted = counts_within(available[: len(counts)], "counts", counts=counts)
    return cut(orders_by_class(labels, range(len(counts)), seed), 0, wanted)


def _check_imbalance(max_count: int, num_classes: int, imbalance: float) -> None:
    _check_range(num_classes, imbalance)
    if max_count < imbalance:
        raise DataError(
            f"data.imbalance={imbalance} with {max_count} images in the largest class leaves none for the smallest: "
            f"at most {max_count} is possible"
        )


def _check_range(num_classes, imbalance):
    if num_classes < 2:
        raise DataError(f"imbalance needs at least 2 classes, got {num_classes}")
    if not 1 <= imbalance < float("inf"):
        raise DataError(f"data.imbalance is the largest count over the smallest, at least 1, got {imbalance}")


def _check_room(available, counts_of, imbalance, class_names):
    """Raises DataError if a class has too few images for its place in any set of this imbalance."""
    num_classes, largest = len(available), int(available.max())
    _check_range(num_classes, imbalance)

    def short(size, of_imbalance):
        return np.flatnonzero(counts_of(size, num_classes, of_imbalance) > available)

    # The smallest set that leaves the last class an image; if it does not fit, no larger one does.
    if imbalance <= largest and not short(math.ceil(imbalance), imbalance).size:
        return
    works = bisect.bisect_left(range(1, largest + 1), True, key=lambda whole: short(whole, whole).size > 0)
    if works == largest:
        _check_imbalance(largest, num_classes, imbalance)
    # Only a fraction above a whole number can fail where all whole numbers up to the largest count work.
    i = short(works + 1, works + 1)[0] if works < largest else short(math.ceil(imbalance), imbalance)[0]
    helps = [f"use a whole data.imbalance of at most {works}"] if works else []
    if (np.diff(available) > 0).any():
        helps.append("order data.classes from the largest class to the smallest")
    raise DataError(
        f"data.imbalance={imbalance} is not possible: class '{_name(class_names, i)}' has only {available[i]} "
        f"{'image' if available[i] == 1 else 'images'} left, too few for place {i + 1} of {num_classes}: "
        f"{', '.join([*helps, 'or use data.longtail=natural']) if helps else 'use data.longtail=natural'}"
    )


def _name(class_names, i):
    return class_names[i] if class_names is not None else str(i)


def _largest_within(available: np.ndarray, limit: int, counts_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """Returns counts_of(size) for the largest size, up to the limit, whose counts are available."""

    def too_large(size):
        try:
            return bool((counts_of(size) > available).any())
        except DataError:
            return False  # this size is too small for the imbalance; a larger one may fit

    return counts_of(bisect.bisect_left(range(1, limit + 1), True, key=too_large))
