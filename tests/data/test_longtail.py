"""Long-tail counts and subsets: golden values, exact truncation, nesting, refusals."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax.data import DataError, longtail, shuffle

CIFAR10 = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    20: [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}
# (largest class, classes) -> sums for imbalance 200, 100, 50, 20, 10: the reference facts, CB and CDB.
SUMS = {
    (5000, 10): (11203, 12406, 13996, 17023, 20431),
    (2500, 20): (10225, 11514, 13204, 16396, 19954),
    (500, 100): (9502, 10847, 12608, 15907, 19573),
    (450, 100): (8548, 9754, 11349, 14315, 17614),
    (475, 100): (9022, 10302, 11975, 15111, 18591),
    (4990, 10): (11177, 12380, 13967, 16989, 20391),
    (490, 100): (9304, 10626, 12354, 15594, 19183),
}


@pytest.mark.parametrize("imbalance", CIFAR10)
def test_exponential_counts_of_cifar10(imbalance):
    counts = longtail.exponential_counts(5000, 10, imbalance)
    assert counts.dtype == np.int64
    assert counts.tolist() == CIFAR10[imbalance]


@pytest.mark.parametrize("size", SUMS)
def test_exponential_sums(size):
    sums = tuple(longtail.exponential_counts(*size, imbalance).sum() for imbalance in (200, 100, 50, 20, 10))
    assert sums == SUMS[size]


@pytest.mark.parametrize(("imbalance", "groups"), [(200, (30, 31, 39)), (100, (35, 35, 30)), (50, (41, 41, 18))])
def test_exponential_counts_of_cifar100_by_group(imbalance, groups):
    counts = longtail.exponential_counts(500, 100, imbalance)
    assert (np.sum(counts > 100), np.sum((counts <= 100) & (counts >= 20)), np.sum(counts < 20)) == groups


@given(st.integers(1, 10**6), st.integers(2, 40), st.fractions(1, 1000, max_denominator=100))
def test_exponential_counts_are_the_exact_whole_parts(max_count, num_classes, imbalance):
    imbalance = Fraction(str(float(imbalance)))
    if max_count < imbalance:
        return
    counts = longtail.exponential_counts(max_count, num_classes, float(imbalance)).tolist()
    # count ≤ max · r^(-i/(C-1)) < count + 1, raised to the power C - 1, in whole numbers and fractions.
    power = num_classes - 1
    for i, count in enumerate(counts):
        assert count**power * imbalance**i <= max_count**power < (count + 1) ** power * imbalance**i


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        ((300, 4, 27), [300, 100, 33, 11]),  # 300 · 27^(-1/3) is 99.99… in binary floating point
        ((178, 2, 1.78), [178, 100]),
        ((81, 5, 81), [81, 27, 9, 3, 1]),
        ((7, 3, 1), [7, 7, 7]),
        ((np.int64(1000), 4, np.float32(1000)), [1000, 100, 10, 1]),
    ],
)
def test_exponential_counts_that_are_whole_are_not_truncated_further(arguments, counts):
    assert longtail.exponential_counts(*arguments).tolist() == counts


def test_step_counts():
    assert longtail.step_counts(500, 4, 100).tolist() == [500, 500, 5, 5]
    assert longtail.step_counts(500, 5, 3).tolist() == [500, 500, 500, 166, 166]
    assert longtail.step_counts(333, 2, 1.11).tolist() == [333, 300]


@pytest.mark.parametrize(
    ("ratio", "minority"), [(0.9, 500), (0.95, 250), (0.98, 100), (0.99, 50), (0.995, 25), (0.5, 2500)]
)
def test_majority_counts_of_mnist(ratio, minority):
    assert longtail.majority_counts(5000, ratio).tolist() == [5000 - minority, minority]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: longtail.exponential_counts(500, 1, 10), "at least 2 classes, got 1"),
        (lambda: longtail.exponential_counts(500, 10, 0.5), r"at least 1, got 0\.5"),
        (lambda: longtail.exponential_counts(500, 10, float("nan")), "at least 1, got nan"),
        (lambda: longtail.exponential_counts(500, 10, float("inf")), "at least 1, got inf"),
        (lambda: longtail.step_counts(50, 10, 100), "50 images in the largest class.* at most 50 is possible"),
        (lambda: longtail.majority_counts(5000, 1.0), r"at least 0\.5 and below 1, got 1\.0"),
        (lambda: longtail.majority_counts(5000, 0.4), r"at least 0\.5 and below 1, got 0\.4"),
        (lambda: longtail.majority_counts(10, 0.95), "leaves no image for the minority class"),
    ],
)
def test_counts_refuse(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_counts_within_take_what_all_classes_can_follow():
    within = longtail.counts_within
    balanced = np.full(100, 450)
    assert within(balanced, "exponential", imbalance=100).sum() == 9754
    assert within(np.array([118, 60, 70]), "exponential", imbalance=4).tolist() == [118, 59, 29]
    assert within(np.array([118, 50, 70]), "exponential", imbalance=4).tolist() == [101, 50, 25]
    assert within(np.array([9, 12, 7]), "exponential", imbalance=1).tolist() == [7, 7, 7]
    assert within(np.array([100, 90, 8, 50]), "step", imbalance=10).tolist() == [89, 89, 8, 8]
    assert within(np.array([5400, 5300]), "majority", majority_ratio=0.9, train_size=5000).tolist() == [4500, 500]
    assert within(np.array([900, 50]), "majority", majority_ratio=0.9).tolist() == [459, 50]
    assert within(np.array([5, 3]), "natural").tolist() == [5, 3]
    assert within(np.array([5, 3]), "counts", counts=(2, 0)).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pareto", {}, "'pareto' is unknown; it is one of 'natural', 'exponential'"),
        ("exponential", {"imbalance": 50}, "leaves none for the smallest"),
        ("majority", {}, "needs two classes, got 3"),
        ("counts", {"counts": (1, 2)}, r"for each of the 3 classes .* got \(1, 2\)"),
        ("counts", {"counts": (1, 2, -1)}, "at least 0"),
        ("counts", {"counts": (0, 0, 0)}, "one above 0"),
        ("counts", {"counts": (1, 2, 30)}, "asks for 30 training images of class 'owl', which has only 20"),
    ],
)
def test_counts_within_refuse(kind, options, message):
    with pytest.raises(DataError, match=message):
        longtail.counts_within(np.array([20, 20, 20]), kind, class_names=("cat", "dog", "owl"), **options)


@pytest.mark.parametrize(
    ("kind", "available", "works", "message"),
    [
        ("exponential", [500, 2, 500], 8, "class 'bee' has only 2 images left, too few for place 2 of 3"),
        ("exponential", [50, 1, 50], 3, "class 'bee' has only 1 image left, too few for place 2 of 3"),
        ("exponential", [20, 500, 500], 20, "class 'ant' has only 20 images left, too few for place 1 of 3"),
        ("step", [500, 2, 500, 400], 2, "class 'bee' has only 2 images left, too few for place 2 of 4"),
    ],
)
def test_an_imbalance_that_a_class_is_too_small_for_is_refused_with_one_that_works(kind, available, works, message):
    def within(imbalance):
        names = ("ant", "bee", "cat", "dog")[: len(available)]
        return longtail.counts_within(np.array(available), kind, imbalance=imbalance, class_names=names)

    advice = (
        f"use a whole data.imbalance of at most {works}, order data.classes from the largest class to the smallest, or"
    )
    for imbalance in (works + 1, 100, 1e300):
        with pytest.raises(DataError, match=f"data.imbalance={re.escape(str(imbalance))} is not .*{message}: {advice}"):
            within(imbalance)
    for imbalance in range(1, works + 1):
        counts = within(imbalance)
        assert (counts <= available).all() and counts[-1] == counts[0] // imbalance


def test_what_helps_against_a_class_that_is_too_small_fits_the_classes():
    with pytest.raises(
        DataError, match=r"class '1' has only 2 images .* place 2 of 3: .* at most 8, or use data\.longtail"
    ):
        longtail.counts_within(np.array([8, 2, 1]), "exponential", imbalance=7.1)  # 8 / sqrt(7.1) is above 3
    assert longtail.counts_within(np.array([8, 2, 1]), "exponential", imbalance=8).tolist() == [8, 2, 1]


def test_a_subset_has_the_counts_and_lies_in_each_larger_one():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    previous = set(range(len(labels)))
    for imbalance in (1, 10, 20, 50, 100):
        counts = longtail.exponential_counts(100, 10, imbalance)
        chosen = longtail.subset(labels, counts, seed=3)
        assert np.bincount(labels[chosen], minlength=10).tolist() == counts.tolist()
        assert (np.diff(chosen) > 0).all()
        assert set(chosen.tolist()) <= previous
        previous = set(chosen.tolist())


def test_a_class_is_drawn_without_regard_to_the_others():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
    one = longtail.subset(labels, np.array([50, 7, 3, 20]), seed=1)
    other = longtail.subset(labels, np.array([1, 7, 40, 20]), seed=1)
    for label in (1, 3):
        assert one[labels[one] == label].tolist() == other[labels[other] == label].tolist()
    assert one.tolist() != longtail.subset(labels, np.array([50, 7, 3, 20]), seed=2).tolist()


def test_a_subset_refuses_more_than_there_is():
    with pytest.raises(
        DataError, match="asks for 4 training images of class '1', which has only 3 left: ask for fewer"
    ):
        longtail.subset(np.array([0, 0, 1, 1, 1]), np.array([2, 4]), seed=0)


def test_permutations_are_fixed_for_good():
    # Runs resume under other NumPy versions: these values must never change.
    assert shuffle.permutation(10, 0, 2, 0).tolist() == [1, 3, 0, 6, 9, 7, 5, 8, 4, 2]
    assert sorted(shuffle.permutation(1000, 5, 1).tolist()) == list(range(1000))
    assert shuffle.permutation(0, 0, 1).tolist() == []


def test_permutations_of_different_keys_differ():
    keys = [(0, 0), (0, 1), (1, 0), (2, 0), (0, 0, 0), (0, 1, 0), (2**40, 0)]
    orders = {tuple(shuffle.permutation(50, seed, *key).tolist()) for key in keys for seed in (0, 1, 2**40)}
    assert len(orders) == 3 * len(keys)
