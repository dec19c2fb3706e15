"""A run's memory (`types.Memory`): the rows it gains, its JSON in a checkpoint, and what it was at the best epoch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.types import Best, Memory, Row, Run, Sums


def start(num_classes: int) -> Memory:
    """Returns the memory of a run before its first step."""
    return Memory(accuracy=(0.0,) * num_classes)


def record(run: Run, log: str, row: Row) -> Run:
    """Adds a row, headed by step and epoch, to one of the run's logs: "metrics", "per_class" or "class_weights"."""
    memory = run.memory
    rows = (*memory.history[log], {"step": memory.step, "epoch": memory.epoch, **row})
    return run.remember(history={**memory.history, log: rows})


def to_json(memory: Memory) -> dict[str, Any]:
    """Returns a memory as JSON values for a checkpoint, without times; in the middle of an epoch, with its seconds."""
    values = {
        **vars(memory),
        "sums": dict(vars(memory.sums)),
        "accuracy": list(memory.accuracy),
        "best": memory.best and dict(vars(memory.best)),
        "history": {log: [timeless(row) for row in rows] for log, rows in memory.history.items()},
    }
    return values if memory.seconds else {key: value for key, value in values.items() if key != "seconds"}


def from_json(saved: Mapping[str, Any]) -> Memory:
    """Returns the memory that `to_json` was given, without its times."""
    fields: dict[str, Any] = {
        "sums": Sums(**saved["sums"]),
        "accuracy": tuple(saved["accuracy"]),
        "best": saved["best"] and Best(**saved["best"]),
        "history": {log: tuple(rows) for log, rows in saved["history"].items()},
    }
    return Memory(**{**saved, **fields})


def numbers(values: Any) -> list[float | None]:
    """Returns an array [C] as JSON values: NaN, for a class without examples, becomes null."""
    return [None if np.isnan(value) else float(value) for value in np.asarray(values)]


def at_best(memory: Memory, smooth: Callable[[Sequence, Sequence], Sequence]) -> Memory:
    """Returns the memory that a run had when its best epoch ended, made from a later memory.

    Args:
      memory: of the run, which has a best epoch.
      smooth: (remembered accuracies, those of an epoch) -> what is remembered, as in the run's epochs.
    """
    best = memory.best
    assert best is not None
    history = {log: tuple(row for row in rows if row["step"] <= best.step) for log, rows in memory.history.items()}
    accuracy = start(len(memory.accuracy)).accuracy
    for row in history["per_class"]:
        if row["split"] == "validation":
            accuracy = tuple(smooth(accuracy, row["accuracy"]))
    images = memory.images // memory.step * best.step
    return Memory(best.step, best.epoch, images, Sums(), accuracy, best, history)


def timeless(row: Row) -> dict[str, Any]:
    """Leaves out the keys that depend on the clock or the machine."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}
