import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses
from cbjax.metrics import ClassificationSums
from cbjax.objectives import weighted
from cbjax.parallel import sharding
from cbjax.training.step import make_eval_step, make_feature_step, make_train_step
from cbjax.types import Model, Trained, TrainState

CLASSES, BATCH = 4, 16
WEIGHTS = np.array([0.25, 0.5, 1.25, 2.0], np.float32)
LOSSES = {"softmax": losses.softmax_cross_entropy, "focal": functools.partial(losses.focal_loss, gamma=2.0)}


def plain(loss):
    """A loss that uses none of the run's numbers."""
    return lambda logits, labels, class_weights, settings: loss(logits, labels, class_weights)


def train_step(model, tx, loss=losses.softmax_cross_entropy, mean="batch", **options):
    return make_train_step(weighted(model, plain(loss), mean), tx, **options)


def eval_step(model, loss, probabilities, **options):
    return make_eval_step(weighted(model, plain(loss)), plain(loss), probabilities, **options)


def linear_model():
    """The smallest model that a step can be checked on: it compiles fast."""

    def init(key, images):
        size = images[0].size
        kernel = jax.random.normal(key, (size, CLASSES)) / np.sqrt(size)
        return {"head": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}}, {}

    def features(params, batch_stats, images, train):
        return images.reshape(images.shape[0], -1), batch_stats

    def head(params, features):
        return features @ params["head"]["kernel"] + params["head"]["bias"][None]

    def apply(params, batch_stats, images, train, key=None):
        return head(params, features(params, batch_stats, images, train)[0]), batch_stats

    return Model(init, features, head, apply)


def normalizing_model(axis=None):
    """A linear model that centres its inputs, whose running statistics are known."""
    plain = linear_model()

    def init(key, images):
        return plain.init(key, images)[0], {"mean": jnp.zeros(images[0].size)}

    def apply(params, batch_stats, images, train, key=None):
        inputs = images.reshape(images.shape[0], -1)
        mean = sharding.mean_over(axis, inputs.mean(0))
        logits = plain.head(params, inputs - mean[None])
        return logits, {"mean": 0.9 * batch_stats["mean"] + 0.1 * jax.lax.stop_gradient(mean)}

    return Model(init, None, plain.head, apply)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(BATCH, 8, 8, 1)).astype(np.float32)
    # Unevenly spread over the shards of two, four and eight devices, so that a mean of shard means would be wrong.
    labels = np.sort(rng.integers(0, CLASSES, BATCH)).astype(np.int32)
    return {"image": images, "label": labels}


def make_state(model, tx):
    params, batch_stats = model.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        class_weights=jnp.asarray(WEIGHTS),
        key=jax.random.key(2),
    )


def take_step(count, kind, loss="softmax", mean="batch", batch=None, accumulation=1):
    """Returns (state, metrics) after one step of plain SGD with rate 1: parameters minus new ones are the gradient."""
    model = linear_model()
    tx = optax.sgd(1.0)
    state, mesh = make_state(model, tx), sharding.make_mesh(count)
    batch = make_batch() if batch is None else batch
    step = train_step(model, tx, LOSSES[loss], mean=mean, accumulation=accumulation)
    step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    after, metrics = step(sharding.replicate(state, mesh), batch)
    return jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), state.params, after.params), metrics, after


def truth(loss, mean, batch):
    """The gradient of the global objective on one device, written down directly."""
    model = linear_model()
    state = make_state(model, optax.sgd(1.0))
    mask = batch.get("mask", np.ones(BATCH, bool))

    def objective(params):
        logits, _ = model.apply(params, state.batch_stats, batch["image"], train=True)
        values = LOSSES[loss](logits, batch["label"], state.class_weights) * mask
        divisor = mask.sum() if mean == "batch" else (WEIGHTS[batch["label"]] * mask).sum()
        return values.sum() / divisor

    value, grads = jax.value_and_grad(objective)(state.params)
    return grads, value


def assert_close(found, expected, tolerance=1e-5):
    scale = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance * scale), found, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mean", ["batch", "weight_sum"])
@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_gradient_is_that_of_the_global_batch(count, kind, mean, loss):
    grads, metrics, _ = take_step(count, kind, loss, mean)
    expected, value = truth(loss, mean, make_batch())
    assert_close(grads, expected)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(expected), rtol=1e-4)


