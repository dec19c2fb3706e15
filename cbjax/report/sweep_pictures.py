"""Which pictures the rows of a sweep give, and under which words they stand in its report."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.report import sweep_plots
from cbjax.report.paper_table import NAMES, figures_of
from cbjax.report.sections import PANELS, picture

BETAS = (0.9, 0.99, 0.999, 0.9999)
TAUS = (0.5, 1.0, 1.5, 2.0, 5.0)


def sweep_pictures(
    place: pathlib.Path, out: pathlib.Path, table: Mapping[str, Any], rows: Sequence[Mapping[str, str]]
) -> list[str]:
    """Draws the pictures of a sweep and returns the lines that show them.

    Args:
      place: the sweep's folder.
      out: the folder of the pictures.
      table: its layout (`variants.table_as_json`).
      rows: its rows.
    """
    for name in sweep_plots.PICTURES:
        (out / name).unlink(missing_ok=True)
    figures = figures_of(rows, "last")
    measure, columns = NAMES[table["metric"]], [name for name in table["column_names"] if _has(figures, name)]
    lines = list(dict.fromkeys((row[0], ", ".join(row[1:])) for row in table["row_names"]))
    lines = [line for line in lines if any((line, column) in figures for column in columns)]
    if not lines:
        return []
    named = {line: " ".join(part for part in line if part) for line in lines}
    means = {(named[line], column): values for (line, column), values in figures.items() if line in named}
    sweep_plots.matrix(out / "matrix.png", [named[line] for line in lines], columns, means, measure)
    shown = [picture("matrix.png", f"Mean {measure}, last epoch")]
    shown += _settings(out, table, lines, columns, figures, measure)
    settings = {found[0] for _, setting in lines if (found := sweep_plots.read_setting(setting))}
    run = next(place.rglob("data.json"), None)
    if "beta" in settings and run is not None:
        counts, of_run = np.asarray(json.loads(run.read_text())["counts"]), f"data of {run.parent.relative_to(place)}"
        sweep_plots.effective_number(out / "effective_number.png", counts, BETAS)
        sweep_plots.weights_by_count(out / "weights_by_count.png", counts, BETAS)
        shown += [picture("effective_number.png", f"Effective number of images of each class, {of_run}")]
        shown += [picture("weights_by_count.png", f"Weight against training images, {of_run}")]
    if "tau" in settings:
        sweep_plots.weights_by_difficulty(out / "weights_by_difficulty.png", TAUS)
        shown += [picture("weights_by_difficulty.png", "Weight against difficulty")]
    return shown


def _has(figures, column):
    return any(known == column for _, known in figures)


def _settings(out, table, lines, columns, figures, measure):
    """Draws the method whose setting has the most values; the others are level lines."""
    curves: dict[tuple[str, str], list[tuple[float, tuple[str, str]]]] = {}
    for line in lines:
        found = sweep_plots.read_setting(line[1])
        if found is not None:
            curves.setdefault((line[0], found[0]), []).append((found[1], line))
    curves = {key: points for key, points in curves.items() if len(points) > 1}
    if not curves or len(columns) > PANELS:
        return []
    (method, name), points = max(curves.items(), key=lambda item: len(item[1]))
    others = [line for line in lines if sweep_plots.read_setting(line[1]) is None]
    printed = {((one["row"][0], ", ".join(one["row"][1:])), one["column"]): one["mean"] for one in table["paper"]}
    drawn, levels, paper = {}, {}, {}
    for column in columns:
        title = f"{table['columns']} {column}"
        curve = {number: figures[line, column] for number, line in points if (line, column) in figures}
        if curve:
            drawn[title] = curve
        levels[title] = {
            " ".join(filter(None, line)): figures[line, column] for line in others if (line, column) in figures
        }
        paper[title] = {number: printed[line, column] for number, line in points if (line, column) in printed}
    sweep_plots.against_setting(out / "settings.png", method, name, drawn, levels, paper, measure)
    return [picture("settings.png", f"{method}: {measure} by {name}")]
