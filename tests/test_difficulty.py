"""CDB: tau and weights against float64, the published examples, limits, zeros and ones, transformations, errors."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax.sharding import AxisType, PartitionSpec
from oracles import difficulty as oracles

from cbjax import difficulty

TAUS = {
    "paper": oracles.paper_tau,
    "authors_code": oracles.authors_code_tau,
    "authors_code_imagenet": oracles.authors_code_imagenet_tau,
}
every_formula = pytest.mark.parametrize("formula", TAUS)
ACCURACIES = [[0.9, 0.1, 0.5], [1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0], [0.3], [0.8, 0.7, 0.75, 1.0], [0.999, 0.01]]


def test_by_hand():
    np.testing.assert_allclose(difficulty.difficulty_weights(jnp.array([0.5, 0.9]), 1.0), [5 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(difficulty.difficulty_weights(jnp.array([0.5, 0.9]), 2, scale=False), [0.25, 0.01], 1e-5)
    np.testing.assert_allclose(difficulty.difficulty_weights(jnp.array([1.0, 0.9]), 1, scale=False), [0.01, 0.1], 1e-5)


@pytest.mark.parametrize(
    ("best", "worst", "published"),
    [((0.9), 0.1, (0.9997, 1.998, 1.9993)), (0.8, 0.7, (0.755, 1.063, 1.0712)), (0.5, 0.5, (0.727, 0.990, 0.9999))],
)
def test_published_taus(best, worst, published):
    accuracy = jnp.array([worst, best, (best + worst) / 2])
    for formula, truth in zip(("authors_code", "authors_code_imagenet", "paper"), published, strict=True):
        np.testing.assert_allclose(
            difficulty.dynamic_tau(accuracy, formula), truth, atol=1e-3 if truth == 1.998 else 6e-4
        )


def test_range_of_the_paper_tau():
    np.testing.assert_allclose(difficulty.dynamic_tau(jnp.zeros(3)), 0.5379, atol=1e-4)
    np.testing.assert_allclose(difficulty.dynamic_tau(jnp.array([1.0, 0.0])), 2.0, rtol=1e-6)
    assert 0.999 < difficulty.dynamic_tau(jnp.ones(3)) < 1


@every_formula
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_agrees_with_the_oracle(accuracy, formula):
    tau = TAUS[formula](accuracy)
    np.testing.assert_allclose(difficulty.dynamic_tau(jnp.array(accuracy), formula), tau, rtol=1e-6)
    ours = difficulty.difficulty_weights(jnp.array(accuracy), formula=formula)
    # 1 - 0.999 in float32 has lost 5 digits: the oracle starts from the same float32 accuracies.
    truth = oracles.weights(np.float32(accuracy), TAUS[formula](np.float32(accuracy).astype(float)), 0.01)
    np.testing.assert_allclose(ours, truth, rtol=3e-6)


@pytest.mark.parametrize(
    "broken",
    [
        lambda a: oracles.weights(a, oracles.paper_tau(a) + 0.01, 0.01),
        lambda a: oracles.weights(a, oracles.authors_code_imagenet_tau(a), 0.01),
        lambda a: oracles.weights(a, oracles.paper_tau(a), 0.02),
        lambda a: oracles.weights(1 - np.asarray(a), oracles.paper_tau(a), 0.01),
        lambda a: oracles.weights(a, oracles.paper_tau(np.minimum(a, 0.99)), 0.01),
        lambda a: oracles.weights(a, oracles.paper_tau(a), 0.01) / len(a),
    ],
)
def test_the_comparison_rejects_a_broken_formula(broken):
    accuracy = [0.8, 0.7, 0.75, 1.0]
    ours = difficulty.difficulty_weights(jnp.array(accuracy))
    assert not np.allclose(ours, broken(accuracy), rtol=3e-6, atol=0)


def test_tau_zero_gives_equal_weights():
    accuracy = jnp.array([1.0, 0.3, 0.0])
    for floor in (0.0, 0.01):
        for tau in (0, 0.0, jnp.float32(0)):
            for scale in (True, False):
                ours = difficulty.difficulty_weights(accuracy, tau, floor=floor, scale=scale)
                np.testing.assert_array_equal(ours, [1, 1, 1])


def test_all_classes_solved_or_equal_gives_equal_weights():
    for tau in ("dynamic", 0.5, 2.0, 1000.0):
        for accuracy in (1.0, 0.995, 0.4, 0.0):
            for floor in (0.0, 0.01):
                ours = difficulty.difficulty_weights(jnp.full(4, accuracy), tau, floor=floor)
                np.testing.assert_array_equal(ours, np.ones(4))
    np.testing.assert_array_equal(difficulty.difficulty_weights(jnp.ones(2), 2.0, floor=0.0, scale=False), [1, 1])


def test_the_papers_floor_gives_a_solved_class_nothing():
    np.testing.assert_array_equal(difficulty.difficulty_weights(jnp.array([1.0, 0.5]), floor=0.0), [0, 2])


def test_a_large_tau_stays_finite():
    ours = difficulty.difficulty_weights(jnp.array([0.9, 0.99, 1.0]), 1e4)
    np.testing.assert_array_equal(ours, [3, 0, 0])


@hypothesis.given(
    accuracy=strategies.lists(
        strategies.floats(0, 1, width=32) | strategies.sampled_from([0.0, 1.0]), min_size=4, max_size=4
    ),
    tau=strategies.floats(0, 1000, width=32) | strategies.sampled_from([0.0, 0.5, 1.0]),
    floor=strategies.sampled_from([0.0, 0.01]),
)
@hypothesis.settings(max_examples=150)
def test_properties(accuracy, tau, floor):
    accuracy = np.float32(accuracy)
    for kind in (tau, "dynamic"):
        value, slope = _value_and_slope(kind == "dynamic")(accuracy, np.float32(tau), np.float32(floor))
        value = np.asarray(value)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()
        assert (value >= 0).all()
        np.testing.assert_allclose(value.sum(), 4, rtol=1e-5)
        assert (np.diff(value[np.argsort(accuracy)]) <= 1e-5).all()
        np.testing.assert_allclose(
            _value_and_slope(kind == "dynamic")(accuracy[::-1], np.float32(tau), np.float32(floor))[0][::-1],
            value,
            rtol=1e-5,
        )


@functools.cache
def _value_and_slope(dynamic):
    @jax.jit
    def compute(accuracy, tau, floor):
        def weights(accuracy):
            return difficulty.difficulty_weights(accuracy, "dynamic" if dynamic else tau, floor=floor)

        return weights(accuracy), jax.grad(lambda accuracy: (weights(accuracy) * jnp.arange(4)).sum())(accuracy)

    return compute


def test_gradient():
    accuracy = np.array([0.3, 0.9, 0.6])
    slope = jax.grad(lambda accuracy: difficulty.difficulty_weights(accuracy, 1.5)[1])(jnp.float32(accuracy))
    step = 1e-6 * np.eye(3)
    truth = [
        (oracles.weights(accuracy + s, 1.5, 0.01)[1] - oracles.weights(accuracy - s, 1.5, 0.01)[1]) / 2e-6 for s in step
    ]
    np.testing.assert_allclose(slope, truth, rtol=1e-4)
    slope = jax.grad(lambda tau: difficulty.difficulty_weights(jnp.array([1.0, 0.5]), tau, floor=0.0)[0])(0.5)
    assert np.isfinite(slope)


@every_formula
def test_transformations_agree_with_the_plain_call(formula):
    accuracy = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (8, 5)), jnp.float32)
    compute = functools.partial(difficulty.difficulty_weights, formula=formula)
    plain = jnp.stack([compute(row) for row in accuracy])
    mesh = jax.make_mesh((8,), ("runs",), axis_types=(AxisType.Auto,))
    runs = PartitionSpec("runs")
    results = {
        "jit": jnp.stack([jax.jit(compute)(row) for row in accuracy]),
        "vmap": jax.vmap(compute)(accuracy),
        "pmap": np.asarray(jax.pmap(compute)(accuracy)),
        "shard_map": jax.jit(jax.shard_map(jax.vmap(compute), mesh=mesh, in_specs=runs, out_specs=runs))(accuracy),
    }
    for name, result in results.items():
        np.testing.assert_allclose(result, plain, rtol=1e-5, err_msg=name)


def test_tau_may_be_mapped():
    taus = jnp.array([0.0, 1.0, 2.5])
    accuracy = jnp.array([0.2, 0.7])
    mapped = jax.vmap(lambda tau: difficulty.difficulty_weights(accuracy, tau))(taus)
    np.testing.assert_allclose(mapped, [difficulty.difficulty_weights(accuracy, float(tau)) for tau in taus], rtol=1e-5)


def test_numpy_and_float64():
    assert difficulty.difficulty_weights(np.array([0.1, 0.2])).dtype == jnp.float32
    assert difficulty.difficulty_weights(jnp.array([0.1, 0.2], jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        accuracy = np.array([0.1, 0.95])
        ours = difficulty.difficulty_weights(accuracy)
        np.testing.assert_allclose(ours, oracles.weights(accuracy, oracles.paper_tau(accuracy), 0.01), rtol=1e-12)


def test_carry_accuracy():
    first = difficulty.carry_accuracy(jnp.zeros(3), jnp.array([0.5, jnp.nan, 1.0]))
    np.testing.assert_array_equal(first, [0.5, 0, 1])
    np.testing.assert_array_equal(
        difficulty.carry_accuracy(first, jnp.array([jnp.nan, 0.2, jnp.nan])), np.float32([0.5, 0.2, 1])
    )


def test_smoothed_accuracies_agree_with_the_oracle():
    measured = np.random.default_rng(0).uniform(0, 1, (60, 5))
    measured[[3, 4, 40], [0, 0, 2]] = np.nan
    measured[:, 4] = np.nan
    for keep in (0.0, 0.5, 0.9, 0.95):
        average = jnp.zeros(5)
        for row in measured:
            average = difficulty.smooth_accuracy(average, jnp.asarray(row, jnp.float32), keep)
        np.testing.assert_allclose(average, oracles.smooth(measured, keep), rtol=1e-5, atol=0)
    for broken in (oracles.smooth(np.nan_to_num(measured), 0.95), oracles.smooth(measured, 0.94)):
        assert not np.allclose(average, broken, rtol=1e-5, atol=0)


def test_smoothing_by_hand():
    average = difficulty.smooth_accuracy(jnp.array([0.5, 0.8, jnp.nan]), jnp.array([1.0, jnp.nan, 0.3]), 0.75)
    np.testing.assert_allclose(average, [0.625, 0.8, 0.3], rtol=1e-6)
    assert average.dtype == jnp.float32
    with jax.enable_x64(True):
        average = difficulty.smooth_accuracy(np.array([0.1]), np.array([0.7]), 0.9)
        np.testing.assert_allclose(average, [0.16], rtol=1e-14)


def test_keeping_nothing_is_the_paper_to_the_bit():
    previous, measured = np.random.default_rng(0).uniform(0, 1, (2, 1000)).astype(np.float32)
    measured[::7] = np.nan
    expected = difficulty.carry_accuracy(previous, measured)
    for function in (difficulty.smooth_accuracy, jax.jit(difficulty.smooth_accuracy)):
        np.testing.assert_array_equal(function(previous, measured, 0.0), expected)


def test_weights_moved():
    moved = difficulty.weights_moved
    np.testing.assert_allclose(moved(jnp.array([1.0, 1.0]), jnp.array([1.5, 0.5])), 0.25, rtol=1e-6)
    np.testing.assert_allclose(moved(jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])), 1.0, rtol=1e-6)
    before, after = np.random.default_rng(0).dirichlet(np.ones(7), 2)
    expected = np.abs(7 * after - 7 * before).sum() / 2 / 7  # half the sum of changes of weights that sum to C, over C
    for scale in (7, 1, 1e-4):  # unscaled weights are the paper's
        np.testing.assert_allclose(moved(jnp.array(scale * before), jnp.array(scale * after)), expected, rtol=1e-5)
    assert moved(before, before) == jax.jit(moved)(before, before) == 0
    np.testing.assert_allclose(moved(jnp.ones((2, 2)), jnp.array([[2.0, 0.0], [1.0, 1.0]])), [0.5, 0.0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"one shape \[\.\.\., C\].*\(2,\) and \(3,\)"):
        moved(jnp.ones(2), jnp.ones(3))


def test_messages_of_smoothing():
    for previous, measured in [(jnp.zeros(2), jnp.zeros(3)), (jnp.zeros((2, 2)), jnp.zeros((2, 2)))]:
        with pytest.raises(ValueError, match=r"previous and measured must both be \[C\], one number a class, got"):
            difficulty.smooth_accuracy(previous, measured, 0.5)
    for keep in (-0.1, 1.0, 0.99999999, float("nan"), None, jnp.array([0.5, 0.5])):
        with pytest.raises(ValueError, match=r"keep must be one number in \[0, 1\), got"):
            difficulty.smooth_accuracy(jnp.zeros(2), jnp.zeros(2), keep)


def test_messages():
    good = jnp.array([0.1, 0.9])
    for accuracy, message in [
        (jnp.array([37.4, 90.0]), r"accuracy must be in \[0, 1\].*37.4"),
        (jnp.array([0.1, jnp.nan]), "carry_accuracy"),
        (jnp.zeros((2, 2)), r"accuracy must be \[C\].*\(2, 2\)"),
        (jnp.zeros(0), r"accuracy must be \[C\]"),
    ]:
        for function in (difficulty.dynamic_tau, difficulty.difficulty_weights):
            with pytest.raises(ValueError, match=message):
                function(accuracy)
    for tau in (-1.0, float("nan"), "fast", np.ones(2)):
        with pytest.raises(ValueError, match="tau must be 'dynamic' or a number, at least 0, got"):
            difficulty.difficulty_weights(good, tau)
    for floor in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"floor must be in \[0, 1\), got"):
            difficulty.difficulty_weights(good, floor=floor)
    with pytest.raises(
        ValueError, match="formula must be one of paper, authors_code, authors_code_imagenet, got 'code'"
    ):
        difficulty.difficulty_weights(good, formula="code")


@pytest.mark.parametrize("x64", [False, True])
def test_jax_s_strict_settings_hold(x64):
    strict = jax.numpy_dtype_promotion("strict")
    with jax.enable_x64(x64), strict, jax.debug_nans(True), jax.debug_infs(True):
        for dtype in (jnp.bfloat16, jnp.float32, *([np.float64] if x64 else [])):
            accuracy = jnp.asarray([1.0, 0.5], dtype)
            for tau in ("dynamic", 0.5, np.float32(2), np.float64(0)):
                weights = difficulty.difficulty_weights(accuracy, tau, floor=np.float64(0.125))
                assert np.isfinite(weights).all()
            carried = difficulty.carry_accuracy(accuracy, np.array([np.nan, 0.25], np.float32))
            np.testing.assert_array_equal(carried, [1, 0.25])
