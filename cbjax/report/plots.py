"""Draws the pictures of a report, without matplotlib's global state: each function writes one PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.report import canvas
from cbjax.report.table import by_frequency, group_spans

NAMED = 30  # most class names that fit next to an axis
LEGEND = 12  # most names that fit into a legend
CELL = 14  # most letters of a name next to a row of a confusion table
COUNTED = 12  # confusion tables of up to so many classes show their numbers

Curve = tuple[np.ndarray, np.ndarray]  # [E] epochs, [n, E] values of n runs, NaN where a run has none


@canvas.drawing
def classes(
    path: pathlib.Path,
    names: Sequence[str],
    counts: np.ndarray,
    accuracy: Mapping[str, np.ndarray],
    measure: str = "test accuracy",
    noun: str = "image",
) -> None:
    """Draws training images and accuracy of each class side by side, from the most frequent class to the rarest.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      accuracy: method -> [n, C] accuracies of its n runs; NaN for a class without test images, which has no mark.
      measure: what the accuracies are.
      noun: what the counts count.

    Source: Sinha et al. 2020, figure 1.
    """
    order = by_frequency(counts)
    if len(order) <= NAMED:
        _few_classes(path, [names[c] for c in order], counts[order], _ordered(accuracy, order), measure, noun)
    else:
        _many_classes(path, [names[c] for c in order], counts[order], _ordered(accuracy, order), measure, noun)


@canvas.drawing
def curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Curve]],
    best_epochs: Mapping[str, Sequence[float]] | float | None = None,
) -> None:
    """Draws training curves: a panel per quantity, a line per label. Lines are means over runs, bands ± one deviation.

    A quantity in percent is drawn from 0 to 100. Another one that falls to a tenth or less has a logarithmic axis.

    Args:
      path: the PNG to write.
      panels: label of the vertical axis -> (label of the line -> curve).
      best_epochs: the epoch to mark in all panels; or label of a line -> the best epoch of each of its runs.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    shown = canvas.distinct(labels)
    # Panels that share no line, such as a run's loss and its accuracies, each have their own legend.
    apart = len(panels) > 1 and sum(map(len, panels.values())) == len(labels)
    beside = 0.0 if apart else canvas.beside(labels)
    figure, all_axes = canvas.grid(panels, width=4.4, height=3.6, beside=beside, sharey=False)
    runs = [len(values) for lines in panels.values() for _, values in lines.values()]
    for axes, (quantity, lines) in zip(all_axes, panels.items(), strict=True):
        # At least one run has a value at every epoch of a curve.
        number = {label: (~np.isnan(values)).sum(axis=0) for label, (_, values) in lines.items()}
        means = {label: np.nansum(values, axis=0) / number[label] for label, (_, values) in lines.items()}
        lowest, highest = _limits(quantity, means)
        for label, (epochs, values) in lines.items():
            style, mean = canvas.style(labels.index(label)), means[label]
            axes.plot(epochs, mean, label=shown[label], lw=1.6, **style, **canvas.marker(epochs))
            if len(values) > 1:
                deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(number[label] - 1, 1))
                band = np.clip([mean - deviation, mean + deviation], lowest, highest)
                axes.fill_between(epochs, *band, color=style["color"], alpha=0.15, lw=0)
            if isinstance(best_epochs, Mapping) and "%" in quantity and (best := best_epochs.get(label)):
                at = np.interp(best, epochs, mean)
                axes.plot(best, at, ls="", marker="o", ms=5, mfc="white", mec=style["color"], clip_on=False, zorder=3)
        if isinstance(best_epochs, float | int):
            axes.axvline(best_epochs, color=canvas.GREY, lw=1, ls=":", label=f"best epoch ({best_epochs:g})")
        if "%" not in quantity and lowest > 0:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.8 * lowest)
        canvas.finish(axes, "", "epoch", quantity)
        canvas.whole_numbers(axes)
        if "%" in quantity:
            axes.set_ylim(0, 100)
        if apart:
            axes.legend(fontsize=8, frameon=False)
    if not apart:
        about = [f"{canvas.mean_of(runs)},\nband: ± standard deviation"] if max(runs) > 1 else []
        about += ["circle: best epoch of a run"] if isinstance(best_epochs, Mapping) and best_epochs else []
        canvas.legend_beside(figure, "\n".join(about))
    canvas.save(figure, path)


