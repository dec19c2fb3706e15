"""Draws a quantity of each class over the epochs as a map of colours: a row per class and seed, a column per epoch."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.report import canvas
from cbjax.report.swings import Swing
from cbjax.report.table import by_frequency, group_spans

NAMED = 30  # most class names that fit next to an axis
ROWS = 600  # with more rows, neighbouring classes are drawn as their mean
SWING = "#D55E00"

Maps = Mapping[str, tuple[np.ndarray, np.ndarray]]  # method -> [E] epochs, [n, E, C] values of n seeds, NaN for none


@canvas.drawing
def class_weights(
    path: pathlib.Path, names: Sequence[str], counts: np.ndarray, values: Maps, swings: Mapping[str, tuple[Swing, Any]]
) -> None:
    """Draws class weights, a panel per method. Weights that stay the same in all epochs and seeds are bars.

    Args:
      path: the PNG to write.
      names: [C] class names.
      counts: [C] training images.
      values: method -> epochs and weights.
      swings: method -> the epochs to mark, in which its weights swing most, and the seed of that run.
    """
    from matplotlib.colors import LogNorm

    # Equally far below 1 as above: a class that counts twice is as red as one that counts half is blue.
    most = max(2.0, *(float(np.nanmax(weights)) for _, weights in values.values()))
    norm = LogNorm(1 / most, most)
    scale = _scale("RdBu_r", norm)
    _draw(path, names, counts, values, swings, scale, "class weight (1: as if unweighted)", bars=True)


@canvas.drawing
def class_accuracies(
    path: pathlib.Path,
    names: Sequence[str],
    counts: np.ndarray,
    values: Maps,
    swings: Mapping[str, tuple[Swing, Any]],
    quantity: str,
) -> None:
    """Draws held-out accuracies (%), arguments as for `class_weights`."""
    from matplotlib.colors import Normalize

    _draw(path, names, counts, values, swings, _scale("viridis", Normalize(0, 100)), quantity, bars=False)


def _draw(path, names, counts, values, swings, scale, quantity, *, bars):
    order, labels = by_frequency(counts), canvas.distinct(values)
    seeds = max(len(classes) for _, classes in values.values())
    flat = {label for label, (_, classes) in values.items() if bars and np.all(classes == classes[:1, :1])}
    height = 3.2 if len(order) > NAMED else max(2.4, 0.9 + (0.19 if seeds == 1 else 0.28) * len(order))
    figure, panels = canvas.grid(values, width=4.6, height=height, beside=1.2)
    for axes, (label, (epochs, unordered)) in zip(panels, values.items(), strict=True):
        classes = unordered[:, :, order]
        if label in flat:
            wide = 0.8 if len(order) <= NAMED else 1.0
            axes.barh(np.arange(len(order)), classes[0, 0], height=wide, color="#8a8a8a", lw=0)
            canvas.finish(axes, labels[label], "class weight, all epochs", "", grid="x")
        else:
            box = (*_ends(epochs), len(order) - 0.5, -0.5)
            # Below the scale's end there are no colours; a weight of 0 has no logarithm either.
            rows = np.maximum(_rows(_evenly(epochs, classes)), scale.norm.vmin)
            axes.imshow(rows, extent=box, aspect="auto", interpolation="nearest", cmap=scale.cmap, norm=scale.norm)
            canvas.finish(axes, labels[label], "epoch", "", grid="x")
            axes.grid(visible=False)
            if len(classes) > 1 and len(order) <= NAMED:
                for place in range(1, len(order)):
                    axes.axhline(place - 0.5, color="white", lw=1)
            canvas.whole_numbers(axes)
        _mark_swing(axes, labels[label], swings.get(label))
    _class_axis(panels, [names[c] for c in order], counts[order])
    if len(flat) < len(values):
        bar = figure.colorbar(scale, ax=panels, shrink=0.9, aspect=30, pad=0.02)
        bar.set_label(quantity, fontsize=9)
        bar.ax.tick_params(which="both", labelsize=8)
        if bars:
            canvas.plain_numbers(bar.ax.yaxis)
    if seeds > 1 and len(flat) < len(values):
        canvas.head(figure, f"each class has {seeds} thin rows, one per seed")
    canvas.save(figure, path)


def _scale(colours: str, norm: Any) -> Any:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm, colormaps[colours].with_extremes(bad="#dddddd"))


def _class_axis(panels: Sequence[Any], names: Sequence[str], counts: np.ndarray) -> None:
    """Names the classes or, if there are many, their groups; marks where groups meet."""
    spans, columns = group_spans(counts), panels[0].get_subplotspec().get_gridspec().ncols
    few = len(names) <= NAMED
    if few:
        texts = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
        shown = canvas.distinct(texts, 24)
        ticks, labels = [float(place) for place in range(len(names))], [shown[text] for text in texts]
    else:
        ticks = [(first + last) / 2 for first, last in spans.values()]
        labels = [f"{name} ({last - first + 1})" for name, (first, last) in spans.items()]
    for place, axes in enumerate(panels):
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(ticks, labels, fontsize=8)
        axes.tick_params(axis="y", length=0, labelleft=place % columns == 0)
        last = place == len(panels) - 1 or place % columns == columns - 1
        canvas.mark_groups(axes, spans, "y", named=few and last)


def _mark_swing(axes: Any, label: str, found: tuple[Swing, Any] | None) -> None:
    if found is None:
        return
    swing, seed = found
    ends = [swing.first - 0.5, swing.last + 0.5]
    above = axes.get_xaxis_transform()
    axes.plot(ends, [1.015, 1.015], transform=above, color=SWING, lw=4, clip_on=False, solid_capstyle="butt")
    said = f"swings most in seed {seed}, epochs {swing.first} to {swing.last}"
    axes.set_title(f"{label}\n{said}", fontsize=9)


def _ends(epochs: np.ndarray) -> tuple[float, float]:
    step = (epochs[-1] - epochs[0]) / (len(epochs) - 1) if len(epochs) > 1 else 1.0
    return float(epochs[0] - step / 2), float(epochs[-1] + step / 2)


def _evenly(epochs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Repeats columns where epochs are missing, so that columns are evenly spaced."""
    even = np.linspace(epochs[0], epochs[-1], len(epochs))
    if np.allclose(even, epochs):
        return values
    return values[:, np.searchsorted(epochs, even + 1e-9, side="right") - 1]


def _rows(values: np.ndarray) -> np.ndarray:
    """Turns [n, E, C] values into the rows of a map [C * n, E]: first all seeds of the first class."""
    seeds, epochs, number = values.shape
    at_once = -(-number * seeds // ROWS)
    if at_once > 1:
        starts = np.arange(0, number, at_once)
        known = np.add.reduceat(~np.isnan(values), starts, axis=2, dtype=np.int64)
        totals = np.add.reduceat(np.nan_to_num(values), starts, axis=2)
        values = np.divide(totals, known, out=np.full_like(totals, np.nan), where=known > 0)
    return values.transpose(2, 0, 1).reshape(-1, epochs)
