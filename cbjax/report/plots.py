"""Draws the pictures of a report, without matplotlib's global state: each function writes one PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.report import canvas
from cbjax.report.swings import Swing
from cbjax.report.table import by_frequency

NAMED = 30  # most class names that fit next to an axis
LEGEND = 12  # most names that fit into a legend
CELL = 14  # most letters of a name next to a row of a confusion table
COUNTED = 12  # confusion tables of up to so many classes show their numbers
THINNED = 200  # with more classes, a line for each would be only ink

Curve = tuple[np.ndarray, np.ndarray]  # [E] epochs, [n, E] values of n runs, NaN where a run has none


@canvas.drawing
def classes(
    path: pathlib.Path,
    names: Sequence[str],
    counts: np.ndarray,
    accuracy: Mapping[str, np.ndarray],
    measure: str = "test accuracy",
) -> None:
    """Draws training images and accuracy of each class side by side, from the most frequent class to the rarest.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      accuracy: method -> [n, C] accuracies of its n runs; NaN for a class without test images, which has no mark.
      measure: what the accuracies are.

    Source: Sinha et al. 2020, figure 1.
    """
    order = by_frequency(counts)
    if len(order) <= NAMED:
        _few_classes(path, [names[c] for c in order], counts[order], _ordered(accuracy, order), measure)
    else:
        _many_classes(path, [names[c] for c in order], counts[order], _ordered(accuracy, order), measure)


@canvas.drawing
def class_lines(
    path: pathlib.Path,
    names: Sequence[str],
    counts: np.ndarray,
    values: Mapping[str, Curve],
    groups: Mapping[str, Any],
    quantity: str,
    swings: Mapping[str, Swing],
) -> None:
    """Draws a quantity of each class over the epochs: a panel per method, a line per class, coloured by frequency.

    With more than 200 classes a line is the mean of a group of classes.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      values: method -> ([E] epochs, [E, C] values); NaN if a class has none.
      groups: name of a group -> its classes.
      quantity: name of the values.
      swings: method -> epochs to mark, in which its weights swing most.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm

    figure, panels = canvas.grid(values, width=4.6, height=3.2, beside=1.6)
    # The yellow end is cut off, as it is too pale for lines on white.
    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, 256)))
    lowest = max(int(counts.min()), 1)
    scale = ScalarMappable(LogNorm(lowest, max(int(counts.max()), lowest + 1)), colours)
    if len(counts) > THINNED:
        members = [(f"{name} (mean of {len(index)})", index) for name, index in groups.items()]
    else:
        members = [(f"{canvas.short(names[c])} ({counts[c]})", [c]) for c in by_frequency(counts)]
    for axes, (label, (epochs, lines)) in zip(panels, values.items(), strict=True):
        for name, index in members:
            colour = scale.to_rgba(np.maximum(np.mean(counts[index]), lowest))
            axes.plot(epochs, lines[:, index].mean(axis=1), color=colour, lw=1.4, label=name, **canvas.marker(epochs))
        canvas.finish(axes, label, "epoch", quantity)
        canvas.whole_numbers(axes)
        if swing := swings.get(label):
            axes.axvspan(swing.first - 0.5, swing.last + 0.5, color="#D55E00", alpha=0.15, lw=0)
            said = f"swings: {100 * swing.moved:.0f} % of the weight moves each epoch"
            axes.set_title(f"{canvas.short(label, 40)}\n{said}", fontsize=10)
    canvas.label_outer(panels)
    # Only after every panel is drawn: this ends the automatic limits that the panels share.
    panels[0].set_ylim(bottom=0)
    if len(members) <= LEGEND:
        canvas.legend_beside(figure, "class (training images)" if len(counts) <= THINNED else "group of classes")
    else:
        bar = figure.colorbar(scale, ax=panels, shrink=0.9)
        bar.set_label("training images of the class", fontsize=9)
        canvas.plain_numbers(bar.ax.yaxis)
        bar.ax.tick_params(which="both", labelsize=8)
    canvas.save(figure, path)


