"""L2RW against the published form, which takes a virtual step and differentiates through it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses
from cbjax.objectives import l2rw
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

SETTINGS = Settings.of(loss={})


def network(params, batch_stats, images, train, key=None):
    hidden = jnp.tanh(images @ params["first"])
    hidden = (hidden - hidden.mean(axis=0, keepdims=True)) / (hidden.std(axis=0, keepdims=True) + 0.1)  # of the batch
    return hidden @ params["last"], batch_stats


def loss(logits, labels, class_weights, settings):
    return losses.softmax_cross_entropy(logits, labels, class_weights)


def make(dtype, model=network):
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=(4, 8)), "last": rng.normal(size=(8, 3))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    batch = {"image": rng.normal(size=(16, 4)), "meta": {"image": rng.normal(size=(8, 4))}}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), batch)
    batch["label"] = jnp.asarray(rng.integers(0, 3, 16), jnp.int32)
    batch["meta"]["label"] = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
    opt_state = optax.sgd(1.0).init(params)
    state = TrainState(jnp.int32(0), params, {}, opt_state, jnp.ones(3), jax.random.key(0), SETTINGS)
    return state, batch, l2rw(Model(None, None, None, model), loss, axis=None)


def unrolled(state, batch, model=network):
    """The paper's algorithm: a virtual step of rate 1, the meta loss after it, and its derivative by each weight."""

    def meta_loss(amounts):
        def weighted(params):
            logits, _ = model(params, {}, batch["image"], True)
            return jnp.sum(amounts * loss(logits, batch["label"], None, None))

        moved = jax.tree.map(lambda leaf, slope: leaf - slope, state.params, jax.grad(weighted)(state.params))
        logits, _ = model(moved, {}, batch["meta"]["image"], True)
        return jnp.mean(loss(logits, batch["meta"]["label"], None, None))

    slopes = jax.grad(meta_loss)(jnp.zeros(16, batch["image"].dtype))
    kept = jnp.maximum(-slopes, 0.0)
    return kept / kept.sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_weights_are_those_of_the_unrolled_algorithm(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        state, batch, objective = make(dtype)
        terms = jax.jit(objective.apply)(state.params, state, batch)
        found, expected = terms.amounts / terms.amounts.sum(), jax.jit(unrolled)(state, batch)
        assert found.dtype == dtype and 0 < np.count_nonzero(expected) < 16
        np.testing.assert_allclose(found, expected, atol=tolerance)
        plain = loss(network(state.params, {}, batch["image"], True)[0], batch["label"], None, None)
        np.testing.assert_allclose(terms.losses, terms.amounts * plain, rtol=10 * tolerance)


def test_no_gradient_flows_through_the_weights():
    state, batch, objective = make("float32")
    fixed = jax.jit(objective.apply)(state.params, state, batch).amounts

    def found(params):
        terms = objective.apply(params, state, batch)
        return terms.losses.sum()

    def expected(params):
        return jnp.sum(fixed * loss(network(params, {}, batch["image"], True)[0], batch["label"], None, None))

    ours, theirs = (jax.jit(jax.grad(one))(state.params) for one in (found, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_batch_teaches_nothing_if_no_image_agrees():
    state, batch, _ = make("float32")
    # The meta images have the opposite labels: what lowers one loss raises the other.
    one = {"image": batch["image"][:1].repeat(16, axis=0), "label": jnp.zeros(16, jnp.int32)}
    linear = Model(
        None, None, None, lambda params, stats, images, train, key=None: (images @ params["first"][:, :3], {})
    )
    other = {**one, "meta": {"image": one["image"][:8], "label": jnp.ones(8, jnp.int32)}}
    step = make_train_step(l2rw(linear, loss, axis=None), optax.sgd(1.0), axis=None)
    after, metrics = jax.jit(step)(state, other)
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def plain(params, batch_stats, images, train, key=None):
    return jnp.tanh(images @ params["first"]) @ params["last"], batch_stats


def test_masked_meta_images_count_nothing():
    state, batch, objective = make("float32", plain)
    apply = jax.jit(lambda batch: objective.apply(state.params, state, batch))
    few = {**batch, "meta": {name: leaf[:5] for name, leaf in batch["meta"].items()}}
    masked = {**batch, "meta": {**batch["meta"], "mask": jnp.arange(8) < 5}}
    np.testing.assert_allclose(apply(masked).amounts, apply(few).amounts, rtol=1e-5, atol=1e-6)
    none = {**batch, "meta": {**batch["meta"], "mask": jnp.zeros(8, bool)}}
    assert not apply(none).amounts.any()


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_devices_agree_on_the_meta_gradient(kind):
    results = []
    for count in (1, 4):
        state, batch, _ = make("float32", plain)
        mesh = sharding.make_mesh(count)
        step = make_train_step(l2rw(Model(None, None, None, plain), loss), optax.sgd(1.0))
        step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
        after, metrics = step(sharding.replicate(state, mesh), jax.tree.map(np.asarray, batch))
        results.append((jax.device_get(after.params), metrics["loss"]))
    (one, value), (four, value_of_four) = results
    np.testing.assert_allclose(value, value_of_four, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)
