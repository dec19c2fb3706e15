"""Softmax losses against float64, for integer labels and for shares, at extreme logits, and at their limits."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from oracles import softmax_losses as oracles

from cbjax import losses

BATCH, CLASSES = 12, 4
COUNTS = np.array([500.0, 90.0, 20.0, 7.0])
MARGINS = 0.5 * (COUNTS / 7) ** -0.25
MASKED = np.array([False, True, False, True])


class Case(NamedTuple):
    loss: object
    oracle: object
    factor: float = 1.0  # by which it multiplies logits, and their rounding


def both(name, ours, theirs, factor=1.0, **options):
    return name, Case(
        functools.partial(ours, **{key: jnp.asarray(value, jnp.float32) for key, value in options.items()}),
        functools.partial(theirs, **options),
        factor,
    )


CASES = dict(
    [
        both("cross_entropy", losses.softmax_cross_entropy, oracles.cross_entropy),
        both("focal_0.5", losses.softmax_focal_loss, oracles.focal, gamma=0.5),
        both("focal_2", losses.softmax_focal_loss, oracles.focal, gamma=2.0),
        both("poly", losses.poly_loss, oracles.poly, epsilon=2.0),
        both("ldam", losses.ldam_loss, oracles.ldam, 30.0, margins=MARGINS, scale=30.0),
        both("logit_adjusted", losses.logit_adjusted_loss, oracles.logit_adjusted, counts=COUNTS, tau=1.5),
        both("vs", losses.vs_loss, oracles.vector_scaling, counts=COUNTS, gamma=0.3, tau=1.0),
    ]
)
every_loss = pytest.mark.parametrize("name", CASES)


def inputs(scale=3.0, dtype=jnp.float32, seed=0):
    """Returns logits, integer labels, shares with zeros among them, class weights."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(0, scale, (BATCH, CLASSES)), dtype)
    labels = np.arange(BATCH) % CLASSES
    shares = 0.7 * np.eye(CLASSES)[labels] + 0.3 * np.eye(CLASSES)[rng.integers(0, CLASSES, BATCH)]
    return logits, jnp.asarray(labels, jnp.int32), jnp.asarray(shares, jnp.float32), jnp.asarray([0.2, 0.5, 1.0, 2.3])


@functools.cache
def _program(name):
    def total(logits, labels, weights, options):
        each = CASES[name].loss(logits, labels, weights, **options)
        return each.sum(), each

    return jax.jit(jax.grad(total, has_aux=True))


def run(name, logits, labels, weights, options=None, **more):
    """Returns the losses, and the gradient of their sum."""
    gradient, value = _program(name)(logits, labels, weights, (options or CASES[name].loss.keywords) | more)
    return value, gradient


def truth(name, logits, labels, weights):
    exact = np.asarray(logits, np.float64), np.asarray(labels), np.asarray(weights, np.float64)
    return oracles.of_labels(CASES[name].oracle, *exact)


@every_loss
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_the_formula(name, shared, dtype):
    for scale in (0.0, 3.0, 100.0, 1e4):
        logits, labels, shares, weights = inputs(scale, dtype)
        labels = shares if shared else labels
        value, gradient = run(name, logits, labels, weights)
        expected, slope = truth(name, logits, labels, weights)
        assert value.dtype == jnp.float32 and gradient.dtype == dtype
        rounding = 3e-7 * max(1.0, scale) * CASES[name].factor
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=10 * rounding)
        # A gradient is off by what rounding does to p.
        coarse = 2.0**-8 if dtype == jnp.bfloat16 else 1e-5
        bound = (coarse + 3 * rounding) * CASES[name].factor * np.abs(slope).max(initial=1.0)
        np.testing.assert_allclose(np.float64(gradient), slope, rtol=coarse, atol=bound)


@every_loss
def test_small_losses_keep_their_digits(name):
    logits = jnp.asarray([[0.9, 0.1, 0.1, 0.1]] if name == "ldam" else [[25.0, 2, 1, -2]])
    for labels in (jnp.array([0], jnp.int32), jnp.eye(CLASSES)[:1]):
        value, gradient = run(name, logits, labels, jnp.ones(CLASSES))
        expected, slope = truth(name, logits, labels, np.ones(CLASSES))
        assert 0 < value[0] < 1e-7
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        np.testing.assert_allclose(gradient[:, 0], slope[:, 0], rtol=1e-4)


