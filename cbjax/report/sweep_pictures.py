"""Draws the pictures of a sweep from its rows, and writes the lines of the report that show them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.host.text import escape
from cbjax.report import class_files, sweep_plots
from cbjax.report.comparison import classes_section, same_data
from cbjax.report.methods import group
from cbjax.report.paper_table import figures_of, measure_of, row_key
from cbjax.report.read import read_json, read_runs
from cbjax.report.sections import picture
from cbjax.report.sweep_table import read_setting

# Values in the papers' figures; the sweep's own values are added.
BETAS = (0.9, 0.99, 0.999, 0.9999)
TAUS = (0.5, 1.0, 1.5, 2.0, 5.0)
PANELS = 12  # most columns of a table that are drawn against a setting


def sweep_pictures(
    place: pathlib.Path,
    out: pathlib.Path,
    table: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    runs: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Draws the pictures of a sweep and returns the lines that show them.

    Args:
      place: the sweep's folder.
      out: the folder of the pictures.
      table: layout of its table (`sweep_table.as_json`).
      rows: rows of its results.
      runs: all its runs, in order, as in `sweep.json`.
    """
    for path in (*(out / name for name in sweep_plots.PICTURES), *out.glob("settings_[0-9].png")):
        path.unlink(missing_ok=True)
        path.with_suffix(".svg").unlink(missing_ok=True)
    figures = figures_of(rows, "last")
    measure, columns = measure_of(table), [name for name in table["column_names"] if _has(figures, name)]
    lines = list(dict.fromkeys(row_key(row) for row in table["row_names"]))
    lines = [line for line in lines if any((line, column) in figures for column in columns)]
    if not lines:
        return []
    cells = {(_name(line), column): values for (line, column), values in figures.items()}
    sweep_plots.matrix(out / "matrix.png", [_name(line) for line in lines], columns, cells, measure, table["columns"])
    shown = [picture(out / "matrix.png", f"Mean {measure}, last epoch")]
    shown += _settings(out, table, lines, columns, figures, measure)
    if betas := _numbers("beta", "class_balanced", place, table, lines, runs):
        shown += _weights_of_counts(place, out, [run["name"] for run in runs], sorted({*BETAS, *betas}))
    if taus := _numbers("tau", "difficulty", place, table, lines, runs):
        sweep_plots.weights_by_difficulty(out / "weights_by_difficulty.png", sorted({*TAUS, *taus}))
        shown += [picture(out / "weights_by_difficulty.png", "Weight against difficulty")]
    return shown


def sweep_classes(place: pathlib.Path, out: pathlib.Path, description: Mapping[str, Any]) -> list[str]:
    """Draws training images and accuracy of each class for a table of several metrics; returns the lines about them.

    Nothing is drawn if the runs have different data, or if only their rows are left.

    Args:
      place: the sweep's folder.
      out: the folder of the pictures.
      description: the content of `sweep.json`.

    Source: Sinha et al. 2020, figure 1.
    """
    table = description["table"]
    if isinstance(table["metric"], str):
        return []
    for name in ("classes.png", "classes.svg", *class_files.COMPARED):
        (out / name).unlink(missing_ok=True)
    folders = [
        (_name(row_key([run["labels"][axis] for axis in table["rows"]])), place / run["name"])
        for run in description["runs"]
        if (place / run["name"] / "results.json").exists()
    ]
    runs = read_runs(folders)[0] if folders else []
    methods, _ = group([run for run in runs if run.results is not None])
    return classes_section(methods, out) if methods and same_data(methods) else []


def _has(figures, column):
    return any(known == column for _, known in figures)


def _name(line):
    return " ".join(filter(None, line))


def _numbers(kind, weights, place, table, lines, runs):
    """Returns the values of a setting in the rows whose runs have these class weights: other things have a tau, too.

    A row whose runs do not say what their weights are counts: its sweep was trained elsewhere.
    """
    of_line: dict[tuple[str, str], set[str | None]] = {}
    for run in runs:
        line = row_key([run["labels"][axis] for axis in table["rows"]])
        of_line.setdefault(line, set()).add(run.get("weights") or _weights_there(place / run["name"]))
    kept = [line for line in lines if {weights, None} & of_line.get(line, {None})]
    return {number for line in kept for name, number, _ in _settings_of(line) if name == kind}