@canvas.drawing
def curves(path: pathlib.Path, panels: Mapping[str, Mapping[str, Curve]], best_epoch: float | None = None) -> None:
    """Draws training curves: a panel per quantity, a line per label. Lines are means over runs, bands ± one deviation.

    Args:
      path: the PNG to write.
      panels: label of the vertical axis -> (label of the line -> curve).
      best_epoch: epoch to mark, or None.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    # Panels that share no line, such as a run's loss and its accuracies, each have their own legend.
    apart = len(panels) > 1 and sum(map(len, panels.values())) == len(labels)
    beside = 0.0 if apart else canvas.beside(labels)
    figure, all_axes = canvas.grid(panels, width=4.4, height=3.6, beside=beside, sharey=False)
    runs = [len(values) for lines in panels.values() for _, values in lines.values()]
    for axes, (quantity, lines) in zip(all_axes, panels.items(), strict=True):
        # At least one run has a value at every epoch of a curve.
        for label, (epochs, values) in lines.items():
            style = canvas.style(labels.index(label))
            number = (~np.isnan(values)).sum(axis=0)
            mean = np.nansum(values, axis=0) / number
            axes.plot(epochs, mean, label=canvas.short(label, canvas.LEGEND), lw=1.6, **style, **canvas.marker(epochs))
            if len(values) > 1:
                deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(number - 1, 1))
                axes.fill_between(epochs, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, lw=0)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=canvas.GREY, lw=1, ls=":", label=f"best epoch ({best_epoch:g})")
        canvas.finish(axes, "", "epoch", quantity)
        canvas.whole_numbers(axes)
        if "%" in quantity:
            axes.set_ylim(0, 100)
        if apart:
            axes.legend(fontsize=8, frameon=False)
    if not apart:
        canvas.legend_beside(figure, f"{canvas.mean_of(runs)},\nband: ± standard deviation" if max(runs) > 1 else "")
    canvas.save(figure, path)


@canvas.drawing
def confusion(path: pathlib.Path, names: Sequence[str], counts: np.ndarray, tables: Mapping[str, np.ndarray]) -> None:
    """Draws which classes each true class's test images were given, in percent; from the most frequent to the rarest.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      tables: method -> [C, C] share of each true class (row) by predicted class; rows of NaN are grey.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, PowerNorm

    order = by_frequency(counts)
    number = len(order)
    side = 4.6 if number <= COUNTED else 5.4
    figure, panels = canvas.grid(tables, width=side, height=side, beside=0.8)
    # With many classes no single error is frequent, so a square-root scale makes errors visible.
    scale = Normalize(0, 100) if number <= NAMED else PowerNorm(0.5, 0, 100)
    colours = colormaps["Blues"].with_extremes(bad="#dddddd")
    for axes, (label, table) in zip(panels, tables.items(), strict=True):
        shares = 100 * table[np.ix_(order, order)]
        image = axes.imshow(shares, cmap=colours, norm=scale, interpolation="nearest")
        _class_ticks(axes, [names[c] for c in order])
        by = "" if number <= NAMED else ", by training images"
        axes.set_xlabel(f"predicted class{by}", fontsize=9)
        axes.set_ylabel(f"true class{by}", fontsize=9)
        axes.set_title(canvas.short(label, 40), fontsize=10)
        if number <= COUNTED:
            for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
                share = shares[row, column]
                colour = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
    canvas.label_outer(panels)
    bar = figure.colorbar(image, ax=panels, shrink=0.75)
    bar.set_label("% of the true class's test images", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    canvas.save(figure, path)


def _few_classes(path, names, counts, accuracy, measure) -> None:
    """Draws one row per class, with its name."""
    beside = canvas.beside(accuracy) if len(accuracy) > 1 else 0.0
    figure = canvas.figure(9 + beside, 1.3 + 0.2 * len(names) * max(1.3, 0.55 * len(accuracy)))
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(names))
    left.barh(rows, counts, color="#8a8a8a", height=0.7)
    for row, count in zip(rows, counts, strict=True):
        left.annotate(
            f"{count}", (count, row), (3, 0), textcoords="offset points", va="center", fontsize=8, color=canvas.GREY
        )
    left.margins(x=0.12)
    offsets = (np.arange(len(accuracy)) - (len(accuracy) - 1) / 2) * min(0.2, 0.7 / len(accuracy))
    for index, (offset, (label, values)) in enumerate(zip(offsets, accuracy.items(), strict=True)):
        mean, deviation = _mean_and_deviation(values)
        style = {"color": canvas.style(index)["color"], "label": canvas.short(label, canvas.LEGEND)}
        if len(accuracy) == 1:
            right.barh(rows, 100 * mean, height=0.7, xerr=deviation, error_kw={"lw": 1}, **style)
        else:
            marker = "osD^vP*X<>"[index % 10]
            right.errorbar(100 * mean, rows + offset, xerr=deviation, fmt=marker, ms=5, lw=1, **style)
    # Without a word a class that was not measured would look like 0 %.
    for row in np.flatnonzero(np.all([np.isnan(values).all(axis=0) for values in accuracy.values()], axis=0)):
        right.annotate(
            "no images", (0, row), (3, 0), textcoords="offset points", va="center", fontsize=8, color=canvas.GREY
        )
    right.set_xlim(0, 100 if len(accuracy) == 1 else 102)
    left.set_yticks(rows, [canvas.short(name) for name in names], fontsize=9)
    left.set_ylim(len(names) - 0.4, -0.6)
    runs = [len(values) for values in accuracy.values()]
    bars = f"\n{canvas.mean_of(runs)}, bars: ± standard deviation" if max(runs) > 1 else ""
    for axes, label in ((left, "training images"), (right, f"{measure} (%){bars}")):
        canvas.finish(axes, "", label, "", grid="x")
        axes.tick_params(axis="y", length=0)
    if len(accuracy) > 1:
        canvas.legend_beside(figure, "")
    canvas.save(figure, path)