@every_loss
def test_shares_mix_the_losses_of_the_classes(name):
    logits, labels, _, weights = inputs()
    other, eye = (labels + 1) % CLASSES, jnp.eye(CLASSES)
    one, two = (run(name, logits, given, weights)[0] for given in (labels, other))
    np.testing.assert_allclose(run(name, logits, eye[labels], weights)[0], one, rtol=1e-5)
    mixed = run(name, logits, 0.3 * eye[labels] + 0.7 * eye[other], weights)[0]
    np.testing.assert_allclose(mixed, 0.3 * one + 0.7 * two, rtol=1e-5)


@every_loss
def test_what_is_ignored_has_no_loss_and_no_gradient(name):
    logits, labels, shares, weights = inputs()
    ignored, amounts = jnp.arange(BATCH) % 3 == 0, jnp.linspace(0.5, 2.0, BATCH)
    broken, kept = jnp.where(ignored[:, None], jnp.nan, logits), np.where(ignored, 0, amounts)
    for given in (labels, shares):
        value, gradient = run(name, logits, given, weights)
        found, slope = run(name, broken, given, weights, ignore=ignored, example_weights=amounts)
        np.testing.assert_allclose(found, kept * value, rtol=1e-5)
        np.testing.assert_allclose(slope, kept[:, None] * gradient, rtol=1e-5, atol=1e-7)
    found, slope = run(name, broken, jnp.where(ignored, -100, labels), weights)
    np.testing.assert_allclose(found, np.where(ignored, 0, run(name, logits, labels, weights)[0]), rtol=1e-6)
    assert np.isfinite(slope).all()