@pytest.mark.parametrize("mean", ["batch", "weight_sum"])
def test_devices_send_each_other_the_gradients_and_little_else(mean):
    model, tx, mesh = linear_model(), optax.sgd(1.0), sharding.make_mesh(8)
    state, batch = sharding.replicate(make_state(model, tx), mesh), make_batch()
    step = train_step(model, tx, LOSSES["softmax"], mean=mean)
    specs = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(sharding.AXIS)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(specs[0], specs[0]))
    program = jax.jit(mapped).lower(state, batch).compile().as_text()
    lines = [line for line in program.splitlines() if re.search(r" all-(reduce|gather|to-all)(-start)?\(", line)]
    sizes = []
    for line in lines:
        results = line.split("=", 1)[1].split(" all-")[0]
        shapes = re.findall(r"[a-z]+\d+\[([\d,]*)\]", results)
        sizes.append(sum(math.prod(int(side) for side in shape.split(",") if side) for shape in shapes))
    gradients = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    scalars = 5  # loss, two sums of the share, two counts
    assert gradients <= sum(sizes) <= gradients + scalars, lines


@pytest.mark.parametrize("mean", ["batch", "weight_sum"])
def test_masked_examples_count_nowhere(mean):
    mask = np.arange(BATCH) % 3 > 0
    batch = {**make_batch(), "mask": mask}
    grads, metrics, _ = take_step(4, "shard_map", mean=mean, batch=batch)
    assert_close(grads, truth("softmax", mean, batch)[0])
    assert metrics["count"] == mask.sum()


@pytest.mark.parametrize("mean", ["batch", "weight_sum"])
@pytest.mark.parametrize(("count", "kind", "accumulation"), [(1, "shard_map", 8), (2, "shard_map", 4), (2, "pmap", 2)])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(count, kind, accumulation, mean):
    batch = {**make_batch(), "mask": np.arange(BATCH) % 5 > 0}
    grads, metrics, after = take_step(count, kind, mean=mean, batch=batch, accumulation=accumulation)
    whole, expected, _ = take_step(count, kind, mean=mean, batch=batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), grads, whole)
    assert_close(grads, truth("softmax", mean, batch)[0])
    assert set(metrics) == set(expected)
    for name, value in metrics.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    assert after.step == 1


def test_running_statistics_are_averaged_over_parts():
    model = normalizing_model()
    tx = optax.sgd(0.0)
    state, batch = make_state(model, tx), make_batch()
    step = train_step(model, tx, losses.softmax_cross_entropy, accumulation=4, axis=None)
    after, _ = jax.jit(step)(state, batch)
    means = batch["image"].reshape(4, 4, -1).mean(1)
    np.testing.assert_allclose(after.batch_stats["mean"], 0.1 * means.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [None, "data"])
def test_running_statistics_are_averaged_over_devices_and_parts(axis):
    model = normalizing_model(axis)
    tx = optax.sgd(1.0)
    state, batch = make_state(model, tx), make_batch()
    step = train_step(model, tx, losses.softmax_cross_entropy, accumulation=2)
    step = sharding.data_parallel(step, sharding.make_mesh(2), split=(None, 0), split_outputs=(None, None))
    after, _ = step(state, batch)
    np.testing.assert_allclose(
        after.batch_stats["mean"], 0.1 * batch["image"].reshape(BATCH, -1).mean(0), rtol=1e-4, atol=1e-6
    )


def test_parts_must_divide_a_devices_share():
    with pytest.raises(ValueError, match="accumulation must divide the 8 examples of a device's share, got 3"):
        take_step(2, "shard_map", accumulation=3)


