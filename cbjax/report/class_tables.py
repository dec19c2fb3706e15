"""Makes tables with class names as CSV: figures of each class, confusion, class weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.host.text import csv_line
from cbjax.metrics import f1


def table(class_names: Sequence[str], columns: Mapping[str, Iterable[Any]]) -> str:
    """Returns a row for each class, with its name first.

    Args:
      class_names: [C].
      columns: header -> [C] values. None and numbers that are not finite give an empty cell.
    """
    rows = zip(class_names, *columns.values(), strict=True)
    return csv([["class", *columns], *([name, *map(cell, values)] for name, *values in rows)])


def confusion(class_names: Sequence[str], matrix: np.ndarray) -> str:
    """Returns a row for each true class and a column for each predicted one, [C, C] images."""
    header = ["true class \\ predicted class", *class_names]
    return csv([header, *([name, *row] for name, row in zip(class_names, np.asarray(matrix).tolist(), strict=True))])


def weights(class_names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns a row for each epoch with the weights of all classes, from rows of class_weights.jsonl."""
    body = ([row["epoch"], *map(cell, row["class_weights"])] for row in rows)
    return csv([["epoch", *class_names], *body])


def csv(rows: Iterable[Iterable[Any]]) -> str:
    """Returns rows as CSV; no cell starts a formula."""
    return "".join(csv_line(row) + "\n" for row in rows)


def by_class(predicted: np.ndarray, labels: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the precision and F1 of each class, [C].

    Args:
      predicted: [N] classes; -1 for an image without an answer, which counts as wrong, or that was not read.
      labels: [N].
      images: [C] images of each class that were read.

    Returns:
      "precision", NaN for a class that was never predicted; "f1", NaN for a class without images.
    """
    answered = (predicted >= 0) & (predicted < len(images))
    right = np.bincount(labels[predicted == labels], minlength=len(images)).astype(float)
    as_class = np.bincount(predicted[answered], minlength=len(images))
    with np.errstate(invalid="ignore"):
        return {"precision": right / as_class, "f1": f1(right, images, as_class)}


def cell(value: Any) -> Any:
    """Returns a value for a cell of CSV: six digits of a number, nothing for None and for numbers not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return "" if value is None else value
