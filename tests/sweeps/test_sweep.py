"""Sweeps as a user meets them: three ways to train the same runs, what a kill leaves, failures, shards and rows."""

import dataclasses
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

import cbjax
from cbjax.config import ConfigError
from cbjax.data import DataError, sources
from cbjax.host.writers import read_rows
from cbjax.report import rows
from cbjax.sweeps import cohort, file, modes, plan
from cbjax.sweeps.modes import Choice
from cbjax.sweeps.sweep import sweep
from cbjax.variants import Sweep, choices, product, seeds
from cbjax.workdir import files as workdirs
from cbjax.workdir.files import WorkdirError
from tests import processes

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits_lt.py"
METHODS = {
    "ce": {},
    "cdb": {
        "weights.name": "difficulty",
        "difficulty.smoothing": 0.5,
        "optim.learning_rate": 0.05,
        "evaluation.test_every": 2,
    },
}
REPORT = "log.report=true"
QUICK = ["model.name=linear", "data.test=20", "log.tensorboard=false", "log.report=false", "devices=1", "num_epochs=2"]
TEXT = f"""
from cbjax.types import Run
from cbjax.variants import Sweep, choices, product, seeds

def get_sweep():
    return Sweep("digits_lt", product(choices("method", {METHODS}), seeds(2)))
"""


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


def train(path, workdir, *overrides, **options):
    described, runs = file.load(path, [*QUICK, *overrides])
    return sweep("mine", described, runs, workdir, **options)


def logs(workdir, log="metrics"):
    """Returns run -> its rows without what the clock said."""
    found = {}
    for path in sorted(workdir.rglob(f"{log}.jsonl")):
        found[str(path.parent.relative_to(workdir))] = [
            {key: value for key, value in row.items() if not key.startswith("time/")} for row in read_rows(path)
        ]
    return found


