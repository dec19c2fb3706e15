"""Every loss: by hand, against float64, limits, gradients, extreme logits, permutations, transformations, errors."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies
from jax.sharding import AxisType, PartitionSpec
from oracles import losses as oracles

from cbjax import losses

BATCH, CLASSES = 16, 5


def _focal(gamma):
    return functools.partial(losses.focal_loss, gamma=gamma), functools.partial(oracles.focal_loss, gamma=gamma)


def _smoothed(share):
    return (
        functools.partial(losses.softmax_cross_entropy, label_smoothing=share),
        functools.partial(oracles.smoothed_cross_entropy, label_smoothing=share),
    )


# name: (loss, oracle, whether labels are multi-hot)
CASES = {
    "softmax": (losses.softmax_cross_entropy, oracles.softmax_cross_entropy, False),
    "softmax_smoothed_0.1": (*_smoothed(0.1), False),
    "sigmoid": (losses.sigmoid_cross_entropy, oracles.sigmoid_cross_entropy, False),
    "sigmoid_multi": (losses.sigmoid_cross_entropy, oracles.sigmoid_cross_entropy, True),
    **{f"focal_{gamma}": (*_focal(gamma), False) for gamma in (0.0, 0.5, 2.0)},
    "focal_0.5_multi": (*_focal(0.5), True),
}
every_loss = pytest.mark.parametrize("case", CASES)


def _inputs(case, scale=3.0, seed=0, dtype=jnp.float32, batch=BATCH):
    """Returns logits, labels, class_weights on the device, the logits rounded to the dtype."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (batch, CLASSES)).clip(-1e4, 1e4)
    labels = rng.integers(0, 2, logits.shape) if CASES[case][2] else rng.integers(0, CLASSES, batch)
    weights = rng.uniform(0.05, 4.0, CLASSES)
    return jnp.asarray(logits, dtype), jnp.asarray(labels, jnp.int32), jnp.asarray(weights, jnp.float32)


def _oracle(oracle, logits, labels, weights):
    return oracle(np.asarray(logits, np.float64), np.asarray(labels), np.asarray(weights, np.float64))


def _close(ours, truth, logits):
    ours = np.asarray(ours, np.float64)
    allowed = 1e-5 * np.abs(truth) + 1e-6 * max(1.0, float(np.abs(np.asarray(logits, np.float64)).max()))
    return ours.shape == truth.shape and bool((np.abs(ours - truth) <= allowed).all())


def _close_bfloat16(ours, truth):
    # Element by element; below the smallest normal float32 the CPU gives 0.
    ours = np.asarray(ours, np.float64)
    return bool((np.abs(ours - truth) <= 2.0**-8 * np.abs(truth) + 1.2e-38).all())


@functools.cache
def _compiled(case):
    loss = CASES[case][0]
    gradient = jax.grad(lambda logits, labels, weights: loss(logits, labels, weights).sum())
    return jax.jit(loss), jax.jit(gradient)


def test_by_hand():
    logits = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    labels, weights = jnp.array([0, 1]), jnp.array([2.0, 3.0])
    e = np.e
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(logits, labels, weights), [2 * np.log(1 + 1 / e), 3 * np.log(2)], rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(logits, labels, weights),
        [2 * (np.log(1 + 1 / e) + np.log(2)), 6 * np.log(2)],
        1e-6,
    )
    first = np.log(1 + 1 / e) / (1 + e) + np.log(2) / 2
    np.testing.assert_allclose(losses.focal_loss(logits, labels, weights, gamma=1.0), [2 * first, 3 * np.log(2)], 1e-6)
    multi_hot = jnp.array([[1, 1], [0, 0]])
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(logits, multi_hot, weights),
        [2 * np.log(1 + 1 / e) + 3 * np.log(2), 5 * np.log(2)],
        1e-6,
    )


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_values_and_gradients_agree_with_the_oracle(case, dtype, scale):
    arguments = _inputs(case, scale, dtype=dtype)
    value, gradient = (f(*arguments) for f in _compiled(case))
    truth, true_gradient = _oracle(CASES[case][1], *arguments)
    assert value.dtype == jnp.float32
    assert value.shape == (BATCH,)
    assert gradient.dtype == dtype
    assert _close(value, truth, arguments[0])
    if dtype == jnp.float32:
        assert _close(gradient, true_gradient, arguments[0])
    assert np.isfinite(np.asarray(gradient, np.float64)).all()
    assert _close_bfloat16(gradient, true_gradient)


