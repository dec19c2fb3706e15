"""Logit adjustment in the loss and in the answers, against its formula in float64 and at its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import losses
from cbjax.objectives import adjusted, logit_adjusted, vector_scaled, weighted
from cbjax.types import Model, Settings, Trained, TrainState

COUNTS = np.array([500.0, 40.0, 7.0], np.float32)
LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 0], np.int32)
WEIGHTS = np.array([0.5, 1.0, 1.5], np.float32)
# A network whose logits are its images.
MODEL = Model(None, None, None, lambda params, batch_stats, images, train, key=None: (images + 0 * params, batch_stats))


def settings(counts=COUNTS, tau=0.0, answer_tau=0.0, power=0.0):
    return Settings.of(loss={"tau": tau, "divisor_power": power}, answer_tau=answer_tau, counts=counts)


def losses_of(objective, given, weights=WEIGHTS):
    state = TrainState(0, jnp.float32(0), {}, (), jnp.asarray(weights), jax.random.key(0), given)
    return objective.apply(state.params, state, {"image": jnp.asarray(LOGITS), "label": jnp.asarray(LABELS)}).losses


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_loss_adds_the_logarithm_of_the_prior(tau):
    shifted = np.float64(LOGITS) + tau * np.log(np.float64(COUNTS) / COUNTS.sum())
    expected = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(5), LABELS]
    found = losses_of(logit_adjusted(MODEL), settings(tau=tau))
    np.testing.assert_allclose(found, WEIGHTS[LABELS] * expected, rtol=1e-5)


@pytest.mark.parametrize(("power", "tau"), [(0.3, 1.0), (0.0, 1.5), (0.5, 0.0)])
def test_vector_scaling_divides_and_adds(power, tau):
    scaled = np.float64(LOGITS) * (np.float64(COUNTS) / COUNTS.max()) ** power
    scaled += tau * np.log(np.float64(COUNTS) / COUNTS.sum())
    expected = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(5), LABELS]
    found = losses_of(vector_scaled(MODEL), settings(tau=tau, power=power))
    np.testing.assert_allclose(found, WEIGHTS[LABELS] * expected, rtol=1e-5)
    if power == 0:
        np.testing.assert_array_equal(found, losses_of(logit_adjusted(MODEL), settings(tau=tau)))


@pytest.mark.parametrize(("tau", "counts"), [(0.0, COUNTS), (1.0, [20, 20, 20])])
def test_without_tau_or_imbalance_it_is_cross_entropy(tau, counts):
    found = losses_of(logit_adjusted(MODEL), settings(counts, tau=tau))
    np.testing.assert_allclose(found, losses.softmax_cross_entropy(LOGITS, LABELS, WEIGHTS), rtol=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_answers_are_divided_by_the_prior(tau):
    plain = weighted(MODEL, lambda *args: losses.softmax_cross_entropy(*args[:3]))
    trained = Trained(jnp.float32(0), {}, settings(answer_tau=tau))
    found = jax.nn.softmax(adjusted(plain).logits(trained, jnp.asarray(LOGITS)))
    chances = np.exp(np.float64(LOGITS)) / (np.float64(COUNTS) / COUNTS.sum()) ** tau
    np.testing.assert_allclose(found, chances / chances.sum(axis=1, keepdims=True), rtol=1e-5)


def test_training_does_not_see_the_adjustment_of_answers():
    plain = weighted(MODEL, lambda *args: losses.softmax_cross_entropy(*args[:3]))
    given = settings(answer_tau=1.0)
    np.testing.assert_array_equal(losses_of(adjusted(plain), given), losses_of(plain, given))
