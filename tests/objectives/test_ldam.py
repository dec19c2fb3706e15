"""LDAM against its formula in float64, at its limits, and the head that it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import losses, models
from cbjax.objectives import ldam as method

COUNTS = np.array([500.0, 40.0, 7.0])


def cosines(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (6, 3)).astype(np.float32), rng.integers(0, 3, 6).astype(np.int32)


def oracle(cosines, labels, weights, margins, scale):
    logits = np.float64(cosines) * scale
    logits[np.arange(len(labels)), labels] -= scale * margins[labels]
    logits -= logits.max(axis=1, keepdims=True)
    return weights[labels] * (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels])


def test_margins_fall_with_the_fourth_root_of_the_count():
    found = losses.ldam_margins(COUNTS, 0.5)
    np.testing.assert_allclose(found, 0.5 * (COUNTS / 7) ** -0.25, rtol=1e-6)
    assert found.max() == 0.5


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_loss_is_that_of_the_formula(scale):
    values, labels = cosines()
    weights, own = np.array([0.5, 1.0, 1.5]), 0.5 * (COUNTS / 7) ** -0.25
    found = losses.ldam_loss(values, labels, weights, margins=jnp.asarray(own, jnp.float32), scale=scale)
    np.testing.assert_allclose(found, oracle(values, labels, weights, own, scale), rtol=2e-5, atol=1e-6)


def test_without_margins_it_is_cross_entropy_of_scaled_cosines():
    values, labels = cosines()
    found = losses.ldam_loss(values, labels, margins=jnp.zeros(3), scale=30.0)
    np.testing.assert_array_equal(found, losses.softmax_cross_entropy(30 * values, labels))


def test_a_larger_margin_is_a_larger_loss():
    values, labels = cosines()
    of = [losses.ldam_loss(values, labels, margins=jnp.full(3, margin)) for margin in (0.0, 0.2, 0.5)]
    assert (of[0] < of[1]).all() and (of[1] < of[2]).all()


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20", pytest.param("resnet10", marks=pytest.mark.slow)])
def test_the_head_gives_cosines_of_features_and_kernels(name):
    model = models.build(name, 5, head="normalized")
    side = {"digits_cnn": 8, "lenet5": 28}.get(name, 32)
    images = np.random.default_rng(0).normal(size=(2, side, side, 1)).astype(np.float32)
    params, _ = jax.jit(model.init)(jax.random.key(0), images)
    assert params["head"].keys() == {"kernel"}
    kernel = np.float64(params["head"]["kernel"])
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
    features = np.random.default_rng(1).normal(size=(4, len(kernel)))
    expected = features @ kernel / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(model.head(params, jnp.float32(features)), expected, atol=2e-6)
    longer = {"head": {"kernel": 7 * params["head"]["kernel"]}}
    np.testing.assert_allclose(model.head(longer, jnp.float32(3 * features)), expected, atol=2e-6)


def test_features_of_zero_have_finite_gradients():
    model = models.build("digits_cnn", 5, head="normalized")
    params, _ = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    grads = jax.jit(jax.grad(lambda features: model.head(params, features).sum()))(jnp.zeros((2, 64)))
    assert np.isfinite(grads).all()


def test_answers_are_scaled_cosines():
    from cbjax.types import Settings, Trained

    model = models.build("digits_cnn", 5, head="normalized")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    params, batch_stats = model.init(jax.random.key(0), images)
    settings = Settings.of(loss={"scale": 30})
    found = method(model).logits(Trained(params, batch_stats, settings), images)
    np.testing.assert_allclose(found, 30 * model.apply(params, batch_stats, images, train=False)[0], rtol=1e-6)
