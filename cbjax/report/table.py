"""Formats figures as text: means and deviations over seeds, Markdown tables, class names, the data in words."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cbjax.config import method_rules
from cbjax.host.text import escape
from cbjax.metrics import class_groups
from cbjax.report.methods import Method
from cbjax.report.read import CHECKPOINTS, RunRecord

COLUMNS = {
    "accuracy": "overall",
    "mean_average_precision": "mean AP",
    "balanced_accuracy": "balanced",
    "many_accuracy": "many",
    "medium_accuracy": "medium",
    "few_accuracy": "few",
    "worst_accuracy": "worst class",
    "ece": "ECE",
}
METRICS = COLUMNS | {
    "top5_accuracy": "top 5",
    "macro_recall": "macro recall",
    "macro_precision": "macro precision",
    "macro_f1": "macro F1",
    "geometric_mean": "geometric mean of recalls",
    "matthews": "Matthews' correlation (hundredths)",
    "loss": "loss",
}
NOTHING = "–"
LISTED = 10


def with_groups(columns: Mapping[str, str], runs: Iterable[RunRecord]) -> dict[str, str]:
    """Adds columns for the groups of classes that configs name, after those of many, medium and few."""
    names = dict.fromkeys(name for run in runs for name in run.groups)
    named = {f"{name}_accuracy": name for name in names} | {f"{name}_precision": f"{name} precision" for name in names}
    place = list(columns).index("worst_accuracy")
    every = list(columns.items())
    return {**dict(every[:place]), **named, **dict(every[place:])}


def results_table(
    methods: Sequence[Method], checkpoint: str, leave_out: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a comparison: a row for each method that was tested at the checkpoint.

    Args:
      methods: the rows.
      checkpoint: "last" or "best".
      leave_out: keys of metrics that get no column.
    """
    rows = [(method, [run.test_metrics(checkpoint) for run in method.runs]) for method in methods]
    rows = [(method, [one for one in metrics if one]) for method, metrics in rows]
    rows = [(method, metrics) for method, metrics in rows if metrics]
    every = [one for _, metrics in rows for one in metrics]
    if all("mean_average_precision" in one for one in every):
        # The balanced accuracy of multi-label runs is their mean average precision.
        leave_out = (*leave_out, "balanced_accuracy")
    columns = with_groups(COLUMNS, (run for method in methods for run in method.runs))
    keys = [key for key in columns if key not in leave_out and any(key in one for one in every)]
    body = [[method.label, *(over_seeds(key, metrics) for key in keys), str(len(metrics))] for method, metrics in rows]
    return ["method", *(columns[key] for key in keys), "n"], body


def over_seeds(key: str, metrics: Sequence[Mapping[str, float | None]]) -> str:
    """Formats the mean and sample standard deviation of a metric over runs; says if some runs lack it."""
    values = [value for one in metrics if (value := one.get(key)) is not None]
    if not values:
        return NOTHING
    missing = "" if len(values) == len(metrics) else f" (n={len(values)})"
    return f"{mean_and_deviation(values)}{missing}"


def mean_and_deviation(values: Sequence[float] | np.ndarray) -> str:
    """Formats fractions as percent, mean ± sample standard deviation (ddof=1); one value has no ±."""
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def metric(key: str, value: float | None) -> str:
    """Formats a metric of a run: shares in percent, the loss as it is."""
    if value is None or not np.isfinite(value):
        return NOTHING
    return f"{value:.4f}" if key == "loss" else f"{100 * value:.1f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_frequency(counts: np.ndarray) -> np.ndarray:
    """Returns the classes [C] from the most to the fewest training images; equals by index."""
    return np.argsort(-counts, kind="stable")


def group_spans(counts: np.ndarray) -> dict[str, tuple[int, int]]:
    """Returns "many", "medium" and "few" -> their first and last place in the order of `by_frequency`."""
    groups = list(class_groups(counts).items())
    ends = np.cumsum([len(classes) for _, classes in groups])
    return {name: (int(end) - len(classes), int(end) - 1) for (name, classes), end in zip(groups, ends, strict=True)}


def class_list(classes: Iterable[int], run: RunRecord, counted: bool = True) -> str:
    """Names classes with their training images; of a long list only the first, and how many more there are."""
    classes = list(classes)
    named = [escape(run.class_names[c]) + (f" ({run.counts[c]})" if counted else "") for c in classes[:LISTED]]
    more = f" and {len(classes) - LISTED} others" if len(classes) > LISTED else ""
    return ", ".join(named) + more


