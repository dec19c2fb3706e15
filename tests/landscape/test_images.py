"""Landscapes over streamed images and multi-hot labels, against the network's own predictions."""

import io
import pathlib
import sys
import types

import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import landscape
from cbjax.landscape import pictures

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import photos

NETS = pathlib.Path(__file__).parent.parent / "own_nets.py"
QUIET = ("devices=1", "log.report=false", "log.progress=off", "log.tensorboard=false", "num_epochs=1", "batch_size=8")
SMALL = {"points": 3, "span": (-0.5, 0.5), "points_at_once": 1, "progress": "off", "pictures": False}


def trained(folder, *keys):
    own = (f"model.name={NETS}:linear", "data.longtail=natural", "data.imbalance=1")
    cbjax.train(configs.load("digits_lt", [*own, *QUIET, *keys]), folder)
    return cbjax.load(folder, trust_code=True)


@pytest.mark.slow
def test_streamed_images_are_read_again_and_a_skipped_one_counts_nowhere(tmp_path):
    rows = photos.write_tree(tmp_path / "photos", {"train": (9, 6, 4), "test": (4, 4, 4)})
    run = trained(
        tmp_path / "run",
        *("data.name=folder", f"data.root={tmp_path / 'photos'}", "data.image_size=8", "data.on_bad_image=skip"),
        *("data.validation=0", "data.test=0", "data.normalization=unit"),
    )
    lost = tmp_path / "photos" / rows["test"][0][0]
    lost.write_bytes(b"no image")
    surface = landscape.random(run, split="test", dimensions=1, **SMALL)
    np.testing.assert_array_equal(surface.class_count, [3, 4, 4])
    paths = [str(tmp_path / "photos" / name) for name, _ in rows["test"][1:]]
    labels = np.array([label for _, label in rows["test"][1:]])
    chances = run.predict(paths)
    losses = -np.log(chances[np.arange(11), labels])
    np.testing.assert_allclose(surface.class_loss[1], [losses[labels == c].mean() for c in range(3)], rtol=1e-4)
    right = chances.argmax(axis=1) == labels
    np.testing.assert_allclose(surface.class_accuracy[1], [right[labels == c].mean() for c in range(3)])
    found = landscape.curvature(
        run, split="test", by=("all", "class"), steps=2, probes=1, progress="off", pictures=False
    )
    assert [part.images for part in found.parts] == [12, 4, 4, 4] and found["class ant"].largest > 0


def test_an_image_of_several_classes_counts_for_each(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.int64)[rng.integers(0, 3, 90)]
    labels[::3, 0] = 1
    images = rng.integers(0, 255, (90, 8, 8)).astype(np.uint8)
    packed = io.BytesIO()
    np.savez(packed, images=images, labels=labels, class_names=np.array(["cat", "dog", "owl"]))
    (tmp_path / "own.npz").write_bytes(packed.getvalue())
    keys = ("data.name=arrays", f"data.file={tmp_path / 'own.npz'}", "data.validation=0", "data.test=0.3")
    run = trained(tmp_path / "run", *keys, "loss.name=sigmoid")
    surface = landscape.random(run, split="test", dimensions=1, **SMALL)
    split = landscape.open_run(run, split="test").examples
    chances, shown = run.predict(split.images).astype(np.float64), split.labels > 0
    losses = -(np.log(chances) * shown + np.log1p(-chances) * ~shown).sum(axis=1)
    np.testing.assert_allclose(surface.loss[1], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(surface.class_loss[1], [losses[shown[:, c]].mean() for c in range(3)], rtol=1e-4)
    recalled = [(chances[shown[:, c], c] > 0.5).mean() for c in range(3)]
    np.testing.assert_allclose(surface.class_accuracy[1], recalled)


def test_the_unit_of_a_user_s_own_loss_is_not_known():
    runs = [{"method": {"loss": name}} for name in ("losses.py:margin", "softmax")]
    labels = [pictures.loss_label(types.SimpleNamespace(about={"runs": [run]})) for run in runs]
    assert labels == ["loss", "loss (nats)"]
