"""Samplers: how often each class and each image comes, as a pure function of seed and epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax.data import DataError
from cbjax.data.batches import Batches, epoch_order
from cbjax.data.samplers import SAMPLERS, by_shares, class_aware, class_balanced_shares, make_order, progressive_shares

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [400, 80, 16, 4])).astype(np.int32)
labels_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda labels: np.array(labels, np.int32))


@given(labels_strategy, st.sampled_from(SAMPLERS), st.integers(0, 9), st.integers(1, 5), st.integers(0, 2**60))
def test_an_epoch_has_as_many_places_as_images_and_repeats_itself(labels, name, epoch, images_per_class, seed):
    order = make_order(name, labels, seed, images_per_class=images_per_class, num_epochs=5)
    positions = order(epoch)
    assert positions.shape == labels.shape
    assert positions.min() >= 0 and positions.max() < len(labels)
    again = make_order(name, labels, seed, images_per_class=images_per_class, num_epochs=5)
    np.testing.assert_array_equal(again(epoch), positions)


@given(labels_strategy, st.sampled_from([name for name in SAMPLERS if name != "undersample"]), st.integers(0, 4))
def test_every_image_of_a_class_comes_before_one_comes_again(labels, name, epoch):
    positions = make_order(name, labels, 0, num_epochs=5)(epoch)
    times = np.bincount(positions, minlength=len(labels))
    for label in np.unique(labels):
        of_class = times[labels == label]
        assert of_class.max() - of_class.min() <= 1


@given(labels_strategy, st.integers(1, 5), st.integers(0, 5))
def test_class_aware_gives_every_class_its_turn(labels, images_per_class, epoch):
    drawn = labels[class_aware(3, epoch, labels, images_per_class)]
    turns = [drawn[i : i + images_per_class] for i in range(0, len(drawn), images_per_class)]
    assert all(len(set(turn.tolist())) == 1 for turn in turns)
    classes, first = np.unique(labels), [turn[0] for turn in turns]
    for start in range(0, len(first), len(classes)):
        one_round = first[start : start + len(classes)]
        assert len(set(one_round)) == len(one_round)
    if len(first) >= len(classes):
        assert set(first[: len(classes)]) == set(classes.tolist())


def test_instance_is_the_plain_order():
    order = make_order("instance", LABELS, 5)
    np.testing.assert_array_equal(order(2), epoch_order(5, 2, len(LABELS)))
    plain = Batches(len(LABELS), 64, 5)
    np.testing.assert_array_equal(Batches(len(LABELS), 64, 5, order=order).indices(20), plain.indices(20))


def test_square_root_draws_classes_by_the_root_of_their_size():
    drawn = np.bincount(LABELS[make_order("square_root", LABELS, 1)(0)])
    roots = np.sqrt([400, 80, 16, 4])
    assert np.abs(drawn - 500 * roots / roots.sum()).max() < 1


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_shares_are_met_to_a_whole_number(seed, shares):
    shares = np.array(shares) / sum(shares)
    drawn = np.bincount(LABELS[by_shares(seed, 0, LABELS, shares)], minlength=4)
    assert np.abs(drawn - 500 * shares).max() < 1 + 1e-9


def test_over_epochs_the_numbers_average_to_the_shares():
    shares = np.array([0.4003, 0.2999, 0.1991, 0.1007])
    drawn = np.mean([np.bincount(LABELS[by_shares(9, epoch, LABELS, shares)]) for epoch in range(400)], axis=0)
    np.testing.assert_allclose(drawn, 500 * shares, atol=0.1)


def test_progressive_goes_from_the_images_frequencies_to_equal_classes():
    order = make_order("progressive", LABELS, 0, num_epochs=11)
    first, middle, last, after = (np.bincount(LABELS[order(epoch)]) for epoch in (0, 5, 10, 20))
    np.testing.assert_array_equal(first, [400, 80, 16, 4])
    assert np.abs(middle - [262.5, 102.5, 70.5, 64.5]).max() < 1
    np.testing.assert_array_equal(last, [125] * 4)
    np.testing.assert_array_equal(after, [125] * 4)
    assert len(np.unique(order(0))) == 500


def test_oversampling_gives_equal_classes():
    np.testing.assert_array_equal(np.bincount(LABELS[make_order("oversample", LABELS, 1)(3)]), [125] * 4)


def test_undersampling_keeps_the_same_few_images_of_each_class():
    order = make_order("undersample", LABELS, 1)
    times = [np.bincount(order(epoch), minlength=500) for epoch in range(3)]
    kept = np.flatnonzero(times[0])
    np.testing.assert_array_equal(np.bincount(LABELS[kept]), [4] * 4)
    for count in times:
        np.testing.assert_array_equal(np.flatnonzero(count), kept)
        assert set(count[kept].tolist()) == {31, 32}  # 500 places for 16 images
    for start in range(0, 496, 16):
        assert len(set(order(0)[start : start + 16].tolist())) == 16
    assert set(np.flatnonzero(np.bincount(make_order("undersample", LABELS, 2)(0)))) != set(kept)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1.0])
def test_class_balanced_sampling_draws_images_by_the_weights_of_their_classes(beta):
    """As in LDAM-DRW's code: the weight of an image is (1 - beta) / (1 - beta^n) of its class."""
    counts = np.array([400, 80, 16, 4])
    effective = counts if beta == 1 else (1 - beta**counts) / (1 - beta)
    by_image = (1 / effective)[LABELS]
    expected = np.bincount(LABELS, by_image / by_image.sum())
    np.testing.assert_allclose(class_balanced_shares(counts, beta), expected, rtol=1e-6)
    drawn = np.bincount(LABELS[make_order("class_balanced", LABELS, 1, beta=beta)(0)])
    assert np.abs(drawn - 500 * expected).max() < 1 + 1e-4


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "instance"])
def test_a_deferred_sampler_begins_with_the_plain_order(name):
    order = make_order(name, LABELS, 5, num_epochs=9, start_epoch=3)
    for epoch in range(5):
        other = make_order("instance" if epoch < 3 else name, LABELS, 5, num_epochs=9)
        np.testing.assert_array_equal(order(epoch), other(epoch))


def test_a_class_without_images_is_never_drawn():
    labels = np.array([0, 0, 3, 3, 3], np.int32)
    for name in SAMPLERS:
        for epoch in range(3):
            assert set(labels[make_order(name, labels, 0, num_epochs=3)(epoch)].tolist()) == {0, 3}
    np.testing.assert_allclose(progressive_shares(np.array([0.4, 0, 0, 0.6]), 2, 3), [0.5, 0, 0, 0.5])


@pytest.mark.parametrize("name", SAMPLERS)
def test_orders_differ_by_epoch_and_seed(name):
    orders = [make_order(name, LABELS, seed, num_epochs=3)(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(DataError, match=r"data\.sampler='balanced' is unknown; it is one of instance, class_aware"):
        make_order("balanced", LABELS, 0)
    with pytest.raises(DataError, match="needs one label an image, but these are multi-hot: use 'instance'"):
        make_order("square_root", np.eye(3, dtype=np.float32), 0)
    assert sorted(make_order("instance", np.eye(3, dtype=np.float32), 0)(0).tolist()) == [0, 1, 2]