def _weights_there(workdir):
    try:
        return read_json(workdir / "config.json")["weights"]["name"]
    except (ValueError, KeyError, TypeError):  # the run is not here, or is damaged
        return None


def _weights_of_counts(place, out, runs, betas):
    """Draws what beta does to the classes of the first run whose data are known."""
    for run in runs:
        try:
            counts = np.asarray(read_json(place / run / "data.json")["counts"])
        except (ValueError, KeyError):  # the run has not begun here, or is damaged
            continue
        if (counts := counts[counts > 0]).size:
            sweep_plots.effective_number(out / "effective_number.png", counts, betas)
            sweep_plots.weights_by_count(out / "weights_by_count.png", counts, sorted({0.0, *betas}))
            return [
                picture(out / "effective_number.png", f"Effective number of images of each class, data of {run}"),
                picture(out / "weights_by_count.png", f"Weight against training images, data of {run}"),
            ]
    return []


def _settings(out, table, lines, columns, figures, measure):
    """Draws a picture for each setting with several values, the most common setting first.

    In a grid of two settings both are equally common. Then the one with more values comes first, and its picture has a
    line for each value of the other. A setting gets no picture if the earlier ones show all its rows.
    """
    found: dict[str, dict[str, dict[float, tuple[str, str]]]] = {}
    for line in lines:
        for kind, number, method in _settings_of(line):
            found.setdefault(kind, {}).setdefault(method, {})[number] = line
    found = {kind: {method: of for method, of in methods.items() if len(of) > 1} for kind, methods in found.items()}
    shown: list[str] = []
    drawn: set[tuple[str, str]] = set()
    names = ["settings.png", *(f"settings_{number}.png" for number in range(2, 10))]
    for kind, methods in sorted(
        found.items(), key=lambda item: (sum(map(len, item[1].values())), -len(item[1])), reverse=True
    ):
        own = {line for of in methods.values() for line in of.values()}
        if names and not own <= drawn:
            drawn |= own
            others = [line for line in lines if line not in own]
            shown += _setting(out / names.pop(0), kind, methods, table, others, columns, figures, measure)
    return shown


def _setting(path, kind, methods, table, others, columns, figures, measure):
    """Draws methods against their values of a setting, a panel for each column. Other rows are level lines."""
    printed = {(row_key(one["row"]), one["column"]): one["mean"] for one in table["paper"]}
    panels, left_out = {}, []
    for column in columns:
        curves = {method: _of_column(figures, of, column) for method, of in methods.items()}
        if len({number for curve in curves.values() for number in curve}) < 2:
            left_out.append(column)
        else:
            panels[f"{table['columns']} {column}"] = sweep_plots.Panel(
                curves={method: curve for method, curve in curves.items() if curve},
                levels={_name(line): figures[line, column] for line in others if (line, column) in figures},
                paper={method: _of_column(printed, of, column) for method, of in methods.items()},
            )
    shown = []
    if panels:
        sweep_plots.against_setting(path, kind, dict(list(panels.items())[:PANELS]), measure)
        shown.append(picture(path, f"{', '.join(methods)}: {measure} by {kind}"))
    if surplus := ", ".join(map(escape, list(panels)[PANELS:])):
        shown.append(f"Not drawn by {escape(kind)}, since a picture has {PANELS} panels: {surplus}.")
    if left_out:
        names = ", ".join(escape(column) for column in left_out)
        shown.append(
            f"Not drawn by {escape(kind)}, for fewer than two of its values: {escape(table['columns'])} {names}."
        )
    return shown


def _settings_of(line):
    """Yields, for each setting of a row, its name, its number and the rest of the row's name."""
    parts = line[1].split(", ")
    for place, part in enumerate(parts):
        if (read := read_setting(part)) is not None:
            yield *read, _name((line[0], ", ".join(parts[:place] + parts[place + 1 :])))


def _of_column(figures, lines, column):
    return {number: figures[line, column] for number, line in lines.items() if (line, column) in figures}
