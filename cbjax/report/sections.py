"""Makes the sections that the page of one run and the page of a comparison share: weights, curves, environment."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from cbjax.difficulty import weights_moved
from cbjax.host.text import escape
from cbjax.host.writers import read_rows
from cbjax.metrics import class_groups
from cbjax.report import plots, swings
from cbjax.report.read import RunRecord, read_run

PICTURES = (
    "classes.png",
    "class_weights.png",
    "class_accuracies.png",
    "curves.png",
    "confusion.png",
    "reliability.png",
)
CHOSEN = {"last": "last epoch", "best": "best epoch on held-out validation"}
PANELS = 9  # with more methods, pictures with a panel for each are left out
LISTED = 20  # most swinging runs of a sweep that are named


def join(sections: Sequence[str]) -> str:
    return "\n\n".join(sections) + "\n"


def picture(path: pathlib.Path, caption: str) -> str:
    """Returns a line that shows a picture, or says that it is missing."""
    if not path.exists():
        return f"{escape(caption)}: {path.name} could not be drawn."
    return f"![{escape(caption)}]({path.name})"


def measure(run: RunRecord, checkpoint: str) -> str:
    """Returns a name for the numbers of `RunRecord.per_class`."""
    return f"test {'average precision' if run.multi_label else 'accuracy'}, {CHOSEN[checkpoint]}"


def weights_section(methods: Mapping[str, Sequence[RunRecord]], out: pathlib.Path) -> list[str]:
    """Draws the class weights of each method's first run, and the accuracies that they follow.

    Names the methods with equal weights, and the methods whose weights swing in a run. All must have the same classes.
    """
    runs = {label: members[0] for label, members in methods.items()}
    weights = {label: run.class_weights() for label, run in runs.items() if run.weights}
    equal = [label for label, (_, values) in weights.items() if np.all(values == values[:, :1])]
    drawn = {label: values for label, values in weights.items() if label not in equal}
    text = []
    if equal:
        text.append(f"Equal weights for all classes in every epoch: {', '.join(map(escape, equal))}.")
    text += [line for label in drawn if (line := _swing_line(label, methods[label]))]
    if 0 < len(drawn) <= PANELS:
        run = runs[next(iter(drawn))]
        of_classes = (run.class_names, run.counts)
        groups = class_groups(run.counts)
        marked = {label: swing for label in drawn if (swing := swing_of(runs[label]))}
        plots.class_lines(out / "class_weights.png", *of_classes, drawn, groups, "class weight", marked)
        text.append(picture(out / "class_weights.png", "Class weights by epoch"))
        measured = {label: found for label in drawn if (found := _held_out(runs[label])) is not None}
        if measured:
            quantity = f"held-out {'average precision' if run.multi_label else 'accuracy'} (%)"
            plots.class_lines(out / "class_accuracies.png", *of_classes, measured, groups, quantity, marked)
            text.append(picture(out / "class_accuracies.png", "Held-out accuracy of each class by epoch"))
        if len(methods) > 1:
            text.append("Each method's first seed.")
    return ["## Class weights", *text] if text else []


def swing_of(run: RunRecord) -> swings.Swing | None:
    """Returns the epochs in which a run's class weights swing, if they do."""
    if len(run.weights) < 2:
        return None
    epochs, values = run.class_weights()
    moved = weights_moved(jnp.asarray(values[:-1]), jnp.asarray(values[1:]))
    return swings.largest_swing(epochs[1:], np.asarray(moved))


def swinging_runs(place: pathlib.Path, names: Sequence[str]) -> str | None:
    """Names the runs of a sweep whose class weights swing; None if none does.

    Args:
      place: the sweep's folder.
      names: names of its runs. Only runs that weigh by difficulty and can be read count; others may lie elsewhere, be
        damaged, or not have begun.
    """
    found = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError, KeyError):
            run = read_run(place / name)
            if run.settings.get("weights.name") == "difficulty":
                found[name] = swing_of(run) is not None
    swinging = [name for name, swings_here in found.items() if swings_here]
    if not swinging:
        return None
    more = f" and {len(swinging) - LISTED} others" if len(swinging) > LISTED else ""
    return (
        f"The class weights of {len(swinging)} of {len(found)} CDB runs swing: {', '.join(swinging[:LISTED])}{more}; "
        "see docs/cdb_swings.md."
    )


def _swing_line(label: str, members: Sequence[RunRecord]) -> str | None:
    """Returns a line if weights swing in a method's runs: in how many, and what to do about the worst."""
    found = [(swing, run) for run in members if (swing := swing_of(run))]
    if not found:
        return None
    swing, run = max(found, key=lambda one: one[0].moved)
    said = swings.describe(swing, run.settings.get("difficulty.smoothing") or 0.0, len(run.class_names))
    many = f" ({len(found)} of {len(members)} runs; most in seed {run.seeds[0]})" if len(members) > 1 else ""
    return f"**{escape(label)}**{many}: {escape(said)}."


def _held_out(run: RunRecord) -> plots.Curve | None:
    """Returns [E] epochs and [E, C] held-out accuracies (%), if the run's weights follow them."""
    if run.settings.get("weights.name") != "difficulty" or not (run.path / "per_class.jsonl").exists():
        return None
    rows = [row for row in read_rows(run.path / "per_class.jsonl") if row.get("split") == "validation"]
    if not rows:
        return None
    epochs = np.asarray([row["epoch"] for row in rows], np.float64)
    return epochs, 100 * np.asarray([row["accuracy"] for row in rows], np.float64)


def curves_section(panels: Mapping[str, Mapping[str, plots.Curve]], out: pathlib.Path, note: str, best: float | None):
    """Draws training curves; panels without a line are left out."""
    panels = {quantity: lines for quantity, lines in panels.items() if lines}
    if not panels:
        return []
    plots.curves(out / "curves.png", panels, best)
    return ["## Training", note, picture(out / "curves.png", "Training curves")]


def curves(runs: Mapping[str, tuple[Sequence[RunRecord], str]], scale: float) -> dict[str, plots.Curve]:
    """Collects the values of several lines over the epochs; a line without values is left out.

    Args:
      runs: label of the line -> (its runs, the key of the metric).
      scale: factor for all values.
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
    """Lists versions, commit and devices; if runs differ, with all values."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.environment.items():
            if value not in (None, "", []):
                values.setdefault(key, {})[escape(value)] = None
    return "; ".join(f"{escape(key)} {', '.join(several)}" for key, several in values.items()) + "."
