"""The weighted mean over one device and over several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from cbjax import losses

LOGITS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, -100, 2, -100], np.int32)
WEIGHTS = np.array([0.1, 1.0, 3.0], np.float32)
AMOUNTS = np.where(LABELS < 0, 0, WEIGHTS[LABELS.clip(0)]).astype(np.float32)  # devices differ in their sums


def mean(params, logits, labels, amounts, axis_name=None):
    return losses.weighted_mean(losses.softmax_cross_entropy(logits + params, labels), amounts, axis_name)


def test_weights_and_none():
    given = jnp.array([1.0, 4.0, jnp.nan])
    assert losses.weighted_mean(given, jnp.array([3.0, 1.0, 0.0])) == 7 / 4
    assert losses.weighted_mean(given[:2]) == 2.5
    assert losses.weighted_mean(given, jnp.zeros(3)) == 0
    with pytest.raises(ValueError, match=r"must be \[B\], got shapes \(3,\) and \(2,\)"):
        losses.weighted_mean(given, jnp.ones(2))


def test_weights_have_their_slope_also_where_they_are_0():
    """Learned weights begin at 0; the slope of a mean by a weight is (loss - mean) / sum of weights."""
    slope = jax.grad(lambda weights: losses.weighted_mean(jnp.array([1.0, 2.0, 3.0]), weights))
    np.testing.assert_allclose(slope(jnp.array([0.0, 1.0, 1.0])), [-0.75, -0.25, 0.25], rtol=1e-6)
    by_losses = jax.grad(losses.weighted_mean)(jnp.array([jnp.inf, 2.0, 3.0]), jnp.array([0.0, 1.0, 1.0]))
    np.testing.assert_array_equal(by_losses, [0, 0.5, 0.5])


def test_right_answers_are_weighed_as_numbers():
    """Their type must not become that of the weights, which would be rounded to 0 or 1."""
    for right in ([True, False, True], [1, 0, 1]):
        np.testing.assert_allclose(losses.weighted_mean(np.array(right), [0.5, 1.0, 0.5]), 0.5)


def test_many_examples_of_few_digits_are_counted():
    """In float16 the weights of 70,000 examples sum to infinity, and in bfloat16 1,001 of them to 1,000."""
    for kind, size in ((jnp.float16, 70_000), (jnp.bfloat16, 1_001)):
        given = jnp.zeros(size, kind).at[0].set(1)
        mean = losses.weighted_mean(given)
        assert mean.dtype == jnp.float32 and mean == np.float32(1 / size)


def test_devices_agree_on_the_mean_and_its_gradient():
    params = jnp.zeros((1, 3))
    value, slope = jax.value_and_grad(mean)(params, LOGITS, LABELS, AMOUNTS)

    def on_device(params, *batch):
        value, slope = jax.value_and_grad(functools.partial(mean, axis_name="data"))(params, *batch)
        return value, jax.lax.pmean(slope, "data")

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = PartitionSpec(), PartitionSpec("data")
    for check in (True, False):
        sharded = jax.shard_map(
            on_device, mesh=mesh, in_specs=(whole, split, split, split), out_specs=(whole, whole), check_vma=check
        )
        for ours, theirs in zip(jax.jit(sharded)(params, LOGITS, LABELS, AMOUNTS), (value, slope), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    shares = [each.reshape(4, 2, *each.shape[1:]) for each in (LOGITS, LABELS, AMOUNTS)]
    mapped = jax.pmap(on_device, "data", in_axes=(None, 0, 0, 0), devices=jax.devices()[:4])(params, *shares)
    for place in range(4):
        np.testing.assert_allclose(mapped[0][place], value, rtol=1e-5)
        np.testing.assert_allclose(mapped[1][place], slope, rtol=1e-5, atol=1e-7)
    own = np.mean([mean(params, *(each[place] for each in shares)) for place in range(4)])
    assert abs(own - value) > 0.01
