"""What happens after each epoch, in this order: evaluate, reweight, log, checkpoint. Each callback is `run -> run`."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from cbjax.report import swings
from cbjax.training.evaluate import Evaluation
from cbjax.training.reweight import Reweighting, Smooth, dynamic_tau, weights_moved
from cbjax.types import Best, Callback, Run, TrainState
from cbjax.workdir.checkpoint import Checkpoints
from cbjax.workdir.memory import numbers, record, to_json

Evaluate = Callable[[TrainState], Evaluation]


def evaluate_validation(evaluate: Evaluate, smooth: Smooth) -> Callback:
    """Measures the held-out split; remembers each class's accuracy and the first epoch with the best balanced one."""

    def callback(run: Run) -> Run:
        result = evaluate(run.state).check(_when("validation", run))
        measured, balanced = numbers(result.per_class), result.metrics["balanced_accuracy"]
        memory = run.memory
        best = memory.best
        if balanced > (best.balanced_accuracy if best else -np.inf):  # false for NaN: no labelled image could be read
            best = Best(memory.step, memory.epoch, balanced)
        run = run.remember(accuracy=tuple(smooth(memory.accuracy, measured)), best=best)
        run = dataclasses.replace(run, metrics={**run.metrics, **prefixed("validation", result.metrics)})
        return record(run, "per_class", {"split": "validation", "accuracy": measured})

    return callback


def evaluate_test(evaluate: Evaluate, every_epochs: int) -> Callback:
    """Measures the test split every so many epochs, for curves only: nothing reads these figures."""

    def callback(run: Run) -> Run:
        if run.memory.epoch % every_epochs:
            return run
        result = evaluate(run.state).check(_when("test", run))
        return dataclasses.replace(run, metrics={**run.metrics, **prefixed("test", result.metrics)})

    return callback


def reweight(rule: Reweighting, place: Callable[[np.ndarray], jax.Array]) -> Callback:
    """Logs the class weights of the epoch that ended, and sets the class weights of the next.

    Args:
      rule: of the run's class weights.
      place: puts an array on the run's devices.
    """

    def callback(run: Run) -> Run:
        run = record(run, "class_weights", {"class_weights": numbers(run.state.class_weights)})
        return set_weights(run, rule, place)

    return callback


def set_weights(run: Run, rule: Reweighting, place: Callable[[np.ndarray], jax.Array]) -> Run:
    """Gives the run the class weights of its next epoch: `reweight` without the log."""
    state = dataclasses.replace(run.state, class_weights=place(rule.next_weights(run.memory)))
    return dataclasses.replace(run, state=state)


def log_tau(rule: Reweighting, formula: str) -> Callback:
    """Adds the dynamic tau of the epoch's class weights to its metrics, unless the weights were equal.

    Comes before the evaluation, which sets the next tau.
    """
    tau = dynamic_tau(formula, rule.present)

    def callback(run: Run) -> Run:
        if rule.is_equal(run.memory.epoch - 1):
            return run
        return dataclasses.replace(run, metrics={**run.metrics, "difficulty/tau": tau(run.memory)})

    return callback


def log_moved(run: Run) -> Run:
    """Adds to the epoch's metrics how far its class weights moved since the epoch before.

    Comes before `reweight`.
    """
    before = run.memory.history["class_weights"]
    if not before:
        return run
    moved = weights_moved(before[-1]["class_weights"], run.state.class_weights)
    return dataclasses.replace(run, metrics={**run.metrics, "difficulty/weights_moved": moved})


def warn_of_swing(smoothing: float, tell: Callable[[str], None]) -> Callback:
    """Tells the user once that the class weights swing, as soon as it is seen. Comes after `log_moved`."""

    def callback(run: Run) -> Run:
        rows = [*run.memory.history["metrics"][-swings.EPOCHS :], {"epoch": run.memory.epoch, **run.metrics}]
        if not _swing(rows[:-1]) and (swing := _swing(rows[1:])) and not _swing(run.memory.history["metrics"]):
            tell(swings.describe(swing, smoothing, len(run.class_names)))
        return run

    return callback


def log(write: Callable[[Run], None]) -> Callback:
    """Adds the epoch's metrics to the history and writes every row that is not written yet."""

    def callback(run: Run) -> Run:
        run = record(run, "metrics", run.metrics)
        write(run)
        return run

    return callback


def checkpoint(save: Callable[[Run], None], every_epochs: int, num_epochs: int) -> Callback:
    """Saves every `every_epochs` epochs, after each new best epoch and at the end."""

    def callback(run: Run) -> Run:
        epoch, best = run.memory.epoch, run.memory.best
        if epoch % every_epochs == 0 or epoch == num_epochs or (best and best.epoch == epoch):
            save(run)
        return run

    return callback


def save_to(checkpoints: Checkpoints) -> Callable[[Run], None]:
    """Returns run -> None, which saves the run's state and memory. The saved history has no times."""

    def save(run: Run) -> None:
        best = run.memory.best
        checkpoints.save(run.memory.step, run.state, to_json(run.memory), best.step if best else None)

    return save


def prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Returns the values under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _when(split: str, run: Run) -> str:
    return f"{split} images after epoch {run.memory.epoch}, step {run.memory.step}"


def _swing(rows):
    moved = {row["epoch"]: row["difficulty/weights_moved"] for row in rows if "difficulty/weights_moved" in row}
    return swings.largest_swing(list(moved), list(moved.values()))