@every_loss
def test_small_losses_keep_their_digits(case):
    # A right and sure answer: 1 - p is far below the rounding of p.
    logits = jnp.full((1, CLASSES), -30.0).at[0, 2].set(30.0)
    labels = (jnp.arange(CLASSES) == 2).astype(jnp.int32)[None, :] if CASES[case][2] else jnp.array([2])
    value, gradient = (f(logits, labels, jnp.ones(CLASSES)) for f in _compiled(case))
    truth, true_gradient = _oracle(CASES[case][1], logits, labels, np.ones(CLASSES))
    if case == "softmax":
        truth = np.array([np.log1p((CLASSES - 1) * np.exp(-60.0))])
    np.testing.assert_allclose(value, truth, rtol=1e-5, atol=1e-37)
    np.testing.assert_allclose(gradient, true_gradient, rtol=1e-5, atol=1e-37)


BROKEN = {
    "no class weights": lambda oracle, z, y, w: oracle(z, y, np.ones_like(w)),
    "weights of another class": lambda oracle, z, y, w: oracle(z, y, np.roll(w, 1)),
    "normalised weights": lambda oracle, z, y, w: oracle(z, y, w / w.sum()),
    "sign turned": lambda oracle, z, y, w: oracle(-z, y, w),
    "examples in the wrong order": lambda oracle, z, y, w: oracle(z[::-1], y, w),
    "one class left out": lambda oracle, z, y, w: oracle(
        z[:, : y.max() + 1] if y.ndim == 1 else z * [[1, 1, 1, 1, 0]], y, w
    ),
    "rounded to bfloat16": lambda oracle, z, y, w: oracle(np.asarray(z.astype(jnp.bfloat16), np.float64), y, w),
}
BROKEN_FOCAL = {
    "no modulator": oracles.sigmoid_cross_entropy,
    "gamma of 1": lambda z, y, w: oracles.focal_loss(z, y, w, 1.0),
    "modulator of the other side": lambda z, y, w: (
        oracles.focal_loss(z, y, w, 0.0)[0] - oracles.focal_loss(z, y, w, 0.5)[0],
        -oracles.focal_loss(-z, y, w, 0.5)[1],
    ),
}


@every_loss
@pytest.mark.parametrize("how", BROKEN)
def test_the_comparison_rejects_a_broken_formula(case, how):
    logits, labels, weights = _inputs(case)
    if how == "one class left out":
        labels = jnp.minimum(labels, CLASSES - 2) if labels.ndim == 1 else labels
    value, gradient = (f(logits, labels, weights) for f in _compiled(case))
    truth = BROKEN[how](
        CASES[case][1], np.asarray(logits, np.float64), np.asarray(labels), np.asarray(weights, np.float64)
    )
    assert not _close(value, truth[0], logits)
    assert not _close(gradient, truth[1], logits)


@pytest.mark.parametrize("how", BROKEN_FOCAL)
@pytest.mark.parametrize("case", ["focal_0.5", "focal_0.5_multi"])
def test_the_comparison_rejects_a_broken_modulator(case, how):
    arguments = _inputs(case)
    value, gradient = (f(*arguments) for f in _compiled(case))
    truth = _oracle(BROKEN_FOCAL[how], *arguments)
    assert not _close(value, truth[0], arguments[0])
    assert not _close(gradient, truth[1], arguments[0])


