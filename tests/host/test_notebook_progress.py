"""Progress in a notebook: a bar that changes in place, by messages to the browser, and a line that stays."""

import sys
import types

import pytest

from cbjax.host import notebook, progress
from cbjax.host.counting import counted
from cbjax.sweeps.board import board


@pytest.fixture
def messages(monkeypatch):
    """What a browser is told: (place, text), where the place is None for a new one."""
    told = []

    class Handle:
        def update(self, content, raw):
            told.append(("again", content["text/plain"]))

    def display(content, raw, display_id):
        assert raw and display_id and "<" in content["text/html"]
        told.append(("new", content["text/plain"]))
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    ipython = types.ModuleType("IPython.display")
    ipython.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(notebook, "BETWEEN_UPDATES", 0.0)
    return told


def test_training_shows_a_bar_below_the_cell_and_leaves_a_line(messages, capsys):
    with progress.shown(10, 0, 5, "auto", pytest.fail) as shown:
        shown.update(2, 1, 1.5, 1234.0)
        shown.update(4, 2, 0.5, 1234.0)
        shown.end_epoch(2, [])
    assert messages[0] == ("new", "2 of 10  epoch 1  loss 1.5000  1,234 images/s")
    assert messages[1][1].startswith("4 of 10  epoch 2  loss 0.5000  1,234 images/s  0:00:0")
    assert messages[2] == ("again", "step 4 of 10 after 0:00:00")
    assert capsys.readouterr() == ("", "")


def test_a_finished_run_shows_no_bar(messages):
    with progress.shown(10, 10, 5, "auto", pytest.fail):
        pass
    assert not messages


def test_counted_work_shows_a_bar_and_a_sweep_shows_lines(messages):
    with counted(8, 0, "points", "auto", pytest.fail) as update:
        update(2)
        update(8)
    assert [text for _, text in messages] == [
        "2 of 8  points  0:00:00 left",
        "8 of 8  points  0:00:00 left",
        "8 of 8 points after 0:00:00",
    ]
    told = []
    with board(2, 1, 0, told.append):
        pass
    assert told == ["1 of 2 runs: finished before"]
