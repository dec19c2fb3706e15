"""Differences between methods of a report: paired by seed, with intervals by Student's t."""

import numpy as np
import pytest

from cbjax.report import paired, report
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
    assert second["minus ce"] == f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] (n=3)"
    assert first["minus cdb"].startswith(f"{-mean:+.1f} [{-mean - half:+.1f}, ")
    assert first["minus ce"] == second["minus cdb"] == "–"


def test_one_seed_has_no_interval(tmp_path):
    for method in ("ce", "cdb"):
        make_run(tmp_path / method, method=method)
    assert "Differences" not in report([tmp_path], tmp_path).read_text()