@every_loss
def test_the_oracle_gradient_is_the_slope_of_its_value(case):
    logits, labels, weights = (np.asarray(x) for x in _inputs(case))
    logits, oracle = logits.astype(np.float64), CASES[case][1]
    direction = np.random.default_rng(1).normal(size=logits.shape)
    up, down = (oracle(logits + step * direction, labels, weights)[0].sum() for step in (1e-6, -1e-6))
    np.testing.assert_allclose((up - down) / 2e-6, (oracle(logits, labels, weights)[1] * direction).sum(), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_is_the_authors_formula(gamma):
    logits, labels, weights = _inputs("focal_0.5", 8.0)
    truth = oracles.authors_focal_loss(np.asarray(logits, np.float64), np.asarray(labels), np.asarray(weights), gamma)
    assert _close(losses.focal_loss(logits, labels, weights, gamma=gamma), truth, logits)


def test_no_smoothing_is_cross_entropy():
    arguments = _inputs("softmax", 8.0)
    plain = losses.softmax_cross_entropy(*arguments)
    np.testing.assert_array_equal(losses.softmax_cross_entropy(*arguments, label_smoothing=0.0), plain)
    traced = jax.jit(lambda share: losses.softmax_cross_entropy(*arguments, label_smoothing=share))
    np.testing.assert_allclose(traced(0.0), plain, rtol=1e-6)
    truth = _oracle(_smoothed(0.3)[1], *arguments)[0]
    assert _close(traced(0.3), truth, arguments[0])
    # A class that is masked out makes a smoothed loss infinite, and changes none that is not smoothed.
    masked, shares = jnp.array([[1.0, -jnp.inf, 0.0]]), jnp.array([0.0, 0.1])
    for labels in (jnp.array([0]), jnp.array([[1.0, 0.0, 0.0]])):
        mapped = jax.vmap(
            lambda share, labels=labels: losses.softmax_cross_entropy(masked, labels, label_smoothing=share)
        )
        np.testing.assert_allclose(mapped(shares)[:, 0], [np.log1p(np.exp(-1)), np.inf], rtol=1e-6)
    # The loss is smallest if the prediction is the label. Then it is the entropy of the label.
    share, least = 0.3, np.r_[1 - 0.3 + 0.3 / 5, [0.3 / 5] * 4]
    logits = jnp.log(jnp.asarray(least, jnp.float32))[None, :]
    loss, gradient = jax.jit(
        jax.value_and_grad(
            lambda logits: losses.softmax_cross_entropy(logits, jnp.array([0]), label_smoothing=share).sum()
        )
    )(logits)
    np.testing.assert_allclose(loss, -(least * np.log(least)).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("case", ["sigmoid", "sigmoid_multi"])
def test_gamma_zero_is_sigmoid_cross_entropy(case):
    logits, labels, weights = _inputs(case, 50.0)
    focal = losses.focal_loss(logits, labels, weights, gamma=0)
    np.testing.assert_allclose(focal, losses.sigmoid_cross_entropy(logits, labels, weights), rtol=3e-7)


@every_loss
def test_equal_weights_are_none(case):
    logits, labels, _ = _inputs(case)
    loss = CASES[case][0]
    np.testing.assert_allclose(loss(logits, labels), loss(logits, labels, jnp.ones(CLASSES)), rtol=1e-6)


def test_multi_hot_with_one_class_is_the_integer_label_if_weights_are_equal():
    logits, labels, _ = _inputs("focal_0.5")
    one_hot = jax.nn.one_hot(labels, CLASSES)
    for labels_of_a_kind in (one_hot, one_hot.astype(bool), one_hot.astype(jnp.int32)):
        np.testing.assert_array_equal(
            losses.focal_loss(logits, labels_of_a_kind, gamma=1.0), losses.focal_loss(logits, labels, gamma=1.0)
        )


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("extreme", [100.0, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(case, dtype, extreme):
    patterns = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * CLASSES)).reshape(CLASSES, -1).T * extreme
    logits = jnp.asarray(patterns, dtype)
    ones = np.arange(len(patterns)) % CLASSES
    labels = jnp.asarray(np.eye(CLASSES, dtype=int)[ones] if CASES[case][2] else ones)
    arguments = (logits, labels, jnp.linspace(0.0, 2.0, CLASSES))
    value, gradient = (f(*arguments) for f in _compiled(case))
    truth, true_gradient = _oracle(CASES[case][1], *arguments)
    assert _close(value, truth, logits)
    assert _close_bfloat16(gradient, true_gradient)


@hypothesis.given(
    gamma=strategies.floats(0, 10) | strategies.sampled_from([0.0, 10.0]),
    margins=strategies.lists(
        strategies.floats(-1e4, 1e4, width=32) | strategies.floats(-30, 30, width=32), min_size=4, max_size=4
    ),
    dtype=strategies.sampled_from([jnp.float32, jnp.bfloat16]),
)
@hypothesis.settings(max_examples=150)
def test_any_gamma_and_logits(gamma, margins, dtype):
    logits = jnp.asarray([margins], dtype)
    value, gradient = _focal_of_gamma(logits, jnp.float32(gamma))
    truth, true_gradient = oracles.focal_loss(
        np.asarray(logits, np.float64), np.array([1]), np.ones(4), float(np.float32(gamma))
    )
    assert _close(value[None], truth, logits)
    assert _close_bfloat16(gradient, true_gradient)


@jax.jit
def _focal_of_gamma(logits, gamma):
    return jax.value_and_grad(lambda logits: losses.focal_loss(logits, jnp.array([1]), gamma=gamma).sum())(logits)


def test_gamma_may_be_traced_mapped_and_differentiated():
    logits, labels, weights = _inputs("focal_0.5")
    gammas = jnp.array([0.0, 0.5, 3.0])
    mapped = jax.jit(jax.vmap(lambda gamma: losses.focal_loss(logits, labels, weights, gamma=gamma)))(gammas)
    slope = jax.grad(lambda gamma: losses.focal_loss(logits, labels, weights, gamma=gamma).sum())
    slopes = jax.jit(jax.vmap(slope))(gammas)
    for value, slope, gamma in zip(mapped, slopes, np.asarray(gammas, np.float64), strict=True):
        assert _close(
            value, _oracle(functools.partial(oracles.focal_loss, gamma=gamma), logits, labels, weights)[0], logits
        )
        up, down = (
            _oracle(functools.partial(oracles.focal_loss, gamma=gamma + d), logits, labels, weights)[0].sum()
            for d in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-4)


@every_loss
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_second_derivatives_in_forward_and_reverse_mode(case, scale):
    logits, labels, weights = _inputs(case, scale, batch=2)
    loss, oracle = CASES[case][:2]
    direction = jnp.asarray(np.random.default_rng(2).normal(size=logits.shape), jnp.float32)
    gradient = jax.grad(lambda logits: loss(logits, labels, weights).sum())
    forward = jax.jit(lambda logits: jax.jvp(gradient, (logits,), (direction,))[1])(logits)
    reverse = jax.jit(jax.grad(lambda logits: (gradient(logits) * direction).sum()))(logits)
    step, exact = 1e-6 * np.asarray(direction, np.float64), np.asarray(logits, np.float64)
    up, down = (_oracle(oracle, exact + change, labels, weights)[1] for change in (step, -step))
    truth = (up - down) / 2e-6
    np.testing.assert_allclose(forward, truth, atol=1e-4)
    np.testing.assert_allclose(reverse, truth, atol=1e-4)


@every_loss
def test_permuting_the_batch_permutes_the_losses(case):
    logits, labels, weights = _inputs(case)
    order = np.random.default_rng(3).permutation(BATCH)
    loss = CASES[case][0]
    np.testing.assert_allclose(
        loss(logits[order], labels[order], weights), loss(logits, labels, weights)[order], rtol=1e-6
    )


@every_loss
def test_permuting_the_classes_changes_nothing(case):
    logits, labels, weights = _inputs(case)
    order = np.random.default_rng(4).permutation(CLASSES)
    moved = labels[:, order] if labels.ndim == 2 else jnp.asarray(np.argsort(order))[labels]
    loss = CASES[case][0]
    np.testing.assert_allclose(loss(logits[:, order], moved, weights[order]), loss(logits, labels, weights), rtol=1e-5)


@every_loss
def test_transformations_agree_with_the_plain_call(case):
    logits, labels, weights = _inputs(case)
    loss = CASES[case][0]
    plain = loss(logits, labels, weights)
    split = (logits.reshape(8, 2, CLASSES), labels.reshape(8, 2, *labels.shape[1:]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=(batch, batch, PartitionSpec()), out_specs=batch))
    results = {
        "jit": jax.jit(loss)(logits, labels, weights),
        "vmap": jax.jit(jax.vmap(loss, in_axes=(0, 0, None)))(*split, weights).reshape(BATCH),
        "pmap": np.asarray(jax.pmap(loss, in_axes=(0, 0, None))(*split, weights)).reshape(BATCH),
        "shard_map": sharded(logits, labels, weights),
    }
    for name, result in results.items():
        np.testing.assert_allclose(result, plain, rtol=2e-6, err_msg=name)


@every_loss
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_numpy_arguments_and_weights_closed_over_in_jit(case, dtype):
    logits, labels, weights = map(np.asarray, _inputs(case))
    loss = CASES[case][0]
    plain = loss(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))
    np.testing.assert_allclose(loss(logits, labels.astype(dtype), weights), plain, rtol=2e-6)
    closed = jax.jit(lambda logits, labels: loss(logits, labels, weights))
    np.testing.assert_allclose(closed(logits, labels.astype(dtype)), plain, rtol=2e-6)


@every_loss
def test_gradients_under_pmap_and_shard_map(case):
    logits, labels, weights = _inputs(case)
    gradient = _compiled(case)[1]
    plain = gradient(logits, labels, weights)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(batch, batch, PartitionSpec()), out_specs=batch))
    split = (logits.reshape(8, 2, CLASSES), labels.reshape(8, 2, *labels.shape[1:]))
    mapped = jax.pmap(gradient, in_axes=(0, 0, None))(*split, weights)
    np.testing.assert_allclose(sharded(logits, labels, weights), plain, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.asarray(mapped).reshape(plain.shape), plain, rtol=1e-5, atol=1e-7)