def describe_data(run: RunRecord) -> str:
    """Describes the data of a run: sizes, imbalance, extreme classes and groups of classes."""
    counts, sizes = run.counts, run.data.get("sizes", {})
    present = counts[counts > 0]
    noun = run.noun
    kind = "positive labels" if run.multi_label else f"{noun}s"
    lines = [f"- Training: {sizes.get('train', counts.sum())} {noun}s of {len(counts)} classes."]
    if present.size:
        lines[0] += (
            f" The largest class has {present.max()} {kind}, the smallest {present.min()}: "
            f"imbalance {present.max() / present.min():.4g}."
        )
    if noun == "clip":
        lines.append(f"- {run.data['image_shape'][0]} frames are taken from each clip.")
    if present.size < counts.size:
        lines.append(f"- Classes without any training {noun}: {class_list(np.flatnonzero(counts == 0), run, False)}.")
    order = by_frequency(counts)
    if len(order) <= LISTED:
        lines.append(f"- Classes by training {kind}: {class_list(order, run)}.")
    else:
        lines.append(f"- Most training {kind}: {class_list(order[:5], run)}.")
        lines.append(f"- Fewest training {kind}: {class_list(order[::-1][:5], run)}.")
    lines.append(f"- Held-out validation: {_per_class(run, 'validation')}.")
    if run.data.get("meta_counts"):
        lines.append(f"- Meta {noun}s, held out of the training: {_per_class(run, 'meta')}.")
    lines.append(f"- Test: {_per_class(run, 'test')}.{_granularity(run)}")
    lines += _describe_groups(run)
    noted = [*run.data.get("notes", ()), *method_rules.cautions(run.settings, run.counts.tolist())]
    lines += [f"- Note: {escape(note)}" for note in noted]
    return "\n".join(lines)


def _per_class(run: RunRecord, split: str) -> str:
    counts = np.asarray(run.data.get(f"{split}_counts") or [0])
    if not counts.any():
        return "none"
    size = run.data.get("sizes", {}).get(split, counts.sum())
    spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"{size} {run.noun}s, {spread} {'positives ' if run.multi_label else ''}per class"


def unmeasured(runs: Iterable[RunRecord]) -> list[str]:
    """Returns lines to stand beside the figures: which classes they do not count, because no image of them was seen."""
    lines = []
    for run in runs:
        tested = [one for checkpoint in CHECKPOINTS if (one := run.per_class(checkpoint)) is not None]
        without = {
            "validation": np.asarray(run.data.get("validation_counts") or [1]) == 0,
            "test": np.isnan(tested).any(axis=0) if tested else np.zeros(1, bool),
        }
        for split, of_split in without.items():
            if of_split.any():
                named = class_list(np.flatnonzero(of_split), run, counted=False)
                lines.append(f"No figure counts {named}, of which there is no {split} {run.noun}.")
    return list(dict.fromkeys(lines))


def _granularity(run: RunRecord) -> str:
    counts = np.asarray(run.data.get("test_counts") or [0])
    if run.multi_label or not 0 < counts.min() < 100:
        return ""
    which = "its class" if counts.min() == counts.max() else "the smallest test class"
    return f" One {run.noun} is {100 / counts.min():.1f} points of the accuracy of {which}."


def _describe_groups(run: RunRecord) -> list[str]:
    groups = class_groups(run.counts)
    if not groups:
        return []
    rule = (
        f"thirds of the classes by training {run.noun}s, as the largest class has under 200"
        if run.counts.max() < 200
        else f"over 100, 20 to 100, and under 20 training {run.noun}s"
    )
    lines = [f"- Groups of classes ({rule}):", *_list_groups(groups, run)]
    named = run.groups
    return [*lines, "- Groups of classes that the config names:", *_list_groups(named, run)] if named else lines


def _list_groups(groups: Mapping[str, np.ndarray], run: RunRecord) -> list[str]:
    lines = []
    for name, classes in groups.items():
        counts = run.counts[classes]
        spread = f"{counts.max()}" if counts.min() == counts.max() else f"{counts.max()} to {counts.min()}"
        members = class_list(np.asarray(classes)[by_frequency(counts)], run, counted=False)
        number = f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}"
        lines.append(f"  - {escape(name)}: {number}, {spread} {run.noun}s: {members}.")
    return lines
