"""Notes the facts about a run's data that are needed when the data are not there, and that tell other data apart."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbjax.data import DataError, Dataset, Encoded
from cbjax.host import checked_json
from cbjax.workdir.files import WorkdirError, read_json

# The facts about the data that a loaded run needs.
FACTS = {"class_names": list, "sizes": dict, "image_shape": list, "image_dtype": str, "mean": list, "std": list}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns the facts that a report or a loaded model needs when the data are not there."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    if dataset.meta is not None:
        splits["meta"] = dataset.meta
    present = {name: split for name, split in splits.items() if split is not None}
    num_classes = len(dataset.class_names)
    digest, sizes = hashlib.sha256(), hashlib.sha256()
    for split in present.values():
        images = split.images
        digest.update(images.fingerprint() if isinstance(images, Encoded) else np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
        sizes.update(images.sizes() if isinstance(images, Encoded) else b"")
    return {
        "class_names": list(dataset.class_names),
        "counts": dataset.counts.tolist(),
        "sizes": {name: 0 if split is None else len(split.labels) for name, split in splits.items()},
        **{f"{name}_counts": _counts(split.labels, num_classes) for name, split in present.items() if name != "train"},
        "image_shape": list(dataset.train.images.shape[1:]),
        "image_dtype": str(dataset.train.images.dtype),
        "image_span": _span(dataset.train.images),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "multi_label": dataset.multi_label,
        "notes": list(dataset.notes),
        "sha256": digest.hexdigest(),
        "sizes_sha256": sizes.hexdigest(),
    }


def _span(images):
    """Returns the smallest and the largest pixel; for encoded images the possible ones."""
    return [0, 255] if isinstance(images, Encoded) else [images.min().item(), images.max().item()]


def _counts(labels, num_classes):
    if labels.ndim == 1:
        return np.bincount(labels, minlength=num_classes).tolist()
    return labels.sum(axis=0).astype(int).tolist()


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the facts about a run's data that `describe` gave."""
    path = workdir / "data.json"
    facts = read_json(path)
    wrong = [key for key, kind in FACTS.items() if not isinstance(facts.get(key), kind)]
    if wrong:
        raise WorkdirError(f"{path} is damaged: {wrong[0]} is missing or of the wrong kind; restore the file")
    return facts


def check_same(workdir: pathlib.Path, facts: Mapping[str, Any], on_bad_image: str = "error") -> None:
    """Checks that a run in a work directory, if any, was started with the same data.

    Args:
      workdir: work directory of the run.
      facts: from `describe`, about the present data.
      on_bad_image: "error", or "skip" if single files may have been removed or repaired since.

    Raises:
      DataError: if an image, a label or a split differs.
    """
    if not (workdir / "config.json").exists():
        return
    try:
        former = read(workdir)
    except WorkdirError:
        if checked_json.was_written(workdir / "data.json", facts):
            return  # the file is damaged, but once said the same
        raise
    if former["sha256"] != facts["sha256"]:
        told = [note for note in facts["notes"] if note not in former.get("notes", ())]
        raise DataError(
            f"the run in {workdir} was started with other data: an image, a label or a split differs; use the former "
            f"data, or another work directory{''.join(f'; noted now: {note}' for note in told)}"
        )
    if on_bad_image == "error" and former.get("sizes_sha256", facts["sizes_sha256"]) != facts["sizes_sha256"]:
        raise DataError(
            f"the run in {workdir} was started with other data: image files are missing or have another size; use the "
            "former files, or another work directory; if only bad images were removed or repaired, set "
            "data.on_bad_image=skip"
        )
