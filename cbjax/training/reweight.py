"""The class weights of each epoch: one rule for every method, computed on the host from what the run remembers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cbjax import difficulty, weights
from cbjax.config import ConfigError
from cbjax.training.components import exactly
from cbjax.types import Memory
from cbjax.workdir.memory import numbers

Accuracies = Sequence[float | None]  # of each class; None for one without examples
Present = np.ndarray | EllipsisType  # [C] bool, or ... for all classes
Smooth = Callable[[Accuracies, Accuracies], list[float | None]]


@dataclasses.dataclass(frozen=True)
class Reweighting:
    """The class weights of a run: equal in its first epochs, then as its method says (deferred reweighting, DRW).

    Attributes:
      num_classes: C.
      start_epoch: how many epochs have equal weights.
      method: memory -> weights [C] of the next epoch.
      present: [C] which classes have training images; ... for all.
    """

    num_classes: int
    start_epoch: int
    method: Callable[[Memory], np.ndarray]
    present: Present = ...

    def is_equal(self, epochs: int) -> bool:
        """Says whether the epoch after so many complete ones has equal weights."""
        return epochs < self.start_epoch

    def next_weights(self, memory: Memory) -> np.ndarray:
        """Returns the class weights of the epoch that a run is in, or begins: [C] float32."""
        chosen = weights.uniform(self.num_classes) if self.is_equal(memory.epoch) else self.method(memory)
        return np.asarray(chosen, np.float32)


def build(config: ConfigDict, counts: np.ndarray) -> Reweighting:
    """Returns the rule of a resolved config for a training set with these counts [C].

    Raises:
      ConfigError: if the weights cannot be computed from the counts.
    """
    chosen = config.weights
    start_epoch = math.ceil(exactly(chosen.start) * config.num_epochs)
    if chosen.name == "difficulty":
        options = config.difficulty
        # The first epoch comes before the first measured accuracy.
        present = np.asarray(counts) > 0
        method = from_difficulty(options.tau, options.formula, options.floor, options.scale, present)
        return Reweighting(len(counts), max(1, start_epoch), method, present)
    if chosen.name == "uniform":
        return Reweighting(len(counts), start_epoch, lambda memory: weights.uniform(len(counts)))
    given = {"zero_count": chosen.zero_count}
    if chosen.name == "class_balanced":
        given["beta"] = chosen.beta
    try:
        fixed = weights.WEIGHTS[chosen.name](counts, **given)
    except ValueError as error:
        raise ConfigError(f"weights.name={chosen.name!r}: {error}") from error
    return Reweighting(len(counts), start_epoch, lambda memory: fixed)


def from_difficulty(
    tau: float | str, formula: str, floor: float, scale: bool, present: Present = ...
) -> Callable[[Memory], np.ndarray]:
    """Returns memory -> the CDB weights [C] of its accuracies; arguments as `difficulty.difficulty_weights`.

    A class that is not `present` has the weight 0 and no part in tau: nothing teaches it, so it is always wrong, and
    would take nearly all of the weight.
    """
    compiled = _difficulty_program(tau, formula, floor, scale)

    def of_memory(memory: Memory) -> np.ndarray:
        accuracy = _as_array(memory.accuracy)
        chosen = np.zeros_like(accuracy)
        chosen[present] = compiled(accuracy[present])
        return chosen

    return of_memory


def dynamic_tau(formula: str, present: Present = ...) -> Callable[[Memory], float]:
    """Returns memory -> `difficulty.dynamic_tau` of the accuracies of the classes that are present."""
    compiled = _tau_program(formula)
    return lambda memory: float(compiled(_as_array(memory.accuracy)[present]))


def smoothing(keep: float) -> Smooth:
    """Returns (remembered accuracies, those of this epoch) -> what is remembered: `difficulty.smooth_accuracy`."""
    return lambda previous, measured: numbers(
        _smooth_accuracy(_as_array(previous), _as_array(measured), np.float32(keep))
    )


def weights_moved(before: Any, after: Any) -> float:
    """Returns how far class weights [C] moved: `difficulty.weights_moved`."""
    return float(_weights_moved(_as_array(before), _as_array(after)))


def _on_host(function: Callable[..., jax.Array]) -> Callable[..., np.ndarray]:
    """Compiles a function of a few numbers for the CPU: sending them to an accelerator and back takes longer."""
    compiled = jax.jit(function)

    def call(*args):
        with jax.default_device(_cpu()):
            return np.asarray(compiled(*args))

    return call


@functools.cache
def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
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


def _as_array(values):
    return np.asarray(values, np.float32)  # None becomes NaN