def _limits(quantity: str, means: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Returns the range that bands may cover; a lowest value above 0 asks for a logarithmic axis."""
    if "%" in quantity:
        return 0.0, 100.0
    values = np.concatenate([mean[np.isfinite(mean)] for mean in means.values()])
    lowest, highest = values.min(initial=np.inf), values.max(initial=-np.inf)
    return (float(lowest), np.inf) if 0 < 10 * lowest <= highest else (-np.inf, np.inf)


@canvas.drawing
def confusion(
    path: pathlib.Path,
    names: Sequence[str],
    counts: np.ndarray,
    tables: Mapping[str, np.ndarray],
    noun: str = "image",
) -> None:
    """Draws which classes each true class's test images were given, in percent; from the most frequent to the rarest.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      tables: method -> [C, C] share of each true class (row) by predicted class; rows of NaN are grey.
      noun: what the counts count.
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
    titles = canvas.distinct(tables)
    for axes, (label, table) in zip(panels, tables.items(), strict=True):
        shares = 100 * table[np.ix_(order, order)]
        image = axes.imshow(shares, cmap=colours, norm=scale, interpolation="nearest")
        _class_ticks(axes, [names[c] for c in order])
        by = "" if number <= NAMED else f", by training {noun}s"
        axes.set_xlabel(f"predicted class{by}", fontsize=9)
        axes.set_ylabel(f"true class{by}", fontsize=9)
        axes.set_title(titles[label], fontsize=10)
        if number <= COUNTED:
            for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
                share = shares[row, column]
                colour = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
    canvas.label_outer(panels)
    bar = figure.colorbar(image, ax=panels, shrink=0.75)
    bar.set_label(f"% of the true class's test {noun}s", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    canvas.save(figure, path)


def _few_classes(path, names, counts, accuracy, measure, noun) -> None:
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
    shown = canvas.distinct(accuracy)
    for index, (offset, (label, values)) in enumerate(zip(offsets, accuracy.items(), strict=True)):
        mean, deviation = _mean_and_deviation(values)
        style = {"color": canvas.style(index)["color"], "label": shown[label]}
        # Bars end at 0 and 100 %: no accuracy lies beyond.
        bar = None if deviation is None else np.minimum([deviation, deviation], [100 * mean, 100 - 100 * mean])
        if len(accuracy) == 1:
            right.barh(rows, 100 * mean, height=0.7, xerr=bar, error_kw={"lw": 1}, **style)
        else:
            marker = "osD^vP*X<>"[index % 10]
            whole = {"clip_on": False, "zorder": 3}  # a marker at 0 or 100 % is not cut
            right.errorbar(100 * mean, rows + offset, xerr=bar, fmt=marker, ms=5, lw=1, **style, **whole)
    # Without a word a class that was not measured would look like 0 %.
    for row in np.flatnonzero(np.all([np.isnan(values).all(axis=0) for values in accuracy.values()], axis=0)):
        right.annotate(
            f"no {noun}s", (0, row), (3, 0), textcoords="offset points", va="center", fontsize=8, color=canvas.GREY
        )
    right.set_xlim(0, 100)
    shown = canvas.distinct(names, 24)
    left.set_yticks(rows, [shown[name] for name in names], fontsize=9)
    left.set_ylim(len(names) - 0.4, -0.6)
    runs = [len(values) for values in accuracy.values()]
    bars = f"\n{canvas.mean_of(runs)}, bars: ± standard deviation" if max(runs) > 1 else ""
    for axes, label in ((left, f"training {noun}s"), (right, f"{measure} (%){bars}")):
        canvas.finish(axes, "", label, "", grid="x")
        axes.tick_params(axis="y", length=0)
        canvas.mark_groups(axes, group_spans(counts), "y", named=axes is right)
    if len(accuracy) > 1:
        canvas.legend_beside(figure, "")
    canvas.save(figure, path)


def _many_classes(path, names, counts, accuracy, measure, noun) -> None:
    """Draws classes by rank, as means over neighbouring classes; a single method also has a point for each class."""
    figure = canvas.figure(9 + (canvas.beside(accuracy) if len(accuracy) > 1 else 1.0), 3.8)
    left, right = figure.subplots(1, 2)
    ranks = np.arange(1, len(names) + 1)
    # A logarithmic scale has no 0, so classes without training images lie at its floor.
    floor = 0.7 * max(int(counts.min()), 1)
    left.fill_between(ranks, np.maximum(counts, floor), floor, color="#8a8a8a", step="mid", lw=0)
    left.set_yscale("log")
    left.set_ylim(floor, max(int(counts.max()), 1) * 1.5)
    window, shown = max(5, len(names) // 20 | 1), canvas.distinct(accuracy)
    for index, (label, values) in enumerate(accuracy.items()):
        mean = 100 * _mean_and_deviation(values)[0]
        style = canvas.style(index)
        if len(accuracy) == 1:
            size = 12 if len(names) <= 1000 else 2
            right.scatter(ranks, mean, s=size, color="#56B4E9", lw=0, label="one class")
        name = f"mean of {window} neighbours" if len(accuracy) == 1 else shown[label]
        right.plot(ranks, _running_mean(mean, window), lw=1.8, label=name, **style)
    right.set_ylim(0, 102)
    counted = f"training {noun}s"
    span = f"classes from the most ({canvas.short(names[0])}) to the fewest ({canvas.short(names[-1])}) {counted}"
    canvas.finish(left, "", "", counted)
    canvas.finish(right, "", "", f"{measure} (%)".replace(", ", ",\n"))
    for axes in (left, right):
        axes.set_xlim(0.5, len(names) + 0.5)
        canvas.mark_groups(axes, {name: (a + 1, b + 1) for name, (a, b) in group_spans(counts).items()}, "x")
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
        shown = canvas.distinct(names, CELL)
        ticks, labels = np.arange(len(names)), [shown[name] for name in names]
        turn = 90 if max(len(label) for label in labels) > 2 else 0
        axes.set_xticks(ticks, labels, rotation=turn, fontsize=8)
        axes.set_yticks(ticks, labels, fontsize=8)
        return
    ends, labels = [0, len(names) - 1], ["most", "fewest"]
    axes.set_xticks(ends, labels, fontsize=8)
    axes.set_yticks(ends, labels, fontsize=8)