@every_loss
def test_permutations_of_examples_and_classes(name):
    order, turned = np.random.default_rng(1).permutation(CLASSES), np.arange(BATCH)[::-1]
    logits, labels, shares, weights = inputs()
    options = {key: value[order] if value.shape else value for key, value in CASES[name].loss.keywords.items()}
    for given, moved in ((shares, shares[:, order]), (labels, jnp.asarray(np.argsort(order), jnp.int32)[labels])):
        expected = run(name, logits, given, weights)[0]
        np.testing.assert_allclose(run(name, logits[turned], given[turned], weights)[0], expected[turned], rtol=1e-6)
        found = run(name, logits[:, order], moved, weights[order], options)[0]
        np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_limits(shared):
    logits, labels, shares, weights = inputs()
    given = logits, shares if shared else labels, weights
    plain = losses.softmax_cross_entropy(*given)
    adjusted = losses.logit_adjusted_loss(*given, counts=COUNTS, tau=1.5)
    scaled = logits * (COUNTS / 500)[None, :] ** 0.3
    for ours, theirs in (
        (losses.softmax_focal_loss(*given, gamma=0), plain),
        (losses.poly_loss(*given, epsilon=0), plain),
        (losses.ldam_loss(*given, margins=np.zeros(CLASSES), scale=1), plain),
        (losses.logit_adjusted_loss(*given, counts=COUNTS, tau=0), plain),
        (losses.logit_adjusted_loss(*given, counts=np.full(CLASSES, 3), tau=2), plain),
        (losses.softmax_equalization_loss(*given, masked=np.zeros(CLASSES, bool)), plain),
        (losses.vs_loss(*given, counts=COUNTS, gamma=0, tau=1.5), adjusted),
        (losses.vs_loss(*given, counts=COUNTS, gamma=0.3, tau=0), losses.softmax_cross_entropy(scaled, *given[1:])),
        (losses.balanced_softmax_loss(*given, counts=COUNTS), losses.vs_loss(*given, counts=COUNTS, gamma=0)),
        (
            losses.balanced_softmax_loss(*given, counts=COUNTS),
            losses.softmax_cross_entropy(logits + np.log(COUNTS)[None, :], *given[1:]),
        ),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_smoothed_shares_are_the_mean_of_smoothed_labels():
    logits, labels, _, weights = inputs()
    smoothed = functools.partial(losses.softmax_cross_entropy, label_smoothing=0.2)
    mixed = 0.4 * smoothed(logits, labels, weights) + 0.6 * smoothed(logits, (labels + 1) % CLASSES, weights)
    shares = 0.4 * jax.nn.one_hot(labels, CLASSES) + 0.6 * jax.nn.one_hot((labels + 1) % CLASSES, CLASSES)
    np.testing.assert_allclose(smoothed(logits, shares, weights), mixed, rtol=1e-5)


def test_each_class_may_have_its_own_gamma():
    logits, labels, shares, weights = inputs()
    gammas = np.array([0.0, 0.5, 2.0, 1.0])
    each = [losses.softmax_focal_loss(logits, labels, weights, gamma=gamma) for gamma in gammas]
    found = losses.softmax_focal_loss(logits, labels, weights, gamma=gammas)
    np.testing.assert_allclose(found, np.stack(each)[np.asarray(labels), np.arange(BATCH)], rtol=1e-6)
    equal = losses.softmax_focal_loss(logits, shares, weights, gamma=np.full(CLASSES, 2.0))
    np.testing.assert_allclose(equal, losses.softmax_focal_loss(logits, shares, weights, gamma=2.0), rtol=1e-6)
    # One-vs-rest answers: the term of each class has its own.
    hot = jax.nn.one_hot(labels, CLASSES)
    alone = [
        losses.focal_loss(logits[:, [c]], hot[:, [c]], weights[jnp.array([c])], gamma=gammas[c]) for c in range(CLASSES)
    ]
    np.testing.assert_allclose(losses.focal_loss(logits, hot, weights, gamma=gammas), sum(alone), rtol=1e-5)


def test_poly_loss_is_that_of_optax_where_that_holds():
    logits, labels, shares, _ = inputs()
    expected = optax.losses.poly_loss_cross_entropy(logits, jax.nn.one_hot(labels, CLASSES), epsilon=2.0)
    np.testing.assert_allclose(losses.poly_loss(logits, labels), expected, rtol=1e-5)
    expected = optax.losses.poly_loss_cross_entropy(logits, shares, epsilon=-1.0)
    np.testing.assert_allclose(losses.poly_loss(logits, shares, epsilon=-1), expected, rtol=1e-4, atol=1e-6)


@every_loss
def test_classes_that_are_masked_out_are_as_if_not_there(name):
    logits, labels, shares, weights = inputs()
    labels, shares = labels % 3, jnp.asarray(0.5 * np.eye(CLASSES)[np.arange(BATCH) % 3] + [[0.25, 0.25, 0, 0]])
    gone = logits.at[:, 3].set(-jnp.inf)
    options = {key: value[:3] if value.shape else value for key, value in CASES[name].loss.keywords.items()}
    for given in (labels, shares):
        value, gradient = run(name, gone, given, weights)
        fewer = given if given.ndim == 1 else given[:, :3]
        if "counts" in options:
            expected = run(name, logits.at[:, 3].set(-1e9), given, weights)[0]
        else:
            expected = run(name, logits[:, :3], fewer, weights[:3], options)[0]
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.isfinite(gradient).all() and not gradient[:, 3].any()


@jax.jit
def _equalized(logits, labels, weights, masked):
    loss = functools.partial(losses.softmax_equalization_loss, masked=masked)
    value, back = jax.vjp(lambda logits: loss(logits, labels, weights), logits)
    return value, back(jnp.ones_like(value))[0]


@pytest.mark.parametrize("shared", [False, True])
def test_softmax_equalization_leaves_masked_classes_out_of_the_sum(shared):
    for scale in (0.0, 3.0, 1e4):
        logits, labels, shares, weights = inputs(scale)
        labels = shares if shared else labels
        true = np.asarray(shares) > 0 if shared else np.eye(CLASSES, dtype=bool)[labels]
        oracle = functools.partial(oracles.equalized, masked=MASKED, true=true)
        if scale < 1e4:
            expected, slope = oracles.of_labels(oracle, np.float64(logits), np.asarray(labels), np.float64(weights))
        for masked in (MASKED, np.tile(MASKED, (BATCH, 1))):
            value, found = _equalized(logits, labels, weights, masked)
            assert np.isfinite(value).all() and np.isfinite(found).all()
            assert not found[~true & MASKED].any()
            if scale < 1e4:
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-5)


def test_an_example_whose_other_classes_are_all_left_out_teaches_nothing():
    logits, labels, _, weights = inputs(30.0)
    for given in (labels, jnp.eye(CLASSES)[labels]):
        value, gradient = _equalized(logits, given, weights, np.ones(CLASSES, bool))
        assert not value.any() and not gradient.any()


