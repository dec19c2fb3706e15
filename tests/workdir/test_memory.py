"""What a run remembers, and its JSON form in checkpoints."""

import dataclasses
import json

import pytest

from cbjax.types import Best, Memory, Sums
from cbjax.workdir import memory

# As in a checkpoint of the first release.
SAVED = """{"step": 7, "epoch": 2, "images": 28, "sums": {"loss": 1.5, "correct": 3, "count": 4},
"accuracy": [0.5, null], "best": {"step": 3, "epoch": 1, "balanced_accuracy": 0.75},
"history": {"metrics": [{"step": 3, "epoch": 1, "train/loss": 0.25}], "per_class": [], "class_weights": []}}"""


def test_saved_json_is_read_and_written_as_it_was():
    saved = json.loads(SAVED)
    found = memory.from_json(saved)
    assert found.sums == Sums(1.5, 3, 4) and found.accuracy == (0.5, None) and found.best == Best(3, 1, 0.75)
    assert json.dumps(memory.to_json(found)) == json.dumps(saved)  # in the same order, too


def test_a_new_memory_comes_back_and_the_clock_s_figures_stay_out():
    new = memory.start(2)
    assert new == Memory(accuracy=(0.0, 0.0)) and memory.from_json(memory.to_json(new)) == new
    timed = dataclasses.replace(new, history={**new.history, "metrics": ({"step": 1, "time/seconds": 2.0},)})
    assert memory.to_json(timed)["history"]["metrics"] == [{"step": 1}]
    with pytest.raises(dataclasses.FrozenInstanceError):
        new.step = 1


def test_the_memory_at_the_best_epoch_is_made_from_a_later_one():
    rows = tuple({"step": 3 * e, "epoch": e, "split": "validation", "accuracy": [e / 4, 0.0]} for e in (1, 2, 3))
    history = {"metrics": (), "per_class": rows, "class_weights": ()}
    later = Memory(9, 3, 36, Sums(), (0.75, 0.0), Best(6, 2, 0.25), history)
    found = memory.at_best(later, lambda remembered, measured: measured)
    assert found == Memory(6, 2, 24, Sums(), (0.5, 0.0), Best(6, 2, 0.25), {**history, "per_class": rows[:2]})
