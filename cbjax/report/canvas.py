"""Makes and saves figures without matplotlib's global state: panels, styles, titles, legends."""

import contextlib
import contextvars
import functools
import io
import itertools
import pathlib
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

import numpy as np

from cbjax.host.output import say
from cbjax.host.text import visible
from cbjax.host.writers import replace
from cbjax.report import fonts

P = ParamSpec("P")
DPI = 160
_DRAWN: contextvars.ContextVar[dict[str, bytes] | None] = contextvars.ContextVar("drawn", default=None)

# Okabe and Ito's colours, which colour-blind readers can tell apart, without yellow: it is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
LEGEND = 40  # letters of a name in a legend
LETTER = 0.085  # inches that a letter of a title needs
GREY = "#666666"
GROUP = {"fontsize": 8, "color": GREY}  # names of groups of classes


def style(index: int) -> dict[str, str]:
    """Returns the colour and line of the index-th method."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}


def marker(epochs: np.ndarray) -> dict[str, Any]:
    """Returns the style of a point for a curve of one epoch, which would be invisible as a line."""
    return {"marker": "o", "ms": 4} if len(epochs) == 1 else {}


def short(text: str, length: int = 24) -> str:
    """Returns text as one line, cut in its middle to a length; dollar signs do not begin mathematics."""
    text = " ".join(visible(text).split())
    if len(text) > length:
        # Not cut at its end: there stand the settings, in which names of one method differ.
        text = f"{text[: length // 2]}…{text[-(length - length // 2 - 1) :]}"
    return _plain(text)


def distinct(names: Iterable[str], length: int = LEGEND) -> dict[str, str]:
    """Returns name -> its `short` text. Names that would read the same are cut before their first difference."""
    whole = {name: " ".join(visible(name).split()) for name in names}
    found = {name: short(name, length) for name in whole}
    for several in _equal(found):
        letters = zip(*(whole[name] for name in several), strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, letters))
        start = max(0, same - length // 4)
        for name in several:
            rest = whole[name][start:]
            cut = rest if len(rest) < length else f"{rest[: length - 2]}…"
            found[name] = _plain(f"…{cut}" if start else cut)
    for several in _equal(found):
        for number, name in enumerate(several, 1):
            found[name] = f"{found[name]} ({number})"
    return found


def _equal(texts: Mapping[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        groups.setdefault(text, []).append(name)
    return [several for several in groups.values() if len(several) > 1]


def _plain(text: str) -> str:
    text = text.replace("$", r"\$")
    # Legends leave out labels that begin with an underscore.
    return f" {text}" if text.startswith("_") else text


def mean_of(numbers: Iterable[int]) -> str:
    """Returns text that says how many runs the means of a figure are over."""
    lowest, highest = min(numbers := list(numbers)), max(numbers)
    if highest == 1:
        return "1 run each"
    return f"mean of {highest} runs" if lowest == highest else f"mean of {lowest} to {highest} runs"


def finish(axes: Any, title: str, x_label: str, y_label: str, grid: str = "y") -> None:
    """Sets the title, labels and grid of a panel."""
    axes.set_title(short(title, 40), fontsize=10)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    # Logarithmic axes label minor ticks too.
    axes.tick_params(which="both", labelsize=8)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            plain_numbers(axis)


def mark_groups(axes: Any, spans: Mapping[str, tuple[int, int]], along: str, named: bool = True) -> None:
    """Marks where groups of classes meet, and names them at the edge of the panel.

    Args:
      axes: the panel.
      spans: group -> its first and last class, by their place on the axis.
      along: the axis of the classes, "x" or "y".
      named: whether to write the names.
    """
    for place, (name, (first, last)) in enumerate(spans.items()):
        if place:
            (axes.axvline if along == "x" else axes.axhline)(first - 0.5, color=GREY, lw=0.8, ls=(0, (4, 3)))
        if named and along == "x":
            at = ((first + last) / 2, 1.01)
            axes.text(*at, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", **GROUP)
        elif named:
            at = (1.025, (first + last) / 2)
            axes.text(*at, name, transform=axes.get_yaxis_transform(), rotation=270, va="center", **GROUP)


def plain_numbers(axis: Any) -> None:
    """Labels a logarithmic axis with a few plain numbers, without exponents; the axis must have its limits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    lowest, highest = np.sort(axis.get_view_interval())
    decades = np.log10(highest / lowest)
    # Powers of ten alone would leave at most one label within a decade.
    axis.set_major_locator(
        MaxNLocator(4, steps=[1, 2, 5, 10])
        if decades < 1
        else LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,))
    )
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: np.format_float_positional(value, 6, fractional=False, trim="-"))
    )
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axes: Any) -> None:
    """Puts ticks at whole numbers only, for epochs and classes."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def beside(names: Iterable[str]) -> float:
    """Returns the width of a legend with these names, in inches."""
    return 0.7 + 0.065 * max((len(short(name, LEGEND)) for name in names), default=0)


def legend_beside(figure: Any, title: str) -> None:
    """Adds one legend for all panels, to the right of them."""
    found: dict[tuple[str, int], Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for place, (handle, label) in enumerate(zip(handles, labels, strict=True)):
            # The place is part of the key, because names that were cut may be equal within a panel.
            found.setdefault((label, labels[:place].count(label)), handle)
    # A long legend would be cut at the figure's edges.
    figure.set_figheight(max(figure.get_figheight(), 0.4 + 0.17 * (len(found) + len(title.splitlines()))))
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
    """Returns a figure with a panel for each entry, at most three a row, and the panels."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    whole = figure(width * columns + beside, height * rows)
    axes = list(whole.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for surplus in axes[len(panels) :]:
        surplus.set_axis_off()
    return whole, axes[: len(panels)]


def label_outer(panels: Sequence[Any]) -> None:
    """Removes axis labels inside a grid; the first panel of each row and the last of each column keep theirs."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for place, axes in enumerate(panels):
        if place % columns:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
        if place + columns < len(panels):
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)


def figure(width: float, height: float) -> Any:
    """Returns an empty figure; sizes are in inches."""
    # Not by pyplot: its figures are global state, and it may pick a backend that needs a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # With the usual margins, half of these, titles touch the edge.
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def head(figure: Any, text: str) -> None:
    """Puts a text above all panels, in as many lines as the figure's width needs."""
    lines = textwrap.wrap(text, round((figure.get_figwidth() - 0.3) / LETTER))
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, len(lines) - 1))
    figure.suptitle("\n".join(lines), fontsize=10)


