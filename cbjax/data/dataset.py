"""Prepares the data of a run: loads the source, splits it, and makes the training images long-tailed."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.data import normalization, sources, splits, synthesis
from cbjax.data.records import DataError, Source, Split, noun_of, quote


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images ready to train and evaluate on.

    Attributes:
      train: the training images, and behind them those that were made up, if the config asks for it.
      validation: the held-out images; None if nothing is held out.
      test: the test images.
      meta: images held out for objectives that learn from a balanced set beside the training images, or None.
      class_names: [C] names in label order.
      counts: [C] int64 training images of each class; for multi-hot labels the positives. Images that were made up do
        not count.
      indices: SPLIT -> sorted positions [N], and SPLIT_from -> the name of the source's split that these are positions
        in, as a string array []. Safe for numpy.savez.
      mean, std: per channel, in the images' own units, as `augment.normalize` takes them.
      notes: lines for the user.
    """

    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    counts: np.ndarray
    indices: dict[str, np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    meta: Split | None = None

    @property
    def multi_label(self) -> bool:
        return self.train.multi_label


def of_config(config: Any, load: Callable[..., Source] = sources.load) -> Dataset:
    """Prepares the data of a run's config; arguments and errors as `prepare`."""
    return prepare(config.data, config.seed if config.data.seed is None else config.data.seed, load)


def prepare(data: Mapping[str, Any], seed: int, load: Callable[..., Source] = sources.load) -> Dataset:
    """Loads a source, holds out validation and test images, and makes the rest long-tailed.

    Images between those of rare classes (`synthesis`) are made up last, from the training images that are left by then.
    Splits that the source brings are used. Missing splits are drawn from its training images, by the seed and before
    the imbalance is made. Each class is drawn independently, and test before validation, so a changed setting moves
    few images.

    Args:
      data: name, and as needed: `sources.PLACES`, classes, longtail, imbalance, counts, majority_ratio, train_size,
        validation, test, synthesis, synthesis_neighbours, normalization. Other keys are ignored.
      seed: seed of all draws, at least 0.
      load: reads a source. A sweep passes one that reads each source once for all runs.

    Raises:
      DataError: if the data are missing, or do not fit what is asked.
    """
    if seed != int(seed) or seed < 0:
        raise DataError(f"data.seed must be a whole number of at least 0, got {seed}")
    source = load(data["name"], **{key: data[key] for key in sources.PLACES if data.get(key) is not None})
    if source.train.multi_label:
        indices, notes = _choose_multi_hot(source, data, seed)
        classes, class_names = None, source.class_names
    else:
        classes = _class_indices(data.get("classes") or (), source.class_names)
        class_names = tuple(source.class_names[i] for i in classes)
        indices, notes = _choose(source, data, seed, classes, class_names)
    parts = {
        name: _take(getattr(source, str(indices[f"{name}_from"])), indices[name], classes)
        for name in ("train", "validation", "test", "meta")
        if name in indices
    }
    noun = noun_of(source.train.images.shape[1:])
    for name, part in parts.items():
        if not len(part):
            kind = {"train": "training"}.get(name, name)
            raise DataError(f"no {kind} {noun} is of the classes {quote(class_names)}: choose others in data.classes")
    notes += _parts_of_own(source, data, indices, noun)
    counts = _class_counts(parts["train"], len(class_names))
    for name in ("validation", "test"):
        if name in parts and not (present := _class_counts(parts[name], len(class_names))).all():
            without = [class_names[i] for i in np.flatnonzero(present == 0)]
            notes += (f"no {name} {noun}s of classes {quote(without)}",)
    notes = source.notes + notes
    mean, std = normalization.resolve(data.get("normalization", "standardize"), parts["train"].images)
    if (kind := data.get("synthesis", "none")) != "none":
        # Counts, mean and deviation stay those of the real images, and so do many, medium and few. An image between two
        # others tells nothing new, so the effective number of its class must not grow. Repeats of a sampler do not
        # count either.
        neighbours = data.get("synthesis_neighbours", 5)
        parts["train"], told = synthesis.synthesize(parts["train"], kind, neighbours, seed, class_names)
        notes += told
    held_out = {name: parts.get(name) for name in ("validation", "meta")}
    return Dataset(
        parts["train"],
        test=parts["test"],
        class_names=class_names,
        counts=counts,
        indices=indices,
        mean=mean,
        std=std,
        notes=notes,
        **held_out,
    )


def _choose(source: Source, data: Mapping[str, Any], seed: int, classes: list[int], class_names: tuple[str, ...]):
    """Returns the positions of each split and notes, for integer labels."""
    own, missing = _own_and_missing(source, data)
    indices, notes = splits.split_by_class(
        source.train.labels,
        missing,
        classes=classes,
        class_names=class_names,
        seed=seed,
        kind=data.get("longtail", "natural"),
        imbalance=data.get("imbalance", 1.0),
        counts=data.get("counts", ()),
        majority_ratio=data.get("majority_ratio", 0.5),
        train_size=data.get("train_size"),
    )
    draw = functools.partial(splits.draw_by_class, classes=classes, class_names=class_names, seed=seed)
    drawn = {name: draw(split.labels, name, data.get(name, 0)) for name, split in own.items()}
    return _with_origin(indices, drawn), notes


def _choose_multi_hot(source: Source, data: Mapping[str, Any], seed: int):
    """Returns the positions of each split and notes, for multi-hot labels."""
    kind = data.get("longtail", "natural")
    if kind != "natural":
        raise DataError(
            f"data.longtail={kind!r} counts images by class, but an image with multi-hot labels has no single class: "
            "use 'natural'"
        )
    if data.get("classes"):
        raise DataError("data.classes cannot choose among multi-hot labels: leave it empty and cut the labels' columns")
    own, missing = _own_and_missing(source, data)
    labels = source.train.labels
    indices = splits.split_multi_hot(labels, missing, class_names=source.class_names, seed=seed)
    drawn = {name: splits.draw_multi_hot(split.labels, name, data.get(name, 0), seed) for name, split in own.items()}
    one_hot = bool((labels.sum(axis=1) == 1).all())
    notes = ("every image has one class: labels [N] of whole numbers would make this single-label",) if one_hot else ()
    return _with_origin(indices, drawn), notes


def _own_and_missing(source: Source, data: Mapping[str, Any]):
    """Returns the source's own splits, and how much to take from its training images for each missing split."""
    # Test first, so that the test images stay the same when the validation changes.
    brought = {"test": source.test, "validation": source.validation}
    own = {name: split for name, split in brought.items() if split is not None}
    missing = {name: data.get(name, 0) for name in brought if name not in own} | {"meta": data.get("meta", 0)}
    if "test" in missing and not missing["test"]:
        why, other = f" ({source.no_test})" if source.no_test else "", ""
        if data["name"] in ("list", "csv"):
            other = "name one in data.test_list, or "
        elif why:
            other = "move its files into a folder for each class, as in train, or "
        raise DataError(
            f"the source {data['name']!r} brings no test split{why}: {other}set data.test to a number per class or a "
            "fraction, to be taken from the training images"
        )
    return own, missing


def _parts_of_own(
    source: Source, data: Mapping[str, Any], indices: dict[str, np.ndarray], noun: str
) -> tuple[str, ...]:
    """Returns a note for each split of the source that is used in part because the config gives a fraction.

    A whole number gets no note: there a part was clearly meant.
    """
    notes = []
    for name in ("validation", "test"):
        own = getattr(source, name)
        if (
            0 < (data.get(name) or 0) < 1
            and name in indices
            and own is not None
            and str(indices[f"{name}_from"]) == name
        ):
            notes.append(
                f"data.{name}={data[name]} takes {len(indices[name])} of the {len(own)} {name} {noun}s that come with "
                f"the data; data.{name}=0 takes all"
            )
    return tuple(notes)


def _with_origin(from_train: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    origin = {name: "train" for name in from_train} | {name: name for name in own}
    return from_train | own | {f"{name}_from": np.array(split) for name, split in origin.items()}


def _class_indices(classes: Sequence[str | int], names: tuple[str, ...]) -> list[int]:
    """Returns the source's labels of the chosen classes; without a choice, all labels."""
    chosen = []
    for asked in classes:
        if str(asked) in names:  # a name wins over an index: a class named '3' may have another label
            chosen.append(names.index(str(asked)))
        elif isinstance(asked, (int, np.integer)) and 0 <= asked < len(names):
            chosen.append(int(asked))
        else:
            near = difflib.get_close_matches(str(asked), names, n=1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise DataError(f"data.classes: there is no class {asked!r} among the {len(names)} {quote(names)}{hint}")
    if len(set(chosen)) < len(chosen) or len(chosen) == 1:
        raise DataError(f"data.classes must name at least two different classes, got {tuple(classes)}")
    return chosen or list(range(len(names)))


def _take(split: Split, positions: np.ndarray, classes: list[int] | None) -> Split:
    """Returns the images at the positions; labels become indices into `classes`."""
    labels = split.labels[positions]
    if classes is not None:
        relabelled = np.zeros(max(classes) + 1, np.int32)
        relabelled[classes] = np.arange(len(classes))
        labels = relabelled[labels]
    return Split(split.images[positions], labels)


def _class_counts(split: Split, num_classes: int) -> np.ndarray:
    if split.multi_label:
        return split.labels.sum(axis=0, dtype=np.float64).astype(np.int64)
    return np.bincount(split.labels, minlength=num_classes)