def test_sigmoid_equalization_drops_the_noes_of_masked_classes():
    logits, labels, _, weights = inputs()
    z, y = np.float64(logits), np.asarray(labels)
    terms = np.logaddexp(0, z) - np.eye(CLASSES)[y] * z
    counts = ~MASKED | np.eye(CLASSES, dtype=bool)[y]
    found = losses.equalization_loss(logits, labels, weights, masked=MASKED)
    np.testing.assert_allclose(found, np.float64(weights)[y] * (terms * counts).sum(axis=1), rtol=1e-5)
    multi_hot = np.eye(CLASSES, dtype=int)[y] | np.eye(CLASSES, dtype=int)[0]
    terms, counts = np.logaddexp(0, z) - multi_hot * z, ~MASKED | (multi_hot > 0)
    found = losses.equalization_loss(logits, multi_hot, weights, masked=MASKED)
    np.testing.assert_allclose(found, (np.float64(weights) * terms * counts).sum(axis=1), rtol=1e-5)
    none = losses.equalization_loss(logits, labels, weights, masked=np.zeros(CLASSES, bool))
    np.testing.assert_array_equal(none, losses.sigmoid_cross_entropy(logits, labels, weights))
    for dtype in (jnp.float32, jnp.bfloat16):
        extreme = jnp.asarray([[1e4, -1e4, 1e4, -1e4]], dtype)
        slope = jax.grad(lambda z: losses.equalization_loss(z, jnp.array([1]), masked=MASKED).sum())(extreme)
        np.testing.assert_allclose(np.float32(slope), [[1, -1, 1, 0]])


def test_masks_are_drawn_for_each_element_and_only_of_rare_classes():
    rare = losses.rare_classes(np.array([500, 90, 20, 7]), 20 / 617)
    np.testing.assert_array_equal(rare, [False, False, False, True])  # a share equal to lambda is not rare
    assert not losses.rare_classes(np.full(1000, 100), 1 / 1000).any()  # which float32 rounds up
    rare = losses.rare_classes(np.array([500, 90, 20, 7]), 0.1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4000))
    drawn = np.asarray(losses.equalization_mask(keys, rare, 0.9))
    assert not drawn[:, :2].any()
    for column in drawn[:, 2:].T:
        assert abs(column.mean() - 0.9) < 0.02
    assert abs(np.corrcoef(drawn[:, 2], drawn[:, 3])[0, 1]) < 0.05
    np.testing.assert_array_equal(drawn[5:9], losses.equalization_mask(keys[5:9], rare, 0.9))
    assert losses.equalization_mask(keys, rare, 1.0)[:, 2:].all() and not losses.equalization_mask(keys, rare, 0).any()


def all_at_once(logits, labels, shares, weights):
    """Returns the losses of every case for shares, and of the two equalization losses for labels, [B, cases]."""
    found = [case.loss(logits, shares, weights) for case in CASES.values()]
    for loss in (losses.softmax_equalization_loss, losses.equalization_loss):
        found.append(loss(logits, labels, weights, masked=jnp.asarray(MASKED)))
    return jnp.stack(found, axis=1)


