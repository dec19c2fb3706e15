"""Figures without any state of matplotlib's: their panels, styles, titles and files."""

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers; the yellow is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
GREY = "#666666"


def style(index: int) -> dict[str, str]:
    """Returns the colour and line of the index-th method."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}


def marker(epochs: np.ndarray) -> dict[str, Any]:
    """A curve of one epoch would be invisible as a line."""
    return {"marker": "o", "ms": 4} if len(epochs) == 1 else {}


def short(text: str, length: int = 24, ends: bool = False) -> str:
    """One line of text, cut to a length, behind or in its middle, its dollars kept from being read as mathematics."""
    text = " ".join(str(text).split())
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[-(length - length // 2 - 1) :]}" if ends else text[: length - 1] + "…"
    text = text.replace("$", r"\$")
    # Legends leave out labels that begin with an underscore.
    return f" {text}" if text.startswith("_") else text


def finish(axes: Any, title: str, x_label: str, y_label: str, grid: str = "y") -> None:
    """Titles, labels and grid of a panel."""
    axes.set_title(short(title, 40), fontsize=10)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(figure: Any, title: str) -> None:
    """A legend to the right of all panels, of what any of them shows."""
    found: dict[tuple[str, int], Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for place, (handle, label) in enumerate(zip(handles, labels, strict=True)):
            # Names that were cut may be equal within a panel.
            found.setdefault((label, labels[:place].count(label)), handle)
    figure.legend(
        list(found.values()),
        [label for label, _ in found],
        loc="outside right center",
        title=title,
        title_fontsize=8,
        fontsize=8,
        frameon=False,
    )


def grid(
    panels: Mapping[str, Any], width: float, height: float, beside: float = 0.0, sharey: bool = True
) -> tuple[Any, list[Any]]:
    """A figure with a panel for each entry, at most three a row."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    whole = figure(width * columns + beside, height * rows)
    axes = list(whole.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for surplus in axes[len(panels) :]:
        surplus.set_axis_off()
    return whole, axes[: len(panels)]


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    # Not through pyplot: its figures are global state, and it picks a backend that may want a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a PNG."""
    with warnings.catch_warnings():
        # A box stands for a character that no font here has; the report's tables have the name itself.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Without the version of matplotlib, the bytes depend on the numbers alone.
        figure.savefig(path, dpi=160, metadata={"Software": None})
