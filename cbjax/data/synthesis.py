"""Adds images between those of rare classes, by SMOTE and its kin of imbalanced-learn."""

from collections.abc import Sequence

import numpy as np

from cbjax.data.records import DataError, Encoded, Split, quote

# Name -> the class in `imblearn.over_sampling`, and what it calls the neighbours that an image is moved towards.
KINDS = {
    "smote": ("SMOTE", "k_neighbors"),
    "borderline_smote": ("BorderlineSMOTE", "k_neighbors"),
    "adasyn": ("ADASYN", "n_neighbors"),
}


def synthesize(
    train: Split, kind: str, neighbours: int, seed: int, class_names: Sequence[str]
) -> tuple[Split, tuple[str, ...]]:
    """Adds made-up images to each class until it has as many as the largest; ADASYN only comes near this number.

    A new image lies on the line from one image of its class to one of its nearest neighbours in that class, pixel by
    pixel. All is as `imblearn.over_sampling` does it with its defaults, on float32 pixels, one row an image.

    Args:
      train: images in memory, with one label each. These stay the first images of the result, to the bit.
      kind: one of KINDS.
      neighbours: from how many neighbours one is drawn.
      seed: `random_state`.
      class_names: [C].

    Returns:
      The images, those of uint8 rounded to whole numbers, and a note on how many each class has.

    Raises:
      DataError: if imbalanced-learn is missing, images are encoded, labels are multi-hot, a class that is to grow has
        not more images than `neighbours`, or imbalanced-learn finds no image to begin from.
    """
    images, labels = train.images, train.labels
    if isinstance(images, Encoded):
        raise DataError(f"data.synthesis={kind!r} needs images in memory, and these are read as they are needed")
    if train.multi_label:
        raise DataError(f"data.synthesis={kind!r} needs one label an image, and these are multi-hot")
    try:
        from imblearn import over_sampling
    except ImportError as error:
        raise DataError(
            f"data.synthesis={kind!r} needs imbalanced-learn, which cannot be imported ({error}): "
            "pip install 'cbjax[smote]'"
        ) from error
    counts = np.bincount(labels, minlength=len(class_names))
    _check_sizes(counts, kind, neighbours, class_names)
    name, option = KINDS[kind]
    sampler = getattr(over_sampling, name)(random_state=seed, **{option: neighbours})
    # Rows of uint8 would wrap around where imbalanced-learn subtracts them.
    rows = images.reshape(len(images), -1).astype(np.float32)
    try:
        grown, grown_labels = sampler.fit_resample(rows, labels)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"data.synthesis={kind!r}: imbalanced-learn makes no images from these: {error} "
            "Use data.synthesis=smote, or none"
        ) from error
    made = grown[len(images) :].reshape(-1, *images.shape[1:])
    if images.dtype == np.uint8:
        made = np.clip(np.rint(made), 0, 255)
    found = Split(
        np.concatenate([images, made.astype(images.dtype)]),
        np.concatenate([labels, grown_labels[len(images) :].astype(labels.dtype)]),
    )
    after = np.bincount(found.labels, minlength=len(class_names))
    return found, (
        f"{kind} added {len(made)} training images to {len(images)}: classes have {_span(after)} instead of "
        f"{_span(counts)}; weights, margins and groups of classes go by the images before",
    )


def _check_sizes(counts, kind, neighbours, class_names):
    small = np.flatnonzero((counts < counts.max()) & (counts <= neighbours))
    if not small.size:
        return
    least = int(counts[small].min())
    advice = f"set data.synthesis_neighbours={least - 1}" if least > 1 else "leave these classes out by data.classes"
    shown = quote(f"{class_names[i]} ({counts[i]})" for i in small)
    raise DataError(
        f"data.synthesis={kind!r} needs more training images of each class than data.synthesis_neighbours, "
        f"{neighbours}, once images are held out; these have too few: {shown}: {advice}, or keep more images of them"
    )


def _span(counts):
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