@every_loss
def test_gradient_of_the_class_weights(case):
    logits, labels, weights = _inputs(case)
    loss = CASES[case][0]
    gradient = jax.jit(jax.grad(lambda weights: loss(logits, labels, weights).sum()))(weights)
    # Losses are linear in the weights.
    parts = [_compiled(case)[0](logits, labels, weight).sum() for weight in jnp.eye(CLASSES)]
    np.testing.assert_allclose(gradient, jnp.stack(parts), rtol=1e-5, atol=1e-6)


@every_loss
def test_float64_stays_float64(case):
    with jax.enable_x64(True):
        logits, labels, weights = _inputs(case, dtype=jnp.float64)
        value = CASES[case][0](logits, labels, weights)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, _oracle(CASES[case][1], logits, labels, weights)[0], rtol=1e-12)


def test_registry():
    one_vs_rest = [name for name, facts in losses.LOSSES.items() if facts.one_vs_rest]
    assert sorted(one_vs_rest) == ["eql", "focal", "ghm", "sigmoid"]


@every_loss
def test_messages_of_wrong_shapes(case):
    logits, labels, weights = _inputs(case)
    loss = CASES[case][0]
    with pytest.raises(ValueError, match=r"logits must be \[B, C\], got shape \(2, 8, 5\); .*vmap"):
        loss(logits.reshape(2, 8, CLASSES), labels, weights)
    with pytest.raises(ValueError, match=r"labels must be .* got labels of shape \(15,.*logits of shape \(16, 5\)"):
        loss(logits, labels[:15], weights)
    with pytest.raises(
        ValueError, match=r"class_weights must be \[C\].* got shape \(16,\) for logits of shape \(16, 5\)"
    ):
        loss(logits, labels, jnp.ones(BATCH))
    with pytest.raises(ValueError, match=r"labels of shape \[B\] must be integers, got float32"):
        loss(logits, jnp.zeros(BATCH), weights)