def test_transformations_agree_with_the_plain_call():
    logits, labels, shares, weights = inputs()
    plain = jax.jit(all_at_once)(logits, labels, shares, weights)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec("data")
    sharded = jax.shard_map(all_at_once, mesh=mesh, in_specs=(batch, batch, batch, PartitionSpec()), out_specs=batch)
    np.testing.assert_allclose(jax.jit(sharded)(logits, labels, shares, weights), plain, rtol=1e-5)
    split = [given.reshape(4, 3, *given.shape[1:]) for given in (logits, labels, shares)]
    for mapped in (jax.jit(jax.vmap(all_at_once, (0, 0, 0, None))), jax.pmap(all_at_once, in_axes=(0, 0, 0, None))):
        np.testing.assert_allclose(np.asarray(mapped(*split, weights)).reshape(plain.shape), plain, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_jax_s_strict_settings_hold(dtype):
    """No NaN on the way to a finite loss and its gradient, no promotion that is left to JAX, and float64 stays."""
    with jax.enable_x64(dtype == jnp.float64), jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        logits, labels, shares, weights = inputs(30.0, dtype)

        def total(logits):
            found = all_at_once(logits, labels, shares, weights)
            return found.sum(), found

        gradient, found = jax.jit(jax.grad(total, has_aux=True))(logits)
        assert gradient.dtype == dtype and np.isfinite(np.asarray(gradient, np.float64)).all()
        assert found.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        if dtype == jnp.float64:
            given = np.asarray(logits), np.asarray(shares, np.float64), np.asarray(weights, np.float64)
            for column, name in ((0, "cross_entropy"), (2, "focal_2"), (3, "poly")):
                expected = oracles.of_labels(CASES[name].oracle, *given)[0]
                np.testing.assert_allclose(found[:, column], expected, rtol=1e-12)


def test_messages():
    logits, labels, shares, weights = inputs()
    for loss in (
        functools.partial(losses.softmax_focal_loss, gamma=1),
        losses.poly_loss,
        functools.partial(losses.ldam_loss, margins=MARGINS),
        functools.partial(losses.vs_loss, counts=COUNTS),
        functools.partial(losses.balanced_softmax_loss, counts=COUNTS),
    ):
        name = getattr(loss, "func", loss).__name__
        with pytest.raises(ValueError, match=rf"{name} needs one integer label.*floats \[B, C\], got int32.*multi-hot"):
            loss(logits, (shares > 0).astype(jnp.int32), weights)
        with pytest.raises(ValueError, match=r"example_weights must be \[B\].* got shape \(4,\)"):
            loss(logits, labels, example_weights=weights)
        with pytest.raises(ValueError, match=r"ignore must be \[B\].* got int32 of shape \(12,\)"):
            loss(logits, labels, ignore=labels)
    for wrong in ([5, 0, 2, 1], [3, -1, 2, 1], [5, np.nan, 2, 1]):
        with pytest.raises(ValueError, match=r"counts must be above 0 for every class, got 0 or less in \[1\]"):
            losses.vs_loss(logits, labels, counts=np.array(wrong))
    with pytest.raises(ValueError, match=r"counts must be \[C\].* got shape \(3,\)"):
        losses.logit_adjusted_loss(logits, labels, counts=COUNTS[:3])
    with pytest.raises(ValueError, match=r"gamma must be .*, at least 0, or \[C\] of them, .* the 4 classes, got -1"):
        losses.softmax_focal_loss(logits, labels, gamma=-1)
    with pytest.raises(ValueError, match=r"gamma must be a finite number, at least 0, .*, got inf"):
        losses.softmax_focal_loss(logits, labels, gamma=np.inf)
    with pytest.raises(ValueError, match="epsilon must be a finite number, at least -1, got -2"):
        losses.poly_loss(logits, labels, epsilon=-2)
    with pytest.raises(ValueError, match="tau must be a finite number, at least 0, got -1"):
        losses.vs_loss(logits, labels, counts=COUNTS, tau=-1)
    with pytest.raises(ValueError, match=r"margins must be \[C\], got shape \(\)"):
        losses.ldam_loss(logits, labels, margins=0.5)
    with pytest.raises(ValueError, match=r"masked must be \[C\] or \[B, C\].* got float64 of shape \(4,\)|got float32"):
        losses.equalization_loss(logits, labels, masked=np.ones(CLASSES))


def test_margins_and_priors_refuse_classes_without_images():
    for function in (losses.ldam_margins, losses.log_prior):
        with pytest.raises(ValueError, match=r"counts must be above 0 for every class, got 0 or less in \[1\]"):
            function([3, 0, 5])
        with pytest.raises(ValueError, match=r"counts must be \[C\].*, got shape \(1, 2\)"):
            function(np.ones((1, 2)))


@pytest.mark.parametrize("wrong", [-0.1, 1.5, 90, np.nan])
def test_shares_and_chances_are_between_0_and_1(wrong):
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got"):
        losses.rare_classes(np.array([500, 90]), wrong)
    with pytest.raises(ValueError, match=r"chance must be in \[0, 1\], got"):
        losses.equalization_mask(jax.random.split(jax.random.key(0), 2), np.array([False, True]), wrong)


def test_options_that_are_no_numbers_are_refused():
    for gamma, shown in (("2", "'2'"), (None, "None")):
        with pytest.raises(ValueError, match=f"gamma must be a finite number, at least 0, .*, got {shown}"):
            losses.softmax_focal_loss(np.zeros((2, 3)), [0, 1], gamma=gamma)
