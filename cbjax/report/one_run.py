"""Writes the page of one run, finished or not."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbjax.host.text import escape
from cbjax.report import class_files, plots, reliability
from cbjax.report.methods import group
from cbjax.report.read import CHECKPOINTS, RunRecord
from cbjax.report.sections import (
    CHOSEN,
    curves,
    curves_section,
    environment,
    files_note,
    join,
    letters_note,
    measure,
    picture,
    weights_section,
)
from cbjax.report.table import (
    METRICS,
    by_frequency,
    class_list,
    describe_data,
    markdown_table,
    metric,
    unmeasured,
    with_groups,
)

ENDS = 5  # number of the largest, and of the smallest, classes that are listed


def run_page(run: RunRecord, out: pathlib.Path) -> str:
    """Draws the pictures of one run into `out`, writes its classes as CSV there, and returns its page."""
    files = class_files.write(run, out)
    label = group([run])[0][0].label
    checkpoint = "best" if run.test_metrics("best") else "last"
    sections = [
        f"# {escape(run.settings.get('data.name'))}: {escape(label)}, seed {run.settings.get('seed')}",
        _state(run),
        "## Results",
        *results(run),
        *_classes(run, checkpoint, out),
        "## Data",
        describe_data(run),
        files_note(files),
        *weights_section({label: [run]}, out),
        *curves_section(_curves(run), out, "Measured at the end of each epoch.", _best_epoch(run)),
    ]
    table = run.confusion(checkpoint)
    if table is not None:
        plots.confusion(out / "confusion.png", run.class_names, run.counts, {"": table}, run.noun)
        sections += [
            "## Confusion",
            f"Test {run.noun}s, {CHOSEN[checkpoint]}.",
            picture(out / "confusion.png", "Predicted class by true class"),
        ]
    sections += reliability.section({"": [run]}, checkpoint, out)
    if run.environment:
        sections += ["## Environment", environment([run])]
    return join(sections)


def _state(run: RunRecord) -> str:
    if run.results is None:
        return f"**{run.stopped().capitalize()}.** The same command goes on from the last checkpoint."
    seconds = run.results.get("seconds")
    took = "" if seconds is None else f" in {seconds:.0f} s of training"
    taken = [row["stage/tau"] for row in run.rows if "stage/tau" in row]
    how = "as given" if run.settings.get("stage.tau") is not None else "the best on held-out images"
    tau = f" τ is {taken[-1]:g}, {how}." if taken else ""
    return f"Finished: {run.results['epoch']} epochs, {run.results['step']} steps{took}.{tau}"


def _best_epoch(run: RunRecord) -> float | None:
    return ((run.results or {}).get("best") or {}).get("epoch")


def results(run: RunRecord) -> list[str]:
    """Returns the table of a run's figures on each split, and what to know of them."""
    columns: dict[str, Mapping[str, Any]] = {}
    for checkpoint in CHECKPOINTS:
        for split in ("validation", "test"):
            if values := ((run.results or {}).get(checkpoint) or {}).get(split):
                columns[f"{split}, {checkpoint}"] = values
    measured = [row for row in run.rows if "validation/balanced_accuracy" in row]
    if run.results is None and measured:
        columns[f"validation, epoch {measured[-1]['epoch']}"] = {
            key.removeprefix("validation/"): value
            for key, value in measured[-1].items()
            if key.startswith("validation/")
        }
    if not columns:
        return [f"Nothing was measured on held-out or test {run.noun}s."]
    names = with_groups(METRICS, [run])
    keys = [key for key in names if any(values.get(key) is not None for values in columns.values())]
    rows = [[escape(names[key]), *(metric(key, values.get(key)) for values in columns.values())] for key in keys]
    best = _best_epoch(run)
    chosen = "" if best is None else f" The best epoch is {best}, by balanced accuracy on held-out validation."
    unit = "is what your own function gives" if run.has_own_loss else "is in nats"
    return [f"In percent; the loss {unit}.{chosen}", markdown_table(["", *columns], rows), *unmeasured([run])]


def _classes(run: RunRecord, checkpoint: str, out: pathlib.Path) -> list[str]:
    """Names the worst class and gives the accuracy of the most frequent and the rarest ones."""
    accuracy, noun = run.per_class(checkpoint), run.noun
    if accuracy is None or np.isnan(accuracy).all():
        return []
    plots.classes(
        out / "classes.png", run.class_names, run.counts, {"": accuracy[None]}, measure(run, checkpoint), noun
    )
    order = by_frequency(run.counts)
    worst = [c for c in order if accuracy[c] == np.nanmin(accuracy)]
    lowest = 100 * np.nanmin(accuracy)
    text = f"{measure(run, checkpoint).capitalize()}. Worst: {class_list(worst, run)} with {lowest:.1f}%."
    if len(order) > 2 * ENDS:
        order = np.concatenate([order[:ENDS], order[-ENDS:]])
        text += f" The {ENDS} classes with the most training {noun}s and the {ENDS} with the fewest:"
    rows = [[escape(run.class_names[c]), str(run.counts[c]), metric("", accuracy[c])] for c in order]
    return [
        "## Classes",
        text,
        markdown_table(["class", f"training {noun}s", "average precision" if run.multi_label else "accuracy"], rows),
        picture(out / "classes.png", f"Training {noun}s and accuracy of each class"),
        *letters_note(run),
    ]


def _curves(run: RunRecord) -> dict[str, dict[str, plots.Curve]]:
    losses = {"training": "train/loss", "validation": "validation/loss", "test": "test/loss"}
    accuracies = {
        "training, overall": "train/accuracy",
        "validation, overall": "validation/accuracy",
        "validation, balanced": "validation/balanced_accuracy",
        "test, balanced": "test/balanced_accuracy",
    }
    if run.is_balanced("validation"):
        # Both lines would be the same.
        del accuracies["validation, overall"]
    if run.multi_label:
        accuracies = {"validation, mean AP": "validation/balanced_accuracy", "test, mean AP": "test/balanced_accuracy"}
    return {
        "loss": curves({label: ([run], key) for label, key in losses.items()}, 1),
        "average precision (%)" if run.multi_label else "accuracy (%)": curves(
            {label: ([run], key) for label, key in accuracies.items()}, 100
        ),
    }
