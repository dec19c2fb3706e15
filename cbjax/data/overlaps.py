"""Finds images that are listed more than once: in one class, in two classes, or in two splits."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from cbjax.data.records import DataError, quote

Pairs = list[tuple[int, int]]  # (first, later): positions of one image, counted through all splits in order


def judge(
    pairs: Pairs,
    paths: Sequence[str],
    labels: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    where: str,
    noun: str = "image",
) -> tuple[dict[str, list[int]], list[str]]:
    """Decides what to do with images that are listed twice.

    An image that a class has twice counts once. An image that is in training and also in validation or test gets a
    note: published lists have a few. If all images of a split are in training, that is an error.

    Args:
      pairs: positions of equal images.
      paths: [N] of all splits, in order.
      labels: for each split its labels [n].
      class_names: [C] names in label order.
      where: start of a message.
      noun: what an image is called in messages.

    Returns:
      for each split the positions that repeat an earlier one; notes.

    Raises:
      DataError: if an image has two labels in one split, or all images of a split are also trained on.
    """
    splits = list(labels)
    starts = np.cumsum([0, *(len(labels[split]) for split in splits)])

    def locate(position):
        number = int(np.searchsorted(starts, position, side="right")) - 1
        return splits[number], position - int(starts[number])

    repeated: dict[str, list[int]] = {split: [] for split in splits}
    shared: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
    contradictions = []
    groups: dict[int, list[int]] = {}
    for first, second in pairs:
        known = groups.setdefault(first, [first])  # the image's first position in each split
        other, j = locate(second)
        places = [(position, *locate(position)) for position in known]
        here = [(position, i) for position, split, i in places if split == other]
        if not here:
            known.append(second)
            for _, split, _ in places:
                shared[split, other].add(second)
        elif labels[other][here[0][1]] == labels[other][j]:
            repeated[other].append(j)
        else:
            contradictions.append((other, here[0][0], labels[other][here[0][1]], labels[other][j]))
    if contradictions:
        split, position, *two = contradictions[0]
        several = (
            ", or give images with several labels as an .npz with labels [N, C] of zeros and ones (data.name=arrays)"
        )
        raise DataError(
            f"{where}: each {noun} must have one label, but {noun}s of {split} have two, {len(contradictions)} of "
            f"them, such as {paths[position]} with {quote(class_names[label] for label in two)}: keep one of them"
            f"{several if noun == 'image' else ''}"
        )
    notes = [
        f"{split}: left out rows whose {noun} is listed before, {len(again)} of them, such as "
        f"{paths[int(starts[splits.index(split)]) + again[0]]}"
        for split, again in repeated.items()
        if again
    ]
    for (split, other), both in shared.items():
        example, size = paths[min(both)], len(labels[other]) - len(repeated[other])
        if split != "train":
            notes.append(
                f"{len(both)} of {size} {noun}s of {other} are also in {split}, such as {example}: the best epoch is "
                f"chosen on {noun}s of the test"
            )
        elif len(both) < size:
            notes.append(
                f"{len(both)} of {size} {noun}s of {other} are also trained on, such as {example}: their figures are "
                f"better than on new {noun}s; remove them from one of the two"
            )
        else:
            raise DataError(
                f"{where}: all {size} {noun}s of {other} are also trained on, such as {example}, so nothing would "
                f"be measured on new {noun}s: give others, or give none and hold out part of the training {noun}s "
                f"with data.{other}=0.2"
            )
    return repeated, notes


def of_paths(paths: Sequence[str]) -> Pairs:
    """Returns the pairs of equal paths."""
    known: dict[str, int] = {}
    firsts = [known.setdefault(path, i) for i, path in enumerate(paths)]
    return [(first, i) for i, first in enumerate(firsts) if first != i] if len(known) < len(firsts) else []


def of_arrays(images: Mapping[str, np.ndarray], most_bytes: int = 1 << 31) -> list[str]:
    """Returns notes about images in memory that are in two splits, equal in every pixel.

    Args:
      images: for each split [N, H, W, channels].
      most_bytes: if all images together have more bytes, they are not compared, as it would take long.
    """
    if len(images) < 2 or sum(array.nbytes for array in images.values()) > most_bytes:
        return []
    known = {split: [hash(image.tobytes()) for image in array] for split, array in images.items()}
    notes, splits = [], list(images)
    for i, split in enumerate(splits):
        places = {digest: place for place, digest in enumerate(known[split])}
        for other in splits[i + 1 :]:
            both = [
                place
                for place, digest in enumerate(known[other])
                if digest in places and np.array_equal(images[other][place], images[split][places[digest]])
            ]
            if both:
                notes.append(
                    f"{len(both)} of {len(known[other])} {other} images are equal to {split} images in every pixel, "
                    f"the first is image {both[0]}: their figures are better than on new images"
                )
    return notes