def test_messages_of_wrong_use():
    logits, labels, weights = _inputs("sigmoid_multi")
    with pytest.raises(
        ValueError, match=r"one integer label an example.*for multi-hot labels use sigmoid_cross_entropy"
    ):
        losses.softmax_cross_entropy(logits, labels, weights)
    with pytest.raises(ValueError, match="at least 2 classes"):
        losses.softmax_cross_entropy(logits[:, :1], jnp.zeros(BATCH, int))
    for gamma in (-0.5, float("nan"), np.ones(2)):
        with pytest.raises(ValueError, match=r"gamma must be a finite number, at least 0, .*, got"):
            losses.focal_loss(logits, labels, weights, gamma=gamma)
    for wrong in (-0.1, 1.0, float("nan"), jnp.ones(2) / 2):
        with pytest.raises(ValueError, match="label_smoothing must be a number of at least 0 and below 1, got"):
            losses.softmax_cross_entropy(logits, jnp.zeros(BATCH, int), label_smoothing=wrong)


INFINITE = np.float32([[-np.inf, 1, -np.inf], [1, -np.inf, 2], [-np.inf, 2, 1], [np.inf, 1, -2], [1, np.inf, 2]])


def test_labels_of_no_class_have_no_loss_and_no_gradient():
    logits, labels = jnp.asarray(_inputs("softmax")[0][:5, :3]), jnp.array([1, -100, 3, -1, 2])
    weights, there = jnp.array([1.0, 2.0, 3.0]), np.array([0, 4])
    for loss in (CASES[name][0] for name in ("softmax", "softmax_smoothed_0.1", "sigmoid", "focal_0.5")):
        both = jax.jit(jax.value_and_grad(lambda logits, labels, loss=loss: loss(logits, labels, weights).sum()))
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda logits, loss=loss: jnp.where(labels >= 0, loss(logits, labels, weights), 0.0).sum()
            )
        )(logits)
        alone, slope = both(logits[there], labels[there])
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        np.testing.assert_allclose(gradient[there], slope, rtol=1e-6)
        np.testing.assert_array_equal(np.delete(gradient, there, axis=0), np.zeros((3, 3)))
        broken = logits.at[1].set(jnp.nan).at[2, 0].set(jnp.inf).at[3, 1].set(-jnp.inf)
        same, other = both(broken, labels)
        np.testing.assert_allclose(same, value, rtol=1e-6)
        np.testing.assert_allclose(other, gradient, rtol=1e-6)


