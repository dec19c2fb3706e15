"""Makes tables with class names as CSV: figures of each class, confusion, class weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.host.text import csv_line


def table(class_names: Sequence[str], columns: Mapping[str, Iterable[Any]]) -> str:
    """Returns a row for each class, with its name first.

    Args:
      class_names: [C].
      columns: header -> [C] values. None and numbers that are not finite give an empty cell.
    """
    rows = zip(class_names, *columns.values(), strict=True)
    return csv([["class", *columns], *([name, *map(_cell, values)] for name, *values in rows)])


def confusion(class_names: Sequence[str], matrix: np.ndarray) -> str:
    """Returns a row for each true class and a column for each predicted one, [C, C] images."""
    header = ["true class \\ predicted class", *class_names]
    return csv([header, *([name, *row] for name, row in zip(class_names, np.asarray(matrix).tolist(), strict=True))])


def weights(class_names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns a row for each epoch with the weights of all classes, from rows of class_weights.jsonl."""
    body = ([row["epoch"], *map(_cell, row["class_weights"])] for row in rows)
    return csv([["epoch", *class_names], *body])


def csv(rows: Iterable[Iterable[Any]]) -> str:
    """Returns rows as CSV; no cell starts a formula."""
    return "".join(csv_line(row) + "\n" for row in rows)


def by_class(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Counts the images [N] of each class, and how many are predicted right.

    Args:
      predicted: [N] classes; -1 for an image without an answer, which counts as wrong.
      labels: [N].
      num_classes: C.

    Returns:
      "images" [C]; "recall" [C], NaN for a class without images; "precision" [C], NaN for one that was never predicted.
    """
    answered = (predicted >= 0) & (predicted < num_classes)
    right = np.bincount(labels[predicted == labels], minlength=num_classes).astype(float)
    total = np.bincount(labels, minlength=num_classes)
    as_class = np.bincount(predicted[answered], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        recall, precision = right / total, right / as_class
    return {"images": total, "recall": recall, "precision": precision}


def _cell(value):
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return "" if value is None else value
