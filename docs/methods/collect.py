"""Collects the figures that the pictures of methods are drawn from, out of finished runs.

Command: python docs/methods/collect.py runs/methods runs/methods_smote runs/after
A folder such as runs/methods holds METHOD/seed_N. What comes after training is measured on the runs of `ce` there.
configs/sweeps/results/README.md has the commands of the runs.
"""

import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cbjax.metrics import ClassificationSums
from cbjax.report import class_tables
from cbjax.report.read import read_run
from cbjax.training import calibrate, scores
from cbjax.training.restore import examine

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parents[1] / "configs" / "sweeps" / "results"
CLASSES = ("method", "seed", "class", "training_images", "test_images", "accuracy")
RELIABILITY = ("method", "seed", "bin", "images", "confidence", "correct")


def collect(folders: Sequence[pathlib.Path]) -> None:
    """Writes the files of figures from finished runs, METHOD/seed_N in the folders, of the methods that have a page.

    Raises:
      SystemExit: if a run is not finished.
    """
    classes: list[tuple] = []
    reliable: list[tuple] = []
    pages = {path.stem for path in HERE.glob("*.md")}
    runs = {
        (path.parent.name, path.name.removeprefix("seed_")): path
        for folder in folders
        for path in sorted(folder.glob("*/seed_*"))
    }
    for (method, seed), path in runs.items():
        if method not in pages:
            continue
        run = read_run(path)
        accuracy = run.per_class("last")
        if accuracy is None:
            raise SystemExit(f"{path} is not finished")
        facts = (run.class_names, run.counts.tolist(), run.data["test_counts"])
        classes += _rows(method, seed, *facts, 100 * accuracy)
        if method == "ce":
            before, after, other = _after_training(path)
            classes += _rows("thresholds", seed, *facts, 100 * other)
            for name, sums in (("ce", before), ("temperature", after)):
                reliable += _rows(name, seed, range(sums.shape[1]), *np.asarray(sums, np.float64))
    for name, header, rows in (("classes", CLASSES, classes), ("reliability", RELIABILITY, reliable)):
        lines = class_tables.csv([header, *sorted(rows, key=lambda row: row[:2])])
        (RESULTS / f"methods_{name}.csv").write_text(lines)


def _rows(method: str, seed: str, *columns: Iterable[Any]) -> Iterator[tuple]:
    for values in zip(*columns, strict=True):
        yield (method, seed, *map(class_tables.cell, values))


def _after_training(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the bins of a run's test images before and after a temperature, and [C] accuracies with thresholds."""
    found, held_out = examine(path), examine(path, split="validation")
    assert found.logits is not None, "an examined run gives logits"
    logits, labels = np.asarray(scores.of_split(found, found.logits), np.float64), found.split.labels
    temperature = calibrate.fit("temperature", found, held_out).calibration.temperature
    thresholds = calibrate.fit("thresholds", found, held_out).calibration.thresholds
    sums = []
    for one in (1.0, temperature):
        chances = np.exp(calibrate.log_probabilities(logits / one, False))
        arrays = (logits.astype(np.float32), labels, np.zeros(len(labels), np.float32), np.ones(len(labels), bool))
        confidence = chances[np.arange(len(labels)), logits.argmax(axis=1)].astype(np.float32)
        sums.append(np.asarray(ClassificationSums.from_outputs(*arrays, confidence).calibration))
    answers = (calibrate.log_probabilities(logits, False) - np.log(thresholds)).argmax(axis=1)
    right = [np.mean(answers[labels == c] == c) for c in range(logits.shape[1])]
    return sums[0], sums[1], np.array(right)


if __name__ == "__main__":
    collect([pathlib.Path(folder) for folder in sys.argv[1:]])