def assert_equal(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys() and len(ours) > 0
    for name, run in ours.items():
        assert [row.keys() for row in run] == [row.keys() for row in theirs[name]]
        for row, other in zip(run, theirs[name], strict=True):
            for key, value in row.items():
                np.testing.assert_allclose(value, other[key], rtol=tolerance, atol=tolerance, err_msg=f"{name} {key}")


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("loop")
    path = workdir / "mine.py"
    path.write_text(TEXT)
    _, failed = train(path, workdir / "runs", mode="loop")
    assert failed == {}
    return workdir / "runs"


@pytest.mark.parametrize(
    ("mode", "overrides"),
    [
        ("vmap", ()),
        pytest.param("vmap", ("steps_per_dispatch=1",), marks=pytest.mark.slow),
        pytest.param("devices", (), marks=pytest.mark.slow),
    ],
)
def test_a_cohort_gives_each_run_what_it_gets_alone(described, loop, tmp_path, mode, overrides):
    _, failed = train(described, tmp_path / "runs", *overrides, mode=mode, group_size=4)
    assert failed == {} and json.loads((tmp_path / "runs" / "plan.json").read_text())["mode"] == mode
    assert_equal(logs(tmp_path / "runs"), logs(loop))
    # Each run has the work directory that it has alone: its files, the last and the best checkpoint, and it loads.
    files = [{path.name for path in (place / "cdb" / "seed_1").iterdir()} for place in (tmp_path / "runs", loop)]
    assert files[0] == files[1]
    for checkpoint in ("last", "best"):
        ours = cbjax.load(tmp_path / "runs" / "cdb" / "seed_1", checkpoint=checkpoint)
        theirs = cbjax.load(loop / "cdb" / "seed_1", checkpoint=checkpoint)
        for a, b in zip(jax.tree.leaves(ours.state.params), jax.tree.leaves(theirs.state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.state.class_weights, theirs.state.class_weights, rtol=1e-5)
        assert ours.memory.accuracy == pytest.approx(theirs.memory.accuracy, rel=1e-5)
    assert not (tmp_path / "runs" / "groups").exists() or not any((tmp_path / "runs" / "groups").iterdir())


def test_runs_with_and_without_adjusted_answers_get_the_figures_that_they_have_alone(tmp_path):
    path = tmp_path / "mine.py"
    methods = {"plain": {}, "adjusted": {"evaluation.tau": 1.0}, "twice": {"evaluation.tau": 2.0}}
    path.write_text(
        "from cbjax.variants import *\n"
        f"def get_sweep():\n    return Sweep('digits_lt', product(choices('method', {methods}), seeds(2)))\n"
    )
    for mode, group_size in (("loop", None), ("vmap", 6)):
        _, failed = train(path, tmp_path / mode, "num_epochs=1", mode=mode, group_size=group_size)
        assert failed == {}
    plan_path = tmp_path / "vmap" / "plan.json"
    cohorts = json.loads(plan_path.read_text())["groups"]
    assert [{name.split("/")[0] for name in names} for names in cohorts] == [{"plain"}, {"adjusted", "twice"}]
    found = [
        {row["config"]: float(row["last"]) for row in rows.read(tmp_path / mode / "results.csv")}
        for mode in ("loop", "vmap")
    ]
    assert len(found[0]) == 6 and found[1] == pytest.approx(found[0], abs=1e-3)


def test_runs_that_hold_out_other_numbers_of_meta_images_are_trained_in_groups_of_their_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', product(values('meta', 'data.meta', (5, 10)), seeds(2)))\n"
    )
    counts = ",".join(["20"] * 10)
    settings = ("meta.name=l2rw", "data.longtail=counts", f"data.counts={counts}", "data.imbalance=1", "num_epochs=1")
    told = []
    _, failed = train(path, tmp_path / "runs", *settings, mode="vmap", group_size=4, tell=told.append)
    assert failed == {} and not any("failed" in line for line in told)
    cohorts = json.loads((tmp_path / "runs" / "plan.json").read_text())["groups"]
    assert cohorts == [["5/seed_0", "5/seed_1"], ["10/seed_0", "10/seed_1"]]


def test_a_group_of_a_plan_whose_runs_do_not_share_a_program_is_cut(described, tmp_path):
    """A plan of another version may have such groups; their checkpoints are not gone on from."""
    described.write_text(TEXT.replace("'difficulty.smoothing': 0.5", "'evaluation.tau': 1.0"))
    _, runs = file.load(described, QUICK)
    cohort, path = [run.name for run in runs], tmp_path / "plan.json"
    known = {"asked": {"mode": "vmap", "group_size": 4}, "mode": "vmap", "group_size": 4, "measured": []}
    workdirs.write_json(path, {**known, "groups": [cohort]})
    (tmp_path / plan.folder(cohort) / "checksums").mkdir(parents=True)
    (tmp_path / plan.folder(cohort) / "checksums" / "3.json").touch()
    found = plan.plan(path, runs, runs[1:], "vmap", 4, {}, sources.load, lambda line: None)
    assert found["groups"] == [["ce/seed_1"], ["cdb/seed_0", "cdb/seed_1"]]


def test_runs_that_take_no_step_join_no_group_of_a_plan(described, tmp_path):
    """Trained in a cohort, tau-normalisation would be some epochs of SGD under its name."""
    _, runs = file.load(described, QUICK)
    first, stage = runs[:2], ["stage.name=tau", "stage.source=first", "data.validation=20"]
    taus = [
        dataclasses.replace(run, name=f"tau/{run.name}", config=cbjax.config.change(run.config, stage)) for run in first
    ]
    path, runs = tmp_path / "plan.json", [*first, *taus]
    known = {"asked": {"mode": "vmap", "group_size": 2}, "mode": "vmap", "group_size": 2, "measured": []}
    pair, names = [run.name for run in first], [run.name for run in taus]
    for groups in ([pair], [pair, names]):  # a plan without them, and one of another version
        workdirs.write_json(path, {**known, "groups": groups})
        found = plan.plan(path, runs, runs, "vmap", 2, {}, sources.load, lambda line: None)
        assert found["groups"] == [pair, [names[0]], [names[1]]]


def test_rows_say_what_came_out_and_stand_for_runs_that_are_gone(described, loop, tmp_path):
    kept = rows.read(loop / "results.csv")
    assert [(row["method"], row["seed"]) for row in kept] == [("ce", "0"), ("ce", "1"), ("cdb", "0"), ("cdb", "1")]
    for row in kept:
        results = json.loads((loop / row["method"] / f"seed_{row['seed']}" / "results.json").read_text())
        for checkpoint in ("last", "best"):
            share = results[checkpoint]["test"]["balanced_accuracy"]
            assert float(row[checkpoint]) == pytest.approx(100 * share, abs=1e-4)
    path = tmp_path / "kept.csv"
    rows.add(path, kept[1:])
    told = []
    train(described, tmp_path / "runs", mode="loop", results=path, tell=told.append)
    assert [line for line in told if line.startswith("training in")] == [told[2]] and "ce/seed_0" in told[2]
    assert {row["config"] for row in rows.read(path)} == {row["config"] for row in kept}
    # Another table beside it that shares a run lends its row.
    other, borrowed = tmp_path / "other.py", tmp_path / "other.csv"
    other.write_text(described.read_text().replace("'ce'", "'plain'"))
    (tmp_path / "notes.csv").write_text("of,something,else\n")
    told.clear()
    train(other, tmp_path / "other", mode="loop", results=borrowed, tell=told.append)
    assert not any(line.startswith("training in") for line in told)
    assert [(row["method"], row["last"]) for row in rows.read(borrowed)] == [
        (row["method"].replace("ce", "plain"), row["last"]) for row in kept
    ]
    told.clear()
    train(described, tmp_path / "changed", "num_epochs=1", mode="loop", part=(1, 4), results=path, tell=told.append)
    assert told[0] == f"{path} has 4 rows of mine whose settings fit none of its runs"
    # A kill may come between a run's results and its row: the next call adds it.
    train(described, tmp_path / "runs", mode="loop", part=(1, 4))
    assert [row["config"] for row in rows.read(tmp_path / "runs" / "results_1_of_4.csv")] == [kept[0]["config"]]


def test_a_run_that_diverges_leaves_its_cohort_alone(loop, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', choices('method', {'bad': {'optim.learning_rate': 1e25}, 'ce': {}}))\n"
    )
    _, failed = train(path, tmp_path / "runs", mode="vmap", group_size=2)
    assert list(failed) == ["bad"] and "learning rate 1e+25" in failed["bad"]
    assert_equal({"seed_0": logs(tmp_path / "runs")["ce"]}, {"seed_0": logs(loop)["ce/seed_0"]})
    note = json.loads((tmp_path / "runs" / "bad" / "failed.json").read_text())
    assert note["diverged"] and note["error"] == failed["bad"]
    told = []
    _, again = train(path, tmp_path / "runs", tell=told.append)
    assert again == failed and not any("training in" in line for line in told)
    assert any("run bad failed before: " in line and "to try it again, remove" in line for line in told)


def test_data_that_the_last_run_lacks_are_told_before_the_first_is_trained(tmp_path):
    path, told = tmp_path / "mine.py", []
    path.write_text(
        "from cbjax.variants import Sweep, values\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', values('held out', 'data.validation', (5, 500)))\n"
    )
    with pytest.raises(DataError, match=r"(?s)run 500: .*validation"):
        train(path, tmp_path / "runs", mode="loop", tell=told.append)
    assert told == [] and not (tmp_path / "runs").exists()
    _, failed = train(path, tmp_path / "runs", mode="loop", part=(1, 2), tell=told.append)  # the part that has its data
    assert failed == {} and (tmp_path / "runs" / "5" / "results.json").exists()


def test_a_metric_that_the_data_do_not_have_is_told_before_the_first_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    runs = product(values('a', 'data.classes', [('1', '2', '3')], 'x'), choices('b', {'y': {}}), seeds(1))\n"
        "    return Sweep('digits_lt', runs, Table('T', ('a',), 'b', 'top5_error'))\n"
    )
    with pytest.raises(DataError, match=r"run x/y/seed_0: .* top5_error needs more than 5 classes; got 3"):
        train(path, tmp_path / "runs", mode="loop")


