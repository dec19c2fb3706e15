"""Draws the eigenvalues of the Hessian: their density, and the outer ones of frequent and rare classes."""

import pathlib
from typing import Any

import numpy as np

from cbjax.host.text import csv_line
from cbjax.host.writers import replace
from cbjax.landscape.drawing import in_both_forms
from cbjax.landscape.spectrum import Curvature, Spectrum
from cbjax.report import canvas

MOST_CLASSES = 40  # rows of a picture


def draw(curvature: Curvature, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws density.png and eigenvalues.png, each with its SVG; returns the PNGs."""
    paths = [folder / "density.png", folder / "eigenvalues.png"]
    groups = [part for part in curvature.parts if not part.name.startswith("class ")]
    with in_both_forms(folder):
        _density(paths[0], groups or list(curvature.parts)[:5])
        _eigenvalues(paths[1], curvature)
    return [path for path in paths if path.exists()]


def write_table(curvature: Curvature, folder: pathlib.Path) -> None:
    """Writes curvature.csv: a row for each part."""
    heads = ["part", "images", "largest eigenvalue", "its error is at most", "smallest eigenvalue"]
    heads += ["its error is at most", "trace", "standard error of the trace"]
    rows: list[list[Any]] = []
    for part in curvature.parts:
        low, high = part.residuals
        numbers = (part.largest, high, part.smallest, low, part.trace, part.trace_error)
        rows.append([part.name, part.images, *("" if np.isnan(one) else f"{one:.6g}" for one in numbers)])
    replace(folder / "curvature.csv", ("\n".join(map(csv_line, [heads, *rows])) + "\n").encode())


@canvas.drawing
def _density(path: pathlib.Path, parts: list[Spectrum]) -> None:
    figure = canvas.figure(7, 0.9 + 1.25 * len(parts))
    panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    # One width for all, so that equal eigenvalues look equal.
    widest = max(part.largest for part in parts) - min(part.smallest for part in parts)
    found = [part.density(2000, 0.005 * widest / max(part.largest - part.smallest, 1e-9 * widest)) for part in parts]
    highest = max(float(values.max()) for _, values in found)
    for axes, part, (grid, values), place in zip(panels, parts, found, range(len(parts)), strict=True):
        floor = highest * 1e-7
        colour = canvas.COLOURS[place % len(canvas.COLOURS)]
        axes.fill_between(grid, np.maximum(values, floor), floor, color=colour, alpha=0.6, lw=0)
        axes.set_yscale("log")
        axes.set_ylim(floor, highest * 2)
        axes.axvline(0, color=canvas.GREY, lw=0.8, ls=":")
        canvas.finish(axes, "", "", "")
        axes.set_title(canvas.short(_label(part), 40), fontsize=9, loc="left")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    figure.supxlabel("eigenvalue of the Hessian", fontsize=9)
    figure.supylabel("density", fontsize=9)
    canvas.save(figure, path)


@canvas.drawing
def _eigenvalues(path: pathlib.Path, curvature: Curvature) -> None:
    parts = curvature.parts[:MOST_CLASSES]
    figure = canvas.figure(9, 0.8 + 0.27 * len(parts))
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 3))
    rows = np.arange(len(parts))
    low, high = zip(*(part.residuals for part in parts), strict=True)
    smallest, largest = [part.smallest for part in parts], [part.largest for part in parts]
    traces, errors = [part.trace for part in parts], np.nan_to_num([part.trace_error for part in parts])
    for axes, values, bars, label, colour in (
        (left, smallest, low, "smallest eigenvalue", canvas.COLOURS[1]),
        (middle, largest, high, "largest eigenvalue", canvas.COLOURS[0]),
        (right, traces, errors, "trace", canvas.COLOURS[2]),
    ):
        axes.errorbar(values, rows, xerr=bars, fmt="o", ms=4.5, color=colour, lw=1)
        axes.axvline(0, color=canvas.GREY, lw=0.8, ls=":")
        canvas.finish(axes, "", label, "", grid="x")
        axes.tick_params(axis="y", length=0)
    left.set_yticks(rows, [canvas.short(_label(part), 34) for part in parts], fontsize=8)
    left.set_ylim(len(parts) - 0.4, -0.6)
    canvas.save(figure, path)


def _label(part: Spectrum) -> str:
    return f"{part.name} ({part.images} image{'' if part.images == 1 else 's'})"
