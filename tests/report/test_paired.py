"""Differences between methods of a report: paired by seed, with intervals by Student's t."""

import re

import numpy as np
import pytest
from scipy import stats

from cbjax.report import paired, report
from cbjax.report.methods import group
from cbjax.report.read import read_runs
from tests.report.test_report import make_run, tables


def test_interval_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1; Student's t for 2 degrees of freedom is 4.302653.
    assert paired.interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-5)


def test_methods_are_compared_seed_by_seed(tmp_path):
    few = {
        method: [
            make_run(tmp_path / method / f"seed_{seed}", method=method, seed=seed)["last"]["test"]["few_accuracy"]
            for seed in range(3)
        ]
        for method in ("ce", "cdb")
    }
    make_run(tmp_path / "cdb" / "seed_7", method="cdb", seed=7)  # the other method has no such seed
    page = report([tmp_path], tmp_path).read_text()
    first, second = tables(page)["Differences, few"]
    difference = 100 * (np.array(few["cdb"]) - np.array(few["ce"]))
    half = 4.302653 * difference.std(ddof=1) / 3**0.5
    mean = difference.mean()
    apart = "" if abs(mean) > half else ", not told apart"
    assert second["minus ce"] == f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] (n=3){apart}"
    assert first["minus cdb"].startswith(f"{-mean:+.1f} [{-mean - half:+.1f}, ")
    assert first["minus ce"] == second["minus cdb"] == "–"


def test_one_pair_gives_no_interval(tmp_path):
    for method in ("ce", "cdb"):
        make_run(tmp_path / method, method=method)
    page = report([tmp_path], tmp_path).read_text()
    _, second = tables(page)["Differences, balanced"]
    ((_, cell),) = [(name, cell) for name, cell in second.items() if name.startswith("minus") and cell != "–"]
    assert re.fullmatch(r"[+-]\d+\.\d \(n=1\), no interval: one pair", cell)
    assert "nan" not in page.lower()


def test_runs_with_other_test_images_make_no_pair(tmp_path):
    for name, tests in (("ce", 25), ("cdb", 25), ("less", 20)):
        make_run(tmp_path / name / "seed_0", method="ce" if name == "ce" else "cdb", tests=tests)
    methods, _ = group(read_runs([tmp_path])[0])
    ce, cdb, less = paired.section(methods)[3].splitlines()[2:]
    assert less == "| less | – | – | – |"
    assert ce.endswith("no interval: one pair | – |") and cdb.endswith("no interval: one pair | – | – |")


def test_no_shared_seed_has_no_differences(tmp_path):
    for seed, method in enumerate(("ce", "cdb")):
        make_run(tmp_path / method, method=method, seed=seed)
    assert "Differences" not in report([tmp_path], tmp_path).read_text()


def test_told_apart_where_scipy_s_paired_test_says_so():
    random, told = np.random.default_rng(0), set()
    for n in (2, 3, 5, 10, 30):
        for shift in (0.0, 1.0, 4.0):
            ours, theirs = random.normal(50 + shift, 1, n), random.normal(50, 1, n)
            test = stats.ttest_rel(ours, theirs)
            low, high = test.confidence_interval(0.95)
            assert paired.interval(ours - theirs) == pytest.approx((np.mean(ours - theirs), low, high), rel=1e-9)
            said = paired.describe(ours - theirs)
            assert f"(n={n})" in said and ("not told apart" in said) == (test.pvalue > 0.05)
            told.add("not told apart" in said)
    assert told == {True, False}


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.0], "+0.0 (n=1), no interval: one pair"),
        ([0.0, 0.0], "+0.0 (n=2), no interval: all pairs equal"),
        # Equal but for rounding: an interval of no width would tell methods apart from two pairs.
        ([100 * (0.3 - 0.2), 100 * (0.6 - 0.5), 10.0], "+10.0 (n=3), no interval: all pairs equal"),
        ([-1.0, 1.0], "+0.0 [-12.7, +12.7] (n=2), not told apart"),
        ([-2.0, -2.1, -2.2], "-2.1 [-2.3, -1.9] (n=3)"),
    ],
)
def test_differences_in_words(differences, said):
    assert paired.describe(differences) == said
