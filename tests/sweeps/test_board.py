import io
import time

import pytest
from rich.console import Console
from rich.live import Live

from cbjax.sweeps.board import Board, LiveBoard, board


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def row(loss, balanced=None):
    held_out = {} if balanced is None else {"validation/balanced_accuracy": balanced}
    return {"train/loss": loss, **held_out}


def test_a_sweep_has_a_line_an_epoch_of_the_runs_side_by_side(clock):
    told = []
    with board(4, 0, 0, told.append) as shown:
        shown.begin(["a", "b"], 2)
        for epoch in (1, 2):
            clock[0] += 10
            shown.update(epoch, epoch, 1.0, 1.0)
            shown.end_epoch(epoch, [row(1.0, 0.25), row(2.0, 0.5)])
    assert told == [
        "1 of 4, a and 1 more:",
        "epoch 1 of 2  loss 1.5000  validation balanced accuracy 25.0 to 50.0 %",
        "epoch 2 of 2  loss 1.5000  validation balanced accuracy 25.0 to 50.0 %  all runs: 0:01:00 left",
    ]
    told.clear()
    with board(3, 0, 1, told.append) as shown:
        shown.begin(["a", "b"], 1)
        shown.update(1, 1, 1.0, 1.0)
        shown.end_epoch(1, [row(1.0), row(2.0)])
    assert told[1] == "epoch 1 of 1  loss 1.5000"


def test_the_time_left_counts_epochs_from_where_runs_go_on(clock):
    shown = Board(10, 1, 0, lambda line: None)
    shown.begin(["a", "b", "c"], 20)
    assert shown.seconds_left() is None
    shown.update(500, 11, 0.1, 1.0)  # resumed
    assert shown.seconds_left() is None
    clock[0] += 30.0
    shown.update(800, 16, 0.1, 1.0)  # 3 runs x 5 of 20 epochs in 30 s; left 9 runs less 3 x 15 of 20 epochs
    assert shown.seconds_left() == pytest.approx(30.0 / 0.75 * (9 - 2.25))
    clock[0] += 30.0
    for name in "abc":
        shown.end(name, None)
    assert shown.seconds_left() == pytest.approx(60.0 / 1.5 * 6)
    shown.begin(["d"], 20)
    clock[0] += 20.0
    shown.update(100, 3, 0.1, 1.0)  # of its first epoch here it is not known how much
    assert shown.seconds_left() == pytest.approx(80.0 / 1.5 * (6 - 0.1))


@pytest.mark.parametrize("noun", ["image", "clip"])
def test_a_terminal_shows_the_epoch_and_what_is_trained_on(noun):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console=screen) as live:
        shown = LiveBoard(3, 1, 0, live)
        shown.begin(["a"], 5, noun)
        shown.update(10, 2, 0.5, 1234.0)
    assert f"epoch 2  loss 0.5000  1,234 {noun}s/s" in screen.file.getvalue()
