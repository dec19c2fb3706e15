"""Rows survive a kill, files stay standard JSON, and TensorBoard's own reader reads what was written."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cbjax.host import writers

ROWS = [
    {"step": 3, "epoch": 1, "train/loss": 0.1 + 0.2, "validation/balanced_accuracy": 1 / 3},
    {"step": 6, "epoch": 2, "train/loss": 1e-300, "validation/balanced_accuracy": 2 / 3},
]


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    """Reads a directory of event files as TensorBoard does."""
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not standard JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_lines_keep_every_digit_and_append(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for row in ROWS:
        writer = writers.JsonLinesWriter(path)
        writer.write(row)
        writer.close()
        writer.close()
    assert writers.read_rows(path) == ROWS
    assert len(path.read_text().splitlines()) == 2


def test_json_lines_are_written_without_flush(tmp_path):
    writer = writers.JsonLinesWriter(tmp_path / "metrics.jsonl")
    writer.write(ROWS[0])
    assert writers.read_rows(tmp_path / "metrics.jsonl") == ROWS[:1]
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(ROWS[1])


def test_json_lines_are_standard_json(tmp_path):
    row = {
        "step": np.int64(1),
        "a": np.float32(0.1),
        "b": jnp.float32(0.5),
        "c": float("nan"),
        "accuracy": np.array([1.0, np.nan, np.inf]),
        "nested": {"list": [np.float64(-np.inf), 2, True, None, "text"]},
    }
    writers.rewrite(tmp_path / "rows.jsonl", [row])
    assert strict((tmp_path / "rows.jsonl").read_text()) == {
        "step": 1,
        "a": float(np.float32(0.1)),
        "b": 0.5,
        "c": None,
        "accuracy": [1.0, None, None],
        "nested": {"list": [None, 2, True, None, "text"]},
    }


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_cut_last_line_does_not_count(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    writers.rewrite(path, ROWS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert writers.read_rows(path) == ROWS[:1]
    writer = writers.JsonLinesWriter(path)
    writer.write({"step": 9})
    writer.close()
    assert writers.read_rows(path) == [ROWS[0], {"step": 9}]


@pytest.mark.parametrize("line", [b'{"step": 1', b"[1, 2]", b"[]", b"[" * 10**5, b"\xff\xfe", b""])
def test_broken_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: each line must be one JSON object; got "):
        writers.read_rows(path)


def test_a_file_with_more_bytes_than_are_read_is_refused(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"four")
    assert writers.read_regular(path, 4) == writers.read_regular(path) == b"four"
    with pytest.raises(OSError, match="it has 4 bytes; at most 3 can be read"):
        writers.read_regular(path, 3)


def test_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writers.JsonLinesWriter(path).close()
    assert writers.read_rows(path) == []


def test_rewrite_gives_the_writer_s_bytes_and_is_all_or_nothing(tmp_path):
    written, rewritten = tmp_path / "written.jsonl", tmp_path / "rewritten.jsonl"
    writer = writers.JsonLinesWriter(written)
    for row in ROWS:
        writer.write(row)
    writer.close()
    writers.rewrite(rewritten, ROWS)
    assert rewritten.read_bytes() == written.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rewritten.jsonl", "written.jsonl"]

    with pytest.raises(TypeError):
        writers.rewrite(rewritten, [ROWS[0], {"step": object()}])
    assert rewritten.read_bytes() == written.read_bytes()


def test_tensorboard_reads_the_same_scalars(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path)
    for row in ROWS:
        writer.write(row)
    # Read before the writer is closed: nothing may wait in a buffer.
    read = scalars(tmp_path)
    writer.close()
    writer.close()
    assert set(read) == {"epoch", "train/loss", "validation/balanced_accuracy"}
    for key in read:
        assert read[key] == [(row["step"], float(np.float32(row[key]))) for row in ROWS]
    with pytest.raises(ValueError, match="closed"):
        writer.write(ROWS[0])


def test_tensorboard_leaves_out_what_is_no_finite_number(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path)
    writer.write({"step": 1, "a": float("nan"), "b": [1.0, 2.0], "c": "text", "d": None, "e": np.float32(2), "f": True})
    writer.close()
    assert scalars(tmp_path) == {"e": [(1, 2.0)]}


def test_tensorboard_event_files_are_replaced_by_the_history(tmp_path):
    (tmp_path / "kept.txt").write_text("")
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"an older file")
    first = writers.TensorBoardWriter(tmp_path)
    first.write({"step": 99, "train/loss": 1.0})
    first.close()
    second = writers.TensorBoardWriter(tmp_path, ROWS[:1])
    second.write(ROWS[1])
    second.close()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [3, 6]
    assert len(list(tmp_path.glob("events.*"))) == 1
    assert (tmp_path / "kept.txt").exists()


def test_tensorboard_row_needs_a_step(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path)
    with pytest.raises(ValueError, match=r'needs a "step"; got the keys \[\'epoch\'\]'):
        writer.write({"epoch": 1})
    writer.close()


def test_writers_start_no_thread(tmp_path):
    before = threading.enumerate()
    writer = writers.MultiWriter(
        [writers.JsonLinesWriter(tmp_path / "metrics.jsonl"), writers.TensorBoardWriter(tmp_path)]
    )
    writer.write(ROWS[0])
    writer.flush()
    assert threading.enumerate() == before
    writer.close()
    assert writers.read_rows(tmp_path / "metrics.jsonl") == ROWS[:1]
    assert len(scalars(tmp_path)["train/loss"]) == 1


def test_multi_writer_closes_all_where_one_fails(tmp_path):
    class Failing:
        def close(self):
            raise OSError("disk full")

    closed = []

    class Recording:
        def close(self):
            closed.append(self)

    multi = writers.MultiWriter([Recording(), Failing(), Recording()])
    with pytest.raises(OSError, match="disk full"):
        multi.close()
    assert len(closed) == 2


KILLED = """
import os, signal, sys
from cbjax.host import writers
lines = writers.JsonLinesWriter(sys.argv[1] + "/metrics.jsonl")
multi = writers.MultiWriter([lines, writers.TensorBoardWriter(sys.argv[1])])
for step in range(5):
    multi.write({"step": step, "train/loss": step / 7})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_loses_no_row(tmp_path):
    root = pathlib.Path(writers.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in writers.read_rows(tmp_path / "metrics.jsonl")] == list(range(5))
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(5))
