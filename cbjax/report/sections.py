"""What the page of one run and the page of a comparison share: class weights, curves, environment."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cbjax.metrics import class_groups
from cbjax.report import plots
from cbjax.report.read import RunRecord
from cbjax.text import escape

PICTURES = ("classes.png", "class_weights.png", "curves.png", "confusion.png", "reliability.png")
CHOSEN = {"last": "last epoch", "best": "best epoch on held-out validation"}
PANELS = 9  # pictures with a panel per method are left out above this


def join(sections: Sequence[str]) -> str:
    return "\n\n".join(sections) + "\n"


def picture(path: pathlib.Path, caption: str) -> str:
    """Shows the picture beside the page, or says that it is missing."""
    if not path.exists():
        return f"{escape(caption)}: {path.name} could not be drawn."
    return f"![{escape(caption)}]({path.name})"


def measure(run: RunRecord, checkpoint: str) -> str:
    """What the numbers of `RunRecord.per_class` are."""
    return f"test {'average precision' if run.multi_label else 'accuracy'}, {CHOSEN[checkpoint]}"


def weights_section(runs: Mapping[str, RunRecord], out: pathlib.Path) -> list[str]:
    """Draws the class weights of runs with the same classes, and names those whose weights are always equal."""
    weights = {label: run.class_weights() for label, run in runs.items() if run.weights}
    equal = [label for label, (_, values) in weights.items() if np.all(values == values[:, :1])]
    drawn = {label: values for label, values in weights.items() if label not in equal}
    text = []
    if equal:
        text.append(f"All classes weigh the same in every epoch: {', '.join(map(escape, equal))}.")
    if 0 < len(drawn) <= PANELS:
        run = runs[next(iter(drawn))]
        plots.class_weights(out / "class_weights.png", run.class_names, run.counts, drawn, class_groups(run.counts))
        text.append(picture(out / "class_weights.png", "Class weights by epoch"))
    return ["## Class weights", *text] if text else []


def curves_section(panels: Mapping[str, Mapping[str, plots.Curve]], out: pathlib.Path, note: str, best: float | None):
    """Draws training curves; panels without a line are left out."""
    panels = {quantity: lines for quantity, lines in panels.items() if lines}
    if not panels:
        return []
    plots.curves(out / "curves.png", panels, best)
    return ["## Training", note, picture(out / "curves.png", "Training curves")]


def curves(runs: Mapping[str, tuple[Sequence[RunRecord], str]], scale: float) -> dict[str, plots.Curve]:
    """Collects one metric of several lines over the epochs; a line whose runs never have it is left out.

    Args:
      runs: label of the line -> (its runs, the key of the metric).
      scale: what values are multiplied with.
    """
    lines = {}
    for label, (members, key) in runs.items():
        values = [run.curve(key) for run in members]
        epochs = sorted({epoch for one in values for epoch in one})
        if epochs:
            table = [[scale * one.get(epoch, np.nan) for epoch in epochs] for one in values]
            lines[label] = np.asarray(epochs, np.float64), np.asarray(table)
    return lines


def environment(runs: Sequence[RunRecord]) -> str:
    """Lists versions, commit and devices, with every value where runs differ."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.environment.items():
            if value not in (None, ""):
                values.setdefault(key, {})[escape(value)] = None
    return "; ".join(f"{escape(key)} {', '.join(several)}" for key, several in values.items()) + "."
