"""The nearest class mean from a finished run: means and decisions by an oracle in float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cbjax
from cbjax import config as configs
from cbjax import data, models
from cbjax.config import ConfigError
from cbjax.data import DataError
from cbjax.models import two_stages
from cbjax.report import report
from cbjax.training.restore import evaluate
from cbjax.types import Model
from tests import own_nets
from tests.photos import write_list

OWN = f"model.name={own_nets.__file__}:"
FEW = ("model.name=linear", "num_epochs=1", "data.test=20", "log.report=false", "log.tensorboard=false")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(run, work directory) of a first stage on digits, with a loss whose answers are one-vs-rest."""
    workdir = tmp_path_factory.mktemp("first")
    keys = [*FEW, f"{OWN}parted", "loss.name=focal", "data.validation=10", "devices=1", "data.sampler=class_aware"]
    return cbjax.train(configs.load("digits_lt", keys), workdir), workdir


def second(source, workdir, *overrides):
    read = configs.from_json((source / "config.json").read_text())
    return cbjax.train(configs.second_stage(read, "ncm", str(source), overrides), workdir)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def oracle(params, dataset, images, similarity):
    """Returns the means [C, D] and logits [N, C] by the definitions, in float64."""
    kernel, bias = (np.asarray(params["body"][name], np.float64) for name in ("kernel", "bias"))

    def features(images):
        pixels = (images.astype(np.float64) - dataset.mean) / dataset.std
        return np.maximum(pixels.reshape(len(images), -1) @ kernel + bias, 0)

    train, given, labels = features(dataset.train.images), features(images), dataset.train.labels
    if similarity == "euclidean":
        center = train.mean(axis=0)
        train, given = train - center, given - center
        train /= np.linalg.norm(train, axis=1, keepdims=True)
    means = np.stack([train[labels == label].mean(axis=0) for label in range(len(dataset.counts))])
    given = given / np.linalg.norm(given, axis=1, keepdims=True)
    if similarity == "euclidean":
        return means, -(np.linalg.norm(given[:, None] - means[None], axis=2) ** 2)
    return means, given @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("similarity", "devices"), [("cosine", 1), ("euclidean", 4)])
def test_means_and_decisions_are_those_of_the_oracle(first, tmp_path, similarity, devices):
    before, source = first
    # 60 does not divide the number of images: the last batch is filled up.
    keys = [f"stage.similarity={similarity}", f"devices={devices}", "evaluation.batch_size=60"]
    after = second(source, tmp_path, *keys)
    dataset = data.of_config(after.config)
    params = dict(after.state.params)
    found = params.pop("class_means")
    assert bits(params) == bits(before.state.params)
    means, logits = oracle(params, dataset, dataset.test.images, similarity)
    np.testing.assert_allclose(found["means"], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.predict(dataset.test.images), softmax(logits), rtol=1e-5)
    right = np.argmax(logits, axis=1) == dataset.test.labels
    assert after.metrics["test/last/accuracy"] == pytest.approx(right.mean())
    if devices == 4:
        figures = evaluate(tmp_path, trust_code=True)
        assert figures == {key: after.metrics[f"test/last/{key}"] for key in figures}
        loaded = cbjax.load(tmp_path, trust_code=True)
        np.testing.assert_allclose(loaded.predict(dataset.test.images), softmax(logits), rtol=1e-5)
        (tmp_path / "results.json").unlink()
        again = second(source, tmp_path, *keys)
        assert again.metrics == after.metrics
        assert bits(again.state.params) == bits(after.state.params)
        assert report([tmp_path], tmp_path).exists()


