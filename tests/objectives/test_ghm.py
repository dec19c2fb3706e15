"""GHM-C against its definition, bin by bin in float64, over batches that follow each other and over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax.objectives import ghm, ghm_softmax
from cbjax.objectives.ghm import histogram
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

BINS, CLASSES = 5, 3


def linear(params, batch_stats, images, train, key=None):
    return images @ params, batch_stats


MODEL = Model(None, None, None, linear)


def state(momentum=0.75):
    settings = Settings.of(loss={"momentum": momentum})
    params = jnp.eye(4, CLASSES)
    opt_state = optax.sgd(1.0).init(params)
    return TrainState(
        jnp.int32(0), params, {}, opt_state, jnp.ones(CLASSES), jax.random.key(0), settings, jnp.zeros(BINS)
    )


def batch(seed, size=8):
    rng = np.random.default_rng(seed)
    images = (3 * rng.normal(size=(size, 4))).astype(np.float32)
    return {"image": images, "label": rng.integers(0, CLASSES, size).astype(np.int32)}


def oracle(logits, labels, memory, momentum, mask):
    """One term after the other, as the definition reads."""
    targets = np.eye(CLASSES)[labels]
    logits = np.float64(logits)
    norms = np.abs(1 / (1 + np.exp(-logits)) - targets)
    places = np.minimum((norms * BINS).astype(int), BINS - 1)
    found = np.zeros(BINS)
    for i in np.flatnonzero(mask):
        for place in places[i]:
            found[place] += 1
    after = [momentum * old + (1 - momentum) * new if new else old for old, new in zip(memory, found, strict=True)]
    total, met = mask.sum() * CLASSES, np.count_nonzero(found)
    terms = np.logaddexp(0, logits) - targets * logits
    losses = [sum(total / after[places[i, c]] / met * terms[i, c] for c in range(CLASSES)) for i in range(len(labels))]
    return np.array(losses), np.array(after), np.sum(np.array(losses)[mask]) / total


@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize("masked", [False, True])
def test_terms_are_weighted_by_the_rarity_of_their_gradient(momentum, masked):
    now, memory = state(momentum), np.zeros(BINS)
    for seed in range(3):
        given = batch(seed)
        mask = np.arange(8) < 6 if masked else np.ones(8, bool)
        terms = ghm(MODEL, BINS, axis=None).apply(now.params, now, {**given, **({"mask": mask} if masked else {})})
        losses, memory, _ = oracle(given["image"] @ np.eye(4, CLASSES), given["label"], memory, momentum, mask)
        np.testing.assert_allclose(np.asarray(terms.losses)[mask], losses[mask], rtol=1e-5)
        np.testing.assert_allclose(terms.state, memory, rtol=1e-6)
        now = dataclasses.replace(now, objective=terms.state)


def test_alike_gradients_make_it_plain_cross_entropy():
    """If one bin has all terms and nothing is remembered, each weight is 1."""
    given = {"image": np.zeros((8, 4), np.float32), "label": batch(0)["label"]}
    terms = ghm(MODEL, BINS, axis=None).apply(state(0.0).params, state(0.0), given)
    np.testing.assert_allclose(terms.losses, CLASSES * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("form", [ghm, ghm_softmax])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits_stay_finite(logit, form, dtype):
    model = Model(None, None, None, lambda params, *rest, **more: (jnp.full((8, CLASSES), logit, dtype) * params, {}))
    now = dataclasses.replace(state(), params=jnp.ones((), dtype))

    def total(params):
        terms = form(model, BINS, axis=None).apply(params, now, batch(0))
        return terms.losses.sum(), terms.state

    (value, memory), grads = jax.value_and_grad(total, has_aux=True)(now.params)
    assert (
        np.isfinite(value)
        and np.isfinite(grads.astype(jnp.float32))
        and memory.sum() == 0.25 * 8 * (CLASSES if form is ghm else 1)
    )


def softmax_oracle(logits, labels, memory, momentum, weights):
    """One example after the other."""
    logits, rows = np.float64(logits), np.arange(len(labels))
    p = np.exp(logits)[rows, labels] / np.exp(logits).sum(axis=1)
    places = np.minimum(((1 - p) * BINS).astype(int), BINS - 1)
    found = np.bincount(places, minlength=BINS)
    after = np.where(found > 0, momentum * memory + (1 - momentum) * found, memory)
    return -np.log(p) * len(labels) / after[places] / np.count_nonzero(found) * weights[labels], after


def test_the_histogram_counts_beyond_what_float32_can():
    """2,100 images of 8,142 classes; at the start of training all terms lie in one bin."""
    _, found = jax.jit(histogram, static_argnums=2)(jnp.full((2100, 8142), 0.01), jnp.ones(2100, bool), 30)
    np.testing.assert_array_equal(found, [2100 * 8142] + [0] * 29)


def test_the_softmax_form_weights_examples_by_the_rarity_of_their_gradient():
    class_weights = np.array([0.5, 1.0, 1.5])
    now, memory = dataclasses.replace(state(), class_weights=jnp.asarray(class_weights, jnp.float32)), np.zeros(BINS)
    for seed in range(3):
        given = batch(seed)
        terms = ghm_softmax(MODEL, BINS, axis=None).apply(now.params, now, given)
        expected, memory = softmax_oracle(given["image"] @ np.eye(4, 3), given["label"], memory, 0.75, class_weights)
        np.testing.assert_allclose(terms.losses, expected, rtol=1e-4)
        np.testing.assert_allclose(terms.state, memory, rtol=1e-6)
        np.testing.assert_array_equal(terms.amounts, 1)
        now = dataclasses.replace(now, objective=terms.state)


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
@pytest.mark.parametrize("count", [1, 4])
def test_the_histogram_is_that_of_all_devices(kind, count):
    mesh = sharding.make_mesh(count)
    step = make_train_step(ghm(MODEL, BINS), optax.sgd(0.0))
    step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    now, memory = sharding.replicate(state(), mesh), np.zeros(BINS)
    for seed in range(3):
        given = batch(seed)
        now, metrics = step(now, given)
        _, memory, value = oracle(given["image"] @ np.eye(4, CLASSES), given["label"], memory, 0.75, np.ones(8, bool))
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        np.testing.assert_allclose(now.objective, memory, rtol=1e-6)
