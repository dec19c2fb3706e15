"""Mixing of images: shares, boxes and losses against NumPy in float64, limits, and partners on every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from cbjax.data import Split
from cbjax.data.batches import Batches, Partners
from cbjax.losses import focal_loss, softmax_cross_entropy
from cbjax.objectives import mixing, weighted
from cbjax.training import resident
from cbjax.types import Model, Settings, TrainState

COUNTS = np.array([600.0, 90.0, 30.0, 5.0], np.float32)
WEIGHTS = np.array([0.25, 0.5, 1.25, 2.0], np.float32)
RNG = np.random.default_rng(0)
LABELS, PARTNERS = RNG.integers(0, 4, (2, 12)).astype(np.int32)
METHODS = tuple(mixing.METHODS)
# Logits are means over pixels. In channel 0 an image is 1 and its partner 0, so that logit 0 is the share of the image.
IMAGES, OTHERS = RNG.normal(size=(2, 12, 8, 8, 4)).astype(np.float32)
IMAGES[..., 0], OTHERS[..., 0] = 1.0, 0.0
MODEL = Model(
    None, None, None, lambda params, stats, images, train, key=None: (params[None] * images.mean((1, 2)), stats)
)


def loss(logits, labels, class_weights, settings):
    return softmax_cross_entropy(logits, labels, class_weights)


def make(step=0, key=0, **numbers):
    given = {"alpha": 1, "kappa": 3, "tau": 0.5, "chance": 1, "first_step": 0, "end_step": 100} | numbers
    method = {f"mix.{name}": number for name, number in given.items()}
    settings = Settings.of(loss={}, method=method, counts=COUNTS)
    params = jnp.ones(4)
    opt_state = optax.sgd(1.0).init(params)
    state = TrainState(jnp.int32(step), params, {}, opt_state, jnp.asarray(WEIGHTS), jax.random.key(key), settings)
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
    return state, {**batch, "partner": {"image": jnp.asarray(OTHERS), "label": jnp.asarray(PARTNERS)}}


def mixed(name, loss=loss, mean="batch", model=MODEL):
    return mixing.mixed(functools.partial(weighted, loss=loss, mean=mean), model, name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mean", ["batch", "weight_sum"])
def test_losses_and_amounts_are_those_of_both_labels_by_their_shares(name, mean):
    objective = jax.jit(mixed(name, mean=mean).apply)
    for key in range(5):
        state, batch = make(key=key)
        found = objective(state.params, state, batch)
        share = np.float64(found.logits[0, 0])
        inside = np.float64(found.logits)
        log = inside - np.log(np.exp(inside).sum(axis=1, keepdims=True))
        of_label = np.full(12, share)
        if name == "remix":
            ratio = np.float64(COUNTS[LABELS]) / COUNTS[PARTNERS]
            of_label = np.where((ratio >= 3) & (share < 0.5), 0.0, of_label)
            of_label = np.where((ratio <= 1 / 3) & (1 - share < 0.5), 1.0, of_label)
        one, two = (-WEIGHTS[labels] * log[np.arange(12), labels] for labels in (LABELS, PARTNERS))
        np.testing.assert_allclose(found.losses, of_label * one + (1 - of_label) * two, rtol=2e-5)
        amounts = WEIGHTS if mean == "weight_sum" else np.ones(4)
        expected = of_label * amounts[LABELS] + (1 - of_label) * amounts[PARTNERS]
        np.testing.assert_allclose(found.amounts, expected, rtol=1e-5)
        if name in ("mixup", "remix"):
            pixels = share * np.float64(IMAGES) + (1 - share) * np.float64(OTHERS)
            np.testing.assert_allclose(found.logits, pixels.mean((1, 2)), rtol=1e-4, atol=1e-5)
        else:
            assert 64 * share == round(64 * share)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_that_is_not_mixed_is_the_plain_one(name):
    def compiled(objective):
        def total(params, state, batch):
            terms = objective.apply(params, state, batch)
            return jnp.sum(terms.losses), (terms.losses, terms.amounts, terms.logits)

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    ours, plain = compiled(mixed(name)), compiled(weighted(MODEL, loss))
    steps = [({"step": step, "first_step": 3, "end_step": 6}, 3 <= step < 6) for step in (2, 3, 5, 6)]
    for numbers, is_mixed in (*steps, ({"chance": 0}, False)):
        state, batch = make(**numbers)
        found, expected = (jax.tree.leaves(one(state.params, state, batch)) for one in (ours, plain))
        # Not to the bit: they are two programs, which XLA may round in two ways.
        same = [np.allclose(one, two, rtol=1e-5, atol=1e-6) for one, two in zip(found, expected, strict=True)]
        assert all(same) != is_mixed


def test_any_loss_is_mixed_also_of_several_labels():
    """Sigmoid losses are linear in the labels, so mixed losses are losses of mixed labels."""

    def sigmoid(logits, labels, class_weights, settings):
        return focal_loss(logits, labels, class_weights, gamma=0.0)

    state, batch = make()
    batch["label"] = jnp.asarray(RNG.integers(0, 2, (12, 4)), jnp.float32)
    batch["partner"]["label"] = jnp.asarray(RNG.integers(0, 2, (12, 4)), jnp.float32)
    terms = jax.jit(mixed("mixup", sigmoid).apply)(state.params, state, batch)
    share = np.float64(terms.logits[0, 0])
    targets = share * np.float64(batch["label"]) + (1 - share) * np.float64(batch["partner"]["label"])
    logits = np.float64(terms.logits)
    expected = (WEIGHTS * (np.logaddexp(0, logits) - targets * logits)).sum(axis=1)
    np.testing.assert_allclose(terms.losses, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("remix", "float32"), ("cutmix", "bfloat16")])
def test_extreme_logits_give_finite_losses_and_gradients(name, dtype):
    state, batch = make()
    signs = jnp.asarray(np.where(np.arange(4) % 2, 3e4, -3e4), dtype)
    model = MODEL._replace(
        apply=lambda params, stats, images, train, key=None: (signs[None] * images.mean((1, 2)), stats)
    )

    def total(images):
        given = {**batch, "image": images.astype(dtype)}
        return mixed(name, model=model).apply(state.params, state, given).losses.sum()

    value, grads = jax.jit(jax.value_and_grad(total))(batch["image"])
    assert np.isfinite(value) and np.isfinite(np.asarray(grads, np.float32)).all()


@pytest.mark.parametrize(
    ("count", "partner_count", "share", "expected"),
    [
        (300, 100, 0.4, 0.0),
        (300, 100, 0.5, 0.5),
        (299, 100, 0.4, 0.4),
        (100, 300, 0.6, 1.0),
        (100, 300, 0.5, 0.5),
        (100, 299, 0.9, 0.9),
        (100, 300, 0.4, 0.4),
        (300, 100, 1.0, 1.0),
        (100, 300, 0.0, 0.0),
        (100, 100, 0.3, 0.3),
    ],
)
def test_remix_gives_all_of_a_label_to_a_much_rarer_class(count, partner_count, share, expected):
    found = mixing.rare_share(share, jnp.array([count]), jnp.array([partner_count]), 3.0, 0.5)
    assert found.tolist() == pytest.approx([expected])


def rand_bbox(share, row, column, height, width):
    """The authors' box, in float64: its first and last row and column."""
    ratio = np.sqrt(1.0 - share)
    high, wide = int(height * ratio), int(width * ratio)
    ends = [row - high // 2, row + high // 2, column - wide // 2, column + wide // 2]
    return np.clip(ends, 0, [height, height, width, width])


def test_a_box_is_the_authors_and_its_share_is_exact():
    one = jax.jit(lambda share, row, column: mixing.box(share, row, column, 12, 20))
    for share, row, column in zip(
        RNG.uniform(size=50), RNG.integers(12, size=50), RNG.integers(20, size=50), strict=True
    ):
        top, bottom, left, right = rand_bbox(share, row, column, 12, 20)
        expected = np.zeros((12, 20), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(one(share, row, column), expected)
    assert not one(1.0, 3, 3).any()


def test_shares_are_drawn_from_a_symmetric_beta_distribution():
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = jax.jit(jax.vmap(mixing.symmetric_beta, (0, None)))
    for alpha in (0.2, 0.5, 1.0, 8.0):
        drawn = np.asarray(draw(keys, alpha))
        assert drawn.min() >= 0 and drawn.max() <= 1
        away = scipy.stats.kstest(drawn.astype(np.float64), scipy.stats.beta(alpha, alpha).cdf).statistic
        assert away < 1.95 / np.sqrt(4000), alpha  # Kolmogorov and Smirnov at 0.001


def test_boxes_take_the_part_of_the_images_that_the_authors_do():
    """4,000 boxes beside as many of NumPy."""
    rng, count = np.random.default_rng(1), 4000
    images = jnp.zeros((1, 8, 8, 1))
    keys, shares = jax.random.split(jax.random.key(1), count), rng.uniform(size=count)
    found = jax.jit(jax.vmap(lambda key, share: mixing.paste(key, share, images, images + 1)))(keys, shares)
    np.testing.assert_allclose(found.share, 1 - found.images.mean((1, 2, 3, 4)), atol=1e-6)
    boxes = [rand_bbox(share, *rng.integers(8, size=2), 8, 8) for share in shares]
    expected = np.array([1 - (bottom - top) * (right - left) / 64 for top, bottom, left, right in boxes])
    for power in (1, 2):
        error = np.sqrt(2 * np.var(expected**power) / count)
        assert abs(np.mean(np.float64(found.share) ** power) - np.mean(expected**power)) < 4 * error


def test_all_frames_of_a_clip_get_the_same_box():
    clips, others = (np.stack([images, -images, 2 * images], axis=1) for images in (IMAGES, OTHERS))
    key = jax.random.key(3)
    found = mixing.paste(key, jnp.float32(0.6), jnp.asarray(clips), jnp.asarray(others))
    for frame in range(3):
        expected = mixing.paste(key, jnp.float32(0.6), jnp.asarray(clips[:, frame]), jnp.asarray(others[:, frame]))
        np.testing.assert_array_equal(found.images[:, frame], expected.images)
        assert 0 < found.share == expected.share < 1


def test_partners_are_the_images_of_the_same_batch_in_another_order():
    batches = Batches(50, 16, seed=3)
    partners = Partners(batches, seed=3)
    for step in range(6):
        places = partners.places(step)
        assert sorted(places.tolist()) == list(range(16))
        np.testing.assert_array_equal(partners.indices(step), batches.indices(step)[places])
    np.testing.assert_array_equal(partners.indices_between(2, 5), [partners.indices(step) for step in range(2, 5)])
    assert not np.array_equal(partners.places(0), partners.places(1))
    assert partners.indices_between(2, 2).shape == (0, 16)


def test_a_partner_has_the_crop_of_its_own_place_in_the_batch():
    split = Split(RNG.normal(size=(50, 2)).astype(np.float32), np.arange(50, dtype=np.int32))
    batches = Batches(50, 16, seed=3)
    streams = {"train": (split, batches), "partner": (split, Partners(batches, 3))}
    data = jax.tree.map(jnp.asarray, resident.images_of(streams))
    assert list(data) == ["train"]  # the training images are not there twice

    def crop(settings, keys, images):
        return images + jax.vmap(jax.random.normal)(keys)[:, None]

    dispatch = resident.make_dispatch(lambda state, batch: (state, batch), crop, steps_per_dispatch=1, axis=None)
    indices = resident.indices_of(streams, 4, 5, 1)
    assert set(indices) == {"train", "partner", "places"}
    _, found = dispatch(make(step=4)[0], data, indices)
    places = Partners(batches, 3).places(4)
    np.testing.assert_array_equal(found["partner"]["image"], found["image"][places])
    np.testing.assert_array_equal(found["partner"]["label"], found["label"][places])

    several = resident.indices_of(streams, 4, 6, 3)
    for name, taken in several.items():
        expected = [*(resident.indices_of(streams, step, step + 1, 1)[name] for step in (4, 5)), np.zeros(16)]
        np.testing.assert_array_equal(taken, expected)