def test_a_table_of_images_with_several_labels_wants_the_metric_that_they_have(tmp_path):
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 255, (80, 8, 8), np.uint8), chance.integers(0, 2, (80, 3))
    splits = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "a.npz", **splits)
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    runs = product(values('a', 'loss.name', ('sigmoid',)), choices('b', {'y': {}}), seeds(1))\n"
        "    return Sweep('digits_lt', runs, Table('T', ('a',), 'b'))\n"
    )
    settings = (
        *("data.name=arrays", f"data.file={tmp_path / 'a.npz'}", "data.longtail=natural", "data.imbalance=1"),
        *("data.validation=0", "data.test=0", "batch_size=10"),
    )
    with pytest.raises(DataError, match=r"run sigmoid/y/seed_0: .* must be balanced_accuracy .*; got accuracy"):
        train(path, tmp_path / "runs", *settings, mode="loop")


def test_a_run_that_has_no_figure_for_the_table_leaves_its_cell_empty_and_stops_no_other(tmp_path):
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 255, (60, 8, 8), np.uint8), np.arange(60) % 3
    for name, of_test in (("one_class", 0 * labels), ("every", labels)):
        splits = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": of_test}
        np.savez(tmp_path / f"{name}.npz", **splits)
    path = tmp_path / "mine.py"
    files = {name: {"data.file": str(tmp_path / f"{name}.npz")} for name in ("one_class", "every")}
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        f"    runs = product(choices('a', {files}), choices('b', {{'y': {{}}}}), seeds(1))\n"
        "    return Sweep('digits_lt', runs, Table('T', ('a',), 'b', 'matthews'))\n"
    )
    settings = (
        *("data.name=arrays", "data.longtail=natural", "data.imbalance=1", "data.validation=0", "data.test=0"),
        *("batch_size=10", "num_epochs=1", REPORT),
    )
    told = []
    report, failed = train(path, tmp_path / "runs", *settings, mode="loop", tell=told.append)
    assert failed == {} and [line for line in told if "no matthews" in line] == [
        "one_class/y/seed_0 has no matthews on its test images: its cell stays empty"
    ]
    found = {row["method"]: row["last"] for row in rows.read(tmp_path / "runs" / "results.csv")}
    assert found["one_class"] == "" and -100 <= float(found["every"]) <= 100 and report.exists()
    (tmp_path / "runs" / "results.csv").unlink()
    assert train(path, tmp_path / "runs", *settings, mode="loop") == (report, {})
    assert {row["method"]: row["last"] for row in rows.read(tmp_path / "runs" / "results.csv")} == found