def test_masked_logits_are_those_of_optax():
    logits, labels = jnp.asarray(INFINITE[:3]), jnp.array([1, 1, 1])

    def both(loss):
        return jax.jit(loss)(logits, labels), jax.jit(jax.grad(lambda logits: loss(logits, labels).sum()))(logits)

    for ours, truth in zip(
        both(losses.softmax_cross_entropy), both(optax.softmax_cross_entropy_with_integer_labels), strict=True
    ):
        np.testing.assert_allclose(ours, truth, rtol=1e-6)


@pytest.mark.parametrize("labels", [np.full(5, 1), np.tile([0, 1, 0], (5, 1)), np.tile([0.0, 1.0, 0.0], (5, 1))])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
def test_infinite_logits_of_the_sigmoid_losses(labels, gamma):
    loss = losses.sigmoid_cross_entropy if gamma is None else functools.partial(losses.focal_loss, gamma=gamma)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda row, label: loss(row[None], label[None])[0])))(
        jnp.asarray(INFINITE), jnp.asarray(labels)
    )
    # The limits: those of logits so large that nothing is left of the exponential.
    large = np.clip(INFINITE.astype(np.float64), -2e3, 2e3)
    truth, slope = oracles.focal_loss(large, np.full(5, 1), np.ones(3), gamma or 0.0)
    np.testing.assert_allclose(value, np.where(truth > 1e3, np.inf, truth), rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
def test_labels_between_zero_and_one_are_not_hardened(gamma):
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(6, 4)) * 8, rng.uniform(0.1, 3, 4)
    labels = rng.uniform(size=(6, 4))
    labels[0] = [0, 1, 1, 0]
    loss = losses.sigmoid_cross_entropy if gamma is None else functools.partial(losses.focal_loss, gamma=gamma)
    oracle = functools.partial(oracles.soft_focal_loss, labels=labels, class_weights=weights, gamma=gamma or 0.0)
    for compute in (loss, jax.jit(loss)):
        ours = compute(jnp.float32(logits), jnp.float32(labels), jnp.float32(weights))
        np.testing.assert_allclose(ours, oracle(logits), rtol=2e-5)
    slope = jax.grad(lambda logits: loss(logits, jnp.float32(labels), jnp.float32(weights)).sum())
    slope = jax.jit(slope)(jnp.float32(logits))
    for c in range(4):
        step = 1e-6 * np.eye(4)[c]
        np.testing.assert_allclose(
            slope[:, c], (oracle(logits + step) - oracle(logits - step)) / 2e-6, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.uint32, np.int64])
