"""Swings of class weights: what is one, which epochs it names, and what the user is told, once."""

import dataclasses

import numpy as np
import pytest

from cbjax.report import swings
from cbjax.training import callbacks
from cbjax.training.reweight import Reweighting
from tests.training.test_callbacks import run_at


def test_a_swing_is_the_stretch_that_moves_most():
    moved = np.full(100, 0.01)
    moved[40:50] = 0.3
    moved[43:48] = [0.5, 0.7, 0.5, 0.6, 0.7]
    assert swings.largest_swing(np.arange(2, 102), moved) == (45, 49, pytest.approx(0.6))


@pytest.mark.parametrize(
    "moved",
    [
        [],
        [0.9, 0.9, 0.9, 0.9],  # too few epochs to say
        [0.25] * 100,
        [0.0] * 20 + [0.99] + [0.0] * 20,  # deferred weights begin
        [0.03, 0.05] * 50,
    ],
)
def test_steady_weights_and_a_single_jump_are_none(moved):
    assert swings.largest_swing(range(2, len(moved) + 2), moved) is None


def test_what_to_do_depends_on_what_was_tried():
    swing = swings.Swing(3, 7, 0.456)
    assert swings.describe(swing, 0.0, 3).startswith(
        "the class weights swing: from epoch 3 to 7, 46 % of the whole weight"
    )
    assert "set difficulty.smoothing=0.8," in swings.describe(swing, 0.5, 10)
    assert "set difficulty.tau=1 or difficulty.smoothing=0.95," in swings.describe(swing, 0.8, 3)
    for smoothing in (0.95, 0.99):
        assert "set difficulty.tau=1, see" in swings.describe(swing, smoothing, 3)


def test_two_classes_are_only_advised_to_compare_with_what_they_have_not_tried():
    swing = swings.Swing(3, 7, 0.9)
    assert "compare with difficulty.smoothing=0.8," in swings.describe(swing, 0.0, 2)
    assert "compare with difficulty.tau=1 or difficulty.smoothing=0.95," in swings.describe(swing, 0.8, 2)
    assert "compare with difficulty.tau=1, see" in swings.describe(swing, 0.95, 2)


def told(weights, smoothing=0.0):
    """The lines that a run with these class weights [E, C] says, as "epoch: line"."""
    lines, run = [], run_at(0)
    for epoch, one in enumerate(np.asarray(weights, np.float32), start=1):
        state = dataclasses.replace(empty_state(), class_weights=one)
        run = dataclasses.replace(run, state=state, metrics={}).remember(epoch=epoch)
        for callback in (
            callbacks.log_moved,
            callbacks.warn_of_swing(smoothing, lambda line, epoch=epoch: lines.append(f"{epoch}: {line}")),
            callbacks.reweight(Reweighting(2, 0, lambda memory: np.ones(2)), np.asarray),
            callbacks.log(lambda run: None),
        ):
            run = callback(run)
    return lines


def empty_state():
    from cbjax.types import TrainState

    return TrainState(*[None] * 6)


def test_a_run_says_so_once_and_as_soon_as_it_is_seen():
    back_and_forth = [[1, 1], [1.5, 0.5], [0.5, 1.5]] + [[1.5, 0.5], [0.5, 1.5]] * 3 + [[1, 1]] * 10
    (line,) = told([*back_and_forth, *back_and_forth])
    assert line.startswith(
        "6: the class weights swing: from epoch 2 to 6, 45 % of the whole weight changed classes each"
    )
    assert told(np.ones((30, 2))) == []
    assert told([[1, 1], *[[1.9, 0.1]] * 20]) == []