def test_another_failure_does_not_stop_the_others_and_is_tried_again(described, tmp_path, monkeypatch):
    real = cbjax.training.run.data.of_config

    def of_config(config, load):
        if config.seed == 0:
            raise OSError(5, "Input/output error", "disk")
        return real(config, load)

    with monkeypatch.context() as patch:
        patch.setattr(cbjax.training.run.data, "of_config", of_config)
        _, failed = train(described, tmp_path / "runs", "num_epochs=1", mode="loop")
    assert sorted(failed) == ["cdb/seed_0", "ce/seed_0"] and "Input/output error" in failed["ce/seed_0"]
    assert len(rows.read(tmp_path / "runs" / "results.csv")) == 2
    (tmp_path / "runs" / "ce" / "seed_0" / "failed.json").write_text("")  # cut: tried again too
    (tmp_path / "runs" / "ce" / "seed_1" / "failed.json").write_text('{"error": "of an earlier try"}')
    (tmp_path / "runs" / "sweep.json").write_text("")
    _, failed = train(described, tmp_path / "runs", "num_epochs=1")
    assert failed == {} and len(rows.read(tmp_path / "runs" / "results.csv")) == 4
    assert not any((tmp_path / "runs").rglob("failed.json"))


def test_a_cohort_that_fails_as_one_is_trained_run_by_run(described, tmp_path, monkeypatch):
    told = []
    with workdirs.lock(tmp_path / "runs" / "ce" / "seed_1"):
        _, failed = train(described, tmp_path / "runs", "num_epochs=1", mode="vmap", group_size=4, tell=told.append)
    assert list(failed) == ["ce/seed_1"] and "another process is training here" in failed["ce/seed_1"]
    assert any("4 runs as one program failed, so each is trained alone" in line for line in told)
    assert not (tmp_path / "runs" / "ce" / "seed_1" / "failed.json").exists()  # it is the other process's
    _, failed = train(described, tmp_path / "runs", "num_epochs=1", mode="vmap", group_size=4)
    assert failed == {} and not any((tmp_path / "runs").rglob("failed.json"))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), pytest.param(OSError(28, "No space left on device"), marks=pytest.mark.slow)]
)
def test_a_cohort_that_is_stopped_while_its_runs_are_finished_goes_on_from_its_checkpoint(
    described, loop, tmp_path, monkeypatch, error
):
    finished, real = [], cbjax.sweeps.train_cohort.finish

    def finish(run, parts, dataset, checkpoints, logs, workdir):
        finished.append(workdir.name)
        if len(finished) == 3:
            raise error
        return real(run, parts, dataset, checkpoints, logs, workdir)

    monkeypatch.setattr(cbjax.sweeps.train_cohort, "finish", finish)
    if isinstance(error, OSError):
        _, failed = train(described, tmp_path / "runs", mode="vmap", group_size=4)
        assert list(failed) == ["cdb/seed_0"] and "No space left" in failed["cdb/seed_0"]
    else:
        with pytest.raises(KeyboardInterrupt):
            train(described, tmp_path / "runs", mode="vmap", group_size=4)
    kept = tmp_path / "runs" / "ce" / "seed_0" / "results.json"
    written = kept.stat().st_mtime_ns
    monkeypatch.setattr(cohort, "make_advance", lambda *args: None)  # no step is taken again
    _, failed = train(described, tmp_path / "runs", mode="vmap", group_size=4)
    assert failed == {} and len(finished) == 5 and kept.stat().st_mtime_ns == written
    assert_equal(logs(tmp_path / "runs"), logs(loop))
    assert len(rows.read(tmp_path / "runs" / "results.csv")) == 4 and not (tmp_path / "runs" / "groups").exists()
    assert not any((tmp_path / "runs").rglob("failed.json"))


