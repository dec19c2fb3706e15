"""Metrics against loops over examples and scikit-learn; merging, masks, groups, empty classes, errors."""

import functools
import itertools

import clu.metrics
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import strategies
from jax.sharding import AxisType, PartitionSpec
from oracles import metrics as oracles

from cbjax import metrics

CLASSES = 8


def _split(size=200, seed=0):
    rng = np.random.default_rng(seed)
    # Few distinct logits, so that ties occur; class 7 has no example and is predicted.
    logits = rng.integers(-3, 4, (size, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, size)
    return logits, labels, rng.exponential(size=size).astype(np.float32), rng.uniform(0, 1, size).astype(np.float32)


def _sums(logits, labels, losses, confidence, mask=None):
    mask = np.ones(len(labels), bool) if mask is None else mask
    return _compiled_sums(logits, labels, losses, mask, confidence)


_compiled_sums = jax.jit(metrics.ClassificationSums.from_outputs)


def test_by_hand():
    logits = np.float32([[2, 1, 0], [2, 1, 0], [0, 1, 0], [0, 0, 1]])
    sums = _sums(logits, np.array([0, 1, 1, 1]), np.float32([1, 2, 3, 4]), np.float32([0.9, 0.9, 0.5, 0.1]))
    np.testing.assert_array_equal(sums.correct, [1, 1, 0])
    np.testing.assert_array_equal(sums.total, [1, 3, 0])
    np.testing.assert_array_equal(sums.predicted, [2, 1, 1])
    np.testing.assert_array_equal(metrics.per_class_accuracy(sums), [1, 1 / 3, np.nan])
    figures = metrics.summarize(sums)
    assert "top5_accuracy" not in figures
    expected = {
        "accuracy": 0.5,
        "balanced_accuracy": 2 / 3,
        "worst_accuracy": 1 / 3,
        "macro_precision": 0.75,
        "loss": 2.5,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert figures["ece"] == pytest.approx((abs(1.8 - 1) + 0.5 + 0.1) / 4)
    assert float(sums.compute()) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_oracle(seed):
    logits, labels, losses, confidence = _split(seed=seed)
    figures = metrics.summarize(_sums(logits, labels, losses, confidence))
    truth = oracles.summary(logits, labels, losses, confidence)
    assert figures == pytest.approx(truth, rel=1e-5)
    # Seen to fail: figures of another split, and with an example's label moved.
    assert figures != pytest.approx(oracles.summary(*_split(seed=seed + 10)), rel=1e-5)
    moved = np.where(np.arange(len(labels)) == 0, (labels + 1) % (CLASSES - 1), labels)
    assert figures != pytest.approx(oracles.summary(logits, moved, losses, confidence), rel=1e-5)


def test_agrees_with_scikit_learn():
    logits, labels, losses, confidence = _split()
    figures, predicted = metrics.summarize(_sums(logits, labels, losses, confidence)), logits.argmax(axis=1)
    present = np.unique(labels)
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert figures["macro_precision"] == pytest.approx(sklearn.metrics.precision_score(labels, predicted, **options))
    assert figures["macro_recall"] == pytest.approx(sklearn.metrics.recall_score(labels, predicted, **options))
    assert figures["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, **options))
    truth = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, labels, CLASSES), truth)


def test_masked_examples_count_nowhere():
    logits, labels, losses, confidence = _split()
    mask = np.arange(len(labels)) % 3 > 0
    losses = np.where(mask, losses, np.nan)
    with_padding = _sums(logits, labels, losses, confidence, mask)
    without = _sums(logits[mask], labels[mask], losses[mask], confidence[mask])
    for ours, truth in zip(jax.tree.leaves(with_padding), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-6)


@hypothesis.given(strategies.lists(strategies.integers(0, 200), max_size=3))
@hypothesis.settings(max_examples=25)
def test_merging_parts_gives_the_whole(cuts):
    split = _split()
    logits, labels, losses, confidence = split
    owner = np.searchsorted(np.sort(cuts), np.arange(len(labels)), side="right")
    parts = [_compiled_sums(logits, labels, losses, owner == k, confidence) for k in range(len(cuts) + 1)]
    merged = functools.reduce(lambda one, other: one.merge(other), reversed(parts))
    assert metrics.summarize(merged) == pytest.approx(
        metrics.summarize(_compiled_sums(*split[:3], owner >= 0, split[3])), rel=1e-5
    )


def test_sums_over_devices():
    split = _split()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def share(*arrays):
        return jax.lax.psum(metrics.ClassificationSums.from_outputs(*arrays), "data")

    logits, labels, losses, confidence = split
    arrays = (logits, labels, losses, np.ones(len(labels), bool), confidence)
    over_mesh = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()))
    whole = metrics.summarize(_sums(*split))
    assert metrics.summarize(over_mesh(*arrays)) == pytest.approx(whole, rel=1e-5)
    stacked = jax.pmap(metrics.ClassificationSums.from_outputs)(*(x.reshape(8, 25, *x.shape[1:]) for x in arrays))
    assert metrics.summarize(stacked.reduce()) == pytest.approx(whole, rel=1e-5)


