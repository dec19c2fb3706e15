"""Equalization losses in a step: which classes are rare, and draws that do not depend on devices or parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses
from cbjax.objectives import equalized
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

COUNTS = np.array([80.0, 14.0, 6.0])  # mean 33.3
RARE = np.array([False, True, True])
BATCH = {
    "image": np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32),
    "label": (np.arange(16) % 3).astype(np.int32),
}
MODEL = Model(None, None, None, lambda params, stats, images, train, key=None: (images @ params, stats))
LOSSES = {
    losses.equalization_loss: losses.sigmoid_cross_entropy,
    losses.softmax_equalization_loss: losses.softmax_cross_entropy,
}
both = pytest.mark.parametrize("loss", LOSSES)


def state(rare_below=0.5, chance=0.5):
    settings = Settings.of(loss={"rare_below": rare_below, "mask_chance": chance}, counts=COUNTS)
    params = jnp.eye(4, 3)
    opt_state = optax.sgd(0.1).init(params)
    return TrainState(jnp.int32(0), params, {}, opt_state, jnp.array([0.5, 1.0, 1.5]), jax.random.key(7), settings)


def found(loss, now):
    return equalized(MODEL, loss, axis=None).apply(now.params, now, BATCH).losses


@both
@pytest.mark.parametrize(("rare_below", "chance"), [(0.5, 0.0), (0.0, 1.0)])
def test_without_rare_classes_or_draws_it_is_the_plain_loss(loss, rare_below, chance):
    now = state(rare_below, chance)
    expected = LOSSES[loss](BATCH["image"] @ now.params, BATCH["label"], now.class_weights)
    np.testing.assert_allclose(found(loss, now), expected, rtol=1e-6)


@both
@pytest.mark.parametrize(("rare_below", "rare"), [(0.5, RARE), (0.4, [False, False, True]), (3.0, [True] * 3)])
def test_classes_with_few_images_are_rare(loss, rare_below, rare):
    now = state(rare_below, 1.0)
    given = BATCH["image"] @ now.params, BATCH["label"], now.class_weights
    np.testing.assert_allclose(found(loss, now), loss(*given, masked=np.array(rare)), rtol=1e-6)


@pytest.mark.parametrize("frequent", [90, 300, 999, 1200])
def test_a_class_just_at_the_threshold_is_not_rare(frequent):
    """Half of 1,000 classes have a third of the images of the others, so half of the mean."""
    counts = np.tile([frequent, frequent / 3], 500)
    model = Model(None, None, None, lambda params, stats, images, train, key=None: (images, stats))
    batch = {"image": np.zeros((4, 1000), np.float32), "label": np.arange(4)}
    for rare_below, left_out in ((0.5, 0), (0.5001, 500), (1.0, 500), (1.5, 500)):
        settings = Settings.of(loss={"rare_below": rare_below, "mask_chance": 1.0}, counts=counts)
        now = dataclasses.replace(state(), settings=settings, class_weights=jnp.ones(1000))
        terms = jax.jit(equalized(model, losses.equalization_loss, axis=None).apply)(now.params, now, batch)
        own = np.arange(4) % 2  # of an image of a rare class one left-out class is its own
        np.testing.assert_allclose(terms.losses, (1000 - left_out + own * (left_out > 0)) * np.log(2), rtol=1e-5)


@both
def test_each_step_draws_again(loss):
    now = state()
    again, after = found(loss, now), found(loss, dataclasses.replace(now, step=jnp.int32(1)))
    np.testing.assert_array_equal(found(loss, now), again)
    assert not np.allclose(again, after)


@functools.cache
def trained(kind, count, parts):
    mesh = sharding.make_mesh(count)
    step = make_train_step(equalized(MODEL, losses.softmax_equalization_loss), optax.sgd(0.1), accumulation=parts)
    step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    now, metrics = step(sharding.replicate(state(), mesh), BATCH)
    return np.asarray(now.params), metrics["loss"]


@pytest.mark.parametrize("how", [("shard_map", 4, 1), ("pmap", 4, 1), ("shard_map", 2, 4)])
def test_devices_and_parts_of_a_batch_do_not_change_the_draw(how):
    for ours, theirs in zip(trained(*how), trained("shard_map", 1, 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
