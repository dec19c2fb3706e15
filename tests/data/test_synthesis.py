"""Images between those of rare classes: what imbalanced-learn makes when it is called directly, and what is refused."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from imblearn import over_sampling

import cbjax
from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.data import DataError, Split, prepare
from cbjax.data.synthesis import synthesize
from tests import own_nets, processes

COUNTS = (40, 30, 20, 12, 12, 9, 9, 9, 8, 8)
DIGITS = {"name": "digits", "validation": 5, "test": 5, "longtail": "counts", "counts": COUNTS}
DIRECT = {
    "smote": lambda n: over_sampling.SMOTE(k_neighbors=n, random_state=3),
    "borderline_smote": lambda n: over_sampling.BorderlineSMOTE(k_neighbors=n, random_state=3),
    "adasyn": lambda n: over_sampling.ADASYN(n_neighbors=n, random_state=3),
}


@pytest.fixture(scope="module")
def plain():
    return prepare(DIGITS, 3)


def blobs(counts=(30, 9, 8), dtype=np.float32, spread=3.0):
    """Returns images [N, 2, 3, 2] of classes whose centres differ by 1, and which overlap."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    images = np.random.default_rng(0).normal(labels[:, None, None, None], spread, (len(labels), 2, 3, 2))
    return Split(images.astype(dtype), labels)


@pytest.mark.parametrize(("kind", "neighbours"), [("smote", 5), ("smote", 2), ("borderline_smote", 4), ("adasyn", 5)])
def test_training_images_are_those_of_imbalanced_learn_and_the_rest_stays(plain, kind, neighbours):
    found = prepare({**DIGITS, "synthesis": kind, "synthesis_neighbours": neighbours}, 3)
    rows = plain.train.images.reshape(-1, 64).astype(np.float32)
    expected, labels = DIRECT[kind](neighbours).fit_resample(rows, plain.train.labels)
    assert found.train.images.dtype == np.uint8 and found.train.images.shape == (len(labels), 8, 8, 1)
    np.testing.assert_array_equal(found.train.images.reshape(-1, 64), np.rint(expected))
    np.testing.assert_array_equal(found.train.labels, labels)
    np.testing.assert_array_equal(found.train.images[: sum(COUNTS)], plain.train.images)
    after = np.bincount(labels)
    assert after.max() - after.min() < (20 if kind == "adasyn" else 1)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(getattr(found, name).images, getattr(plain, name).images)
    assert tuple(found.counts) == COUNTS
    assert (found.mean, found.std) == (plain.mean, plain.std)
    assert f"{kind} added {len(labels) - sum(COUNTS)} training images to {sum(COUNTS)}: classes" in found.notes[-1]
    assert "instead of 8 to 40; weights, margins and groups of classes go by the images before" in found.notes[-1]


def test_pixels_that_are_not_whole_numbers_are_not_rounded():
    train = blobs()
    found, _ = synthesize(train, "smote", 5, 3, "abc")
    expected, labels = DIRECT["smote"](5).fit_resample(train.images.reshape(-1, 12), train.labels)
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.images, expected.reshape(-1, 2, 3, 2))
    np.testing.assert_array_equal(found.labels, labels)
    # On the line between two images of their class, so within the range of each pixel.
    for label in (1, 2):
        own, made = train.images[train.labels == label], found.images[47:][found.labels[47:] == label]
        assert (made >= own.min(axis=0)).all() and (made <= own.max(axis=0)).all()
        assert len(made) + len(own) == 30


def test_equal_classes_get_no_images_however_few_they_have():
    train = blobs((3, 3, 3))
    found, notes = synthesize(train, "smote", 5, 0, "abc")
    np.testing.assert_array_equal(found.images, train.images)
    assert notes[0].startswith("smote added 0 training images to 9: classes have 3 instead of 3")


def test_what_cannot_be_made_is_said(monkeypatch):
    with pytest.raises(
        DataError,
        match=r"needs more training images of each class than data.synthesis_neighbours, 8, once images are held out; "
        r"these have too few: 'c \(8\)': set data.synthesis_neighbours=7, or keep more images of them",
    ):
        synthesize(blobs(), "smote", 8, 0, "abc")
    with pytest.raises(
        DataError, match=r"too few: 'c \(1\)', 'd \(0\)': leave these classes out by data.classes, or keep"
    ):
        synthesize(blobs((30, 9, 1)), "adasyn", 5, 0, "abcd")
    with pytest.raises(DataError, match=r"makes no images from these: .* Use data.synthesis=smote, or none"):
        synthesize(blobs(spread=0.01), "adasyn", 5, 0, "abc")
    multi_hot = Split(blobs().images, np.eye(3, dtype=np.float32)[blobs().labels])
    with pytest.raises(DataError, match="needs one label an image, and these are multi-hot"):
        synthesize(multi_hot, "smote", 5, 0, "abc")
    streamed = ["data.name=folder", "data.root=x", "data.normalization=imagenet", "data.synthesis=smote"]
    with pytest.raises(ConfigError, match=r"data.synthesis must be none when data.name is folder, whose images do not"):
        configs.load("digits_lt", streamed)
    with pytest.raises(ConfigError, match=r"data.synthesis_neighbours must stay at 5 unless data.synthesis is smote"):
        configs.load("digits_lt", ["data.synthesis_neighbours=3"])
    monkeypatch.setitem(sys.modules, "imblearn", None)
    with pytest.raises(DataError, match=r"cannot be imported \(.*imblearn.*\): pip install 'cbjax\[smote\]'"):
        synthesize(blobs(), "smote", 5, 0, "abc")


def test_a_run_goes_on_to_the_bit_with_the_same_images_alone(tmp_path):
    keys = [
        *(
            "num_epochs=2",
            "data.validation=10",
            "data.test=20",
            "devices=1",
            "log.report=false",
            "log.tensorboard=false",
        ),
        *(f"model.name={own_nets.__file__}:linear", "data.synthesis=smote", "data.synthesis_neighbours=3"),
    ]
    config = configs.load("digits_lt", keys)
    whole = cbjax.train(config, tmp_path)
    facts = json.loads((tmp_path / "data.json").read_text())
    assert facts["sizes"]["train"] == 10 * max(facts["counts"]) > sum(facts["counts"])
    (tmp_path / "results.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / str(max(processes.checkpoints(tmp_path))))
    again = cbjax.train(config, tmp_path)
    for name in ("params", "opt_state"):
        ours, theirs = (jax.tree.leaves(getattr(run.state, name)) for run in (again, whole))
        assert [np.asarray(leaf).tobytes() for leaf in ours] == [np.asarray(leaf).tobytes() for leaf in theirs]
    assert again.metrics == whole.metrics
    for change in ("data.synthesis_neighbours=4", "data.synthesis=borderline_smote"):
        other = configs.load("digits_lt", [*keys, change])
        assert configs.fingerprint(other) != configs.fingerprint(config)
        with pytest.raises(ConfigError, match="the work directory holds a run with other settings"):
            cbjax.train(other, tmp_path)
    second = configs.second_stage(config, "ncm", str(tmp_path))
    assert second.data.synthesis == "none"