def test_ties_go_to_the_lower_class_and_nan_is_wrong():
    tied = np.zeros((CLASSES, CLASSES), np.float32)
    sums = _sums(tied, np.arange(CLASSES), np.zeros(CLASSES, np.float32), np.ones(CLASSES, np.float32))
    np.testing.assert_array_equal(sums.correct, [1] + [0] * 7)
    np.testing.assert_array_equal(sums.top5, [1] * 5 + [0] * 3)
    sums = _sums(tied * np.nan, np.full(CLASSES, 3), np.zeros(CLASSES, np.float32), np.ones(CLASSES, np.float32))
    assert sums.top5.sum() == 0
    assert sums.correct.sum() == 0


def test_edges_of_the_bins():
    confidence = np.float32([0.0, 1 / 30, 0.999, 1.0])
    sums = _sums(np.zeros((4, 2), np.float32), np.zeros(4, int), np.zeros(4, np.float32), confidence)
    np.testing.assert_array_equal(sums.calibration[0], [2] + [0] * 13 + [2])


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([500, 101, 100, 20, 19, 0], {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}),
        ([500, 400], {"many": [0, 1]}),
        ([90, 80, 70, 60, 50, 40], {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}),
        ([10, 60, 20, 50, 40, 30, 70], {"many": [1, 6], "medium": [3, 4, 5], "few": [0, 2]}),
        (list(range(199, 188, -1)), {"many": [0, 1, 2, 3], "medium": [4, 5, 6], "few": [7, 8, 9, 10]}),
        ([100] * 5 + [10] * 5, {"many": [0, 1, 2, 3, 4], "few": [5, 6, 7, 8, 9]}),
        ([60, 60, 60], {"medium": [0, 1, 2]}),
        ([60, 3], {"many": [0], "few": [1]}),
    ],
)
def test_class_groups(counts, sizes):
    groups = metrics.class_groups(counts)
    assert {name: classes.tolist() for name, classes in groups.items()} == sizes
    assert list(groups) == [name for name in ("many", "medium", "few") if name in groups]


@pytest.mark.parametrize(
    ("imbalance", "sizes"),
    [(200, (30, 31, 39)), (100, (35, 35, 30)), (50, (41, 41, 18)), (20, (53, 47, 0)), (10, (69, 31, 0))],
)
def test_published_groups_of_long_tailed_cifar100(imbalance, sizes):
    groups = metrics.class_groups([int(500 * (1 / imbalance) ** (i / 99)) for i in range(100)])
    assert tuple(len(groups.get(name, ())) for name in ("many", "medium", "few")) == sizes
    assert ("few" in groups) == (sizes[2] > 0)


@hypothesis.given(strategies.lists(strategies.integers(0, 400), min_size=1, max_size=30))
@hypothesis.settings(max_examples=100)
def test_groups_are_a_partition_by_count(counts):
    groups = metrics.class_groups(counts)
    assert sorted(np.concatenate(list(groups.values()))) == list(range(len(counts)))
    ordered = [np.asarray(counts)[classes] for classes in groups.values()]
    for larger, smaller in itertools.pairwise(ordered):
        assert larger.min() > smaller.max()


