"""Class weights against decimal arithmetic, the authors' numbers, limits, zero counts, errors."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies
from oracles import weights as oracles

from cbjax import weights

# int(5000 * f^(i / 9)), largest / smallest = 100, 50 (CB, src/data_utils.py).
CIFAR10_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
CIFAR10_50 = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
CIFAR100_100 = [int(500 * 0.01 ** (i / 99)) for i in range(100)]
BETAS = [0.0, 1e-300, 0.1, 0.9, 0.9999, 1 - 1e-8, 1 - 1e-12, 1.0]
RULES = {
    "inverse_frequency": weights.inverse_frequency,
    "inverse_sqrt_frequency": weights.inverse_sqrt_frequency,
    "class_balanced": lambda counts, **options: weights.class_balanced(counts, 0.999, **options),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def test_by_hand():
    np.testing.assert_allclose(weights.effective_number([1, 2, 3], 0.5), [1, 1.5, 1.75])
    np.testing.assert_allclose(weights.class_balanced([1, 2], 0.5), [1.2, 0.8])
    np.testing.assert_allclose(weights.inverse_frequency([1, 3]), [1.5, 0.5])
    np.testing.assert_allclose(weights.inverse_sqrt_frequency([1, 9]), [1.5, 0.5])
    np.testing.assert_array_equal(weights.uniform(3), [1, 1, 1])


@pytest.mark.parametrize("beta", BETAS)
def test_agrees_with_decimal_arithmetic(beta):
    counts = [1, 2, 17, 1000, 123456, 10**9]
    truth = oracles.effective_number(counts, beta)
    np.testing.assert_allclose(weights.effective_number(counts, beta), truth, rtol=1e-6)
    np.testing.assert_allclose(weights.class_balanced(counts, beta), oracles.scaled_inverse(truth), rtol=1e-6)


def test_agrees_with_decimal_arithmetic_for_the_other_rules():
    counts = np.array([1, 2, 17, 1000, 123456, 10**9])
    np.testing.assert_allclose(weights.inverse_frequency(counts), oracles.scaled_inverse(counts), rtol=1e-6)
    np.testing.assert_allclose(
        weights.inverse_sqrt_frequency(counts), oracles.scaled_inverse(np.sqrt(counts)), rtol=1e-6
    )


def _naive_float32(counts, beta):
    beta = np.float32(beta)
    return (1 - beta ** np.asarray(counts, np.float32)) / (1 - beta)


@pytest.mark.parametrize(
    "broken",
    [
        lambda counts, beta: oracles.effective_number(counts, beta - 1e-5),
        lambda counts, beta: oracles.effective_number([n + 1 for n in counts], beta),
        lambda counts, beta: 1 / oracles.effective_number(counts, beta),
        lambda counts, beta: np.array(counts, float),
        _naive_float32,
    ],
)
def test_the_comparison_rejects_a_broken_formula(broken):
    counts, beta = [50, 1000, 10**6], 0.99999
    truth = broken(counts, beta)
    assert not np.allclose(weights.effective_number(counts, beta), truth, rtol=1e-6, atol=0)
    assert not np.allclose(weights.class_balanced(counts, beta), oracles.scaled_inverse(truth), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("counts", "beta", "golden"),
    [
        (CIFAR10_100, 0.99, [0.7838] * 4 + [0.785, 0.8002, 0.8682, 1.0414, 1.3854, 1.9844]),
        (CIFAR10_100, 0.999, [0.1812, 0.1894, 0.2157, 0.2729, 0.3785, 0.5606, 0.8688, 1.3862, 2.2584, 3.6883]),
        (CIFAR10_100, 0.9999, [0.0506, 0.0769, 0.1211, 0.195, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]),
        (CIFAR10_50, 0.9999, [0.089, 0.1267, 0.1853, 0.2761, 0.4168, 0.6344, 0.9695, 1.4894, 2.2923, 3.5206]),
        ([900000, 700000, 60000], 0.999999, [0.243, 0.286, 2.472]),
    ],
)
def test_published_weights(counts, beta, golden):
    digits = 3 if len(golden) == 3 else 4
    np.testing.assert_allclose(weights.class_balanced(counts, beta), golden, atol=0.51 * 10.0**-digits)


@pytest.mark.parametrize(
    ("counts", "beta", "head", "tail"),
    [
        (CIFAR10_100, 0.9, 0.9995, 1.0046),
        (CIFAR100_100, 0.9, 0.8202, 2.0029),
        (CIFAR100_100, 0.99, 0.1965, 3.9835),
        (CIFAR100_100, 0.999, 0.0551, 4.3445),
        (CIFAR100_100, 0.9999, 0.0449, 4.3783),
    ],
)
def test_published_weights_of_head_and_tail(counts, beta, head, tail):
    np.testing.assert_allclose(weights.class_balanced(counts, beta)[[0, -1]], [head, tail], atol=5.1e-5)


def test_limits_of_beta():
    counts = [5, 70, 900]
    np.testing.assert_array_equal(weights.class_balanced(counts, 0), [1, 1, 1])
    np.testing.assert_array_equal(weights.effective_number(counts, 1), counts)
    np.testing.assert_array_equal(weights.class_balanced(counts, 1), weights.inverse_frequency(counts))
    np.testing.assert_allclose(weights.class_balanced(counts, 1 - 1e-12), weights.inverse_frequency(counts), rtol=1e-6)
    np.testing.assert_array_equal(weights.class_balanced([7, 7, 7], 0.99), [1, 1, 1])


@hypothesis.given(
    counts=strategies.lists(strategies.integers(1, 10**9), min_size=1, max_size=20),
    beta=strategies.floats(0, 1) | strategies.sampled_from(BETAS),
    seed=strategies.integers(0, 100),
)
@hypothesis.settings(max_examples=150)
def test_properties(counts, beta, seed):
    counts = np.array(counts)
    number, result = weights.effective_number(counts, beta), weights.class_balanced(counts, beta)
    assert number.dtype == result.dtype == np.float32
    assert result.shape == counts.shape
    assert np.isfinite(result).all()
    assert (result > 0).all()
    np.testing.assert_allclose(result.sum(), len(counts), rtol=1e-5)
    assert (number >= 1 - 1e-6).all()
    assert (number <= counts * (1 + 1e-6)).all()
    rising = np.argsort(counts)
    assert (np.diff(result[rising]) <= 1e-6 * result.max()).all()
    order = np.random.default_rng(seed).permutation(len(counts))
    np.testing.assert_allclose(weights.class_balanced(counts[order], beta), result[order], rtol=1e-6)


@every_rule
def test_classes_without_images(rule):
    with pytest.raises(
        ValueError, match=r"in each class, got counts of 0 in 2 of 4 classes: \[1, 3\].*zero_count='ignore'"
    ):
        rule([5, 0, 7, 0])
    result = rule([5, 0, 7, 0], zero_count="ignore")
    np.testing.assert_array_equal(result[[1, 3]], 0)
    np.testing.assert_array_equal(result[[0, 2]], rule([5, 7]))
    with pytest.raises(ValueError, match="in all 2 classes"):
        rule([0, 0], zero_count="ignore")
    with pytest.raises(ValueError, match="'error' or 'ignore', got 'skip'"):
        rule([1, 2], zero_count="skip")


def test_effective_number_needs_images():
    with pytest.raises(ValueError, match="at least one training image in each class"):
        weights.effective_number([3, 0], 0.9)


@every_rule
def test_messages_of_wrong_counts(rule):
    for counts, message in [
        ([3, -1], r"at least 0, got \[-1.0\] in classes \[1\]"),
        ([0.5, 0.5], "must be whole numbers"),
        ([1, np.nan], "must be whole numbers"),
        ([[1, 2]], r"must be \[C\].* got shape \(1, 2\)"),
        ([], r"must be \[C\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            rule(counts)


@every_rule
def test_traced_counts_are_refused(rule):
    for transformation in (jax.jit, jax.vmap):
        with pytest.raises(
            ValueError, match="counts must be known numbers, got a traced array: compute class weights outside"
        ):
            transformation(rule)(np.ones((2, 3)))
    np.testing.assert_array_equal(rule(jax.numpy.array([4, 4])), [1, 1])


def test_wrong_beta_is_refused():
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got"):
            weights.class_balanced([1, 2], beta)
        with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got"):
            weights.effective_number([1, 2], beta)
    with pytest.raises(ValueError, match="beta must be a known number"):
        jax.jit(lambda beta: weights.class_balanced([1, 2], beta))(0.5)


def test_registry():
    assert sorted(weights.WEIGHTS) == ["class_balanced", "inverse_frequency", "inverse_sqrt_frequency", "uniform"]
