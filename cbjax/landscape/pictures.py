"""Draws surfaces: frequent and rare classes side by side, on one scale; each picture as PNG and SVG."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbjax.host.code import is_own
from cbjax.landscape.drawing import in_both_forms
from cbjax.landscape.surface import Surface
from cbjax.report import canvas
from cbjax.report.table import by_frequency

MOST_GROUPS = 5  # panels besides that of all images
MOST_CLASSES = 30  # panels or lines of classes
LEVELS = 22
HIGHEST = 10.0  # how far above the lowest loss colours still tell losses apart, at most


def draw(surface: Surface, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws loss, accuracy and classes into a folder; returns the PNGs. Beside each lies an SVG of the same name."""
    groups = list(surface.groups)[:MOST_GROUPS]
    losses = {"all images": surface.loss, **{_of(surface, name): surface.group_loss(name) for name in groups}}
    accuracies = {
        "all classes": 100 * surface.balanced_accuracy,
        **{_of(surface, name): 100 * surface.group_accuracy(name) for name in groups},
    }
    classes = {}
    for c in by_frequency(surface.counts)[:MOST_CLASSES]:
        name = f"{canvas.short(surface.class_names[c])} ({surface.counts[c]})"
        classes[name if name not in classes else f"{name} {c}"] = surface.class_loss[..., c]
    paths = [folder / f"{name}.png" for name in ("loss", "accuracy", "classes")]
    of_loss = loss_label(surface)
    with in_both_forms(folder):
        if len(surface.axes) == 1:
            _lines(paths[0], surface, losses, of_loss)
            _lines(paths[1], surface, accuracies, "accuracy (%)")
            _lines(paths[2], surface, classes, of_loss, by_rank=True)
        else:
            _contours(paths[0], surface, losses, of_loss)
            _contours(paths[1], surface, accuracies, "accuracy (%)")
            _contours(paths[2], surface, classes, of_loss, small=True)
    return [path for path in paths if path.exists()]


def loss_label(surface: Surface) -> str:
    """Returns the name of the loss with its unit, which nobody knows if the loss is a user's own."""
    return "loss" if is_own(surface.about["runs"][0]["method"]["loss"]) else "loss (nats)"


def labels(surface: Surface) -> tuple[str, ...]:
    """Returns what the axes are."""
    kind, about = surface.about["kind"], surface.about
    if kind == "line":
        return ("from the first run (0) to the second (1)",)
    if kind == "plane":
        return ("distance along the first two runs", "distance towards the third")
    if kind == "trajectory":
        shares = [f"{100 * share:.0f} % of the variance" for share in about["explained"]]
        return tuple(f"principal direction {k + 1} ({share})" for k, share in enumerate(shares))
    scaled = {"filter": "filter-normalised ", "layer": "layer-normalised "}.get(about["normalization"], "")
    numbers = ("",) if len(surface.axes) == 1 else (" 1", " 2")
    return tuple(f"{scaled}random direction{number}" for number in numbers)