def test_a_cohort_that_was_begun_waits_for_the_process_that_trains_one_of_its_runs(described, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cbjax.sweeps.train_cohort, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(described, tmp_path / "runs", mode="vmap", group_size=4)
    told = []
    with workdirs.lock(tmp_path / "runs" / "ce" / "seed_1"):
        _, failed = train(described, tmp_path / "runs", mode="vmap", group_size=4, tell=told.append)
    assert len(failed) == 4 and all("another process is training here" in said for said in failed.values())
    assert not any("trained alone" in line for line in told) and not any((tmp_path / "runs").rglob("failed.json"))
    monkeypatch.setattr(cohort, "make_advance", lambda *args: None)  # no step is taken again
    _, failed = train(described, tmp_path / "runs", mode="vmap", group_size=4)
    assert failed == {} and len(rows.read(tmp_path / "runs" / "results.csv")) == 4


def test_a_row_that_cannot_be_added_yet_stops_no_other_run(described, tmp_path, monkeypatch):
    described.write_text(TEXT.replace("seeds(2)", "seeds(1)"))
    told, added, real = [], [], rows.add

    def add(path, new):
        added.append([row["method"] for row in new])
        if added[-1] == ["ce"]:
            path.write_text("saved;by;another;program\n")
        if added[-1] == ["ce", "cdb"]:
            path.unlink()  # moved away by the user
        real(path, new)

    monkeypatch.setattr(rows, "add", add)
    _, failed = train(described, tmp_path / "runs", "num_epochs=1", mode="loop", tell=told.append)
    assert failed == {} and sum("could not be added yet: " in line for line in told) == 2
    assert added == [[], ["ce"], ["cdb"], ["ce", "cdb"]]
    assert len(rows.read(tmp_path / "runs" / "results.csv")) == 2


def test_a_sweep_without_a_table_tells_of_rows_whose_work_directories_are_gone(described, loop, tmp_path):
    place, told = shutil.copytree(loop, tmp_path / "runs"), []
    shutil.rmtree(place / "cdb")
    path, failed = train(described, place, REPORT, tell=told.append)
    page = path.read_text().replace("\\", "")
    assert failed == {} and "| cdb/seed_0 | only its row in results.csv is left |" in page and "| ce |" in page
    assert any(" are left of 2 finished runs: " in line for line in told)
    shutil.rmtree(place / "ce")
    assert train(described, place, REPORT) == (None, {}) and path.read_text().replace("\\", "") == page


def test_the_last_run_of_a_cohort_and_a_config_by_its_path_are_trained(described, loop, tmp_path):
    text = described.read_text().replace('"digits_lt"', f"__import__('pathlib').Path({str(DIGITS)!r})")
    described.write_text(text)
    kept, told = tmp_path / "kept.csv", []
    rows.add(kept, rows.read(loop / "results.csv")[:3])
    _, failed = train(described, tmp_path / "runs", mode="vmap", results=kept, tell=told.append)
    assert failed == {} and len(rows.read(kept)) == 4
    assert "no two runs that are left have programs of equal shapes: each is trained alone" in told


def test_what_is_left_of_a_cohort_that_was_not_begun_is_trained_together(described, loop, tmp_path):
    kept, told = tmp_path / "runs" / "kept.csv", []
    _, runs = file.load(described, QUICK)
    names = [run.name for run in runs]
    (tmp_path / "runs").mkdir()
    asked = {"mode": "vmap", "group_size": 4}
    planned = {"asked": asked, "mode": "vmap", "group_size": 4, "measured": [], "groups": [names]}
    plan.workdirs.write_json(tmp_path / "runs" / "plan.json", planned)
    rows.add(kept, rows.read(loop / "results.csv")[:1])
    _, failed = train(described, tmp_path / "runs", mode="vmap", group_size=4, tell=told.append)
    assert failed == {} and [line for line in told if " more:" in line] == ["2 of 4, ce/seed_1 and 2 more:"]
    assert len(rows.read(tmp_path / "runs" / "results.csv")) == 4
    assert json.loads((tmp_path / "runs" / "plan.json").read_text())["groups"] == [names[1:]]


def test_a_cohort_that_another_process_finished_meanwhile_is_left_as_it_is(described, tmp_path, monkeypatch):
    real, written = plan.plan, []

    def files():
        return [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "runs").rglob("results.json"))]

    def later(*args):
        monkeypatch.setattr(plan, "plan", real)
        train(described, tmp_path / "runs", "num_epochs=1", mode="vmap", group_size=4)
        written.extend(files())
        return real(*args)

    monkeypatch.setattr(plan, "plan", later)
    _, failed = train(described, tmp_path / "runs", "num_epochs=1", mode="vmap", group_size=4)
    assert failed == {} and len(written) == 4 and files() == written


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(described, loop, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(described.read_text())
    before = {path: path.read_bytes() for path in loop.rglob("*") if path.is_file()}
    sweep_of, runs = file.load(other, QUICK)
    with pytest.raises(ConfigError, match=r"holds the sweep 'mine', which has other runs; got 'other'"):
        sweep("other", sweep_of, runs, loop, mode="loop")
    with pytest.raises(ConfigError, match=r"begun with --mode=loop; got --mode=vmap --group-size=2"):
        train(described, loop, mode="vmap", group_size=2)
    with pytest.raises(ConfigError, match=r"holds a run; a sweep needs its own folder"):
        train(described, loop / "ce" / "seed_0", mode="loop")
    with pytest.raises(ConfigError, match=r"num_epochs: 2 there, 1 here"):
        train(described, loop, "num_epochs=1", mode="loop")
    assert {path: path.read_bytes() for path in loop.rglob("*") if path.is_file()} == before


def test_shards_make_the_whole_in_any_number_of_processes(described, loop, tmp_path):
    for index in (1, 2, 3):
        train(described, tmp_path / "runs", mode="loop", part=(index, 3))
    found = [row for index in (1, 2, 3) for row in rows.read(tmp_path / "runs" / f"results_{index}_of_3.csv")]
    assert {row["config"] for row in found} == {row["config"] for row in rows.read(loop / "results.csv")}
    assert logs(tmp_path / "runs") == logs(loop)


@pytest.mark.parametrize(
    ("options", "num_epochs"),
    [
        (("--mode=vmap", "--group-size=4", "--config.steps_per_dispatch=1"), 2),  # killed in the middle of an epoch
        pytest.param(("--mode=loop", "--shard=1/2"), 6, marks=pytest.mark.slow),
    ],
)
def test_a_killed_sweep_goes_on_to_the_same_rows_bit_for_bit(described, tmp_path, options, num_epochs):
    settings = (*QUICK[:-1], f"num_epochs={num_epochs}", "checkpoint.every_minutes=0.005")
    overrides = [f"--config.{one}" for one in settings]
    command = ("sweep", f"--config={described}", *options, *overrides)
    whole = processes.run(*command, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    killed = processes.start(*command, f"--workdir={tmp_path / 'killed'}")
    assert processes.wait_for(killed, lambda: any((tmp_path / "killed").glob("*/*/checksums/*.json")))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "report.md").exists()
    again = processes.run(*command, f"--workdir={tmp_path / 'killed'}")
    assert again.returncode == 0, again.stderr
    assert logs(tmp_path / "killed") == logs(tmp_path / "whole")
    ours, theirs = (
        {r["config"]: (r["last"], r["best"]) for path in (tmp_path / one).glob("results*.csv") for r in rows.read(path)}
        for one in ("killed", "whole")
    )
    assert ours == theirs and len(ours) == (2 if "--shard=1/2" in options else 4)


def test_what_auto_measured_is_written_down_and_read_again(described, tmp_path, monkeypatch):
    asked = []

    def choose(runs, mode, group_size, *args):
        asked.append((len(runs), mode, group_size))
        return Choice("vmap", 2, [{"mode": "loop", "runs": 1, "run_steps_per_second": 1.0}])

    monkeypatch.setattr(modes, "choose", choose)
    train(described, tmp_path / "runs", "num_epochs=1")
    train(described, tmp_path / "runs", "num_epochs=1")
    plan = json.loads((tmp_path / "runs" / "plan.json").read_text())
    assert asked == [(4, "auto", None)]
    assert (plan["mode"], plan["group_size"], len(plan["groups"])) == ("vmap", 2, 2) and plan["measured"]
    with pytest.raises(ConfigError, match=r"were begun with --mode=auto; got --mode=loop"):
        train(described, tmp_path / "runs", "num_epochs=1", mode="loop")


def test_runs_that_a_plan_lacks_join_it_in_cohorts(described, tmp_path, monkeypatch):
    choices = iter([Choice("vmap", 2, [])])  # measured once
    monkeypatch.setattr(modes, "choose", lambda *args: next(choices))
    _, runs = file.load(described, QUICK)
    path = tmp_path / "plan.json"

    def planned(left, mode="auto", group_size=None):
        return plan.plan(path, runs, left, mode, group_size, {}, sources.load, lambda line: None)["groups"]

    first, second = ["ce/seed_0", "ce/seed_1"], ["cdb/seed_0", "cdb/seed_1"]
    assert planned(runs[:2]) == [first] and planned(runs) == [first, second]
    # A cohort that was begun goes on whole. Another one goes on with the runs that are left.
    (tmp_path / plan.folder(first) / "checksums").mkdir(parents=True)
    (tmp_path / plan.folder(first) / "checksums" / "3.json").touch()
    assert planned([runs[1], runs[3]]) == [first, ["cdb/seed_1"]]
    with pytest.raises(ConfigError, match=r"were begun with --mode=auto; got --mode=auto --group-size=4"):
        planned(runs, group_size=4)
    path.write_text("")
    with pytest.raises(WorkdirError, match=r"plan.json is missing or damaged"):
        planned(runs)


def test_a_batch_that_the_devices_do_not_divide_is_trained_all_the_same(described, tmp_path, monkeypatch):
    monkeypatch.setattr(modes, "choose", lambda *args: Choice("vmap", 3, []))
    _, failed = train(described, tmp_path / "runs", "devices=None", "batch_size=63", "num_epochs=1")
    environments = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("environment.json")]
    assert failed == {} and len(environments) == 4
    assert "1 x cpu" in {one["devices"] for one in environments}  # the run that no cohort of three had a place for


