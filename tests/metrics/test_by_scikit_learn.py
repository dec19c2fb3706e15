"""F1, geometric mean, Matthews' coefficient and areas under curves against scikit-learn; what is undefined is NaN."""

import jax
import numpy as np
import pytest
import sklearn.metrics

from cbjax import metrics


def counts(predicted, labels, num_classes):
    """Returns the correct, all, and predicted examples of each class; -1 predicts none."""
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    predictions = np.bincount(predicted[predicted >= 0], minlength=num_classes)
    return right, np.bincount(labels, minlength=num_classes), predictions


CASES = {
    "all classes": (range(5), range(5)),
    "a class without images that is predicted": (range(4), range(5)),
    "a class without images that is not predicted": (range(4), range(4)),
    "a class that is never predicted": (range(5), range(1, 5)),
    "some images have no answer": (range(5), range(-1, 5)),
    "two classes": (range(2), range(2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_decisions(case, seed):
    rng = np.random.default_rng(seed)
    of_labels, of_predictions = CASES[case]
    labels, predicted = rng.choice(list(of_labels), 60), rng.choice(list(of_predictions), 60)
    predicted = np.where(rng.uniform(size=60) < 0.4, labels, predicted)  # better than chance
    if case == "a class that is never predicted":
        predicted[predicted == 0] = 1
    correct, total, as_class = counts(predicted, labels, 5)
    present = np.unique(labels)
    ours = metrics.f1(correct, total, as_class)
    truth = sklearn.metrics.f1_score(labels, predicted, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(ours[present], truth, rtol=1e-12)
    assert np.isnan(np.delete(ours, present)).all()
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    assert metrics.geometric_mean(correct, total) == pytest.approx(np.prod(recalls) ** (1 / len(present)), rel=1e-12)
    truth = sklearn.metrics.matthews_corrcoef(labels, predicted)
    assert metrics.matthews(correct, total, as_class, np.sum(predicted < 0)) == pytest.approx(truth, rel=1e-12)


def test_the_geometric_mean_of_imbalanced_learn_s_documentation():
    # Its examples: 0, and sqrt(0.8 * 0.6) for recalls .8 and .6; a thousand recalls do not underflow.
    labels, predicted = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])
    assert metrics.geometric_mean(*counts(predicted, labels, 3)[:2]) == 0
    assert metrics.geometric_mean([4, 3], [5, 5]) == pytest.approx(0.48**0.5, rel=1e-12)
    assert metrics.geometric_mean([1] * 1000, [10] * 1000) == pytest.approx(0.1, rel=1e-12)


def test_limits_of_decisions():
    assert metrics.matthews([5, 3], [5, 3], [5, 3]) == pytest.approx(1)
    assert metrics.matthews([0, 0], [5, 5], [5, 5]) == pytest.approx(-1)
    assert metrics.matthews([5, 0], [5, 3], [8, 0]) == 0, "one class of predictions is no better than chance"
    assert np.isnan(metrics.matthews([5, 0], [5, 0], [5, 0])), "one class of examples"
    assert metrics.matthews([0, 0], [5, 3], [0, 0], unanswered=8) == 0
    # A billion examples: squares of counts are beyond the whole numbers of float64.
    large = np.array([9 * 10**8, 10**8])
    assert metrics.matthews(large, large, large) == pytest.approx(1, rel=1e-12)
    assert np.isnan(metrics.geometric_mean([0, 0], [0, 0])) and np.isnan(metrics.f1([0], [0], [3])).all()


def test_a_split_of_one_class_has_figures():
    logits = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    given = (np.zeros(3, np.int32), np.ones(3, np.float32), np.ones(3, bool), np.ones(3, np.float32))
    figures = metrics.summarize(jax.jit(metrics.ClassificationSums.from_outputs)(logits, *given))
    assert figures["macro_f1"] == pytest.approx(0.8) and figures["geometric_mean"] == pytest.approx(2 / 3)
    assert np.isnan(figures["matthews"])


@pytest.mark.parametrize("distinct", [2, 5, 10**6])  # few distinct scores are many ties
def test_areas_under_curves(distinct):
    rng = np.random.default_rng(distinct)
    labels = rng.choice(4, 80, p=[0.7, 0.2, 0.07, 0.03])
    labels[:4] = range(4)
    scores = rng.integers(0, distinct, (80, 4)) / distinct + (np.eye(4)[labels] if distinct > 5 else 0)
    of_class = labels[:, None] == np.arange(4)
    roc, precision = metrics.roc_auc(scores, of_class), metrics.average_precision(scores, of_class)
    for c in range(4):
        assert roc[c] == pytest.approx(sklearn.metrics.roc_auc_score(of_class[:, c], scores[:, c]), rel=1e-12)
        truth = sklearn.metrics.average_precision_score(of_class[:, c], scores[:, c])
        assert precision[c] == pytest.approx(truth, rel=1e-12)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    macro = sklearn.metrics.roc_auc_score(labels, chances, multi_class="ovr")
    assert metrics.roc_auc(chances, of_class).mean() == pytest.approx(macro, rel=1e-12)
    # Only the order counts, and a reversed order gives the rest.
    np.testing.assert_allclose(metrics.roc_auc(3 * scores - 1, of_class), roc)
    np.testing.assert_allclose(metrics.roc_auc(-scores, of_class), 1 - roc)


def test_areas_that_are_undefined_are_nan():
    labels = np.array([[1, 0, 1], [1, 0, 0]])
    scores = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.2]])
    np.testing.assert_array_equal(metrics.roc_auc(scores, labels), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(metrics.roc_auc(np.ones((2, 3)), labels), [np.nan, np.nan, 0.5])
    assert metrics.roc_auc(np.zeros((0, 3)), np.zeros((0, 3))).shape == (3,)
    with pytest.raises(ValueError, match=r"both be \[N, C\], got shapes \(2, 3\) and \(2, 2\)"):
        metrics.roc_auc(scores, labels[:, :2])
