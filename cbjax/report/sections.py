"""Makes the sections that the page of one run and the page of a comparison share: weights, curves, environment."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from cbjax.difficulty import weights_moved
from cbjax.host.text import escape
from cbjax.host.writers import read_rows
from cbjax.report import fonts, heat_maps, plots, swings
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


def letters_note(run: RunRecord) -> list[str]:
    """Returns a line if no font here has all letters of the class names, else nothing."""
    if not (letters := fonts.lacking(run.class_names)):
        return []
    shown = ", ".join(map(escape, letters[:LISTED])) + (" and others" if len(letters) > LISTED else "")
    return [
        f"No font of this machine has {shown}: pictures show boxes for them, tables the names themselves. Install a "
        "font of their script, such as Noto's, and make the report again."
    ]


def files_note(names: Sequence[str]) -> str:
    """Returns a line with links to the tables that lie beside the report."""
    return f"For a spreadsheet, beside this page: {', '.join(f'[{escape(name)}]({name})' for name in names)}."


def measure(run: RunRecord, checkpoint: str) -> str:
    """Returns a name for the numbers of `RunRecord.per_class`."""
    return f"test {'average precision' if run.multi_label else 'accuracy'}, {CHOSEN[checkpoint]}"


def weights_section(methods: Mapping[str, Sequence[RunRecord]], out: pathlib.Path) -> list[str]:
    """Draws the class weights of all runs, and the accuracies that they follow.

    Names the methods with equal weights, and the methods whose weights swing in a run. All must have the same classes.
    """
    weights = {label: runs for label, runs in methods.items() if any(run.weights for run in runs)}
    maps = {
        label: _over_epochs([run.class_weights() for run in runs if run.weights]) for label, runs in weights.items()
    }
    equal = [label for label, (_, values) in maps.items() if np.all(values == values[:, :, :1])]
    drawn = {label: values for label, values in maps.items() if label not in equal}
    text = []
    if equal:
        text.append(f"Equal weights for all classes in every epoch: {', '.join(map(escape, equal))}.")
    worst = {label: found for label in drawn if (found := _worst_swing(methods[label]))}
    text += [_swing_line(label, methods[label], *worst[label]) for label in worst]
    # Weights that change come first: they are what one looks for.
    shown = sorted(drawn, key=lambda label: bool(np.all(drawn[label][1] == drawn[label][1][:1, :1])))[:PANELS]
    if shown:
        run = methods[shown[0]][0]
        marked = {label: (swing, of.seeds[0]) for label, (_, swing, of) in worst.items()}
        of_classes = (run.class_names, run.counts)
        drawn = {label: drawn[label] for label in drawn if label in shown}
        heat_maps.class_weights(out / "class_weights.png", *of_classes, drawn, marked)
        text.append(picture(out / "class_weights.png", "Class weights by epoch"))
        measured = {label: held for label in drawn if (held := _held_out(methods[label])) is not None}
        if measured:
            quantity = f"held-out {'average precision' if run.multi_label else 'accuracy'} (%)"
            heat_maps.class_accuracies(out / "class_accuracies.png", *of_classes, measured, marked, quantity)
            text.append(picture(out / "class_accuracies.png", "Held-out accuracy of each class by epoch"))
    others = [label for label in maps if label not in (*equal, *shown)]
    if others:
        text.append(f"Not drawn, as a picture has {PANELS} panels: {', '.join(map(escape, others))}.")
    return ["## Class weights", *text] if text else []


def _over_epochs(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Joins the [E] epochs and [E, C] values of n runs: [E] epochs that any run has, [n, E, C] values, NaN for none."""
    epochs = np.unique(np.concatenate([one for one, _ in found]))
    values = np.full((len(found), len(epochs), found[0][1].shape[1]), np.nan)
    for place, (own, rows) in enumerate(found):
        values[place, np.searchsorted(epochs, own)] = rows
    return epochs, values


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


def _worst_swing(members: Sequence[RunRecord]) -> tuple[int, swings.Swing, RunRecord] | None:
    """Returns in how many of the runs weights swing, and the largest swing with its run; None if in none."""
    found = [(swing, run) for run in members if (swing := swing_of(run))]
    return (len(found), *max(found, key=lambda one: one[0].moved)) if found else None


def _swing_line(label: str, members: Sequence[RunRecord], number: int, swing: swings.Swing, run: RunRecord) -> str:
    """Returns a line that says in how many runs of a method weights swing, and what to do about the worst."""
    said = swings.describe(swing, run.settings.get("difficulty.smoothing") or 0.0, len(run.class_names))
    many = f" ({number} of {len(members)} runs; most in seed {run.seeds[0]})" if len(members) > 1 else ""
    return f"**{escape(label)}**{many}: {escape(said)}."


def _held_out(runs: Sequence[RunRecord]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns [E] epochs and [n, E, C] held-out accuracies (%) of the runs whose weights follow them."""
    found = []
    for run in runs:
        if run.settings.get("weights.name") == "difficulty" and (run.path / "per_class.jsonl").exists():
            rows = [row for row in read_rows(run.path / "per_class.jsonl") if row.get("split") == "validation"]
            epochs = np.asarray([row["epoch"] for row in rows], np.float64)
            if rows:
                found.append((epochs, 100 * np.asarray([row["accuracy"] for row in rows], np.float64)))
    return _over_epochs(found) if found else None


def curves_section(
    panels: Mapping[str, Mapping[str, plots.Curve]],
    out: pathlib.Path,
    note: str,
    best: Mapping[str, Sequence[float]] | float | None,
) -> list[str]:
    """Draws training curves, with the best epochs (`plots.curves`); panels without a line are left out."""
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
