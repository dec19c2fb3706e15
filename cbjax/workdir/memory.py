"""The host's part of a run: what training changes outside of the devices, as JSON values; every checkpoint has it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cbjax.types import Run


def start(num_classes: int) -> dict[str, Any]:
    """Returns the memory of a run before its first step.

    Keys: "step" and "epoch" done; "images" drawn, the position in the data; "sums" over the steps of the running epoch;
    "accuracy" [C], the last known one of each class on held-out validation, averaged over epochs where
    `difficulty.smoothing` is above 0; "best" or None; "history", the rows of every log.
    """
    return {
        "step": 0,
        "epoch": 0,
        "images": 0,
        "sums": no_sums(),
        "accuracy": [0.0] * num_classes,
        "best": None,
        "history": {"metrics": [], "per_class": [], "class_weights": []},
    }


def no_sums() -> dict[str, Any]:
    """Returns the sums of an epoch that no step was taken of."""
    return {"loss": 0.0, "correct": 0, "count": 0}


def record(run: Run, log: str, row: dict[str, Any]) -> Run:
    """Adds a row, headed by step and epoch, to one of the run's logs: "metrics", "per_class" or "class_weights"."""
    row = {"step": run.memory["step"], "epoch": run.memory["epoch"], **row}
    history = {**run.memory["history"], log: [*run.memory["history"][log], row]}
    return dataclasses.replace(run, memory={**run.memory, "history": history})


def without_times(memory: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's memory as it is saved: without what the clock said."""
    history = {log: [timeless(row) for row in rows] for log, rows in memory["history"].items()}
    return {**memory, "history": history}


def at_best(memory: dict[str, Any], smooth: Callable[[list, list], list]) -> dict[str, Any]:
    """Returns the memory that a run had when its best epoch ended, from that of a later one.

    Args:
      memory: of the run.
      smooth: (remembered accuracies, those of an epoch) -> what is remembered, as in the run's epochs.
    """
    best = memory["best"]
    history = {log: [row for row in rows if row["step"] <= best["step"]] for log, rows in memory["history"].items()}
    accuracy = [0.0] * len(memory["accuracy"])
    for row in history["per_class"]:
        if row["split"] == "validation":
            accuracy = smooth(accuracy, row["accuracy"])
    images = memory["images"] // memory["step"] * best["step"]
    past = {"step": best["step"], "epoch": best["epoch"], "images": images, "accuracy": accuracy}
    return {**memory, **past, "sums": no_sums(), "history": history}


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the keys that depend on the clock or the machine."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}
