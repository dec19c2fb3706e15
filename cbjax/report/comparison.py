"""Writes the page that compares methods: means over seeds, differences, and the runs that were left out."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbjax.config.rules import has_effect
from cbjax.host.text import escape
from cbjax.report import class_files, paired, plots, reliability
from cbjax.report.methods import Method, differing
from cbjax.report.read import CHECKPOINTS, LeftOut, RunRecord
from cbjax.report.sections import (
    CHOSEN,
    PANELS,
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
    NOTHING,
    by_frequency,
    describe_data,
    markdown_table,
    mean_and_deviation,
    metric,
    results_table,
    unmeasured,
)

# Keys that are listed even if all methods have the same value.
NUMBERS = (
    *("loss.gamma", "loss.epsilon", "loss.tau", "loss.max_margin", "weights.beta", "weights.start", "difficulty.tau"),
    *("difficulty.smoothing", "sharpness.radius", "mix.alpha", "data.sampler_beta", "stage.tau"),
)
LINES = 28  # colours and kinds of lines; with more methods, pictures with a line for each are left out
ENDS = 10  # if there are many classes, so many of the largest and of the smallest are listed


def comparison_page(methods: Sequence[Method], left_out: Sequence[LeftOut], out: pathlib.Path) -> str:
    """Draws the pictures of a comparison into `out` and returns its page."""
    runs = [run for method in methods for run in method.runs]
    if not runs:
        sections = ["# No finished run"]
    else:
        names = dict.fromkeys(escape(run.settings.get("data.name")) for run in runs)
        alike = same_data(methods)
        sections = [f"# {', '.join(names)}: comparison", "## Results", *_results(methods), *paired.section(methods)]
        differ = ["Classes are not compared: they are not the same in all methods, or their numbers of images are not."]
        sections += classes_section(methods, out) if alike else differ
        sections += ["## Data", *_data(methods, alike)]
        sections += _settings(methods)
        if alike:
            sections += weights_section({method.label: method.runs for method in methods}, out)
        if len(methods) <= LINES:
            sections += curves_section(_curves(methods), out, _CURVES, _best_epochs(methods))
        if alike:
            sections += _confusion(methods, out)
            sections += reliability.section({m.label: m.runs for m in methods}, _checkpoint(methods), out)
        sections += ["## Runs", _runs(methods, out), "## Environment", environment(runs)]
    if left_out:
        rows = [[escape(_relative(one.path, out)), escape(one.reason)] for one in left_out]
        sections += ["## Left out", "No number above contains these:", markdown_table(["directory", "reason"], rows)]
    return join(sections)


_RESULTS = (
    "On test data, in percent: mean ± sample standard deviation (ddof = 1) over the n seeds. Overall is the share of "
    "correct images, balanced is the mean over classes, worst class is the lowest class of a run, ECE is the expected "
    "calibration error."
)
_MULTI_LABEL = " For multi-label data a class's accuracy is its average precision (AP)."
_CURVES = (
    "Means over seeds; bands are ± one standard deviation. Methods differ in loss and class weights, so compare the "
    "shape of their training losses, not the height."
)


def same_data(methods: Sequence[Method]) -> bool:
    """Returns whether all methods have the same classes and training images, so that classes can be compared."""
    first = methods[0].runs[0]
    return all(
        run.class_names == first.class_names and np.array_equal(run.counts, first.counts)
        for method in methods
        for run in method.runs
    )


def _results(methods: Sequence[Method]) -> list[str]:
    multi_label = any(run.multi_label for method in methods for run in method.runs)
    sections = [_RESULTS + (_MULTI_LABEL if multi_label else "")]
    for checkpoint in CHECKPOINTS:
        header, rows = results_table(methods, checkpoint)
        if rows:
            table = markdown_table(
                [escape(name) for name in header], [[escape(label), *cells] for label, *cells in rows]
            )
            sections += [f"### {CHOSEN[checkpoint].capitalize()}", table]
            if len(rows) < len(methods):
                sections.append("The other methods held out no images, so they have no best epoch.")
    return [*sections, *unmeasured(run for method in methods for run in method.runs)]


def _checkpoint(methods: Sequence[Method]) -> str:
    """Returns the checkpoint that pictures of several methods show: "best" if every run has one, else "last"."""
    return "best" if all(run.test_metrics("best") for method in methods for run in method.runs) else "last"


def classes_section(methods: Sequence[Method], out: pathlib.Path) -> list[str]:
    """Draws training images and accuracy of each class, and lists them; the methods must have the same data."""
    checkpoint, first = _checkpoint(methods), methods[0].runs[0]
    accuracy = {}
    for method in methods:
        values = [one for run in method.runs if (one := run.per_class(checkpoint)) is not None]
        if values:
            accuracy[method.label] = np.stack(values)
    if not accuracy:
        return []
    noun = first.noun
    if len(methods) <= LINES:
        plots.classes(out / "classes.png", first.class_names, first.counts, accuracy, measure(first, checkpoint), noun)
        drawn = [
            picture(out / "classes.png", f"Training {noun}s and accuracy of each class"),
            *letters_note(first),
        ]
    else:
        drawn = [
            f"Classes and training curves are not drawn: a picture tells {LINES} methods apart, and here are "
            f"{len(methods)}. `cbjax report DIR DIR … --out=DIR` draws the ones that you name."
        ]
    order, which = by_frequency(first.counts), ""
    if len(order) > 2 * ENDS:
        order = np.concatenate([order[:ENDS], order[-ENDS:]])
        which = f" The {ENDS} classes with the most training {noun}s and the {ENDS} with the fewest:"
    rows = [
        [escape(first.class_names[c]), str(first.counts[c]), *(_cell(values[:, c]) for values in accuracy.values())]
        for c in order
    ]
    return [
        "## Classes",
        f"{measure(first, checkpoint).capitalize()}.{which}",
        markdown_table(["class", f"training {noun}s", *map(escape, accuracy)], rows),
        *drawn,
        files_note(class_files.write_compared(methods, checkpoint, out, confusions=len(methods) <= LINES)),
    ]


def _cell(values: np.ndarray) -> str:
    values = values[~np.isnan(values)]
    return mean_and_deviation(values) if values.size else NOTHING


def _data(methods: Sequence[Method], alike: bool) -> list[str]:
    if alike:
        return [describe_data(methods[0].runs[0])]
    return [text for method in methods for text in (f"### {escape(method.label)}", describe_data(method.runs[0]))]


def _settings(methods: Sequence[Method]) -> list[str]:
    """Lists the keys in which methods differ, and the numbers that make a method, such as beta; only where they act."""
    acts = {
        key: [key in method.settings and has_effect(key, method.settings) for method in methods]
        for key in dict.fromkeys([*differing([method.settings for method in methods]), *NUMBERS])
    }
    # A method's name comes before its numbers.
    places = {key: (key.rpartition(".")[0], not key.endswith(".name")) for key in acts if any(acts[key])}
    keys = sorted(places, key=places.__getitem__)
    if len(methods) == 1 or not keys:
        return []
    rows = [
        [
            escape(method.label),
            *(_value(method.settings.get(key)) if acts[key][place] else NOTHING for key in keys),
        ]
        for place, method in enumerate(methods)
    ]
    return [
        "## Methods",
        f"The config keys in which methods differ, and the numbers of their losses and weights; {NOTHING} if a key has "
        "no effect in a method. Each run's `config.json` has all keys.",
        markdown_table(["method", *map(escape, keys)], rows),
    ]


def _value(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value))


def _curves(methods: Sequence[Method]) -> dict[str, dict[str, plots.Curve]]:
    runs = [run for method in methods for run in method.runs]
    split = "validation" if any(run.curve("validation/balanced_accuracy") for run in runs) else "test"

    def lines(key, scale=100):
        return curves({method.label: (method.runs, key) for method in methods}, scale)

    if all(run.multi_label for run in runs):
        mean = lines(f"{split}/balanced_accuracy")
        return {"training loss": lines("train/loss", 1), f"mean {split} average precision (%)": mean}
    panels = {
        "training loss": lines("train/loss", 1),
        f"overall {split} accuracy (%)": lines(f"{split}/accuracy"),
        f"balanced {split} accuracy (%)": lines(f"{split}/balanced_accuracy"),
    }
    if all(run.is_balanced(split) for run in runs):
        # Both panels would be the same.
        del panels[f"overall {split} accuracy (%)"]
    return panels


def _best_epochs(methods: Sequence[Method]) -> dict[str, list[float]]:
    found = {
        method.label: [((run.results or {}).get("best") or {}).get("epoch") for run in method.runs]
        for method in methods
    }
    return {label: known for label, epochs in found.items() if (known := [one for one in epochs if one is not None])}


def _confusion(methods: Sequence[Method], out: pathlib.Path) -> list[str]:
    checkpoint, first = _checkpoint(methods), methods[0].runs[0]
    tables = {}
    for method in methods:
        values = [table for run in method.runs if (table := run.confusion(checkpoint)) is not None]
        if values:
            tables[method.label] = np.mean(values, axis=0)
    if not 0 < len(tables) <= PANELS:
        return []
    plots.confusion(out / "confusion.png", first.class_names, first.counts, tables, first.noun)
    text = f"Means over seeds, {CHOSEN[checkpoint]}."
    return ["## Confusion", text, picture(out / "confusion.png", "Predicted class by true class")]


def _runs(methods: Sequence[Method], out: pathlib.Path) -> str:
    """Lists every run, so that readers can recompute the means."""
    key = "balanced_accuracy"
    name = "mean AP" if all(run.multi_label for method in methods for run in method.runs) else "balanced"
    header = ["method", "seed", f"{name}, last", f"{name}, best", "best epoch", "training s", "directory"]
    return markdown_table(
        header,
        [
            [
                escape(method.label),
                _seed(run),
                metric(key, run.test_metrics("last").get(key)),
                metric(key, run.test_metrics("best").get(key)),
                str(((run.results or {}).get("best") or {}).get("epoch", NOTHING)),
                f"{(run.results or {}).get('seconds', np.nan):.1f}",
                escape(_relative(run.path, out)),
            ]
            for method in methods
            for run in method.runs
        ],
    )


def _seed(run: RunRecord) -> str:
    seed, data_seed = run.seeds
    return f"{seed}" if data_seed in (None, seed) else f"{seed} (data {data_seed})"


def _relative(path: pathlib.Path, out: pathlib.Path) -> str:
    """Returns a path relative to the report's folder if it lies below it, else the whole path."""
    path, out = path.resolve(), out.resolve()
    return os.path.relpath(path, out) if path.is_relative_to(out) else str(path)