@canvas.drawing
def _lines(
    path: pathlib.Path, surface: Surface, values: Mapping[str, np.ndarray], quantity: str, by_rank: bool = False
) -> None:
    from matplotlib import colormaps

    figure = canvas.figure(6.2 + canvas.beside(values), 3.8)
    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.88, max(len(values), 2)))
    for place, (name, line) in enumerate(values.items()):
        style = {"color": colours[place]} if by_rank else canvas.style(place)
        axes.plot(surface.axes[0], line, lw=1.4 if by_rank else 1.8, label=canvas.short(name, canvas.LEGEND), **style)
    finite = np.concatenate([line[np.isfinite(line)] for line in values.values()])
    if "%" in quantity:
        axes.set_ylim(0, 100)
    elif finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        axes.set_yscale("log")
        axes.set_ylim(finite.min() / 1.2, finite.max() * 1.2)
    for name, at in surface.marks.items():
        axes.axvline(at[0], color=canvas.GREY, lw=1, ls=":")
        axes.annotate(
            canvas.short(name), (at[0], 1), (2, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            rotation=90, va="top", fontsize=8, color=canvas.GREY,
        )  # fmt: skip
    if not surface.marks:
        axes.axvline(0, color=canvas.GREY, lw=1, ls=":")
    canvas.finish(axes, "", labels(surface)[0], quantity)
    axes.set_xlim(surface.axes[0][0], surface.axes[0][-1])
    canvas.legend_beside(figure, "class (training images)" if by_rank else "")
    canvas.save(figure, path)


@canvas.drawing
def _contours(
    path: pathlib.Path, surface: Surface, values: Mapping[str, np.ndarray], quantity: str, small: bool = False
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    columns = min(len(values), 5 if small else 4)
    rows = -(-len(values) // columns)
    x, y = surface.axes
    square = surface.about["kind"] == "random"
    width = 2.0 if small else 3.3
    # Distances of a plane between networks are the same along both axes.
    height = (0.3 if small else 0.5) + (width - 0.4) * (1.0 if square else np.clip(np.ptp(y) / np.ptp(x), 0.3, 2))
    figure = canvas.figure(width * columns + 0.9, height * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    levels = _levels(list(values.values()), "%" in quantity)
    scale = ScalarMappable(BoundaryNorm(levels, 256), "viridis" if "%" in quantity else "viridis_r")
    for axes, (name, field) in zip(panels.flat, values.items(), strict=False):
        if not np.isfinite(field).any():
            axes.annotate("no images", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=8, color=canvas.GREY)
        else:
            # Beyond the scale the last colour goes on; what is not finite stays white.
            clipped = np.ma.masked_invalid(np.clip(field, levels[0], levels[-1])).T
            axes.contourf(x, y, clipped, levels=levels, cmap=scale.cmap, norm=scale.norm)
            axes.contour(x, y, clipped, levels=levels[1:-1:2], colors="white", linewidths=0.4, alpha=0.6)
            _marks(axes, surface, small)
        axes.set_title(canvas.short(name, 24 if small else 34), fontsize=8 if small else 10)
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=7 if small else 8)
        axes.set_aspect("auto" if square else "equal")
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(y[0], y[-1])
    for axes in panels.flat[len(values) :]:
        axes.set_axis_off()
    across, up = labels(surface)
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(up, fontsize=9)
    bar = figure.colorbar(scale, ax=panels, shrink=0.9, ticks=levels[::3])
    bar.ax.set_yticklabels([f"{level:.2g}" for level in levels[::3]])
    bar.set_label(quantity, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if surface.marks and surface.path is None and not small:
        canvas.legend_beside(figure, "")
    canvas.save(figure, path)


def _marks(axes: Any, surface: Surface, small: bool) -> None:
    size = 3 if small else 6
    if surface.path is not None:
        axes.plot(*surface.path.T, "-o", color="#D55E00", ms=size / 2.5, lw=1, mec="none")
        axes.plot(*surface.path[-1], marker="*", color="#D55E00", ms=1.8 * size, mec="black", mew=0.4)
        return
    if not surface.marks:
        axes.plot(0, 0, marker="*", color="#D55E00", ms=1.8 * size, mec="black", mew=0.4)
    for place, (name, at) in enumerate(surface.marks.items()):
        colour, shape = canvas.COLOURS[(place + 1) % len(canvas.COLOURS)], "os^"[place % 3]
        axes.plot(
            *at, shape, color=colour, ms=size, mec="white", mew=0.6, ls="", label=canvas.short(name, canvas.LEGEND)
        )


def _levels(fields: list[np.ndarray], percent: bool) -> np.ndarray:
    """Returns levels for all panels: from 0 to 100 for percent, else in equal steps of the logarithm or of the loss."""
    if percent:
        return np.linspace(0, 100, 21)
    finite = np.concatenate([field[np.isfinite(field)] for field in fields])
    if not finite.size:
        return np.linspace(0, 1, LEVELS)
    low, high = float(finite.min()), float(min(np.quantile(finite, 0.98), finite.min() + HIGHEST))
    low = max(low, 1e-3 * high)
    if high <= low * 1.0001:
        return np.linspace(low, low + max(abs(low), 1e-6), LEVELS)
    return np.geomspace(low, high, LEVELS) if low > 0 and high > 4 * low else np.linspace(low, high, LEVELS)


def _of(surface: Surface, name: str) -> str:
    count = len(surface.groups[name])
    return f"{name} ({count} class{'' if count == 1 else 'es'})"