def test_runs_are_trained_in_the_order_of_the_sweep(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    losses = {'one': {}, 'two': {'loss.name': 'focal'}, 'three': {'weights.name': 'difficulty'}}\n"
        "    return Sweep('digits_lt', product(choices('method', losses), seeds(3)))\n"
    )
    monkeypatch.setattr(modes, "choose", lambda *args: Choice("vmap", 2, []))
    monkeypatch.setattr("cbjax.sweeps.sweep._Trainer.train", lambda self, cohort, left: [(run, "no") for run in left])
    monkeypatch.setattr("cbjax.sweeps.sweep.report", lambda *args: None)
    train(path, tmp_path / "runs")
    cohorts = json.loads((tmp_path / "runs" / "plan.json").read_text())["groups"]
    # One and three are of one shape: the third seed of the first goes with the first of the last.
    assert [names[0] for names in cohorts] == ["one/seed_0", "one/seed_2", "two/seed_0", "two/seed_2", "three/seed_1"]
    assert cohorts[1] == ["one/seed_2", "three/seed_0"]


def test_a_dry_run_lists_the_runs_and_makes_nothing(described, tmp_path):
    done = processes.run("sweep", f"--config={described}", "--dry-run", "--shard=2/2")
    assert done.returncode == 0 and done.stdout.split() == ["ce/seed_1", "cdb/seed_1"]
    assert "2 runs: 1,154 steps" in done.stderr and "steps of 2.2e+08 FLOP" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_a_run_of_other_data_is_not_over(tmp_path, monkeypatch):
    for name in "ab":
        images = np.random.default_rng(ord(name)).integers(0, 255, (60, 8, 8), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(60) % 3)
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\ndef get_sweep():\n    return Sweep('digits_lt', choices('method', {'ce': {}}))\n"
    )
    settings = (
        "data.name=arrays",
        "data.longtail=natural",
        "data.imbalance=1",
        "data.validation=5",
        "data.test=5",
        "batch_size=10",
        "num_epochs=1",
    )
    train(path, tmp_path / "runs", *settings, f"data.file={tmp_path / 'a.npz'}", mode="loop")
    _, failed = train(path, tmp_path / "runs", *settings, f"data.file={tmp_path / 'b.npz'}", mode="loop")
    assert list(failed) == ["ce"] and "was started with other data" in failed["ce"]
    assert len(rows.read(tmp_path / "runs" / "results.csv")) == 1
    # Also by a relative path from another folder.
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "b.npz", tmp_path / "other" / "a.npz")
    for folder, problems in ((tmp_path, []), (tmp_path / "other", ["ce"])):
        monkeypatch.chdir(folder)
        _, failed = train(path, tmp_path / "runs", *settings, "data.file=a.npz", mode="loop")
        assert list(failed) == problems