def _many_classes(path, names, counts, accuracy, measure) -> None:
    """Draws classes by rank, as means over neighbouring classes; a single method also has a point for each class."""
    figure = canvas.figure(9 + (canvas.beside(accuracy) if len(accuracy) > 1 else 1.0), 3.8)
    left, right = figure.subplots(1, 2)
    ranks = np.arange(1, len(names) + 1)
    # A logarithmic scale has no 0, so classes without training images lie at its floor.
    floor = 0.7 * max(int(counts.min()), 1)
    left.fill_between(ranks, np.maximum(counts, floor), floor, color="#8a8a8a", step="mid", lw=0)
    left.set_yscale("log")
    left.set_ylim(floor, max(int(counts.max()), 1) * 1.5)
    window = max(5, len(names) // 20 | 1)
    for index, (label, values) in enumerate(accuracy.items()):
        mean = 100 * _mean_and_deviation(values)[0]
        style = canvas.style(index)
        if len(accuracy) == 1:
            size = 12 if len(names) <= 1000 else 2
            right.scatter(ranks, mean, s=size, color="#56B4E9", lw=0, label="one class")
        name = f"mean of {window} neighbours" if len(accuracy) == 1 else canvas.short(label, canvas.LEGEND)
        right.plot(ranks, _running_mean(mean, window), lw=1.8, label=name, **style)
    right.set_ylim(0, 102)
    span = f"classes from the most ({canvas.short(names[0])}) to the fewest ({canvas.short(names[-1])}) training images"
    canvas.finish(left, "", "", "training images")
    canvas.finish(right, "", "", f"{measure} (%)".replace(", ", ",\n"))
    for axes in (left, right):
        axes.set_xlim(0.5, len(names) + 0.5)
    figure.supxlabel(span, fontsize=9)
    if len(accuracy) == 1:
        right.legend(fontsize=8, frameon=False)
    else:
        canvas.legend_beside(figure, f"mean of {window} neighbouring classes")
    canvas.save(figure, path)


def _ordered(accuracy: Mapping[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    return {label: values[:, order] for label, values in accuracy.items()}


def _mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the mean [C] of [n, C] fractions, and their deviation in percent; None for a single run."""
    mean = np.mean(values, axis=0)
    return mean, 100 * np.std(values, axis=0, ddof=1) if len(values) > 1 else None


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of each value and its neighbours; NaN and places beyond the ends do not count."""
    kernel = np.ones(window)
    known = ~np.isnan(values)
    totals = np.convolve(np.where(known, values, 0), kernel, mode="same")
    numbers = np.convolve(known, kernel, mode="same")
    return np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0)


def _class_ticks(axes: Any, names: Sequence[str]) -> None:
    if len(names) <= NAMED:
        ticks, labels = np.arange(len(names)), [canvas.short(name, CELL) for name in names]
        turn = 90 if max(len(label) for label in labels) > 2 else 0
        axes.set_xticks(ticks, labels, rotation=turn, fontsize=8)
        axes.set_yticks(ticks, labels, fontsize=8)
        return
    ends, labels = [0, len(names) - 1], ["most", "fewest"]
    axes.set_xticks(ends, labels, fontsize=8)
    axes.set_yticks(ends, labels, fontsize=8)
