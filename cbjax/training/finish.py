"""The end of a run: evaluates the test split on the last state and on the best."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from cbjax.data import Dataset
from cbjax.host import checked_json
from cbjax.host.output import say
from cbjax.metrics import confusion_matrix
from cbjax.report import class_files
from cbjax.report.read import read_run
from cbjax.training import callbacks
from cbjax.training.build import Parts
from cbjax.training.evaluate import Evaluation
from cbjax.types import Run
from cbjax.workdir.checkpoint import CheckpointError, Checkpoints
from cbjax.workdir.files import write_json
from cbjax.workdir.logs import LOGS, Logs
from cbjax.workdir.memory import numbers, record

CONFUSION_CLASSES = 200  # a larger matrix is too large to read


def finish(
    run: Run, parts: Parts, dataset: Dataset, checkpoints: Checkpoints, logs: Logs | None, workdir: pathlib.Path
) -> Run:
    """Evaluates the test split on the last and on the best state.

    With logs, adds to them and writes `results.json`.

    Returns:
      The run with its final metrics: "validation/last/…", "test/last/…" and, with held-out validation, "…/best/…".

    Raises:
      NonFiniteLoss: if the outputs for test images are not finite; the checkpoints stay.
    """
    checkpoints.finish()
    history = run.memory.history["metrics"]
    states, best = {"last": (run.memory.step, run.state)}, run.memory.best
    if best is not None and best.step == run.memory.step:
        states["best"] = states["last"]
    elif best is not None:
        try:
            states["best"] = (best.step, checkpoints.restore_step(run.state, best.step)[0])
        except CheckpointError as error:
            if logs is not None:
                say(f"{error}; the results have the last state only")
            best = None
    results: dict[str, Any] = {"finished": True, "step": run.memory.step, "epoch": run.memory.epoch, "best": None}
    results |= {"per_class": {}, "confusion": {}, "calibration": {}}
    final: dict[str, float] = {}
    tests: dict[int, Evaluation] = {}  # by step: the last state may be the best
    for name, (step, state) in states.items():
        if step not in tests:
            tests[step] = parts.evaluate("test")(state).check(f"test images at the end, step {step}")
        test = tests[step]
        (row,) = (row for row in history if row["step"] == step)
        validation = {
            key.removeprefix("validation/"): value for key, value in row.items() if key.startswith("validation/")
        }
        results[name] = {"validation": validation, "test": test.metrics}
        results["per_class"][name] = numbers(test.per_class)
        if test.calibration is not None:
            results["calibration"][name] = test.calibration.tolist()
        if not dataset.multi_label and len(dataset.class_names) <= CONFUSION_CLASSES:
            matrix = confusion_matrix(test.outputs, dataset.test.labels, len(dataset.class_names))
            results["confusion"][name] = np.asarray(matrix).tolist()
        final |= callbacks.prefixed(f"validation/{name}", validation) | callbacks.prefixed(f"test/{name}", test.metrics)
        run = record(run, "per_class", {"split": f"test/{name}", "accuracy": results["per_class"][name]})
    if best is not None:
        results["best"] |= {"step": best.step, "epoch": best.epoch}
        final |= {"best/step": best.step, "best/epoch": best.epoch}
    run = record(run, "metrics", {key: value for key, value in final.items() if not key.startswith("validation/")})
    if logs is not None:
        logs.write(run)
        results["seconds"] = logs.train_seconds()
        (workdir / "report.md").unlink(missing_ok=True)  # from an earlier end, or from the unfinished run
        checked_json.vouch(workdir, [f"{name}.jsonl" for name in LOGS])  # from here on a report checks them
        write_json(workdir / "results.json", results)
        class_files.write(read_run(workdir), workdir)
    return dataclasses.replace(run, metrics=final)
