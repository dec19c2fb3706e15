"""Saves pictures in both forms: PNG for the screen, SVG for print."""

import contextlib
import pathlib
from collections.abc import Iterator

from cbjax.host.writers import replace
from cbjax.report import canvas


@contextlib.contextmanager
def in_both_forms(folder: pathlib.Path) -> Iterator[None]:
    """Writes an SVG beside each PNG that is saved into the folder inside the context."""
    with canvas.vectors() as drawn:
        yield
    for name, svg in drawn.items():
        replace((folder / name).with_suffix(".svg"), svg)
