"""What happens after each epoch, in this order: evaluate, reweight, log, checkpoint. Each callback is `run -> run`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cbjax import difficulty
from cbjax.report import swings
from cbjax.training.evaluate import Evaluation
from cbjax.types import Best, Callback, Run, TrainState
from cbjax.workdir.checkpoint import Checkpoints
from cbjax.workdir.memory import record, to_json

Evaluate = Callable[[TrainState], Evaluation]
Numbers = Sequence[float | None]  # of each class, as JSON: None for NaN
Smooth = Callable[[Numbers, Numbers], Numbers]  # (remembered accuracies, those of this epoch) -> what is remembered


def evaluate_validation(evaluate: Evaluate, smooth: Smooth) -> Callback:
    """Measures the held-out split; remembers each class's accuracy and the earliest epoch of the best balanced one."""

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


def reweight(
    weights: Callable[[Run], np.ndarray], start_epoch: int, place: Callable[[np.ndarray], jax.Array]
) -> Callback:
    """Sets the class weights of the next epoch, and logs those of the one that ended.

    Args:
      weights: run -> [C], the weights from `start_epoch` on; before that they are equal (deferred reweighting, DRW).
      start_epoch: epochs to train with equal weights, at least 0.
      place: puts an array on the run's devices.
    """

    def callback(run: Run) -> Run:
        run = record(run, "class_weights", {"class_weights": numbers(run.state.class_weights)})
        return set_weights(run, weights, start_epoch, place)

    return callback


def set_weights(
    run: Run, weights: Callable[[Run], np.ndarray], start_epoch: int, place: Callable[[np.ndarray], jax.Array]
) -> Run:
    """Gives the run the class weights of its next epoch: `reweight` without the log."""
    values = weights(run) if run.memory.epoch >= start_epoch else np.ones(run.state.class_weights.shape)
    state = dataclasses.replace(run.state, class_weights=place(np.asarray(values, np.float32)))
    return dataclasses.replace(run, state=state)


def smoothing(keep: float) -> Smooth:
    """Returns (remembered accuracies, those of this epoch) -> what is remembered: `difficulty.smooth_accuracy`."""

    def smooth(previous: Numbers, measured: Numbers) -> Numbers:
        return numbers(_smooth_accuracy(_as_array(previous), _as_array(measured), np.float32(keep)))

    return smooth


def from_difficulty(tau: float | str, formula: str, floor: float, scale: bool) -> Callable[[Run], np.ndarray]:
    """Returns run -> the CDB weights [C] of its last known accuracies on held-out validation."""

    compiled = _difficulty_program(tau, formula, floor, scale)
    return lambda run: compiled(_accuracy(run))


def log_tau(formula: str, start_epoch: int) -> Callback:
    """Adds the dynamic tau of the epoch's class weights to its metrics; comes before the evaluation that sets the next.

    Epochs of equal weights, the first one and those before `start_epoch`, have no tau.
    """

    compiled = _tau_program(formula)

    def callback(run: Run) -> Run:
        if run.memory.epoch - 1 < max(1, start_epoch):
            return run
        return dataclasses.replace(run, metrics={**run.metrics, "difficulty/tau": float(compiled(_accuracy(run)))})

    return callback


def log_moved(run: Run) -> Run:
    """Adds to the epoch's metrics how far its class weights moved from those of the epoch before; comes before
    `reweight`."""
    before = run.memory.history["class_weights"]
    if not before:
        return run
    moved = float(_weights_moved(_as_array(before[-1]["class_weights"]), _as_array(run.state.class_weights)))
    return dataclasses.replace(run, metrics={**run.metrics, "difficulty/weights_moved": moved})


def warn_of_swing(smoothing: float, tell: Callable[[str], None]) -> Callback:
    """Tells the user at the first epoch at which the class weights are seen to swing; comes after `log_moved`."""

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
    """Saves every so many epochs, at each new best one and at the end."""

    def callback(run: Run) -> Run:
        epoch, best = run.memory.epoch, run.memory.best
        if epoch % every_epochs == 0 or epoch == num_epochs or (best and best.epoch == epoch):
            save(run)
        return run

    return callback


def save_to(checkpoints: Checkpoints) -> Callable[[Run], None]:
    """Returns run -> None, which saves its state and memory; what the clock says is left out of the history."""

    def save(run: Run) -> None:
        best = run.memory.best
        checkpoints.save(run.memory.step, run.state, to_json(run.memory), best.step if best else None)

    return save


def prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Returns the values under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in values.items()}


def numbers(values: Any) -> Numbers:
    """Returns an array as JSON values: NaN, for a class without examples, becomes null."""
    return [None if np.isnan(value) else float(value) for value in np.asarray(values)]


def _when(split: str, run: Run) -> str:
    return f"{split} images after epoch {run.memory.epoch}, step {run.memory.step}"


def _on_host(function: Callable[..., jax.Array]) -> Callable[..., np.ndarray]:
    """Compiles a function of a few numbers for the CPU: they are not worth the way to an accelerator and back."""
    compiled = jax.jit(function)

    def call(*args):
        with jax.default_device(_cpu()):
            return np.asarray(compiled(*args))

    return call


@functools.cache
def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None


_smooth_accuracy = _on_host(difficulty.smooth_accuracy)
_weights_moved = _on_host(difficulty.weights_moved)


@functools.cache
def _difficulty_program(tau, formula, floor, scale):  # one for all runs of a sweep
    return _on_host(
        functools.partial(difficulty.difficulty_weights, tau=tau, formula=formula, floor=floor, scale=scale)
    )


@functools.cache
def _tau_program(formula):
    return _on_host(functools.partial(difficulty.dynamic_tau, formula=formula))


def _accuracy(run):
    return _as_array(run.memory.accuracy)


def _swing(rows):
    moved = {row["epoch"]: row["difficulty/weights_moved"] for row in rows if "difficulty/weights_moved" in row}
    return swings.largest_swing(list(moved), list(moved.values()))


def _as_array(values):
    return np.asarray(values, np.float32)  # None becomes NaN
