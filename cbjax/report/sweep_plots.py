"""The pictures of a sweep, after the papers' figures: errors as a matrix, against a setting, and the weights behind."""

import pathlib
import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from cbjax import difficulty, weights
from cbjax.report import canvas

PICTURES = ("matrix.png", "settings.png", "effective_number.png", "weights_by_count.png", "weights_by_difficulty.png")
Figures = Mapping[tuple[str, str], Sequence[float]]  # (row, column) -> the figures of its runs, in per cent


def matrix(path: pathlib.Path, rows: Sequence[str], columns: Sequence[str], figures: Figures, measure: str) -> None:
    """Draws a table's means as a matrix of colours with their numbers, each column coloured by itself.

    Args:
      path: the PNG to write.
      rows: names from top to bottom.
      columns: names from left to right.
      figures: what was measured; a cell without any stays empty.
      measure: what the figures are.

    Source: Cui et al. 2019, figures 8 to 10.
    """
    means = np.array([[np.mean(figures.get((row, column), [np.nan])) for column in columns] for row in rows])
    lowest, highest = np.nanmin(means, axis=0), np.nanmax(means, axis=0)
    shades = (means - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
    figure = canvas.figure(1.6 + 0.75 * len(columns) + 0.07 * max(map(len, rows)), 1.2 + 0.32 * len(rows))
    axes = figure.subplots()
    axes.imshow(np.ma.masked_invalid(shades), cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for i, j in np.argwhere(np.isfinite(means)):
        axes.text(j, i, f"{means[i, j]:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), [canvas.short(name) for name in columns])
    axes.set_yticks(range(len(rows)), [canvas.short(name, 40) for name in rows])
    axes.tick_params(labelsize=8, length=0)
    figure.suptitle(f"{measure}\ndarker is higher in its column", fontsize=10)
    axes.spines[:].set_visible(False)
    canvas.save(figure, path)


def read_setting(setting: str) -> tuple[str, float] | None:
    """Returns the name and the number of a setting such as "beta 0.999"; None for any other text."""
    match = re.fullmatch(r"(.*\S) (\d+(?:\.\d+)?(?:e[+-]?\d+)?)", setting)
    return (match[1], float(match[2])) if match else None


def against_setting(
    path: pathlib.Path,
    method: str,
    name: str,
    curves: Mapping[str, Mapping[float, Sequence[float]]],
    levels: Mapping[str, Mapping[str, Sequence[float]]],
    paper: Mapping[str, Mapping[float, float]],
    measure: str,
) -> None:
    """Draws a metric against a setting, a panel per column of the table.

    Args:
      path: the PNG to write.
      method: whose setting it is.
      name: of the setting, such as "beta".
      curves: column, under the title of its panel -> value of the setting -> the figures of its runs.
      levels: column -> another method -> its figures, drawn as a level line.
      paper: column -> value of the setting -> what the paper prints.
      measure: what the figures are.

    Source: Cui et al. 2019, figure 5 (beta); Sinha et al. 2020, tables 2 and 4 (tau).
    """
    figure, panels = canvas.grid(curves, width=3.4, height=2.8, beside=1.6, sharey=False)
    others = list(dict.fromkeys(other for by_name in levels.values() for other in by_name))
    for axes, (column, points) in zip(panels, curves.items(), strict=True):
        numbers = sorted(points)
        # Values of beta crowd at 1: evenly spaced, under their own names.
        places = range(len(numbers))
        means = [np.mean(points[number]) for number in numbers]
        deviations = [np.std(points[number], ddof=1) if len(points[number]) > 1 else 0.0 for number in numbers]
        axes.errorbar(
            places, means, deviations, color=canvas.COLOURS[0], marker="o", ms=4, lw=1.4, capsize=2, label=method
        )
        printed = [paper.get(column, {}).get(number, np.nan) for number in numbers]
        if np.any(np.isfinite(printed)):
            axes.plot(places, printed, color=canvas.GREY, marker="x", ms=4, lw=1.2, ls=":", label="the paper")
        for other, values in levels.get(column, {}).items():
            colour = canvas.style(1 + others.index(other))["color"]
            axes.axhline(np.mean(values), lw=1.2, label=other, color=colour, linestyle="--")
        axes.set_xticks(places, [f"{number:g}" for number in numbers])
        canvas.finish(axes, column, name, measure)
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)


def effective_number(path: pathlib.Path, counts: np.ndarray, betas: Sequence[float]) -> None:
    """Draws the effective number of images of each class for each beta, from the most frequent class to the rarest.

    Source: Cui et al. 2019, figure 6.
    """
    ordered = np.sort(counts)[::-1]
    figure = canvas.figure(5.0, 3.2)
    axes = figure.subplots()
    axes.plot(ordered, color=canvas.GREY, lw=1.4, ls=":", label="images")
    for place, beta in enumerate(betas):
        axes.plot(weights.effective_number(ordered, beta), lw=1.4, label=f"beta {beta:g}", **canvas.style(place))
    axes.set_yscale("log")
    canvas.finish(axes, "Effective number of images", "class, by frequency", "images")
    canvas.legend_beside(figure, "")
    canvas.save(figure, path)


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