def drawing(draw: Callable[Concatenate[pathlib.Path, P], None]) -> Callable[Concatenate[pathlib.Path, P], None]:
    """Makes a drawing function print its error instead of raising it: a report is useful without a picture too."""

    @functools.wraps(draw)
    def drawn(path: pathlib.Path, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(path, *args, **kwargs)
        except OSError:  # a full disk is not the picture's fault
            raise
        except Exception as error:  # matplotlib and its font reader raise many kinds
            path.unlink(missing_ok=True)
            say(f"{path} could not be drawn: {error!r}", error=True)

    return drawn


@contextlib.contextmanager
def vectors(wanted: bool = True) -> Iterator[dict[str, bytes]]:
    """Collects the SVG of each picture that is saved inside the context: name of the PNG -> SVG; none if not wanted."""
    drawn: dict[str, bytes] = {}
    before = _DRAWN.set(drawn if wanted else None)
    try:
        yield drawn
    finally:
        _DRAWN.reset(before)


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a PNG, in fonts that have the letters of its texts."""
    from matplotlib import rc_context, rcParams

    fonts.fit(figure)
    with warnings.catch_warnings():
        # A box stands for a letter that no font here has; the report says so, and its tables show the name itself.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Without matplotlib's version in the file, its bytes depend on the numbers alone.
        drawn = io.BytesIO()
        figure.set_dpi(DPI)
        figure.canvas.print_png(drawn, metadata={"Software": None})  # `savefig` would draw twice, first for the layout
        replace(path, drawn.getvalue())
        if (vectors_of := _DRAWN.get()) is not None:
            drawn = io.BytesIO()
            # Texts stay texts, so that they can be searched and edited. The names of shapes differ between pictures.
            with rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
                figure.savefig(drawn, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
            # Verdana's letters are as wide, where there is no DejaVu Sans. Each text would name eight more fonts.
            others = "".join(f"'{name}', " for name in rcParams["font.sans-serif"][1:] if name != "sans-serif")
            svg = drawn.getvalue().replace(others.encode(), b"")
            vectors_of[path.name] = svg.replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")
