"""Whole runs in this process: what `train` leaves behind, what `load` gives back, what compiles."""

import concurrent.futures
import csv
import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from oracles.difficulty import paper_tau
from oracles.difficulty import weights as oracle_weights

import cbjax
from cbjax import config as configs
from cbjax import losses
from cbjax.config import ConfigError
from cbjax.data import DataError
from cbjax.host.storage import with_absolute_paths
from cbjax.host.writers import read_rows
from cbjax.report.read import read_run
from cbjax.training import programs, restore
from cbjax.training.restore import evaluate
from cbjax.types import NonFiniteLoss
from cbjax.workdir import data_facts
from cbjax.workdir.files import WorkdirError, lacks
from cbjax.workdir.memory import timeless

REPORT = "log.report=true"


def digits(*overrides):
    few = ("model.name=linear", "num_epochs=3", "data.validation=10", "data.test=20", "devices=1", "log.report=false")
    return configs.load("digits_lt", [*few, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of CDB, its work directory, and how often its loss was traced."""
    workdir = tmp_path_factory.mktemp("cdb")
    traced = []

    def counted(logits, labels, class_weights=None):
        if class_weights is not None:
            traced.append(1)
        return losses.softmax_cross_entropy(logits, labels, class_weights)

    programs.forget()
    before = losses.LOSSES["softmax"]
    losses.LOSSES["softmax"] = before._replace(function=counted)
    try:
        done = cbjax.train(digits("weights.name=difficulty", REPORT), workdir)
    finally:
        losses.LOSSES["softmax"] = before
    return done, workdir, len(traced)


def test_a_whole_cdb_run_compiles_its_step_once(finished):
    _, workdir, traced = finished
    weights = [row["class_weights"] for row in read_rows(workdir / "class_weights.jsonl")]
    assert len(weights) == 3 and weights[0] != weights[1] != weights[2]
    assert traced == 1


def test_another_seed_in_the_same_process_traces_nothing_again(tmp_path, caplog):
    def traced(name, *overrides):
        caplog.clear()
        with jax.log_compiles():
            cbjax.train(digits("num_epochs=1", *overrides), tmp_path / name)
        return "steps" in caplog.text

    programs.forget()
    assert traced("first")
    assert not traced("second", "seed=1", "optim.learning_rate=0.02")
    programs.forget()
    assert traced("third", "seed=2")


def test_the_work_directory_has_everything(finished):
    _, workdir, _ = finished
    names = {path.name for path in workdir.iterdir()}
    expected = {"config.json", "environment.json", "data.json", "indices.npz", "parameters.txt", "metrics.jsonl"}
    expected |= {"per_class.jsonl", "class_weights.jsonl", "results.json", "checkpoints", "report.md", "classes.png"}
    assert expected <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    rows = read_rows(workdir / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 3]
    assert {"train/loss", "validation/balanced_accuracy", "time/images_per_second"} <= rows[0].keys()
    assert {"test/last/accuracy", "test/best/accuracy", "best/step"} <= rows[-1].keys()
    assert not [key for row in rows[:-1] for key in row if key.startswith("test/")], "test is read at the end only"


def test_the_weights_are_those_of_the_difficulties(finished):
    _, workdir, _ = finished
    accuracy = [row["accuracy"] for row in read_rows(workdir / "per_class.jsonl") if row["split"] == "validation"]
    weights = [row["class_weights"] for row in read_rows(workdir / "class_weights.jsonl")]
    assert weights[0] == [1.0] * 10
    for measured, used in zip(np.asarray(accuracy), weights[1:], strict=False):
        bias = measured.max() / (measured.min() + 1e-4) - 1
        expected = np.maximum(1 - measured, 0.01) ** (2 / (1 + np.exp(-bias)))
        np.testing.assert_allclose(used, expected * 10 / expected.sum(), rtol=1e-4)


def test_an_epoch_says_how_far_its_weights_moved(finished):
    _, workdir, _ = finished
    rows = read_rows(workdir / "metrics.jsonl")[:-1]
    weights = np.array([row["class_weights"] for row in read_rows(workdir / "class_weights.jsonl")])
    assert "difficulty/weights_moved" not in rows[0]
    moved = [row["difficulty/weights_moved"] for row in rows[1:]]
    assert moved == pytest.approx(np.abs(np.diff(weights, axis=0)).sum(axis=1) / 2 / 10, rel=1e-5) and min(moved) > 0


def test_the_weights_are_those_of_smoothed_accuracies(tmp_path):
    cbjax.train(digits("weights.name=difficulty", "difficulty.smoothing=0.75"), tmp_path)
    rows = [row for row in read_rows(tmp_path / "per_class.jsonl") if row["split"] == "validation"]
    weights = [row["class_weights"] for row in read_rows(tmp_path / "class_weights.jsonl")]
    average, told = np.zeros(10), read_rows(tmp_path / "metrics.jsonl")
    for epoch, used in enumerate(weights[1:]):
        average = 0.75 * average + 0.25 * np.array(rows[epoch]["accuracy"])
        tau = paper_tau(average)
        np.testing.assert_allclose(used, oracle_weights(average, tau, 0.01), rtol=1e-4)
        assert told[epoch + 1]["difficulty/tau"] == pytest.approx(tau, rel=1e-5)


def test_the_tau_of_an_epoch_is_that_of_its_weights(finished):
    _, workdir, _ = finished
    rows = read_rows(workdir / "metrics.jsonl")[:-1]
    accuracy = [row["accuracy"] for row in read_rows(workdir / "per_class.jsonl") if row["split"] == "validation"]
    assert "difficulty/tau" not in rows[0]  # equal weights
    assert [row["difficulty/tau"] for row in rows[1:]] == pytest.approx([paper_tau(one) for one in accuracy[:-1]])


def test_results_agree_with_the_predictions(finished):
    done, workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    matrix = np.asarray(results["confusion"]["last"])
    assert matrix.sum() == 200 and (matrix.sum(axis=1) == 20).all()
    assert results["last"]["test"]["accuracy"] == pytest.approx(np.trace(matrix) / 200)
    np.testing.assert_allclose(results["per_class"]["last"], np.diag(matrix) / 20)
    assert done.metrics["test/last/accuracy"] == results["last"]["test"]["accuracy"]


def test_calibration_adds_up_to_its_error(finished):
    workdir = finished[1]
    results = json.loads((workdir / "results.json").read_text())
    images, confidence, correct = np.array(results["calibration"]["last"])
    assert images.sum() == 200
    assert correct.sum() / images.sum() == pytest.approx(results["last"]["test"]["accuracy"])
    assert np.abs(confidence - correct).sum() / images.sum() == pytest.approx(results["last"]["test"]["ece"])
    assert (workdir / "reliability.png").exists()


def test_load_gives_the_same_run_from_the_directory_alone(finished):
    done, workdir, _ = finished
    loaded = cbjax.load(workdir)
    assert loaded.class_names == done.class_names
    assert loaded.metrics == done.metrics
    assert loaded.config == done.config
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    chances = loaded.predict(images)
    assert chances.shape == (7, 10) and chances.dtype == np.float32
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(chances, done.predict(images))
    np.testing.assert_array_equal(chances[:2], loaded.predict(images[:2, ..., 0]))
    assert loaded.predict(images[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match=r"\[height, width, 1\], channels last; got \[8, 8, 4\]"):
        loaded.predict(np.zeros((7, 8, 8, 4), np.uint8))


def test_load_takes_the_best_checkpoint_too(finished):
    done, workdir, _ = finished
    best = cbjax.load(workdir, checkpoint="best")
    assert int(best.state.step) == done.memory.best.step
    with pytest.raises(ConfigError, match=r"checkpoint='first': must be 'last' or 'best'"):
        cbjax.load(workdir, checkpoint="first")


def test_evaluation_again_gives_the_same_figures(finished):
    done, workdir, _ = finished
    for checkpoint in ("last", "best"):
        found = evaluate(workdir, checkpoint=checkpoint)
        assert found == {name: done.metrics[f"test/{checkpoint}/{name}"] for name in found}


def test_a_run_is_printed_as_a_few_lines(finished):
    done, workdir, _ = finished
    accuracy = 100 * done.metrics["test/last/balanced_accuracy"]
    for run in (done, cbjax.load(workdir)):
        lines = repr(run).splitlines()
        assert lines[0] == f"Run in {workdir}" and len(lines) == 6
        assert lines[1] == "  config: digits, linear, softmax loss, difficulty weights, seed 0"
        assert re.fullmatch(r"  TrainState\(step \d+, [\d,]+ parameters\); epoch 3 of 3", lines[2])
        assert lines[3] == "  10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
        assert f"balanced accuracy {accuracy:.1f} %" in lines[4] and lines[5].startswith("  test, best (epoch ")
    assert len(str(done.model)) < 100
    assert repr(jax.eval_shape(lambda state: state, done.state)).startswith("TrainState(step ?, ")


def test_the_classes_of_a_run_are_tables_with_their_names(finished):
    _, workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    with open(workdir / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [str(i) for i in range(10)]
    data = json.loads((workdir / "data.json").read_text())
    assert [int(row["training_images"]) for row in rows] == data["counts"]
    assert {row["test_images"] for row in rows} == {"20"} and {row["validation_images"] for row in rows} == {"10"}
    weights = read_rows(workdir / "class_weights.jsonl")
    np.testing.assert_allclose([float(row["class_weight"]) for row in rows], weights[-1]["class_weights"], rtol=1e-5)
    for checkpoint in ("last", "best"):
        matrix = np.array(results["confusion"][checkpoint])
        found = [float(row[f"test_accuracy_{checkpoint}"]) for row in rows]
        np.testing.assert_allclose(found, np.diag(matrix) / 20, rtol=1e-5)
        precision = [row[f"test_precision_{checkpoint}"] for row in rows]
        assert precision == [f"{m[i] / m.sum():.6g}" if m.sum() else "" for i, m in enumerate(matrix.T)]
        f1 = [float(row[f"test_f1_{checkpoint}"]) for row in rows]
        np.testing.assert_allclose(f1, 2 * np.diag(matrix) / (20 + matrix.sum(axis=0)), rtol=1e-5)
        with open(workdir / f"confusion_{checkpoint}.csv", newline="") as file:
            table = list(csv.reader(file))
        assert [[int(cell) for cell in row[1:]] for row in table[1:]] == matrix.tolist()
    with open(workdir / "class_weights.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["epoch", *(str(i) for i in range(10))] and [row[0] for row in table[1:]] == ["1", "2", "3"]
    np.testing.assert_allclose(np.array(table[1:], float)[:, 1:], [row["class_weights"] for row in weights], rtol=1e-5)


def test_best_is_the_earliest_of_the_highest(finished):
    done, workdir, _ = finished
    balanced = [row["validation/balanced_accuracy"] for row in read_rows(workdir / "metrics.jsonl")[:-1]]
    assert done.memory.best.epoch == 1 + int(np.argmax(balanced))


def test_deferred_weights_start_at_their_epoch(tmp_path):
    settings = digits("num_epochs=4", "weights.name=class_balanced", "weights.start=0.5")
    cbjax.train(settings, tmp_path)
    weights = [row["class_weights"] for row in read_rows(tmp_path / "class_weights.jsonl")]
    assert weights[0] == weights[1] == [1.0] * 10
    counts = json.loads((tmp_path / "data.json").read_text())["counts"]
    expected = 1 / np.array([(1 - 0.9999**n) / (1 - 0.9999) for n in counts])
    for late in weights[2:]:
        np.testing.assert_allclose(late, expected * 10 / expected.sum(), rtol=1e-5)


def test_without_validation_only_the_last_state_is_reported(tmp_path):
    done = cbjax.train(digits("data.validation=0"), tmp_path)
    assert done.memory.best is None
    assert not [key for key in done.metrics if "best" in key or "validation" in key]
    with pytest.raises(WorkdirError, match="no checkpoint is the best; use the last"):
        cbjax.load(tmp_path, checkpoint="best")
    with pytest.raises(ConfigError, match=r"split='validation': the run has no such images"):
        evaluate(tmp_path, split="validation")


def test_test_curves_are_a_switch(tmp_path):
    cbjax.train(digits("evaluation.test_every=2"), tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert ["test/accuracy" in row for row in rows] == [False, True, False, False]


def test_seeds_share_their_split_over_methods_and_differ_between_them(tmp_path):
    for name, overrides in {"a": (), "b": ("weights.name=difficulty",), "c": ("seed=1",)}.items():
        cbjax.train(digits("num_epochs=1", *overrides), tmp_path / name)
    a, b, c = (np.load(tmp_path / name / "indices.npz") for name in "abc")
    assert all((a[key] == b[key]).all() for key in a.files)
    assert any((a[key] != c[key]).any() for key in ("train", "validation", "test"))


def test_many_steps_in_one_dispatch_are_the_same_run(tmp_path):
    short = ("weights.name=difficulty", "data.crop_padding=1", "devices=1")
    one = cbjax.train(digits(*short, "steps_per_dispatch=1"), tmp_path / "one")
    many = cbjax.train(digits(*short, "steps_per_dispatch=4"), tmp_path / "four")  # an epoch has 7
    for found, expected in zip(jax.tree.leaves(many.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert many.metrics == pytest.approx(one.metrics, rel=1e-4)


@pytest.mark.parametrize("parallel", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_devices_share_a_run(tmp_path, parallel):
    settings = ("weights.name=class_balanced", "data.crop_padding=1", "loss.mean=weight_sum")
    settings += ("num_epochs=1",)
    one = cbjax.train(digits(*settings, "devices=1"), tmp_path / "one")
    four = cbjax.train(digits(*settings, f"parallel={parallel}", "devices=4"), tmp_path / parallel)
    for found, expected in zip(jax.tree.leaves(four.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_says_where_and_what_is_left(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"step \d+: loss .*learning rate 1e\+20.*no checkpoint was saved before it"
    ):
        cbjax.train(digits("optim.learning_rate=1e20", "optim.warmup=0"), tmp_path)


def make_arrays(path, multi_hot=False):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    images = (rng.normal(size=(120, 8, 8)) * 20 + 40 * labels[:, None, None]).clip(0, 255).astype(np.uint8)
    if multi_hot:
        labels = np.eye(3, dtype=np.int64)[labels]
        labels[::3, 0] = 1
    np.savez(path, images=images, labels=labels, class_names=np.array(["cat", "dog", "owl"]))
    return path


def own_data(path, *overrides):
    base = ["data.name=arrays", f"data.file={path}", "data.longtail=natural", "data.imbalance=1", "data.validation=0.2"]
    return digits(*base, "data.test=0.2", "batch_size=16", REPORT, *overrides)


def test_a_users_own_arrays(tmp_path):
    done = cbjax.train(own_data(make_arrays(tmp_path / "own.npz"), "weights.name=difficulty"), tmp_path / "run")
    assert done.class_names == ("cat", "dog", "owl")
    assert "cat" in (tmp_path / "run" / "report.md").read_text()


def test_multi_hot_labels_are_measured_by_average_precision(tmp_path):
    path = make_arrays(tmp_path / "own.npz", multi_hot=True)
    settings = own_data(path, "loss.name=focal", "weights.name=difficulty")
    done = cbjax.train(settings, tmp_path / "run")
    assert done.metrics["test/last/mean_average_precision"] == done.metrics["test/last/balanced_accuracy"]
    chances = done.predict(np.zeros((2, 8, 8), np.uint8))
    assert chances.shape == (2, 3) and ((chances >= 0) & (chances <= 1)).all()
    for override, rule in (("loss.name=softmax", "one label an image"), ("loss.mean=weight_sum", "one label an image")):
        with pytest.raises(ConfigError, match=rule):
            cbjax.train(own_data(path, "loss.name=sigmoid", override), tmp_path / "refused")


def test_multi_hot_splits_need_a_label(tmp_path):
    splits = {}
    for name in ("train", "validation", "test"):
        splits[f"{name}_images"] = np.zeros((20, 8, 8), np.uint8)
        splits[f"{name}_labels"] = np.eye(3, dtype=np.int64)[np.arange(20) % 3] * (name != "validation")
    np.savez(tmp_path / "own.npz", **splits)
    settings = own_data(tmp_path / "own.npz", "loss.name=focal", "data.validation=0", "data.test=0", "batch_size=8")
    with pytest.raises(ConfigError, match=r"data\.validation: none of the 20 images has a label"):
        cbjax.train(settings, tmp_path / "run")


def test_a_class_without_training_images_is_refused_by_name_or_ignored(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (80, 8, 8)).astype(np.uint8)
    names = np.array(["cat", "dog", "owl"])
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(80) % 2 * 2, class_names=names)
    settings = ("weights.name=class_balanced", "num_epochs=1")
    with pytest.raises(ConfigError, match=r"there are 1: dog; weights\.zero_count=ignore"):
        cbjax.train(own_data(tmp_path / "own.npz", *settings), tmp_path / "run")
    done = cbjax.train(own_data(tmp_path / "own.npz", *settings, "weights.zero_count=ignore"), tmp_path / "run")
    assert done.class_names == ("cat", "dog", "owl")
    np.testing.assert_allclose(done.state.class_weights, [1, 0, 1], rtol=1e-6)
    assert "dog" in (tmp_path / "run" / "report.md").read_text()


def test_predict_refuses_what_it_was_not_trained_on(finished):
    done = finished[0]
    with pytest.raises(ValueError, match=r"must be uint8.*got float64 of 0 to 0: use images.astype"):
        done.predict(np.zeros((2, 8, 8)))
    assert done.predict(np.zeros((2, 9, 9), np.uint8)).shape == (2, 10)  # resized, as an evaluation does
    assert done.predict(np.zeros((0, 8, 8), np.uint8)).shape == (0, 10)


def test_an_extended_run_has_the_weights_of_its_new_deferral(tmp_path):
    settings = ("weights.name=class_balanced", "weights.start=0.5", "checkpoint.every_epochs=1", "devices=1")
    cbjax.train(digits(*settings, "num_epochs=4"), tmp_path)
    done = cbjax.train(digits(*settings, "num_epochs=10"), tmp_path, extend=True)
    rows = [row["class_weights"] for row in read_rows(tmp_path / "class_weights.jsonl")]
    equal = [row["epoch"] for row in read_rows(tmp_path / "class_weights.jsonl") if row["class_weights"] == [1.0] * 10]
    assert len(rows) == 10 and equal == [1, 2, 5]  # 3 and 4 were trained under the former deferral
    assert done.state.class_weights[0] < 1


@pytest.mark.parametrize("name", ["class_balanced", "difficulty"])
def test_an_extension_that_was_killed_before_its_first_checkpoint_goes_on_to_the_bit(tmp_path, name):
    settings = (f"weights.name={name}", "weights.start=0.5", "checkpoint.every_epochs=1", "checkpoint.keep=all")
    cbjax.train(digits(*settings, "num_epochs=2"), tmp_path)
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    whole = cbjax.train(digits(*settings, "num_epochs=6"), tmp_path, extend=True)
    rows = [row["class_weights"] for row in read_rows(tmp_path / "class_weights.jsonl")]
    assert rows[2] == [1.0] * 10 and rows[3] != [1.0] * 10  # of epochs 3 and 4
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name not in before:
            shutil.rmtree(path)
    (tmp_path / "results.json").unlink()
    again = cbjax.train(digits(*settings, "num_epochs=6"), tmp_path)  # it was asked to extend before
    assert [row["class_weights"] for row in read_rows(tmp_path / "class_weights.jsonl")] == rows
    for ours, theirs in zip(jax.tree.leaves(again.state.params), jax.tree.leaves(whole.state.params), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_results_without_a_checkpoint_are_not_lost(tmp_path):
    cbjax.train(digits("num_epochs=1"), tmp_path)
    for folder in ("checkpoints", "checksums"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(WorkdirError, match="holds the results of a run and no checkpoint: move it away"):
        cbjax.train(digits("num_epochs=1"), tmp_path)
    assert (tmp_path / "results.json").exists()


def test_changed_data_are_refused_on_a_resume(tmp_path):
    path = make_arrays(tmp_path / "own.npz")
    cbjax.train(own_data(path), tmp_path / "run")
    arrays = dict(np.load(path))
    arrays["images"][0] += 1
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"the run in .* was started with other data"):
        cbjax.train(own_data(path), tmp_path / "run")
    facts = data_facts.read(tmp_path / "run")
    noted = {**facts, "sha256": "other", "notes": [*facts["notes"], "left out 1 file"]}
    with pytest.raises(DataError, match=r"another work directory; noted now: left out 1 file$"):
        data_facts.check_same(tmp_path / "run", noted)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("batch_size=512",), r"batch_size: must be at most the number of training images; got 512 for"),
        (("devices=9", "batch_size=72"), r"devices=9: this machine has 8"),
        (("devices=3",), r"batch_size.*63.*66"),
        (("data.crop_padding=8",), r"data\.crop_padding: must be below the images' side, 8; got 8"),
        (
            ("optim.warmup=0", "optim.warmup_steps=100000"),
            r"optim.warmup_steps: must be below the number of steps, 24; got 100000",
        ),
    ],
)
def test_what_does_not_fit_the_machine_or_the_data_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cbjax.train(digits(*overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_model_that_does_not_fit_the_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.name='lenet5' does not fit the images: "):
        cbjax.train(own_data(make_arrays(tmp_path / "own.npz"), "model.name=lenet5"), tmp_path / "run")


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"holds no run: there is no config\.json"):
        cbjax.load(tmp_path)
    # In a sweep's folder one of its runs is named, the first that has begun.
    (tmp_path / "ce/seed_1").mkdir(parents=True)
    (tmp_path / "ce/seed_1/config.json").write_text("{}")
    (tmp_path / "sweep.json").write_text('{"runs": [{"name": "ce/seed_0"}, {"name": "ce/seed_1"}]}')
    with pytest.raises(WorkdirError, match=f"runs of a sweep: give one of them, such as {tmp_path}/ce/seed_1$"):
        cbjax.load(tmp_path)


def test_paths_hold_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/my")
    given = {"data_dir": "gs://bucket/sets", "root": "photos", "train_list": "/lists/train.txt", "test_list": "~/t.txt"}
    overrides = [f"data.{key}={path}" for key, path in given.items()]
    config = configs.load("imagenet_lt", [*overrides, "model.pretrained=../w.npz", "data.validation_list=none"])
    found = with_absolute_paths(config)
    assert (found.data.data_dir, found.data.root) == ("gs://bucket/sets", f"{tmp_path}/photos")
    assert (found.data.train_list, found.data.test_list) == ("/lists/train.txt", "/my/t.txt")
    assert found.model.pretrained == f"{tmp_path.parent}/w.npz"
    assert found.data.validation_list is None and config.data.root == "photos"
    assert with_absolute_paths(found) == found


def test_a_run_is_read_from_another_folder(tmp_path, monkeypatch):
    make_arrays(tmp_path / "own.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    done = cbjax.train(own_data("own.npz", "num_epochs=1", "data.data_dir=sets"), "run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (kept["file"], kept["data_dir"]) == (str(tmp_path / "own.npz"), str(tmp_path / "sets"))
    found = evaluate(tmp_path / "run")
    assert found == {name: done.metrics[f"test/last/{name}"] for name in found}


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_file_never_changes_a_figure_in_silence(finished, tmp_path):
    _, workdir, _ = finished
    for name, old, new in (
        ("data.json", '"std": [\n    ', '"std": [\n    1'),
        ("config.json", '"seed": 0', '"seed": 1'),
        ("results.json", '"accuracy": 0.', '"accuracy": 1.'),
    ):
        place = tmp_path / name
        shutil.copytree(workdir, place)
        change(place / name, old, new)
        with pytest.raises(WorkdirError, match=rf"{name} was edited or damaged"):
            cbjax.load(place)
        if name != "results.json":
            with pytest.raises(WorkdirError, match=rf"{name} was edited or damaged"):
                evaluate(place)


def test_the_rows_of_a_finished_run_are_checked_by_a_report_and_made_again(finished, tmp_path):
    _, workdir, _ = finished
    place = tmp_path / "run"
    shutil.copytree(workdir, place)
    history = {"metrics": read_rows(place / "metrics.jsonl")}
    assert read_run(place).results and lacks(place, history, tensorboard=False) == []
    change(place / "metrics.jsonl", '"time/train_seconds": ', '"time/train_seconds": 1')
    with pytest.raises(ValueError, match=r"metrics.jsonl was edited or damaged.* command again, which makes a new one"):
        read_run(place)
    assert lacks(place, history, tensorboard=False) == ["metrics.jsonl"]
    for path in place.glob("events*"):
        path.unlink()
    chosen = bytearray((place / "indices.npz").read_bytes())
    chosen[100] ^= 1
    (place / "indices.npz").write_bytes(chosen)
    assert lacks(place, history, tensorboard=True) == ["indices.npz", "metrics.jsonl", "events.out.tfevents.*"]


def test_a_finished_run_makes_again_what_was_lost(finished, tmp_path, capsys):
    done, workdir, _ = finished
    place = tmp_path / "run"
    shutil.copytree(workdir, place)
    change(place / "data.json", '"std": [\n    ', '"std": [\n    1')
    change(place / "config.json", '"seed": 0', '"seed": 1')
    change(place / "metrics.jsonl", '"train/loss": ', '"train/loss": 1')
    for name in ("per_class.jsonl", "indices.npz", "report.md"):
        (place / name).unlink()
    for name in ("results.json", "parameters.txt", "classes.png"):
        (place / name).write_text("")
    again = cbjax.train(digits("weights.name=difficulty", REPORT), place)
    said = capsys.readouterr().out
    for name in ("data.json", "config.json", "metrics.jsonl", "per_class.jsonl", "indices.npz", "results.json"):
        assert name in said
    assert again.metrics == done.metrics == cbjax.load(place).metrics
    assert (place / "parameters.txt").stat().st_size > 100
    for name in ("data.json", "config.json", "indices.npz", "classes.png"):
        assert (place / name).read_bytes() == (workdir / name).read_bytes()
    for name in ("metrics", "per_class", "class_weights"):
        rows = [[timeless(row) for row in read_rows(one / f"{name}.jsonl")] for one in (place, workdir)]
        assert rows[0] == rows[1]
    (place / "report.md").write_text("")
    cbjax.train(digits("weights.name=difficulty", REPORT), place)
    assert "made again" not in capsys.readouterr().out and (place / "report.md").stat().st_size > 1000


def test_an_extended_run_never_stands_beside_its_old_report(finished, tmp_path):
    _, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    longer = digits("weights.name=difficulty", "num_epochs=4")
    cbjax.train(longer, tmp_path / "run", extend=True)
    assert (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "report.md").exists()


def test_records_are_immutable(finished):
    with pytest.raises(dataclasses.FrozenInstanceError):
        finished[0].state = None
    assert restore.load is cbjax.load


def test_two_runs_in_threads_of_one_process_are_each_as_alone(tmp_path):
    args = [
        "num_epochs=4",
        "log.progress=off",
        "log.tensorboard=false",
        "log.report=false",
        "checkpoint.every_epochs=1",
        "devices=2",
    ]
    config = cbjax.config.load("digits_lt", args)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda name: cbjax.train(config, tmp_path / name), ("one", "two")))
    one, two = ({key: run.metrics[key] for key in run.metrics if not key.startswith("time/")} for run in runs)
    assert one == two and "test/last/balanced_accuracy" in one