def test_a_batch_of_weight_zero_has_loss_zero():
    model = linear_model()
    tx = optax.sgd(1.0)
    state = dataclasses.replace(make_state(model, tx), class_weights=jnp.zeros(CLASSES))
    step = train_step(model, tx, losses.softmax_cross_entropy, mean="weight_sum", axis=None)
    after, metrics = jax.jit(step)(state, make_batch())
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_metrics_count_the_whole_batch():
    batch = make_batch()
    _, metrics, _ = take_step(8, "shard_map", batch=batch)
    model = linear_model()
    state = make_state(model, optax.sgd(1.0))
    logits, _ = model.apply(state.params, state.batch_stats, batch["image"], train=True)
    assert metrics["count"] == BATCH
    assert metrics["correct"] == np.sum(np.argmax(logits, -1) == batch["label"])


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_evaluation_sums_are_those_of_one_device(kind):
    model = linear_model()
    state = make_state(model, optax.sgd(1.0))
    batch = {**make_batch(), "mask": np.arange(BATCH) < 13}
    results = []
    for count in (1, 4):
        step = eval_step(model, losses.softmax_cross_entropy, jax.nn.softmax)
        step = sharding.data_parallel(
            step, sharding.make_mesh(count), split=(None, 0), split_outputs=(None, 0), kind=kind
        )
        results.append(step(Trained.of(state), batch))
    (one, predicted), (four, predicted_by_four) = results
    assert isinstance(one, ClassificationSums) and one.count == 13
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, four)
    np.testing.assert_array_equal(predicted, predicted_by_four)


def test_multi_hot_evaluation_returns_probabilities():
    model = linear_model()
    state = make_state(model, optax.sgd(1.0))
    batch = make_batch()
    batch["label"] = np.eye(CLASSES, dtype=np.float32)[batch["label"]]
    step = eval_step(model, losses.sigmoid_cross_entropy, jax.nn.sigmoid, axis=None)
    sums, outputs = step(Trained.of(state), batch)
    logits, _ = model.apply(state.params, state.batch_stats, batch["image"], train=False)
    expected = np.sum(np.logaddexp(0, -np.asarray(logits) * (2 * batch["label"] - 1)))
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(outputs, 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-5)
    # Masked examples, which fill up the last batch, are no NaN: jax_debug_nans would stop a healthy run.
    mask = np.arange(BATCH) < BATCH - 3
    with jax.debug_nans(True):
        _, masked = jax.jit(step)(Trained.of(state), {**batch, "mask": mask})
        lost, features = jax.jit(make_feature_step(model, axis=None))(Trained.of(state), {**batch, "mask": mask})
    np.testing.assert_array_equal(np.asarray(masked)[mask], np.asarray(outputs)[mask])
    assert (np.asarray(masked)[~mask] == -1).all() and lost == 0
    np.testing.assert_array_equal(np.isfinite(features).all(axis=1), mask)


def test_an_unknown_mean_is_refused():
    with pytest.raises(ValueError, match=r"mean='sum': must be one of batch, weight_sum"):
        weighted(None, None, mean="sum")


@pytest.mark.parametrize(("count", "accumulation", "kind"), [(1, 2, "shard_map"), (2, 1, "shard_map"), (2, 1, "pmap")])
def test_each_step_device_and_part_has_a_key_of_its_own(count, accumulation, kind):
    def apply(params, batch_stats, images, train, key=None):
        drawn = jax.random.uniform(key, (1, 1))
        return drawn + jnp.zeros((images.shape[0], CLASSES)) + 0 * params["head"]["bias"][None], batch_stats

    model = linear_model()._replace(apply=apply)
    params, _ = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    batch = {"image": jnp.zeros((4, 2, 2, 1)), "label": jnp.zeros(4, jnp.int32)}

    def mean(power, step, seed):
        """Returns the mean, over devices and parts, of the number that each drew, to a power."""
        tx = optax.sgd(0.0)
        taken = train_step(
            model, tx, lambda logits, labels, class_weights: logits[:, 0] ** power, accumulation=accumulation
        )
        mesh = sharding.make_mesh(count)
        taken = sharding.data_parallel(taken, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
        key = jax.random.key(seed)
        state = TrainState(jnp.int32(step), params, {}, tx.init(params), jnp.ones(CLASSES), key)
        return float(taken(sharding.replicate(state, mesh), batch)[1]["loss"])

    first = mean(1, step=0, seed=0)
    assert mean(1, step=0, seed=0) == first
    assert len({first, mean(1, step=1, seed=0), mean(1, step=0, seed=1)}) == 3
    assert mean(2, step=0, seed=0) - first**2 > 1e-4  # the variance: they drew different numbers
