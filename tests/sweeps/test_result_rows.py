"""Rows of a sweep's runs: made of what a run left, or known from a file."""

import json

import pytest

from cbjax import config as configs
from cbjax.report import rows
from cbjax.sweeps import result_rows
from cbjax.sweeps.file import PlannedRun, folder
from cbjax.variants import Sweep, Table, choices, product, seeds

ROW = dict.fromkeys(rows.FIELDS, "1") | {"method": "CB, beta 0.9", "device": "1 x cpu", "config": "aa"}


HEAD = ",".join(rows.FIELDS).encode()


def line(**fields):
    return HEAD + b"\n" + ",".join(f'"{one}"' for one in (ROW | fields).values()).encode() + b"\n"


def sweep(metric, *settings):
    table = Table("T", ("method",), "cell", metric)
    lists = product(choices("method", dict(settings)), choices("cell", {"1": {}}), seeds(1))
    described = Sweep("digits_lt", lists, table)
    found = [PlannedRun(folder(one.labels), one.labels, configs.load("digits_lt")) for one in lists]
    return described, found


def test_rows_take_the_names_of_the_sweep_that_asks_and_count_only_with_its_metric(tmp_path):
    described, runs = sweep("error", ("CE", {}))
    path, beside = tmp_path / "mine.csv", tmp_path / "other.csv"
    rows.add(beside, [{**ROW, "config": runs[0].identity, "metric": "error", "last": "7"}])
    (tmp_path / "latin.csv").write_bytes(b"\xe9")
    (found,) = result_rows.known(path, "mine", described, runs)
    assert (found["table"], found["method"], found["cell"], found["last"]) == ("mine", "CE", "1", "7")
    rows.add(path, [found])
    again, renamed = sweep("error", ("cross entropy", {}))
    assert result_rows.known(path, "mine", again, renamed)[0]["method"] == "cross entropy"
    assert result_rows.known(path, "mine", *sweep("accuracy", ("CE", {}))) == []
    beside.write_bytes(line(last="abc"))  # figures of runs, which may be this sweep's: to train them again takes long
    with pytest.raises(rows.RowsError, match=r"other.csv, line 2: last must be a finite number.*; got abc; repair"):
        result_rows.known(path, "mine", described, runs)


def test_rows_of_a_sweep_that_changed_are_counted(tmp_path):
    _, runs = sweep("error", ("CE", {}))
    path = tmp_path / "mine.csv"
    named = {**ROW, "table": "mine"}
    rows.add(path, [{**named, "config": runs[0].identity}, {**named, "config": "bb"}, {**ROW, "table": "another"}])
    assert result_rows.strangers(path, "mine", runs) == 1


def test_the_row_of_a_run_is_empty_where_it_lacks_the_metric(tmp_path):
    described, runs = sweep("top5_error", ("CE", {}))
    results = {"last": {"test": {"accuracy": 0.5}}, "seconds": 1.0}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "environment.json").write_text(json.dumps({"devices": "1 x cpu", "commit": None}))
    (row,) = result_rows.rows("mine", described, runs[0], tmp_path)
    assert (row["metric"], row["last"], row["best"]) == ("top5_error", "", "")
    plain = Sweep("digits_lt", seeds(1))
    results["last"]["test"]["balanced_accuracy"] = 0.25
    (tmp_path / "results.json").write_text(json.dumps(results))
    (row,) = result_rows.rows("mine", plain, PlannedRun("seed_0", {"seed": "0"}, runs[0].config), tmp_path)
    assert (row["method"], row["last"], row["best"]) == ("mine", "25.0000", "")
