"""Saves a figure in both forms: PNG for the screen, SVG for print."""

import io
import pathlib
import warnings
from typing import Any

from cbjax.host.writers import replace
from cbjax.report import canvas


def save_both(figure: Any, path: pathlib.Path) -> None:
    """Writes a PNG, and an SVG of the same name beside it."""
    from matplotlib import rc_context

    canvas.save(figure, path)
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "cbjax"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    replace(path.with_suffix(".svg"), drawn.getvalue())
