"""Predictions written to files: those of the run, in order, whole or not at all."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from tests.photos import write_tree


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("digits")
    return cbjax.train(configs.load("digits_lt", ["num_epochs=2", "data.test=20"]), workdir), workdir


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


def test_a_folder_to_json_lines(digits, tmp_path):
    run, workdir = digits
    write_tree(tmp_path / "images", {"new": (2, 1, 1)})
    assert call(tmp_path / "images", f"--workdir={workdir}", f"--out={tmp_path / 'out.jsonl'}", "--top=50") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    names = ["new/ant/0.jpg", "new/ant/1.jpg", "new/bee/0.jpg", "new/cat/0.jpg"]
    assert [row["image"] for row in rows] == names
    for name, row in zip(names, rows, strict=True):
        with Image.open(tmp_path / "images" / name) as image:
            pixels = np.asarray(image.convert("RGB").convert("L").resize((8, 8), Image.Resampling.BILINEAR))
        expected = run.predict(pixels[None])[0]
        assert sorted(row["classes"]) == [str(i) for i in range(10)]
        np.testing.assert_allclose(row["probabilities"], np.sort(expected)[::-1], atol=2e-2)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def bad_image(root):
    (root / "bad.jpg").write_bytes(b"no image")
    return root


def arrays(root, **contents):
    np.savez(root / "own.npz", **contents)
    return root / "own.npz"


@pytest.mark.parametrize(
    ("make", "out", "message"),
    [
        (lambda root: root / "absent", "out.csv", "there is no folder and no .npz"),
        (lambda root: root, "out.csv", "has no image, a file that ends in .jpg"),
        (lambda root: root, "out.txt", "--out must end in .csv or .jsonl"),
        (bad_image, "out.csv", "bad.jpg: it cannot be read"),
        (lambda root: arrays(root, images=np.zeros((2, 9, 9), np.uint8)), "out.csv", "the shape [N, 8, 8, 1]"),
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
