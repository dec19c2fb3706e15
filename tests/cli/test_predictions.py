"""Predictions written to files: those of the run, in order, whole or not at all."""

import csv
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.data.given import Fit
from cbjax.training.predict import make_predict
from cbjax.types import NonFiniteLoss, Trained
from tests.photos import write_tree


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("digits")
    few = ["model.name=linear", "num_epochs=2", "data.test=20", "devices=1", "log.report=false"]
    return cbjax.train(configs.load("digits_lt", few), workdir), workdir


def call(*arguments):
    return main(["predict", *(str(argument) for argument in arguments)])


def test_arrays_to_csv(digits, tmp_path):
    run, workdir = digits
    images = np.random.default_rng(0).integers(0, 255, (300, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    assert call(tmp_path / "own.npz", f"--workdir={workdir}", f"--out={tmp_path / 'out.csv'}", "--top=2") == 0
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chances = run.predict(images)
    assert [row["image"] for row in rows] == [str(i) for i in range(300)]
    assert [int(row["class_1"]) for row in rows] == chances.argmax(axis=1).tolist()
    np.testing.assert_allclose([float(row["probability_1"]) for row in rows], chances.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose([float(row["probability_2"]) for row in rows], np.sort(chances)[:, -2], rtol=1e-5)


def test_an_image_below_a_probability_is_open(digits, tmp_path):
    run, workdir = digits
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "own.npy", images)
    highest = run.predict(images).max(axis=1)
    below = float(np.sort(highest)[19:21].mean())
    options = [tmp_path / "own.npy", f"--workdir={workdir}", f"--open-below={below}"]
    assert call(*options, f"--out={tmp_path / 'out.csv'}") == 0
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["open"] for row in rows] == [str(int(one)) for one in highest < below]
    assert call(*options, f"--out={tmp_path / 'out.jsonl'}") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["open"] for row in rows] == (highest < below).tolist()


def test_a_folder_to_json_lines(digits, tmp_path):
    run, workdir = digits
    write_tree(tmp_path / "images", {"new": (2, 1, 1)})
    assert call(tmp_path / "images", f"--workdir={workdir}", f"--out={tmp_path / 'out.jsonl'}", "--top=50") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    names = ["new/ant/0.jpg", "new/ant/1.jpg", "new/bee/0.jpg", "new/cat/0.jpg"]
    assert [row["image"] for row in rows] == names
    pixels = []
    for name in names:
        with Image.open(tmp_path / "images" / name) as image:
            pixels.append(np.asarray(image.convert("RGB").convert("L").resize((8, 8), Image.Resampling.BILINEAR)))
    for expected, row in zip(run.predict(np.stack(pixels)), rows, strict=True):
        assert sorted(row["classes"]) == [str(i) for i in range(10)]
        np.testing.assert_allclose(row["probabilities"], np.sort(expected)[::-1], atol=2e-2)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_odd_names_of_files_are_told_apart_by_any_reader(digits, tmp_path):
    root = tmp_path / "in [1]*"
    root.mkdir()
    names = [b"=1+1.png", b"@x.png", b"caf\xe9.png", b"e\x1b[31m.png", b"two\nlines.png", 'naïve, "b".png'.encode()]
    for number, name in enumerate(names):
        Image.new("L", (8, 8), 40 * number).save(root / os.fsdecode(name))
    for suffix in ("csv", "jsonl"):
        assert call(root, f"--workdir={digits[1]}", f"--out={tmp_path / f'out [1].{suffix}'}") == 0
    with open(tmp_path / "out [1].csv", newline="", encoding="utf-8") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    assert sorted(cells) == sorted(
        ["'=1+1.png", "'@x.png", r"caf\xe9.png", r"e\x1b[31m.png", "two\nlines.png", 'naïve, "b".png']
    )
    lines = (tmp_path / "out [1].jsonl").read_text(encoding="utf-8").splitlines()
    assert {os.fsencode(json.loads(line)["image"]) for line in lines} == set(names)
    assert all(line.isprintable() for line in lines) and any("naïve" in line for line in lines)


def bad_image(root):
    (root / "bad.jpg").write_bytes(b"no image")
    return root


def broken_array(root):
    (root / "own.npy").write_bytes(b"no array")
    return root / "own.npy"


def arrays(root, **contents):
    np.savez(root / "own.npz", **contents)
    return root / "own.npz"


