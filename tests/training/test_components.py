"""Schedules, decay, losses and networks as a configuration names them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import config as configs
from cbjax import data, losses
from cbjax.data.batches import Batches
from cbjax.parallel import sharding
from cbjax.training import build, components
from cbjax.types import Settings


@pytest.mark.parametrize(
    ("num_examples", "batch_size"),
    [(10847, 128), (19573, 128), (50000, 128), (363, 64), (5000, 100), (997, 31)],  # CIFAR-100 of imbalance 100, 10, 1
)
@pytest.mark.parametrize("num_epochs", [5, 200, 100])
def test_the_rate_drops_with_the_first_step_of_an_epoch(num_examples, batch_size, num_epochs):
    config = configs.load("cifar_lt:cui", [f"num_epochs={num_epochs}", "optim.warmup=0"])
    config.optim.decay_at = (0.6, 0.8)
    config.batch_size = batch_size
    batches = Batches(num_examples, batch_size, 0)
    schedule = components.build_schedule(config, batches)
    peak = config.optim.learning_rate
    for drops, fraction in enumerate(config.optim.decay_at):
        step = batches.epoch_end(round(fraction * num_epochs))
        rates = [float(schedule(at)) / peak for at in (step - 1, step)]
        expected = [config.optim.decay_factor**drops, config.optim.decay_factor ** (drops + 1)]
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_goyals_schedule():
    # Goyal et al. 2017: base rate 0.1 for 256 images, warm-up over 5 epochs from it, a tenth at 30, 60 and 80 of 90.
    images, batch = 1_281_167, 8192
    config = configs.load("cifar_lt:cdb", ["model.name=resnet50", "num_epochs=90", f"batch_size={batch}"])
    config.optim.learning_rate, config.optim.reference_batch_size = 0.1, 256
    config.optim.warmup_epochs, config.optim.warmup_from = 5, "base"
    config.optim.decay_at, config.optim.decay_factor = (1 / 3, 2 / 3, 8 / 9), 0.1
    batches = Batches(images, batch, 0)
    schedule = components.build_schedule(configs.resolve(config), batches)
    per_epoch = images / batch
    warm = round(5 * per_epoch)
    first_of = {epoch: -(-epoch * images // batch) for epoch in (30, 60, 80)}
    assert (warm, first_of) == (782, {30: 4692, 60: 9384, 80: 12512})
    rates = {
        0: 0.1,
        391: 0.1 + 3.1 * 391 / 782,
        782: 3.2,
        4691: 3.2,
        4692: 0.32,
        9383: 0.32,
        9384: 0.032,
        12511: 0.032,
        12512: 0.0032,
        batches.epoch_end(90) - 1: 0.0032,
    }
    for step, rate in rates.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)
    # The CB authors' warm-up starts at zero.
    config.optim.warmup_from = 0.0
    schedule = components.build_schedule(configs.resolve(config), batches)
    np.testing.assert_allclose([schedule(0), schedule(391), schedule(782)], [0, 3.2 * 391 / 782, 3.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "reference", "warmup_from", "expected"),
    [
        (1024, None, 0.05, (0.1, 0.05)),
        (1024, 256, "base", (0.4, 0.1)),
        (1024, 256, 0.2, (0.4, 0.2)),
        (64, 256, "base", (0.025, 0.025)),  # a smaller batch needs no warm-up
        (64, 128, 0.0, (0.05, 0.0)),
    ],
)
@pytest.mark.parametrize("name", ["step", "cosine"])
def test_the_rate_grows_with_the_batch(batch_size, reference, warmup_from, expected, name):
    config = configs.load("cifar_lt:cdb", [f"batch_size={batch_size}", f"optim.schedule={name}"])
    config.optim.learning_rate, config.optim.reference_batch_size = 0.1, reference
    config.optim.warmup_steps, config.optim.warmup_from = 10, warmup_from
    schedule = components.build_schedule(configs.resolve(config), Batches(50_000, batch_size, 0))
    np.testing.assert_allclose([schedule(10), schedule(0)], expected, rtol=1e-6)


def test_decay_leaves_out_batch_norm_and_the_last_bias():
    config = configs.load("cifar_lt:cdb", ["model.name=resnet18", "optim.decay_rule=kernels"])
    config.optim.momentum = 0.0
    params, _ = jax.eval_shape(components.build_model(config, 10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    tx = components.build_optimizer(config, lambda step: 1.0, params, 1.0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if (leaf == -1).all()
    }
    kernels = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1
    }
    assert decayed == kernels and len(kernels) == 18 + 3


@pytest.mark.parametrize(
    ("overrides", "axis", "group"),
    [([], None, None), (["model.batch_norm_size=all"], "data", None), (["model.batch_norm_size=32"], None, 32)],
)
@pytest.mark.parametrize("name", ["resnet20", "resnet10"])
def test_the_model_has_its_options(monkeypatch, overrides, axis, group, name):
    seen = {}
    monkeypatch.setattr(components.models, "build", lambda name, num_classes, **options: seen.update(options))
    extra = ["model.dtype=bfloat16", "model.remat=true", "model.zero_last_scale=false"] if name == "resnet10" else []
    components.build_model(configs.load("cifar_lt:cdb", [f"model.name={name}", *overrides, *extra]), 100)
    assert (seen["batch_norm_axis"], seen["batch_norm_size"]) == (axis, group)
    if extra:
        assert (seen["dtype"], seen["remat"], seen["zero_last_scale"]) == ("bfloat16", True, False)


def test_a_network_for_clips_has_its_options(monkeypatch):
    seen = {}
    monkeypatch.setattr(components.models, "build", lambda name, num_classes, **options: seen.update(options))
    data = ["data.name=folder", "data.root=clips", "data.frames=10", "data.normalization=none", "data.crop_padding=0"]
    plain = ["data.longtail=natural", "data.imbalance=1", "data.validation=0", "loss.name=ldam"]
    options = ["model.name=resnext3d101", "model.channels=bgr", "model.dtype=bfloat16", "model.zero_last_scale=false"]
    components.build_model(configs.load("cifar_lt:cdb", [*data, *plain, *options]), 19)
    assert (seen["channels"], seen["dtype"], seen["zero_last_scale"]) == ("bgr", "bfloat16", False)
    assert seen["head"] == "normalized" and "shortcut" not in seen


def test_only_training_smooths_labels():
    config = configs.load("cifar_lt:cdb", ["loss.label_smoothing=0.1"])
    arguments = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([0]), jnp.ones(3)
    plain = losses.softmax_cross_entropy(*arguments)
    np.testing.assert_array_equal(components.build_loss(config, smooth=False)(*arguments, None), plain)
    np.testing.assert_allclose(components.build_loss(config)(*arguments, None), plain + 0.1 * (2 - 1 / 3), rtol=1e-6)
    focal = components.build_loss(configs.load("cifar_lt:cui"))
    assert focal(*arguments, Settings.of(loss={"gamma": 1.0})).shape == (1,)


def test_fractions_are_those_that_were_written():
    # 0.55 * 100 in binary is above 55.
    assert components.exactly(0.55) * 100 == 55 and 0.55 * 100 > 55


def test_the_rates_of_whole_epochs_are_those_of_the_schedule():
    config = configs.load("digits_lt", ["num_epochs=4", "optim.schedule=cosine", "optim.warmup=0.3"])
    dataset = data.of_config(config)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    schedule = components.build_schedule(config, parts.batches)
    steps = range(parts.batches.epoch_end(4))
    np.testing.assert_allclose([parts.schedule(step) for step in steps], [schedule(step) for step in steps], rtol=1e-6)
