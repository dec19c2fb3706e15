"""Held-out splits: disjoint, per class, before the imbalance, and what stays when something else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbjax.data import DataError, splits

NAMES = tuple("abcdefghij")


def make_labels(counts):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)


def split(labels, held_out, *, classes=None, seed=0, **options):
    classes = list(range(labels.max() + 1)) if classes is None else classes
    names = [NAMES[i] for i in classes]
    return splits.split_by_class(labels, held_out, classes=classes, class_names=names, seed=seed, **options)


def class_counts(labels, indices, num_classes):
    return np.bincount(labels[indices], minlength=num_classes).tolist()


def test_held_out_images_are_taken_before_the_imbalance():
    labels = make_labels([100] * 10)
    indices, notes = split(labels, {"test": 20, "validation": 10}, kind="exponential", imbalance=10)
    assert class_counts(labels, indices["test"], 10) == [20] * 10
    assert class_counts(labels, indices["validation"], 10) == [10] * 10
    assert class_counts(labels, indices["train"], 10) == [70, 54, 41, 32, 25, 19, 15, 11, 9, 7]
    together = np.concatenate(list(indices.values()))
    assert len(set(together.tolist())) == len(together)
    assert notes == ()


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.one_of(st.integers(0, 20), st.floats(0.02, 0.49)),
    st.one_of(st.integers(0, 20), st.floats(0.02, 0.49)),
    st.integers(0, 2**60),
)
def test_natural_splits_use_every_image_once_and_keep_one_of_each_class(counts, test, validation, seed):
    # One class has enough images for any amount. An amount that no class can give is refused.
    labels = make_labels([*counts, 50])
    indices, _ = split(labels, {"test": test, "validation": validation}, seed=seed)
    assert np.sort(np.concatenate(list(indices.values()))).tolist() == list(range(len(labels)))
    assert min(class_counts(labels, indices["train"], len(counts) + 1)) >= 1
    assert set(indices) == {"train"} | {name for name, amount in (("test", test), ("validation", validation)) if amount}


def test_a_natural_class_too_small_gives_all_but_one_and_is_named():
    labels = make_labels([100, 5, 1])
    indices, notes = split(labels, {"validation": 10})
    assert class_counts(labels, indices["validation"], 3) == [10, 4, 0]
    assert notes == ("fewer validation images than asked for, to leave one for training: classes 'b'",)


def test_fractions_are_exact_and_truncated():
    labels = make_labels([100, 10, 3])
    indices, notes = split(labels, {"validation": 0.29})
    assert class_counts(labels, indices["validation"], 3) == [29, 2, 0]
    assert notes == ()


def test_the_test_split_does_not_depend_on_other_settings():
    labels = make_labels([60, 50, 40])
    base, _ = split(labels, {"test": 10, "validation": 5})
    for held_out, options in (
        ({"test": 10, "validation": 20}, {}),
        ({"test": 10}, {}),
        ({"test": 10, "validation": 5}, {"kind": "exponential", "imbalance": 5}),
    ):
        assert split(labels, held_out, **options)[0]["test"].tolist() == base["test"].tolist()
    longtailed, _ = split(labels, {"test": 10, "validation": 5}, kind="exponential", imbalance=5)
    assert longtailed["validation"].tolist() == base["validation"].tolist()
    assert set(longtailed["train"].tolist()) < set(base["train"].tolist())
    assert split(labels, {"test": 10}, seed=1)[0]["test"].tolist() != base["test"].tolist()


def test_a_choice_of_classes_draws_the_same_images_of_each():
    labels = make_labels([60, 50, 40])
    everything, _ = split(labels, {"test": 10})
    pair, _ = split(labels, {"test": 10}, classes=[2, 0])
    expected = [i for i in everything["test"] if labels[i] != 1]
    assert pair["test"].tolist() == expected


@pytest.mark.parametrize(
    ("held_out", "options", "message"),
    [
        (
            {"validation": 10},
            {"kind": "exponential"},
            "data.validation=10 takes 10 .* class 'b', which has 10 and",
        ),
        (
            {"test": 6, "validation": 4},
            {"kind": "step"},
            "data.validation=4 takes 4 .* class 'b', which has 4 and",
        ),
        (
            {"test": 50},
            {},
            "data.test=50 takes 50 images of class 'a', which has 30 .*: hold out fewer",
        ),
        (
            {"test": 0.03},
            {},
            r"data\.test=0\.03 of at most 30 images is less than one: ask for a larger fraction",
        ),
        ({"test": -1}, {}, "data.test must be 0, a whole number of images per class, or a fraction .* got -1"),
        ({"test": 1.5}, {}, "got 1.5"),
        ({"test": float("nan")}, {}, "got nan"),
        ({"test": True}, {}, "got True"),
        ({"test": "10"}, {}, "got '10'"),
    ],
)
def test_splits_refuse(held_out, options, message):
    with pytest.raises(DataError, match=message):
        split(make_labels([30, 10]), held_out, **options)


@pytest.mark.parametrize("kind", ["exponential", "step"])
def test_a_class_without_image_is_refused_where_counts_are_made(kind):
    with pytest.raises(DataError, match="every class needs a training image; these have none: 'b'"):
        split(np.array([0, 0, 2, 2]), {}, kind=kind, imbalance=1)


def test_natural_data_may_lack_a_class_and_say_so():
    indices, notes = split(np.array([0, 0, 2, 2]), {"test": 1})
    assert class_counts(np.array([0, 0, 2, 2]), indices["train"], 3) == [1, 0, 1]
    assert notes == ("no training images of classes 'b'",)


def test_a_split_of_the_source_is_taken_whole_or_in_part():
    labels = make_labels([30, 10, 20])
    draw = dict(classes=[2, 0], class_names=("c", "a"), seed=0)
    assert class_counts(labels, splits.draw_by_class(labels, "test", 0, **draw), 3) == [30, 0, 20]
    assert class_counts(labels, splits.draw_by_class(labels, "test", None, **draw), 3) == [30, 0, 20]
    assert class_counts(labels, splits.draw_by_class(labels, "test", 15, **draw), 3) == [15, 0, 15]
    assert class_counts(labels, splits.draw_by_class(labels, "validation", 0.5, **draw), 3) == [15, 0, 10]
    with pytest.raises(DataError, match="own test split has 20 of class 'c': ask for fewer"):
        splits.draw_by_class(labels, "test", 25, **draw)


def multi_hot(num_examples=200, num_classes=6):
    labels = (np.random.default_rng(0).random((num_examples, num_classes)) < 0.2).astype(np.float32)
    labels[:, -1] = 0
    labels[7, -1] = 1
    return labels


@pytest.mark.parametrize("seed", range(10))
def test_multi_hot_fractions_keep_a_positive_of_each_class(seed):
    labels = multi_hot()
    indices = splits.split_multi_hot(labels, {"test": 0.3, "validation": 0.25}, class_names=NAMES[:6], seed=seed)
    assert [len(indices[name]) for name in ("test", "validation", "train")] == [60, 50, 90]
    assert np.sort(np.concatenate(list(indices.values()))).tolist() == list(range(200))
    assert labels[indices["train"]].any(axis=0).all()
    assert all((np.diff(chosen) > 0).all() for chosen in indices.values())


def test_multi_hot_splits_refuse():
    labels = multi_hot()
    with pytest.raises(DataError, match=r"data\.test=5 is a number per class, but .*: give a fraction of all images"):
        splits.split_multi_hot(labels, {"test": 5}, class_names=NAMES[:6], seed=0)
    with pytest.raises(DataError, match=r"data.validation=0\.6 of 200 images leaves a class with none"):
        splits.split_multi_hot(labels, {"test": 0.6, "validation": 0.6}, class_names=NAMES[:6], seed=0)
    with pytest.raises(DataError, match=r"data\.test=0\.001 of at most 200 images is less than one"):
        splits.split_multi_hot(labels, {"test": 0.001}, class_names=NAMES[:6], seed=0)
    labels[7, -1] = 0
    with pytest.raises(DataError, match="these have none: 'f'"):
        splits.split_multi_hot(labels, {"test": 0.1}, class_names=NAMES[:6], seed=0)


def test_a_multi_hot_split_of_the_source_is_taken_whole_or_in_part():
    labels = multi_hot()
    assert splits.draw_multi_hot(labels, "test", 0, 0).tolist() == list(range(200))
    half = splits.draw_multi_hot(labels, "test", 0.5, 0)
    assert len(set(half.tolist())) == 100
    with pytest.raises(DataError, match=r"data\.validation=3 is a number per class"):
        splits.draw_multi_hot(labels, "validation", 3, 0)
