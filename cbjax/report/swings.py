"""Class weights that swing: what counts as a swing, and what the user of such a run is told."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# In 5 epochs in a row more than a quarter of the whole weight changes classes each epoch: docs/cdb_swings.md has the
# runs by which this was chosen. A single jump, such as that from equal weights to others, never comes to that.
EPOCHS = 5
LIMIT = 0.25


class Swing(NamedTuple):
    """The stretch of epochs in which class weights moved most: its ends, and the mean of `difficulty.weights_moved`."""

    first: int
    last: int
    moved: float


def largest_swing(epochs: Sequence[int] | np.ndarray, moved: Sequence[float] | np.ndarray) -> Swing | None:
    """Finds the stretch of `EPOCHS` epochs in which class weights moved most.

    Args:
      epochs: [E] numbers of the epochs, increasing.
      moved: [E] how far the weights of each moved from those of the epoch before, as `difficulty.weights_moved`.

    Returns:
      The stretch; None where its mean is at most `LIMIT`, so that the weights do not swing.
    """
    if len(moved) < EPOCHS:
        return None
    means = np.lib.stride_tricks.sliding_window_view(np.asarray(moved, np.float64), EPOCHS).mean(axis=1)
    at = int(np.argmax(means))
    return Swing(int(epochs[at]), int(epochs[at + EPOCHS - 1]), float(means[at])) if means[at] > LIMIT else None


def describe(swing: Swing, smoothing: float, num_classes: int) -> str:
    """Says that class weights swing and what to do, for a run with this `difficulty.smoothing` and so many classes."""
    if smoothing >= 0.8:
        remedy = "set difficulty.tau=1, or difficulty.smoothing=0.95"
    elif num_classes == 2:
        remedy = "two classes may do well even so: compare with difficulty.smoothing=0.8"
    else:
        remedy = "set difficulty.smoothing=0.8"
    return (
        f"the class weights swing: from epoch {swing.first} to {swing.last}, {100 * swing.moved:.0f} % of the whole "
        f"weight changed classes each epoch, so that what a class learns in one epoch it may forget in the next; "
        f"{remedy}, see docs/cdb_swings.md"
    )