def test_a_sweep_of_variants_needs_no_file(tmp_path):
    described = Sweep("digits_lt", product(choices("method", {"ce": {}}), seeds(1)))
    config = cbjax.config.load("digits_lt", [*QUICK, "num_epochs=1", REPORT])
    _, failed = sweep(
        "mine", described, [file.PlannedRun("ce/seed_0", {"method": "ce", "seed": "0"}, config)], tmp_path
    )
    assert failed == {} and (tmp_path / "report.md").exists()


def test_runs_that_differ_in_numbers_share_their_programs(tmp_path):
    """A run of a sweep has the parts that it has alone, and only the first run of a shape compiles."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import *\n"
        "FOCAL = {'loss.name': 'focal', 'weights.name': 'class_balanced'}\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', choices('method', {\n"
        "        'first': {**FOCAL, 'loss.gamma': 1.0},\n"
        "        'second': {**FOCAL, 'loss.gamma': 0.5, 'weights.beta': 0.9, 'optim.learning_rate': 0.03, 'seed': 1},\n"
        "        'third': {**FOCAL, 'loss.gamma': 2.0, 'optim.weight_decay': 1e-3, 'weights.start': 0.5},\n"
        "    }))\n"
    )
    compiled, inside = [], []

    def count(event, duration, **names):
        if event == "/jax/core/compile/backend_compile_duration" and inside:
            compiled.append(inside[-1])

    real = cbjax.training.run.train

    def one(config, workdir, **options):
        inside.append(workdir.name)
        try:
            return real(config, workdir, **options)
        finally:
            inside.clear()

    jax.monitoring.register_event_duration_secs_listener(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cbjax.sweeps.sweep.train", one)
        train(path, tmp_path / "runs", mode="loop")
    jax.monitoring.clear_event_listeners()
    assert "first" in compiled and "second" not in compiled and "third" not in compiled
    _, runs = file.load(path, QUICK)
    for run in runs[1:]:
        real(run.config, tmp_path / "alone" / run.name)
    together, alone = logs(tmp_path / "runs"), logs(tmp_path / "alone")
    assert {name: together[name] for name in alone} == alone
