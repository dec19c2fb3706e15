"""Draws pictures of a sweep like the papers' figures: errors as a matrix, errors against a setting, and weights."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from cbjax import difficulty, weights
from cbjax.report import canvas

PICTURES = ("matrix.png", "settings.png", "effective_number.png", "weights_by_count.png", "weights_by_difficulty.png")
DASHES: tuple[Any, ...] = ("--", "-.", (0, (10, 3)), (0, (1, 1.5)), (0, (8, 2, 1, 2, 1, 2)))  # for level lines
CELL = 10  # width of a cell in letters
Figures = Mapping[tuple[str, str], Sequence[float]]  # (row, column) -> the figures of its runs, in per cent


@canvas.drawing
def matrix(
    path: pathlib.Path, rows: Sequence[str], columns: Sequence[str], figures: Figures, measure: str, across: str
) -> None:
    """Draws a table's means as a matrix with colours and numbers; each column has its own range of colours.

    Args:
      path: the PNG to write.
      rows: names from top to bottom.
      columns: names from left to right.
      figures: figures at the last epoch; a cell without any stays empty.
      measure: name of the figures.
      across: name of the axis of columns.

    Source: Cui et al. 2019, figures 8 to 10.
    """
    means = np.array([[np.mean(figures.get((row, column), [np.nan])) for column in columns] for row in rows])
    lowest, highest = np.nanmin(means, axis=0), np.nanmax(means, axis=0)
    shades = (means - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
    numbers = [len(values) for (row, column), values in figures.items() if row in rows and column in columns]
    title = f"{measure}: {canvas.mean_of(numbers)}, last epoch"
    below, beside = ([canvas.distinct(names)[name] for name in names] for names in (columns, rows))
    deviations = any(len(values) > 1 for values in figures.values())
    longest = max(map(len, below))
    # Names that are wider than a cell are turned, or they would overlap.
    turn = {} if longest <= CELL else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    width = 1.6 + 0.75 * len(columns) + 0.07 * max(map(len, beside))
    height = 1.4 + (0.42 if deviations else 0.32) * len(rows) + (0.05 * longest if turn else 0)
    # Wide enough for the title; what follows its comma may go into a second line.
    figure = canvas.figure(max(width, 0.3 + canvas.LETTER * (len(title) + 1)), height)
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(shades), cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for i, j in np.argwhere(np.isfinite(means)):
        values = figures[rows[i], columns[j]]
        low = 0.2 if len(values) > 1 else 0.0
        axes.text(j, i - low, f"{means[i, j]:.2f}", ha="center", va="center", fontsize=8)
        if low:
            axes.text(j, i + low, f"±{np.std(values, ddof=1):.2f}", ha="center", va="center", fontsize=6.5)
    axes.set_xticks(range(len(columns)), below, **turn)
    axes.set_yticks(range(len(rows)), beside)
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel(canvas.short(across, canvas.LEGEND), fontsize=9)
    bar = figure.colorbar(
        image, ax=axes, shrink=min(1.0, 1.6 / (height - 1)), aspect=12, boundaries=np.linspace(0, 1, 65)
    )
    bar.set_ticks([0, 1], labels=["lowest\nof its column", "highest\nof its column"], fontsize=7)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    canvas.head(figure, f"{title}{', with ± standard deviation' if deviations else ''}")
    axes.spines[:].set_visible(False)
    canvas.save(figure, path)


@dataclasses.dataclass(frozen=True)
class Panel:
    """A column of a table that is drawn against a setting.

    Attributes:
      curves: method -> value of the setting -> the figures of its runs.
      levels: another row -> its figures, drawn as a level line.
      paper: method -> value of the setting -> what the paper prints.
    """

    curves: Mapping[str, Mapping[float, Sequence[float]]]
    levels: Mapping[str, Sequence[float]]
    paper: Mapping[str, Mapping[float, float]]


@canvas.drawing
def against_setting(path: pathlib.Path, name: str, panels: Mapping[str, Panel], measure: str) -> None:
    """Draws a metric against a setting, a panel per column of the table; bars are ± one standard deviation.

    A single run has no bar.

    Args:
      path: the PNG to write.
      name: name of the setting, such as "beta".
      panels: title -> panel.
      measure: name of the figures.

    Source: Cui et al. 2019, figure 5 (beta); Sinha et al. 2020, tables 2 and 4 (tau).
    """
    methods = list(dict.fromkeys(method for panel in panels.values() for method in panel.curves))
    others = list(dict.fromkeys(other for panel in panels.values() for other in panel.levels))
    places_of_levels = _levels(methods, others)
    shown = canvas.distinct([*methods, *others])
    ours = canvas.distinct(methods, canvas.LEGEND - 11)
    theirs = {method: f"{ours[method]}, the paper" for method in methods}
    width = canvas.beside([*others, *theirs.values()])
    figure, places = canvas.grid(panels, width=3.4, height=2.9, beside=width, sharey=False)
    for axes, (title, panel) in zip(places, panels.items(), strict=True):
        # Values are evenly spaced, since values of beta crowd near 1.
        numbers = sorted({number for curve in panel.curves.values() for number in curve})
        for method, curve in panel.curves.items():
            own = [number for number in numbers if number in curve]
            x, style = [numbers.index(number) for number in own], canvas.style(methods.index(method))
            means = [np.mean(curve[number]) for number in own]
            deviations = [np.std(curve[number], ddof=1) if len(curve[number]) > 1 else np.nan for number in own]
            # Drawn apart from the bars, so that the legend lists all lines in their order.
            axes.plot(x, means, marker="o", ms=4, lw=1.4, label=shown[method], **style)
            axes.errorbar(x, means, deviations, fmt="none", capsize=2, lw=1.4, ecolor=style["color"])
            printed = [panel.paper.get(method, {}).get(number, np.nan) for number in own]
            if np.any(np.isfinite(printed)):
                colour = canvas.GREY if len(methods) == 1 else style["color"]
                axes.plot(x, printed, color=colour, marker="x", ms=4, lw=1.2, ls=":", label=theirs[method])
        for other, values in panel.levels.items():
            place = places_of_levels[other]
            dashes = DASHES[place // len(canvas.COLOURS) % len(DASHES)]
            colour = canvas.style(place)["color"]
            axes.axhline(np.mean(values), lw=1.2, label=shown[other], color=colour, linestyle=dashes)
        axes.set_xticks(range(len(numbers)), [f"{number:g}" for number in numbers])
        canvas.finish(axes, title, canvas.short(name, canvas.LEGEND), measure)
    curves = [curve for panel in panels.values() for curve in panel.curves.values()]
    runs = [len(values) for curve in curves for values in curve.values()]
    bars = "; bars: ± standard deviation" if max(runs) > 1 else ""
    runs += [len(values) for panel in panels.values() for values in panel.levels.values()]
    canvas.head(figure, f"{canvas.mean_of(runs)}, last epoch{bars}")
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)


def _levels(methods: Sequence[str], others: Sequence[str]) -> dict[str, int]:
    """Returns level line -> index of its style: "softmax" shares it with "CB softmax", others have their own."""
    found: dict[str, int] = {}
    free = itertools.count(len(methods))
    for other in others:
        partners = [place for place, method in enumerate(methods) if method.endswith(f" {other}")]
        place = next((place for place in partners if place not in found.values()), None)
        found[other] = next(free) if place is None else place
    return found


@canvas.drawing
def effective_number(path: pathlib.Path, counts: np.ndarray, betas: Sequence[float]) -> None:
    """Draws the effective number of images of each class for each beta, from the most frequent class to the rarest.

    Source: Cui et al. 2019, figure 6.
    """
    ordered = np.sort(counts)[::-1]
    figure = canvas.figure(5.0, 3.2)
    axes = figure.subplots()
    place = np.arange(1, len(ordered) + 1)
    axes.plot(place, ordered, color=canvas.GREY, lw=1.4, ls=":", label="images")
    for index, beta in enumerate(betas):
        number = weights.effective_number(ordered, beta)
        axes.plot(place, number, lw=1.4, label=f"beta {beta:g}", **canvas.style(index))
    axes.set_yscale("log")
    canvas.whole_numbers(axes)
    canvas.finish(axes, "Effective number of images", "class, by frequency", "images")
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)


@canvas.drawing
def weights_by_count(path: pathlib.Path, counts: np.ndarray, betas: Sequence[float]) -> None:
    """Draws a class's weight before scaling, 1 / effective number, against its images for each beta.

    Source: Cui et al. 2019, figure 3.
    """
    numbers = np.unique(np.geomspace(max(int(counts.min()), 1), max(int(counts.max()), 2), 100).astype(int))
    figure = canvas.figure(5.0, 3.2)
    axes = figure.subplots()
    for place, beta in enumerate(betas):
        axes.plot(
            numbers, 1 / weights.effective_number(numbers, beta), lw=1.4, label=f"beta {beta:g}", **canvas.style(place)
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    canvas.finish(axes, "Weight of a class, before scaling", "training images", "1 / effective number", grid="both")
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)


@canvas.drawing
def weights_by_difficulty(path: pathlib.Path, taus: Sequence[float]) -> None:
    """Draws CDB's weight before scaling against a class's difficulty for each tau.

    Source: Sinha et al. 2020, figure 2.
    """
    accuracy = jnp.linspace(0.0, 1.0, 101)
    figure = canvas.figure(5.0, 3.2)
    axes = figure.subplots()
    for place, tau in enumerate(taus):
        weight = difficulty.difficulty_weights(accuracy, tau, floor=0.0, scale=False)
        axes.plot(1 - accuracy, weight, lw=1.4, label=f"tau {tau:g}", **canvas.style(place))
    canvas.finish(axes, "Weight of a class, before scaling", "difficulty: 1 - accuracy", "weight", grid="both")
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)
