"""Writes a run's figures of each class by name, for a spreadsheet: classes.csv, confusion_*.csv, class_weights.csv."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbjax.host.writers import replace
from cbjax.metrics import f1
from cbjax.report import class_tables
from cbjax.report.methods import Method
from cbjax.report.read import CHECKPOINTS, RunRecord

COMPARED = ("classes_by_method.csv", "confusion_by_method.csv")
FILES = ("classes.csv", "class_weights.csv", *(f"confusion_{checkpoint}.csv" for checkpoint in CHECKPOINTS))


def write(run: RunRecord, out: pathlib.Path) -> list[str]:
    """Writes what is known about a run's classes, finished or not, and returns the names of the files.

    Older files that it no longer makes are removed.

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
    return list(files)


def write_compared(methods: Sequence[Method], checkpoint: str, out: pathlib.Path, *, confusions: bool) -> list[str]:
    """Writes the classes and the confusions of several methods with equal classes; returns the names of the files.

    Figures are shares, means over a method's runs at a checkpoint. classes_by_method.csv has a row for each method and
    class, confusion_by_method.csv, if wanted, for each method, true and predicted class whose share is not 0.
    """
    names, counts = methods[0].runs[0].class_names, methods[0].runs[0].counts
    classes = [["method", "class", "training_images", "runs", "accuracy", "standard_deviation"]]
    confusion = [["method", "true_class", "predicted_class", "runs", "share"]]
    for method in methods:
        accuracies = [one for run in method.runs if (one := run.per_class(checkpoint)) is not None]
        tables = [table for run in method.runs if (table := run.confusion(checkpoint)) is not None]
        for c, values in enumerate(np.transpose(accuracies)):
            deviation = np.std(values, ddof=1) if len(values) > 1 else None
            cells = map(class_tables.cell, (np.mean(values), deviation))
            classes.append([method.label, names[c], str(counts[c]), str(len(values)), *map(str, cells)])
        if tables and confusions:
            mean = np.mean(tables, axis=0)
            confusion += [
                [method.label, names[row], names[column], str(len(tables)), str(class_tables.cell(mean[row, column]))]
                for row, column in np.argwhere(mean > 0)
            ]
    found = [(name, lines) for name, lines in zip(COMPARED, (classes, confusion), strict=True) if len(lines) > 1]
    for name, lines in found:
        replace(out / name, class_tables.csv(lines).encode())
    return [name for name, _ in found]


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
