"""Schedules and SGD against NumPy loops that follow the papers' code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import optim


def test_step_schedule_with_warmup():
    schedule = optim.step_schedule(0.1, [160, 180], 0.01, warmup_steps=5)
    rates = {0: 0.0, 1: 0.02, 4: 0.08, 5: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 10**6: 1e-5}
    for step, rate in rates.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-6, atol=1e-12)


def test_warmup_from_the_base_rate():
    schedule = optim.step_schedule(0.8, (30,), 0.1, warmup_steps=10, warmup_from=0.1)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10, 30)], [0.1, 0.45, 0.8, 0.08], rtol=1e-6)


def test_schedules_without_warmup_start_at_the_full_rate():
    np.testing.assert_allclose(optim.step_schedule(0.1, (), 0.1)(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(optim.cosine_schedule(0.1, 100)(0), 0.1, rtol=1e-6)


def test_boundaries_in_any_order_and_at_one_step():
    schedule = optim.step_schedule(1.0, [6, 3, 3], 0.1)
    np.testing.assert_allclose([schedule(s) for s in (2, 3, 5, 6)], [1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_cosine_schedule():
    schedule = optim.cosine_schedule(0.2, 110, warmup_steps=10, warmup_from=0.1)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10)], [0.1, 0.15, 0.2], rtol=1e-6)
    steps = np.arange(10, 110)
    truth = 0.1 * (1 + np.cos(np.pi * (steps - 10) / 100))
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(steps)), truth, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose([schedule(110), schedule(500)], [0, 0], atol=1e-8)


@pytest.mark.parametrize("schedule", [optim.step_schedule(0.1, [7], 0.1, 3), optim.cosine_schedule(0.1, 20, 3)])
def test_steps_may_be_traced(schedule):
    steps = jnp.arange(25)
    plain = [schedule(int(step)) for step in steps]
    for result in (jax.vmap(schedule)(steps), jax.lax.map(jax.jit(schedule), steps)):
        np.testing.assert_allclose(result, plain, rtol=1e-5, atol=1e-8)
        assert result.dtype == jnp.float32


def test_the_rate_may_be_traced():
    rates = jnp.array([0.1, 0.4])
    mapped = jax.vmap(lambda rate: optim.step_schedule(rate, [5], 0.1, 4)(jnp.int32(2)))(rates)
    np.testing.assert_allclose(mapped, [0.05, 0.2], rtol=1e-6)


def _numpy_sgd(params, gradients, rates, momentum, nesterov, weight_decay, decays):
    params, trace = dict(params), {name: 0.0 for name in params}
    for gradient, rate in zip(gradients, rates, strict=True):
        for name in params:
            total = gradient[name] + weight_decay * params[name] * decays[name]
            trace[name] = momentum * trace[name] + total
            params[name] = params[name] - rate * (total + momentum * trace[name] if nesterov else trace[name])
    return params


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_coupled(momentum, nesterov):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=3), "b": rng.normal(size=2)}
    gradients = [{"a": rng.normal(size=3), "b": rng.normal(size=2)} for _ in range(5)]
    decays = {"a": True, "b": False}
    schedule = optim.step_schedule(0.1, [3], 0.1, warmup_steps=2)
    tx = optim.sgd(schedule, momentum=momentum, nesterov=nesterov, weight_decay=0.3, decay_mask=decays)
    ours = jax.tree.map(jnp.float32, params)
    state = tx.init(ours)
    for gradient in gradients:
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    rates = [float(schedule(step)) for step in range(5)]
    truth = _numpy_sgd(params, gradients, rates, momentum, nesterov, 0.3, decays)
    assert not np.allclose(
        truth["a"], _numpy_sgd(params, gradients, rates, momentum, nesterov, 0.0, decays)["a"], rtol=1e-4
    )
    for name in params:
        np.testing.assert_allclose(ours[name], truth[name], rtol=1e-5, atol=1e-6)


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(3, name="body")(x))
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize(
    ("rule", "last_bias", "left_out"),
    [
        ("all", True, set()),
        ("all", False, {"head/bias"}),
        ("kernels", True, {"head/bias", "body/bias", "norm/scale", "norm/bias"}),
        ("kernels", False, {"head/bias", "body/bias", "norm/scale", "norm/bias"}),
    ],
)
def test_decay_mask(rule, last_bias, left_out):
    params = _Net().init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    mask = optim.decay_mask(params, rule=rule, last_bias=last_bias)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    kept = {jax.tree_util.keystr(path, simple=True, separator="/"): decays for path, decays in leaves}
    assert {name for name, decays in kept.items() if not decays} == left_out
    assert len(kept) == 6


def test_messages():
    for call, message in [
        (lambda: optim.step_schedule(0.1, [-1], 0.1), "boundaries must be steps, at least 0"),
        (lambda: optim.step_schedule(0.1, [1], 0.0), "factor must be above 0, got 0.0"),
        (lambda: optim.step_schedule(0.1, [1], 0.1, -1), "warmup_steps must be at least 0, got -1"),
        (lambda: optim.cosine_schedule(0.1, 10, 10), "warmup_steps must be below num_steps, got 10 of 10"),
        (lambda: optim.decay_mask({}, rule="kernel"), "'all' or 'kernels', got 'kernel'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
