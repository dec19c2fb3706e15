"""SAM and ImbSAM against softmax regression in float64, whose gradient is written down."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses
from cbjax.objectives import ghm, sharpness, weighted
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

CLASSES, SIZE = 3, 8
COUNTS = np.array([100, 10, 5])
CLASS_WEIGHTS = np.array([0.5, 1.0, 1.5])


def centred(params, batch_stats, images, train, key=None):
    return images @ params, {"mean": 0.9 * batch_stats["mean"] + 0.1 * jax.lax.stop_gradient(params).mean()}


MODEL = Model(None, None, None, centred)


def loss(logits, labels, class_weights, settings):
    return losses.softmax_cross_entropy(logits, labels, class_weights)


def make(radius=0.3, tail_below=20, scale=1.0, objective=()):
    rng = np.random.default_rng(0)
    params = scale * rng.normal(size=(4, CLASSES))
    method = {"sharpness.radius": radius, "sharpness.tail_below": tail_below}
    settings = Settings.of(loss={"momentum": 0.75}, method=method, counts=COUNTS)
    state = TrainState(
        step=jnp.int32(0),
        params=jnp.asarray(params, jnp.float32),
        batch_stats={"mean": jnp.float32(0)},
        opt_state=optax.sgd(1.0).init(params),
        class_weights=jnp.asarray(CLASS_WEIGHTS, jnp.float32),
        key=jax.random.key(0),
        settings=settings,
        objective=objective,
    )
    # Devices get different classes, so that their gradients differ.
    batch = {"image": rng.normal(size=(SIZE, 4)).astype(np.float32), "label": np.sort(np.arange(SIZE) % CLASSES)}
    return state, batch | {"label": batch["label"].astype(np.int32)}


def gradient_of(params, batch, counted):
    """The gradient of the mean over the batch of w * cross entropy, summed over the examples that count."""
    images, labels = np.float64(batch["image"]), batch["label"]
    logits = images @ params
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    errors = (shares - np.eye(CLASSES)[labels]) * (CLASS_WEIGHTS[labels] * counted)[:, None]
    return images.T @ errors / len(labels)


def expected(name, state, batch, radius, tail_below=20):
    params, everything = np.float64(state.params), np.ones(len(batch["label"]))
    if name == "sam":
        slope = gradient_of(params, batch, everything)
        return gradient_of(params + radius * slope / np.linalg.norm(slope), batch, everything)
    tail = COUNTS[batch["label"]] < tail_below
    slope = gradient_of(params, batch, tail)
    there = params + radius * slope / np.linalg.norm(slope)
    return gradient_of(params, batch, ~tail) + gradient_of(there, batch, tail)


def step(name, state, batch, devices=None, kind="shard_map", objective=None, **options):
    """Returns the gradient that a step uses, and the state and metrics after it."""
    axis = "data" if devices else None
    options |= {"around": getattr(sharpness, name), "axis": axis}
    taken = make_train_step(objective or weighted(MODEL, loss), optax.sgd(1.0), **options)
    before = np.asarray(state.params)
    if devices:
        mesh = sharding.make_mesh(devices)
        state = sharding.replicate(state, mesh)
        taken = sharding.data_parallel(taken, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    else:
        taken = jax.jit(taken)
    after, metrics = taken(state, batch)
    return before - np.asarray(after.params), after, metrics


@pytest.mark.parametrize("name", ["sam", "imbsam"])
@pytest.mark.parametrize(("devices", "kind", "accumulation"), [(None, None, 1), (4, "shard_map", 2), (4, "pmap", 1)])
def test_the_gradient_is_that_of_the_definition_however_the_batch_is_cut(name, devices, kind, accumulation):
    state, batch = make()
    found, after, metrics = step(name, state, batch, devices, kind, accumulation=accumulation)
    np.testing.assert_allclose(found, expected(name, state, batch, 0.3), rtol=1e-4, atol=1e-6)
    plain, once, at_parameters = step("once", *make())
    assert np.abs(found - plain).max() > 0.01
    np.testing.assert_allclose(metrics["loss"], at_parameters["loss"], rtol=1e-6)
    assert metrics["correct"] == at_parameters["correct"] and metrics["count"] == SIZE
    # The second pass would have seen other parameters.
    np.testing.assert_allclose(after.batch_stats["mean"], once.batch_stats["mean"], rtol=1e-6)


@pytest.mark.parametrize("name", ["sam", "imbsam"])
def test_a_radius_of_0_gives_the_plain_gradient(name):
    found, *_ = step(name, *make(radius=0.0))
    np.testing.assert_allclose(found, step("once", *make())[0], rtol=1e-6, atol=1e-7)


def test_imbsam_is_sam_where_every_class_is_tail_and_plain_where_none_is():
    np.testing.assert_allclose(step("imbsam", *make(tail_below=101))[0], step("sam", *make())[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(step("imbsam", *make(tail_below=5))[0], step("once", *make())[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["sam", "imbsam"])
def test_what_the_objective_remembers_is_that_of_one_pass(name):
    results = [
        step(one, *make(objective=jnp.zeros(5)), objective=ghm(MODEL, 5, None))[1].objective for one in (name, "once")
    ]
    np.testing.assert_array_equal(*results)
    assert results[0].sum() > 0


@pytest.mark.parametrize("name", ["sam", "imbsam"])
def test_the_order_of_images_and_classes_does_not_matter(name):
    state, batch = make()
    found, *_ = step(name, state, batch)
    order = np.random.default_rng(1).permutation(SIZE)
    np.testing.assert_allclose(
        step(name, state, {k: v[order] for k, v in batch.items()})[0], found, rtol=1e-5, atol=1e-6
    )
    turned = np.array([2, 0, 1])  # class c becomes turned[c]
    back = np.argsort(turned)
    moved = dataclasses.replace(
        state,
        params=state.params[:, back],
        class_weights=state.class_weights[back],
        settings=state.settings._replace(counts=state.settings.counts[back]),
    )
    again, *_ = step(name, moved, batch | {"label": turned[batch["label"]].astype(np.int32)})
    np.testing.assert_allclose(again[:, turned], found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sam", "imbsam"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits_give_finite_gradients(name, dtype):
    model = Model(None, None, None, lambda *given, **more: (centred(*given, **more)[0].astype(dtype), given[1]))
    state, batch = make(scale=1e4)
    found, _, metrics = step(name, state, batch, objective=weighted(model, loss))
    assert np.isfinite(found).all() and np.isfinite(metrics["loss"])
    state, batch = make(scale=0.0)  # all images alike: the gradient of the one class that is right everywhere is 0
    sure = dataclasses.replace(state, params=state.params.at[0, 0].set(1e4))
    batch = {"image": np.ones_like(batch["image"]), "label": np.zeros_like(batch["label"])}
    found, *_ = step(name, sure, batch, objective=weighted(model, loss))
    np.testing.assert_array_equal(found, 0)