@pytest.mark.parametrize(
    ("make", "out", "message"),
    [
        (lambda root: root / "absent", "out.csv", "there is no file or folder"),
        (lambda root: root, "out.csv", "has no image, a file that is JPEG, PNG,"),
        (lambda root: root, "out.txt", "--out must end in .csv or .jsonl"),
        (bad_image, "out.csv", "bad.jpg: it cannot be read"),
        (bad_image, "out.csv", "--on-bad-image=skip leaves out images that cannot be read"),
        (lambda root: arrays(root, images=np.zeros((2, 9, 9, 2), np.uint8)), "out.csv", "[height, width, 1]"),
        (lambda root: arrays(root, images=np.zeros((9, 9), np.uint8)), "out.csv", "an array [N, height, width]"),
        (lambda root: arrays(root, images=np.zeros((2, 8, 8), np.float32)), "out.csv", "(255 * images)"),
        (broken_array, "out.csv", "cannot be read as .npy"),
        (lambda root: arrays(root, pictures=np.zeros(2)), "out.csv", "has no images among its keys"),
    ],
)
def test_what_cannot_be_predicted_is_one_message_and_leaves_the_file(digits, tmp_path, capsys, make, out, message):
    _, workdir = digits
    (tmp_path / out).write_text("former")
    (tmp_path / "in").mkdir()
    assert call(make(tmp_path / "in"), f"--workdir={workdir}", f"--out={tmp_path / out}") == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert (tmp_path / out).read_text() == "former"


def test_a_place_where_no_file_can_be_is_refused_before_predicting(digits, tmp_path, capsys):
    _, workdir = digits
    np.save(tmp_path / "own.npy", np.zeros((2, 8, 8), np.uint8))
    os.mkfifo(tmp_path / "pipe.csv")
    for out, message in (
        (tmp_path / "none" / "out.csv", "none: make it first"),
        (tmp_path / "pipe.csv", "is a folder, a pipe or a device"),
        ("gs://bucket/out.csv", "must be a file on this machine"),
        ("~nobody_here/out.csv", "there is no folder ~nobody_here"),
        (tmp_path / "a\0.csv", "must be a file on this machine"),
    ):
        assert call(tmp_path / "own.npy", f"--workdir={workdir}", f"--out={out}") == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "pipe.csv").is_fifo()


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files_folders_and_arrays_at_once_and_a_broken_one_is_left_out(digits, tmp_path, capsys):
    run, workdir = digits
    write_tree(tmp_path / "images", {"new": (1, 0, 0)})
    one = tmp_path / "images" / "new" / "ant" / "0.jpg"
    plain = tmp_path / "no_ending"
    plain.write_bytes(one.read_bytes())
    broken = bad_image(tmp_path) / "bad.jpg"
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "own.npy", images)
    sources = (plain, broken, tmp_path / "images", tmp_path / "own.npy")
    assert call(*sources, f"--workdir={workdir}", f"--out={tmp_path / 'out.csv'}", "--on-bad-image=skip") == 0
    shown = capsys.readouterr().out
    assert f"skipped {broken}: it cannot be read" in shown and "predictions of 5 images, 1 skipped:" in shown
    rows = read(tmp_path / "out.csv")
    assert [row["image"] for row in rows] == [str(plain), str(one), *(f"{tmp_path / 'own.npy'}:{i}" for i in range(3))]
    expected = np.concatenate([run.predict([one, one]), run.predict(images)])
    np.testing.assert_allclose([float(row["probability_1"]) for row in rows], expected.max(axis=1), rtol=1e-5)
    assert rows[0]["probability_1"] == rows[1]["probability_1"]
    assert call(plain, f"--workdir={workdir}", f"--out={tmp_path / 'out.csv'}") == 0
    assert len(read(tmp_path / "out.csv")) == 1
    assert call(broken, f"--workdir={workdir}", f"--out={tmp_path / 'out.csv'}", "--on-bad-image=skip") == 2
    assert "none of the 1 images could be read" in capsys.readouterr().err


def test_outputs_that_are_nan_are_never_a_class():
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    fit = Fit((8, 8, 1), "uint8", (0, 255), None)

    def outputs(trained, images):
        logits = np.zeros((len(images), 2), np.float32)
        logits[1] = np.nan, 1.0
        return jnp.asarray(logits)

    trained = Trained({}, {}, ())
    predict = make_predict(outputs, trained, fit=fit, normalize=lambda x: x, probabilities=jax.nn.softmax)
    with pytest.raises(NonFiniteLoss, match="outputs are NaN for 1 of 3 images, the first of them image 1"):
        predict(images)
    np.testing.assert_array_equal(np.isnan(predict(images, allow_nan=True)), [[False] * 2, [True] * 2, [False] * 2])
