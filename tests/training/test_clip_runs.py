"""Whole runs on clips: trees, lists and EGTEA; stopped and resumed, evaluated, predicted, with bad clips."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.data import DataError, augment, normalization
from cbjax.data.clips.transforms import EvalClip
from cbjax.data.crops import EvalTransform
from cbjax.host.writers import read_rows
from cbjax.training.restore import evaluate
from cbjax.workdir.memory import timeless
from tests import clips, own_nets
from tests.stops import stopped_at

SPLITS = {"train": (8, 5, 3), "val": (2, 2, 2), "test": (2, 2, 2)}
SETTINGS = (
    *("data.name=folder", "data.longtail=natural", "data.imbalance=1", "data.validation=0"),
    *("data.normalization=imagenet", "data.image_size=8", "data.crop_padding=0", "data.flip=true", "data.threads=2"),
    *("data.frames=4", "data.rotation=10", "data.crop_area=0.5"),
    *(f"model.name={own_nets.__file__}:linear", "num_epochs=2", "batch_size=4", "devices=2"),
    *("optim.schedule=constant", "optim.warmup=0", "optim.learning_rate=0.01"),
    *("log.tensorboard=false", "log.report=false"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return root, clips.write_tree(root, SPLITS)


def settings(root, *more):
    return configs.load("cifar_lt:cdb", [*SETTINGS, f"data.root={root}", *more])


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return cbjax.train(settings(tree[0]), workdir), workdir


def rows_of(workdir):
    return [timeless(row) for row in read_rows(workdir / "metrics.jsonl")]


def test_a_run_on_clips_leaves_what_every_run_leaves(finished):
    run, workdir = finished
    facts = json.loads((workdir / "data.json").read_text())
    assert facts["image_shape"] == [4, 8, 8, 3] and facts["counts"] == [8, 5, 3]
    assert run.state.params["kernel"].shape == (4 * 8 * 8 * 3, 3)
    assert np.isfinite(run.metrics["test/last/loss"])
    assert evaluate(workdir, trust_code=True)["accuracy"] == run.metrics["test/last/accuracy"]


def test_a_run_on_clips_that_was_stopped_ends_the_same(finished, tree, tmp_path):
    with stopped_at(6):
        cbjax.train(settings(tree[0]), tmp_path)
    run = cbjax.train(settings(tree[0], "data.threads=1"), tmp_path)
    for one, other in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(finished[0].state.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rows_of(tmp_path) == rows_of(finished[1])


def test_clips_are_predicted_as_they_are_evaluated(finished, tree, tmp_path, capsys):
    _, workdir = finished
    root, rows = tree
    out = tmp_path / "predictions.csv"
    frames = tmp_path / "frames"
    clips.write_frames(frames, clips.decoded(root / "test/across/0.mp4"), "PNG")
    clip = str(root / "test/across/0.mp4")
    command = ["predict", str(root / "test"), str(frames), clip, f"--workdir={workdir}", f"--out={out}", "--top=3"]
    assert main([*command, "--trust-code"]) == 0
    table = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["image"] for row in table[-2:]] == [str(frames), clip]
    assert len(table) == 8 and len({tuple(list(row.values())[1:]) for row in (table[-1], table[-2])}) == 1
    (frames / "flow").mkdir()
    assert main([*command[:1], str(frames), *command[4:], "--trust-code"]) == 0
    assert f"{frames}: it holds images, so it is one clip; not looked at in it: 'flow'" in capsys.readouterr().out
    run, transform = cbjax.load(workdir, trust_code=True), EvalClip(4, EvalTransform(8, 9))
    pixels = np.stack([transform(str(root / path).encode()) for path, _ in sorted(rows["test"])])
    images = augment.normalize(pixels, *normalization.NORMALIZATIONS["imagenet"])
    logits = np.asarray(run.model.apply(run.state.params, run.state.batch_stats, images, train=False)[0], np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([float(row["probability_1"]) for row in table[:6]], chances.max(axis=1), rtol=1e-4)
    whole = np.stack(clips.decoded(clip))
    np.testing.assert_allclose(run.predict([whole]), run.predict(clip), rtol=1e-6)
    with pytest.raises(ValueError, match=r"one clip of shape \[12, 32, 32, 3\]: give it in a list"):
        run.predict(whole)


def test_new_clips_are_evaluated_by_their_folders(finished, tree, tmp_path, capsys):
    _, workdir = finished
    for path, _ in tree[1]["val"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree[0] / path, tmp_path / path)
    found = evaluate(workdir, overrides=[f"data.root={tmp_path / 'val'}"], trust_code=True)
    expected = evaluate(workdir, split="validation", trust_code=True)
    assert found["loss"] == expected["loss"] and "new data, 6 clips" in capsys.readouterr().out


def test_bad_clips_are_skipped_and_listed(tmp_path, capsys):
    root = tmp_path / "clips"
    clips.write_tree(root, {"train": (4, 2, 2), "test": (2, 1, 1)})
    bad = root / "train" / "across" / "1.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1\.mp4: it cannot be decoded .* or set data.on_bad_image=skip"):
        cbjax.train(settings(root, "weights.name=uniform"), tmp_path / "error")
    cbjax.train(settings(root, "weights.name=uniform", "data.on_bad_image=skip"), tmp_path / "skip")
    assert [row["image"] for row in read_rows(tmp_path / "skip" / "bad_images.jsonl")] == [str(bad)]
    assert f"skipped {bad}: it cannot be decoded" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_listed_clip_that_is_not_there_is_told_before_training(tree, tmp_path, split):
    root, rows = tree
    (tmp_path / "lost").mkdir()  # a folder without frames
    for name, clip_rows in rows.items():
        lines = [f"{path} {label}\n" for path, label in clip_rows]
        lines += ["across/lost.mp4 0\n", f"{tmp_path}/lost 0\n"] * (name == split)
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    lists = [f"data.{split}_list={tmp_path / name}.txt" for split, name in (("train", "train"), ("test", "test"))]
    message = (
        rf"2 of the {'training' if split == 'train' else 'test'} clips are not there or have no frames, such as .*/lost"
    )
    with pytest.raises(DataError, match=message):
        cbjax.train(settings(root, "data.name=list", "weights.name=uniform", *lists), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_on_egtea_has_its_verbs_and_its_validation(tmp_path):
    clips.write_egtea(tmp_path / "egtea", "frames")
    run = cbjax.train(settings(tmp_path / "egtea", "data.name=egtea", "batch_size=2", "num_epochs=1"), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert run.class_names == ("Take", "Put", "Move Around")
    assert facts["sizes"] == {"train": 3, "validation": 2, "test": 2}
    assert facts["image_shape"] == [4, 8, 8, 3] and np.isfinite(run.metrics["test/last/loss"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=resnet18"], "model.name must be a network for clips when data.frames is 4 .*; got resnet18"),
        (
            ["model.name=digits_cnn", "data.image_size=32"],
            "^model.name must be a network for clips when data.frames is 4",
        ),
        (["meta.name=l2rw"], "^data.meta must be above 0 when meta.name is l2rw"),
        (["data.name=digits"], "data.frames must stay at 0 unless data.name is list or csv or folder or egtea"),
        (["data.frames=0"], "data.rotation must stay at 0.0 unless data.frames is above 0"),
        (
            ["data.name=egtea", "data.frames=0", "data.rotation=0"],
            "data.frames must be above 0 when data.name is egtea",
        ),
        (
            ["data.frames=0", "data.rotation=0", "data.evaluation_frames=random"],
            "data.evaluation_frames must stay at middle",
        ),
        (["data.egtea_split=2"], "data.egtea_split must stay at 1 unless data.name is egtea"),
        (["data.egtea_split=4"], "data.egtea_split must be a whole number from 1 to 3"),
    ],
)
def test_what_does_not_go_with_clips_is_refused(tree, overrides, message):
    with pytest.raises(ConfigError, match=message):
        settings(tree[0], *overrides)