def test_images_of_files_are_averaged_and_bad_ones_left_out(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 8, 8, 3), np.uint8)
    labels = np.arange(50) % 3
    pixels[np.arange(50), :, :, labels] //= 4
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "7.png").write_bytes(b"no image")
    rows = [(f"{number}.png", label) for number, label in enumerate(labels)]
    parts = {"train": rows[:44], "test": rows[44:]}
    lists = [f"data.{name}_list={write_list(tmp_path / f'{name}.txt', part)}" for name, part in parts.items()]
    images = [f"data.root={tmp_path}", *lists, "data.image_size=8", "data.resize=8", "data.on_bad_image=skip"]
    plain = ["data.longtail=natural", "data.imbalance=1", "data.normalization=unit", "data.validation=0"]
    keys = [*FEW, "data.name=list", "data.test=0", *plain, *images, f"{OWN}parted", "batch_size=8", "devices=2"]
    cbjax.train(configs.load("digits_lt", keys), tmp_path / "first")
    after = second(tmp_path / "first", tmp_path / "ncm")
    assert "class means of the 12 features of 43 training images" in capsys.readouterr().out
    kept = np.setdiff1d(np.arange(44), 7)
    counts = np.bincount(labels[kept])
    train = data.Split(pixels[kept], labels[kept])
    dataset = data.Dataset(train, None, train, ("0", "1", "2"), counts, {}, mean=(0.0,) * 3, std=(255.0,) * 3)
    params = after.state.params
    means, logits = oracle(params, dataset, pixels[44:], "cosine")
    np.testing.assert_allclose(params["class_means"]["means"], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.predict(pixels[44:]), softmax(logits), rtol=1e-5)
    for number in range(0, 44, 3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"needs a training image of every class that can be read; .* of '0'"):
        second(tmp_path / "first", tmp_path / "lost")


def test_the_head_has_its_limits():
    model = models.build(OWN.removeprefix("model.name=") + "parted", 3)
    images = jnp.zeros((2, 8, 8, 1))
    for similarity in ("cosine", "euclidean"):
        made = two_stages.nearest_mean(model, 3, similarity)
        params, _ = jax.eval_shape(made.init, jax.random.key(0), images)
        assert [leaf.shape for leaf in jax.tree.leaves(params["class_means"])] == [(12,), (3, 12)]
        features = jnp.zeros((2, 12)).at[1, 0].set(1e4)
        means = jnp.zeros((3, 12)).at[0, 0].set(1e-3).at[1, 0].set(-7.0)
        logits = made.head({"class_means": {"means": means, "center": jnp.zeros(12)}}, features.astype(jnp.bfloat16))
        # Features of length 0 have no direction, and no mean is nearer in direction than another.
        expected = [[0, 0, 0], [1, -1, 0]] if similarity == "cosine" else [[-1e-6, -49, 0], [-0.998001, -64, -1]]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    flat = Model(model.init, lambda params, stats, images, train: (images, stats), model.head, model.apply)
    with pytest.raises(ValueError, match=r"class means need features \[B, D\] before the last layer; got \[1, 8, 8, 1"):
        jax.eval_shape(two_stages.nearest_mean(flat, 3, "cosine").init, jax.random.key(0), images)


def test_what_has_no_class_means_is_refused(first, tmp_path):
    _, source = first
    with pytest.raises(
        ConfigError, match=r"loss\.name must be softmax, or ldam as in the first stage, when stage.name"
    ):
        second(source, tmp_path / "loss", "loss.name=sigmoid")
    with pytest.raises(ConfigError, match=r"stage.similarity must stay at cosine unless stage.name is ncm"):
        configs.load("digits_lt", ["stage.similarity=euclidean"])
    with pytest.raises(ConfigError, match=r"stage.similarity must be .*cosine.*; got 'dot'"):
        second(source, tmp_path / "dot", "stage.similarity=dot")
    with pytest.raises(ConfigError, match="gives only logits, but this needs the features before its last layer"):
        second(source, tmp_path / "wide", f"{OWN}wide")
    counts = f"data.counts={','.join(['5'] * 9)},0"
    with pytest.raises(ConfigError, match=r"stage.name=ncm needs a training image of every class, and 1 have none: 9"):
        second(source, tmp_path / "empty", "data.longtail=counts", counts, "data.imbalance=1", "batch_size=8")
