"""Finds class weights that swing from epoch to epoch, and tells the user what to do about it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Weights swing if in 5 epochs in a row, on average more than a quarter of the whole weight changes classes. The runs
# behind this choice are in docs/cdb_swings.md. A single jump, such as the end of equal weights, stays below it.
EPOCHS = 5
LIMIT = 0.25


class Swing(NamedTuple):
    """The epochs in which class weights moved most: first, last, and the mean of `difficulty.weights_moved`."""

    first: int
    last: int
    moved: float


def largest_swing(epochs: Sequence[int] | np.ndarray, moved: Sequence[float] | np.ndarray) -> Swing | None:
    """Finds the stretch of `EPOCHS` epochs in which class weights moved most.

    Args:
      epochs: [E] numbers of the epochs, increasing.
      moved: [E] how far weights moved since the epoch before, from `difficulty.weights_moved`.

    Returns:
      The stretch; None if its mean is at most `LIMIT`: then the weights do not swing.
    """
    if len(moved) < EPOCHS:
        return None
    means = np.lib.stride_tricks.sliding_window_view(np.asarray(moved, np.float64), EPOCHS).mean(axis=1)
    at = int(np.argmax(means))
    return Swing(int(epochs[at]), int(epochs[at + EPOCHS - 1]), float(means[at])) if means[at] > LIMIT else None


def describe(swing: Swing, smoothing: float, num_classes: int) -> str:
    """Returns a line: class weights swing, and what to do, given the run's `difficulty.smoothing` and classes."""
    if smoothing >= 0.95:
        settings = "difficulty.tau=1"
    elif smoothing >= 0.8:
        settings = "difficulty.tau=1 or difficulty.smoothing=0.95"
    else:
        settings = "difficulty.smoothing=0.8"
    remedy = f"two classes may do well even so: compare with {settings}" if num_classes == 2 else f"set {settings}"
    return (
        f"the class weights swing: from epoch {swing.first} to {swing.last}, {100 * swing.moved:.0f} % of the whole "
        f"weight changed classes each epoch, so the network may forget in one epoch what it learned in the last; "
        f"{remedy}, see docs/cdb_swings.md"
    )
