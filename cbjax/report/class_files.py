"""Writes a run's figures of each class by name, for a spreadsheet: classes.csv, confusion_*.csv, class_weights.csv."""

import pathlib
from typing import Any

import numpy as np

from cbjax.host.writers import replace
from cbjax.metrics import f1
from cbjax.report import class_tables
from cbjax.report.read import CHECKPOINTS, RunRecord

FILES = ("classes.csv", "class_weights.csv", *(f"confusion_{checkpoint}.csv" for checkpoint in CHECKPOINTS))


def write(run: RunRecord, out: pathlib.Path) -> None:
    """Writes what is known about a run's classes, finished or not. Older files that it no longer makes are removed.

    classes.csv has a row for each class: its images, its weight in the last epoch, and its test accuracy, precision and
    F1 in the last and the best state (average precision for multi-hot labels). class_weights.csv has a row for each
    epoch. confusion_last.csv and confusion_best.csv count test images by true class (rows) and predicted class
    (columns).
    """
    files = {"classes.csv": class_tables.table(run.class_names, _columns(run))}
    if run.weights:
        files["class_weights.csv"] = class_tables.weights(run.class_names, run.weights)
    for checkpoint in CHECKPOINTS:
        if (matrix := _matrix(run, checkpoint)) is not None:
            files[f"confusion_{checkpoint}.csv"] = class_tables.confusion(run.class_names, matrix)
    for name in FILES:
        if name in files:
            replace(out / name, files[name].encode())
        else:
            (out / name).unlink(missing_ok=True)


def _columns(run: RunRecord) -> dict[str, Any]:
    columns: dict[str, Any] = {"training_images": run.counts.tolist()}
    for split in ("validation", "test"):
        if counts := run.data.get(f"{split}_counts"):
            columns[f"{split}_images"] = counts
    if run.weights:
        columns["class_weight"] = run.weights[-1]["class_weights"]
    for checkpoint in CHECKPOINTS:
        accuracy, matrix = run.per_class(checkpoint), _matrix(run, checkpoint)
        if accuracy is not None:
            name = "average_precision" if run.multi_label else "accuracy"
            columns[f"test_{name}_{checkpoint}"] = accuracy.tolist()
        if matrix is not None:
            predicted = matrix.sum(axis=0)
            share = np.divide(np.diag(matrix), predicted, out=np.full(len(predicted), np.nan), where=predicted > 0)
            columns[f"test_precision_{checkpoint}"] = share.tolist()
            columns[f"test_f1_{checkpoint}"] = f1(np.diag(matrix), matrix.sum(axis=1), predicted).tolist()
    return columns


def _matrix(run: RunRecord, checkpoint: str) -> np.ndarray | None:
    table = ((run.results or {}).get("confusion") or {}).get(checkpoint)
    return None if table is None else np.asarray(table, np.int64)