def test_any_integer_is_a_label(dtype):
    logits = _inputs("softmax")[0][:4]
    for loss in (CASES[name][0] for name in ("softmax", "sigmoid", "focal_0.5")):
        truth = loss(logits, jnp.array([1, 0, 1, 1]))
        np.testing.assert_array_equal(loss(logits, np.array([1, 0, 1, 1], dtype)), truth)


def test_labels_of_another_form_are_refused_with_what_to_write():
    logits = jnp.array([[3.0, 1.0], [0.0, 1.0]])
    for loss in (losses.softmax_cross_entropy, losses.sigmoid_cross_entropy):
        with pytest.raises(ValueError, match=r"must be integers, got float32; write labels.astype\('int32'\)"):
            loss(logits, jnp.array([1.0, 0.0]))
        with pytest.raises(ValueError, match=r"got labels of shape \(2, 1\).*write labels\[:, 0\]"):
            loss(logits, jnp.array([[1], [0]]))
        with pytest.raises(ValueError, match=r"at least 2 classes.*write labels\[:, None\]"):
            loss(logits[:, :1], jnp.array([1, 0]))
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(logits[:, :1], jnp.array([[1], [0]]))[0], 0.0485874, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "x64"),
    [(jnp.bfloat16, False), (jnp.float32, True), pytest.param(np.float64, True, marks=pytest.mark.slow)],
)
def test_jax_s_strict_settings_hold(dtype, x64):
    """No NaN or infinity on the way to a finite loss, and no promotion that is left to JAX."""
    strict = jax.numpy_dtype_promotion("strict")
    with jax.enable_x64(x64), strict, jax.debug_nans(True), jax.debug_infs(True):
        logits = jnp.asarray([[90.0, -90.0, 0.0], [1.0, 2.0, 3.0]], dtype)
        # float32 numbers are the same with and without x64: only promotion can differ.
        differentiate = jax.jit if (dtype, x64) == (jnp.float32, True) else lambda function: function
        for name in ("softmax", "softmax_smoothed_0.1", "sigmoid", "focal_0.5"):
            hot = [] if name.startswith("softmax") else [np.eye(3)[:2], np.eye(3, dtype=np.int8)[:2] > 0]
            for labels in (np.array([0, 2]), np.array([0, -100], np.int8), *hot):
                for weights in (None, np.ones(3, np.float32), np.ones(3)):
                    value, gradient = differentiate(
                        jax.value_and_grad(lambda logits, *rest, loss=CASES[name][0]: loss(logits, *rest).sum())
                    )(logits, jnp.asarray(labels), weights)
                    assert np.isfinite(value) and gradient.dtype == logits.dtype


@pytest.mark.parametrize("labels", [["cat", "dog"], np.array([b"cat", b"dog"]), np.array(["cat", "dog"], object)])
@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_labels_that_are_names_are_refused_with_the_call_that_numbers_them(loss, labels):
    with pytest.raises(ValueError, match=r"must be integers, got (strings|objects): number the classes.*numpy\.unique"):
        loss(np.zeros((2, 3)), labels)


def test_terms_take_labels_of_few_bits_and_count_in_float32():
    """In 8 bits class 261 of 300 would be class 5 too; in bfloat16 a sum of 300 terms keeps three digits."""
    logits, labels = np.random.default_rng(0).normal(size=(2, 300)), np.array([5, 255])
    expected = np.logaddexp(0, np.where(np.arange(300) == labels[:, None], -logits, logits))
    for kind in (np.uint8, np.int16, np.int32):
        np.testing.assert_allclose(losses.one_vs_rest_terms(logits, labels.astype(kind)), expected, rtol=1e-5)
    assert losses.one_vs_rest_terms(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(labels)).dtype == jnp.float32