def test_group_accuracy_leaves_out_what_was_not_measured():
    logits, labels, losses, confidence = _split()
    sums = _sums(logits, labels, losses, confidence)
    accuracy = metrics.per_class_accuracy(sums)
    figures = metrics.summarize(sums, [500, 400, 300, 50, 50, 50, 50, 5])
    assert figures["many_accuracy"] == pytest.approx(accuracy[:3].mean())
    assert figures["medium_accuracy"] == pytest.approx(accuracy[3:7].mean())
    assert "few_accuracy" not in figures
    assert not np.isnan(list(figures.values())).any()


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_average_precision(distinct):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, distinct, (50, 4)) / distinct, rng.integers(0, 2, (50, 4))
    labels[:, 3] = 0
    ours = metrics.average_precision(scores, labels)
    truth = [sklearn.metrics.average_precision_score(labels[:, c], scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(ours, [*truth, np.nan])
    figures = metrics.summarize_multilabel(scores, labels, 0.7, [500, 50, 5, 5])
    expected = {
        "mean_average_precision": np.mean(truth),
        "balanced_accuracy": np.mean(truth),
        "worst_accuracy": min(truth),
    }
    expected |= {"loss": 0.7, "many_accuracy": truth[0], "medium_accuracy": truth[1], "few_accuracy": truth[2]}
    assert figures == pytest.approx(expected)


def test_messages():
    empty = _sums(*_split(), mask=np.zeros(200, bool))
    for call, message in [
        (lambda: metrics.summarize(empty), "at least one example, got none"),
        (lambda: metrics.summarize(_sums(*_split()), [1, 2]), r"counts must be \[C\] for 8 classes, got shape \(2,\)"),
        (lambda: metrics.class_groups([[1]]), r"counts must be \[C\].*\(1, 1\)"),
        (
            lambda: metrics.average_precision(np.ones((2, 3)), np.ones((2, 2))),
            r"both be \[N, C\], got shapes \(2, 3\) and \(2, 2\)",
        ),
        (lambda: metrics.summarize_multilabel(np.ones((2, 3)), np.zeros((2, 3)), 0.1), "at least one positive label"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_groups_by_name_have_recall_and_precision():
    split = _split()
    sums, predicted, labels = _sums(*split), split[0].argmax(axis=1), split[1]
    groups = {"majority": np.array([0, 3]), "minority": np.array([2, 7]), "absent": np.array([7])}
    figures = metrics.summarize(sums, [500, 400, 300, 50, 50, 50, 50, 5], groups)
    for name, classes in (("majority", [0, 3]), ("minority", [2])):  # class 7 has no example
        options = {"labels": classes, "average": "macro", "zero_division": 0}
        recall = sklearn.metrics.recall_score(labels, predicted, **options)
        precision = sklearn.metrics.precision_score(labels, predicted, **options)
        assert (figures[f"{name}_accuracy"], figures[f"{name}_precision"]) == pytest.approx((recall, precision))
    assert not [key for key in figures if key.startswith("absent")]
    plain = metrics.summarize(sums, [500, 400, 300, 50, 50, 50, 50, 5])
    assert plain == {key: value for key, value in figures.items() if key in plain} and len(figures) == len(plain) + 4


def test_the_precision_of_a_class_never_predicted_is_zero():
    logits = np.float32([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    sums = _sums(logits, np.array([0, 0, 1, 2]), np.zeros(4, np.float32), np.ones(4, np.float32))
    figures = metrics.summarize(sums, None, {"rare": np.array([1, 2])})
    assert (figures["rare_accuracy"], figures["rare_precision"]) == (0.5, 0.5)
    assert "many_accuracy" not in figures


def test_groups_of_multi_hot_labels_have_average_precision_alone():
    rng = np.random.default_rng(0)
    scores, labels = rng.uniform(size=(50, 4)), rng.integers(0, 2, (50, 4))
    figures = metrics.summarize_multilabel(scores, labels, 0.7, None, {"two": np.array([1, 3])})
    assert figures["two_accuracy"] == pytest.approx(metrics.average_precision(scores, labels)[[1, 3]].mean())
    assert "two_precision" not in figures


NO_ANSWER = np.float32(
    [[np.nan, 1, 2], [1, 2, np.nan], [np.nan] * 3, [np.inf, np.inf, 0], [np.inf, 0, 0], [-np.inf] * 3]
)


@pytest.mark.parametrize("row", NO_ANSWER)
def test_outputs_that_are_not_finite_are_wrong_in_every_figure(row):
    logits, labels = np.stack([row, np.float32([2, 1, 0]), np.float32([-np.inf, 3, -np.inf])]), np.array([0, 0, 1])
    chances = np.float32([np.nan, 0.75, 1])
    sums = _sums(logits, labels, np.zeros(3, np.float32), chances)
    figures = metrics.summarize(sums)
    expected = {"accuracy": 2 / 3, "balanced_accuracy": 3 / 4, "worst_accuracy": 1 / 2, "macro_precision": 1.0}
    expected |= {"ece": 0.25 / 2, "unanswered": 1 / 3}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    np.testing.assert_array_equal(sums.predicted, [1, 1, 0])
    alone = metrics.summarize(_sums(logits[:1], labels[:1], np.float32([np.nan]), chances[:1]))
    assert alone["accuracy"] == 0 and np.isnan([alone["loss"], alone["ece"]]).all()


def test_classes_that_are_none_count_nowhere():
    logits, _, losses, confidence = _split(4)
    some = metrics.summarize(_sums(logits, np.array([1, -100, CLASSES, 2]), losses, confidence))
    assert some == metrics.summarize(_sums(logits[::3], np.array([1, 2]), losses[::3], confidence[::3]))
    np.testing.assert_array_equal(metrics.confusion_matrix([1, -1, 0, 1], [0, 0, 1, -100], 2), [[0, 1], [1, 0]])


def test_sums_join_a_collection_and_are_the_same_on_the_device():
    logits, labels, _, _ = _split(30)
    together = clu.metrics.Collection.create(accuracy=clu.metrics.Accuracy, sums=metrics.ClassificationSums)
    update = jax.jit(together.single_from_model_output)
    updates = [update(logits=logits[part], labels=labels[part]) for part in (slice(0, 15), slice(15, 30))]
    found = functools.reduce(lambda one, other: one.merge(other), updates, together.empty())
    chances = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    losses = -np.log(chances[np.arange(30), labels])
    truth = oracles.summary(logits, labels, losses, chances.max(axis=1))
    figures = metrics.summarize(found.sums)
    assert figures == pytest.approx(truth, rel=1e-5)
    assert figures == metrics.summarize(jax.device_get(found.sums))
    values = found.compute()
    assert values["sums"] == values["accuracy"] == pytest.approx(truth["accuracy"])
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *updates)  # as `gather_from_model_output` has them
    assert metrics.summarize(stacked.reduce().sums) == pytest.approx(figures)


@pytest.mark.parametrize("x64", [False, True])
def test_jax_s_strict_settings_hold(x64):
    strict = jax.numpy_dtype_promotion("strict")
    with jax.enable_x64(x64), strict, jax.debug_nans(True), jax.debug_infs(True):
        for labels in (np.array([0, 2, 1], np.int8), np.array([0, 2, 1])):
            for dtype in (np.float32, jnp.bfloat16):
                arrays = (np.eye(3, dtype=dtype), labels, np.ones(3), np.ones(3, np.float32), np.ones(3, dtype))
                # Not compiled as one, so that each operation's result is looked at.
                sums = metrics.ClassificationSums.from_outputs(*map(jnp.asarray, arrays))
                assert metrics.summarize(sums.merge(sums), [3, 2, 1])["accuracy"] == 1 / 3
                assert float(sums.compute()) == pytest.approx(1 / 3)
