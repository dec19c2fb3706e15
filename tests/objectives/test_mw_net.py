"""Meta-Weight-Net against the published form, which differentiates through an unrolled virtual step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses
from cbjax.objectives import mw_net
from cbjax.objectives.mw_net import VARIANTS, Weighting, first_weighting, weights_of
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

RATE, DECAY, PACE = 0.5, 0.1, 0.7
BATCH, CLASSES = 16, 3


def network(params, batch_stats, images, train, key=None):
    hidden = jnp.tanh(images @ params["first"])
    mean, deviation = hidden.mean(axis=0, keepdims=True), hidden.std(axis=0, keepdims=True)  # of the batch
    logits = ((hidden - mean) / (deviation + 0.1) * params["scale"][None]) @ params["last"]
    return logits, {"mean": 0.9 * batch_stats["mean"] + 0.1 * jax.lax.stop_gradient(mean[0])}


def plain(params, batch_stats, images, train, key=None):
    return jnp.tanh(images @ params["first"]) @ params["last"], batch_stats


def loss(logits, labels, class_weights, settings):
    return losses.softmax_cross_entropy(logits, labels, class_weights)


def make(dtype="float32", apply=network, scale=1.0, axis=None, **options):
    rng = np.random.default_rng(0)
    shapes = {"first": (4, 8), "scale": (8,), "last": (8, CLASSES)}
    params = {name: jnp.asarray(scale * rng.normal(size=shape), dtype) for name, shape in shapes.items()}
    batch = {"image": rng.normal(size=(BATCH, 4)), "meta": {"image": rng.normal(size=(8, 4))}}
    batch = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), batch)
    batch["label"] = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    batch["meta"]["label"] = rng.integers(0, CLASSES, 8).astype(np.int32)
    settings = Settings.of(loss={}, method={"meta.network_rate": RATE, "meta.network_decay": DECAY})
    objective = mw_net(Model(None, None, None, apply), loss, lambda state: PACE, axis=axis, **options)
    state = TrainState(
        jnp.int32(0), params, {"mean": jnp.zeros(8, dtype)}, optax.sgd(1.0).init(params), jnp.ones(CLASSES),
        jax.random.key(0), settings, objective.init(jax.random.key(1), params, settings),
    )  # fmt: skip
    return state, batch, objective


def weighted_mean(weighting, values, variant):
    """The weighted loss of a batch as the two repositories have it: (value, what each loss is multiplied by)."""
    seen = values if variant == "imbalance" else jax.lax.stop_gradient(values)
    hidden = jnp.maximum(seen[:, None] * weighting["hidden"] + weighting["hidden_bias"][None], 0)
    weights = 1 / (1 + jnp.exp(-(hidden @ weighting["last"] + weighting["last_bias"][None])))[:, 0]
    weights = weights / (weights.sum() if variant == "imbalance" else len(values))
    return jnp.sum(weights * values), weights


def unrolled(state, batch, variant, apply=network):
    """The slope of the meta loss after the virtual step, by each parameter of the weighting network."""

    def meta_loss(weighting):
        def of_batch(params):
            logits, _ = apply(params, state.batch_stats, batch["image"], True)
            return weighted_mean(weighting, loss(logits, batch["label"], None, None), variant)[0]

        slope = jax.grad(of_batch)(state.params)
        moved = jax.tree.map(lambda leaf, slope: leaf - PACE * slope, state.params, slope)
        logits, _ = apply(moved, state.batch_stats, batch["meta"]["image"], True)
        return jnp.mean(loss(logits, batch["meta"]["label"], None, None))

    return jax.grad(meta_loss)(state.objective.params)


def stepped(weighting, slope):
    """The first step of PyTorch's SGD with Nesterov's momentum of 0.9."""
    return jax.tree.map(lambda leaf, slope: leaf - RATE * 1.9 * (slope + DECAY * leaf), weighting, slope)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_a_step_is_that_of_the_unrolled_algorithm(variant, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        state, batch, objective = make(dtype, variant=variant)
        slope = jax.jit(unrolled, static_argnums=2)(state, batch, variant)
        assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(slope))
        # The numbers of a run are float32, so that a decay of 0.1 is not 0.1 to 1e-12.
        exact = state.settings._replace(method={"meta.network_rate": RATE, "meta.network_decay": DECAY})
        state = dataclasses.replace(state, settings=exact)
        terms = jax.jit(lambda state: objective.apply(state.params, state, batch))(state)
        after = stepped(state.objective.params, slope)
        for name, leaf in terms.state.params.items():
            assert leaf.dtype == dtype
            np.testing.assert_allclose(leaf, after[name], rtol=tolerance, atol=tolerance)
        logits, batch_stats = network(state.params, state.batch_stats, batch["image"], True)
        values = loss(logits, batch["label"], None, None)
        share = terms.losses / terms.amounts.sum()
        np.testing.assert_allclose(share, weighted_mean(after, values, variant)[1] * values, atol=tolerance)
        np.testing.assert_allclose(terms.batch_stats["mean"], batch_stats["mean"], atol=tolerance)


def test_no_gradient_flows_through_the_weights_that_train():
    state, batch, objective = make(apply=plain)

    def found(params):
        terms = objective.apply(params, state, batch)
        return terms.losses.sum(), terms.amounts

    def expected(params, weights):
        values = loss(plain(params, state.batch_stats, batch["image"], True)[0], batch["label"], None, None)
        return jnp.sum(weights * values)

    ours, weights = jax.jit(jax.grad(found, has_aux=True))(state.params)
    theirs = jax.jit(jax.grad(expected))(state.params, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_images_count_nothing(variant):
    state, batch, objective = make(apply=plain, variant=variant)
    apply = jax.jit(lambda batch: objective.apply(state.params, state, batch))

    def cut(batch, size):
        return {name: leaf[:size] for name, leaf in batch.items() if name != "meta"}

    few = {**cut(batch, 11), "meta": cut(batch["meta"], 5)}
    masked = {**batch, "mask": np.arange(BATCH) < 11, "meta": {**batch["meta"], "mask": np.arange(8) < 5}}
    found, expected = apply(masked), apply(few)
    np.testing.assert_allclose(found.losses[:11], expected.losses, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(found.state), jax.tree.leaves(expected.state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_devices_agree_on_both_networks():
    results = []
    for count, kind in ((1, "shard_map"), (4, "shard_map"), (4, "pmap")):
        state, batch, objective = make(apply=plain, axis="data")
        mesh = sharding.make_mesh(count)
        step = make_train_step(objective, optax.sgd(1.0))
        step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
        after, metrics = step(sharding.replicate(state, mesh), batch)
        results.append((jax.device_get((after.params, after.objective)), metrics["loss"]))
    for trees, value in results[1:]:
        np.testing.assert_allclose(value, results[0][1], rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trees, results[0][0])


def test_the_order_of_images_and_classes_does_not_matter():
    state, batch, objective = make()
    apply = jax.jit(objective.apply)
    terms = apply(state.params, state, batch)
    order, turned = np.random.default_rng(1).permutation(BATCH), np.array([2, 0, 1], np.int32)  # c becomes turned[c]
    params = state.params | {"last": state.params["last"][:, np.argsort(turned)]}
    meta = batch["meta"] | {"label": turned[batch["meta"]["label"]]}
    moved = {"image": batch["image"][order], "label": turned[batch["label"][order]], "meta": meta}
    again = apply(params, state, moved)
    np.testing.assert_allclose(again.losses, terms.losses[order], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(again.state), jax.tree.leaves(terms.state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "dtype"), [("imbalance", jnp.float32), ("noise", jnp.bfloat16)])
def test_extreme_logits_give_finite_weights_and_gradients(variant, dtype):
    def narrow(*given, **more):
        logits, batch_stats = plain(*given, **more)
        return logits.astype(dtype), batch_stats

    state, batch, objective = make(apply=narrow, scale=1e3, variant=variant)
    after, metrics = jax.jit(make_train_step(objective, optax.sgd(1e-3), axis=None))(state, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.objective, metrics)))


def test_the_weighting_network_starts_as_pytorchs_does_and_adam_is_on_offer():
    weighting = first_weighting(jax.random.key(3))
    assert {name: leaf.shape for name, leaf in weighting.items()} == {
        "hidden": (1, 100), "hidden_bias": (100,), "last": (100, 1), "last_bias": (1,)
    }  # fmt: skip
    for names, bound in ((("hidden", "hidden_bias"), 1.0), (("last",), 0.1)):
        for name in names:
            assert 0.8 * bound < np.abs(weighting[name]).max() <= bound
    weights = weights_of(weighting, jnp.array([0.0, 1.0, 1e4]))
    assert ((weights >= 0) & (weights <= 1)).all()
    state, batch, objective = make(apply=plain, optimizer="adam")
    after = jax.jit(lambda state: objective.apply(state.params, state, batch).state)(state)
    assert isinstance(after, Weighting)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), after.params, state.objective.params)
    assert max(moved.values()) == pytest.approx(RATE, rel=1e-3)  # Adam's first step is the rate
    for wrong in ({"variant": "paper"}, {"optimizer": "sdg"}):
        with pytest.raises(ValueError, match="must be one of"):
            make(**wrong)
