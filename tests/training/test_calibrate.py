"""Temperatures and thresholds fitted after training, against search over grids; what they may and may not change."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
from scipy import special

from cbjax.training import calibrate


def sample(seed, size=300, classes=3, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size, p=np.array([0.7, 0.2, 0.1])[:classes] if classes == 3 else None)
    return (scale * (rng.normal(0, 1, (size, classes)) + 1.5 * np.eye(classes)[labels])).astype(np.float32), labels


def nll(logits, labels, one_vs_rest):
    if one_vs_rest:
        of_class = np.eye(logits.shape[1])[labels]
        return -np.mean(
            (of_class * special.log_expit(logits) + (1 - of_class) * special.log_expit(-logits)).sum(axis=1)
        )
    return sklearn.metrics.log_loss(labels, special.softmax(logits, axis=1), labels=range(logits.shape[1]))


@pytest.mark.parametrize("one_vs_rest", [False, True])
@pytest.mark.parametrize("scale", [0.2, 1.0, 8.0])
def test_the_temperature_is_the_best_of_a_grid(one_vs_rest, scale):
    logits, labels = sample(0, scale=scale)
    logits = logits.astype(np.float64)
    ours = calibrate.fit_temperature(logits, labels, one_vs_rest)
    assert np.mean(calibrate.negative_log_likelihood(logits, labels, one_vs_rest)) == pytest.approx(
        nll(logits, labels, one_vs_rest), rel=1e-9
    )
    least = nll(logits / ours, labels, one_vs_rest)
    assert least <= min(nll(logits / t, labels, one_vs_rest) for t in np.geomspace(0.02, 50, 200)) + 1e-10
    assert calibrate.fit_temperature(7 * logits, labels, one_vs_rest) == pytest.approx(7 * ours, rel=1e-4)


def test_logits_of_the_true_model_have_temperature_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # a draw from their softmax
    assert calibrate.fit_temperature(logits, labels, False) == pytest.approx(1, abs=0.03)


def test_a_temperature_changes_no_answer_and_extreme_logits_stay_finite():
    logits, labels = sample(1)
    logits[:3] = [[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [80, 90, 100]]
    options = {"one_vs_rest": False, "counts": [200, 50, 10]}
    before = calibrate.figures(logits, labels, calibration=calibrate.Calibration(), **options)
    fitted = calibrate.Calibration(temperature=calibrate.fit_temperature(logits, labels, False))
    after = calibrate.figures(logits, labels, calibration=fitted, **options)
    assert {key for key in before if before[key] != after[key]} == {"nll", "ece"}
    assert after["nll"] < before["nll"] and np.isfinite([*before.values(), *after.values()]).all()
    right, both = np.float32([[5, 0], [0, 5]]), np.array([0, 1])
    sharp = calibrate.fit_temperature(right, both, False)
    assert 0 < sharp < 0.3 and nll(right.astype(np.float64) / sharp, both, False) < 1e-6


def balanced(chances, labels, thresholds):
    return sklearn.metrics.balanced_accuracy_score(labels, (chances / thresholds).argmax(axis=1))


def test_thresholds_of_two_classes_are_the_best_there_are():
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=200) < 0.1).astype(int)
    first = special.expit(rng.normal(2, 1, 200) - 1.5 * labels)
    chances = np.stack([first, 1 - first], axis=1)
    ours = calibrate.fit_thresholds(np.log(chances), labels)
    ratios = np.sort(chances[:, 1] / chances[:, 0])
    cuts = [ratios[0] / 2, *np.sqrt(ratios[1:] * ratios[:-1]), 2 * ratios[-1]]
    best = max(balanced(chances, labels, np.array([1, cut])) for cut in cuts)
    assert balanced(chances, labels, ours) == pytest.approx(best) and best > balanced(chances, labels, np.ones(2)) + 0.1


def test_thresholds_of_three_classes_are_near_the_best_of_a_grid_and_follow_their_classes():
    logits, labels = sample(2)
    chances = special.softmax(logits - np.array([0, 2, 3], np.float32), axis=1)
    ours = calibrate.fit_thresholds(np.log(chances), labels)
    grid = [np.array([1, *pair]) for pair in itertools.product(np.geomspace(0.01, 10, 40), repeat=2)]
    best = max(balanced(chances, labels, thresholds) for thresholds in grid)
    assert balanced(chances, labels, ours) > best - 0.02 > balanced(chances, labels, np.ones(3)) + 0.05
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_allclose(calibrate.fit_thresholds(np.log(chances)[order], labels[order]), ours)


def test_thresholds_never_lower_what_they_are_fitted_on_and_keep_absent_classes():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        chances = rng.dirichlet(np.ones(4), 40).round(2) + 0.001  # with ties
        labels = rng.integers(0, 3, 40)
        ours = calibrate.fit_thresholds(np.log(chances), labels)
        present = np.unique(labels)
        with_ours = [np.mean((chances / ours).argmax(axis=1)[labels == c] == c) for c in present]
        plain = [np.mean(chances.argmax(axis=1)[labels == c] == c) for c in present]
        assert np.mean(with_ours) >= np.mean(plain) - 1e-9 and ours[3] == 1 and (ours > 0).all()
    np.testing.assert_array_equal(calibrate.fit_thresholds(np.log([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 1])), [1, 1])


@pytest.mark.parametrize("one_vs_rest", [False, True])
def test_thresholds_of_extreme_logits_are_finite_and_still_help(one_vs_rest):
    """A number below e^-745 would be 0, one above e^709 infinite: neither can be written to a file and divided by."""
    for scale in (300, 1000, 1500, 1e6):
        logits, labels = sample(4, scale=scale)
        logits -= np.float32(scale) * np.array([0, 1, 2], np.float32)  # the rare classes are hardly ever answered
        log_chances = calibrate.log_probabilities(logits, one_vs_rest)
        ours = calibrate.fit_thresholds(log_chances, labels)
        assert np.isfinite(ours).all() and (ours > 0).all() and np.isfinite(1 / ours).all()
        plain, with_ours = (
            sklearn.metrics.balanced_accuracy_score(labels, (log_chances - np.log(thresholds)).argmax(axis=1))
            for thresholds in (np.ones(3), ours)
        )
        assert with_ours >= plain and (scale > 1000 or with_ours > plain + 0.05)


def test_thresholds_stay_where_only_an_infinite_one_would_help():
    log_chances, labels = np.array([[0.0, -3000.0], [0.0, -2900.0]]), np.array([0, 1])
    np.testing.assert_array_equal(calibrate.fit_thresholds(log_chances, labels), [1, 1])
    ours = calibrate.fit_thresholds(log_chances / 10, labels)
    assert (log_chances / 10 - np.log(ours)).argmax(axis=1).tolist() == [0, 1]


def test_figures_after_thresholds_tell_scores_apart_that_float32_would_not():
    """Log sigmoids of logits above 104 are -0 in float32; thresholds of 1 must change no answer."""
    logits, labels = np.array([[112.0, 110.0], [110.0, 112.0]]), np.array([0, 1])
    calibration = calibrate.Calibration(1.0, np.ones(2))
    found = calibrate.figures(logits, labels, calibration=calibration, one_vs_rest=True, counts=np.array([1, 1]))
    assert found["balanced_accuracy"] == 1
