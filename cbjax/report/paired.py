"""Compares methods seed by seed. Runs of one seed share their data split, so a difference comes from the method.

Runs with other classes, or other numbers of test images, make no pair: a difference of theirs says nothing of methods.
"""

from collections.abc import Sequence

import numpy as np

from cbjax.host.text import escape
from cbjax.report.methods import Method
from cbjax.report.table import COLUMNS, NOTHING, markdown_table

RAREST = ("few_accuracy", "medium_accuracy")  # the first one that the runs have is used
COMPARABLE = 6  # if there are more methods, each is compared only with the first
ROUNDING = 1e-9  # differences that vary by less, in points, are equal but for rounding

TEXT = (
    "Each method minus another one, between runs with the same seed and as many test images of each class, in points "
    "of test accuracy at the last epoch: the mean, in brackets its 95 % interval (Student's t over the pairs), and n, "
    "the number of pairs. If the interval holds 0, these runs do not tell the two methods apart. One pair gives no "
    "interval, nor do pairs that all differ by the same amount: they tell nothing apart either. Each interval stands "
    "for itself: of 20 comparisons between equally good methods, about one excludes 0 by chance."
)


def section(methods: Sequence[Method]) -> list[str]:
    """Returns tables of paired differences in balanced accuracy and in the rarest group of classes.

    The result is empty if no two methods share a seed.
    """
    tables = []
    multi_label = all(run.multi_label for method in methods for run in method.runs)
    known = {key for method in methods for run in method.runs for key in run.test_metrics("last")}
    for key in ("balanced_accuracy", *[key for key in RAREST if key in known][:1]):
        figures = [_by_seed(method, key) for method in methods]
        others = range(len(methods) if len(methods) <= COMPARABLE else 1)
        rows = [
            [escape(method.label), *(_cell(figures[row], figures[column]) for column in others)]
            for row, method in enumerate(methods)
        ]
        if any(cell != NOTHING for row in rows for cell in row[1:]):
            header = ["method", *(f"minus {escape(methods[column].label)}" for column in others)]
            name = COLUMNS["mean_average_precision" if key == "balanced_accuracy" and multi_label else key]
            tables += [f"### Differences, {name}", markdown_table(header, rows)]
    return ["## Differences", TEXT, *tables] if tables else []


def interval(differences: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of at least two paired differences, and the two ends of its 95 % t-interval."""
    from scipy import stats

    mean = float(np.mean(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1) * np.std(differences, ddof=1) / np.sqrt(len(differences)))
    return mean, mean - half, mean + half


def describe(differences: Sequence[float] | np.ndarray) -> str:
    """Returns the mean of paired differences in words: with its interval, the pairs, and whether 0 is excluded.

    Args:
      differences: [n] in points, n at least 1.
    """
    pairs = f"n={len(differences)}"
    if np.ptp(differences) <= ROUNDING:
        why = "one pair" if len(differences) == 1 else "all pairs equal"
        return f"{np.mean(differences):+.1f} ({pairs}), no interval: {why}"
    mean, low, high = interval(differences)
    apart = "" if low > 0 or high < 0 else ", not told apart"
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] ({pairs}){apart}"


def _by_seed(method: Method, key: str) -> dict[tuple, float]:
    found = {(*run.seeds, run.class_names, run.test_counts): run.test_metrics("last").get(key) for run in method.runs}
    return {pair: value for pair, value in found.items() if value is not None}


def _cell(ours: dict[tuple, float], theirs: dict[tuple, float]) -> str:
    shared = sorted(ours.keys() & theirs.keys(), key=str)
    if ours is theirs or not shared:
        return NOTHING
    return describe([100 * (ours[pair] - theirs[pair]) for pair in shared])
