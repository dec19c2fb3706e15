"""Shows a report below a cell of a notebook, with its pictures."""

import os
import pathlib
import re
import sys

from cbjax.report.pages import is_whole, report
from cbjax.report.read import ReportError

_PICTURE = re.compile(r"!\[[^\]\n]*\]\(([\w.-]+)\)")


def show(folder: str | os.PathLike) -> None:
    """Shows `report.md` of a folder and its pictures in a notebook.

    Args:
      folder: a run's work directory, whose report is made first if it is missing or the run has no results yet; or the
        folder of a comparison that `report` wrote.

    Raises:
      ReportError: outside of a notebook, or if the folder holds neither a report nor a run.
    """
    place = pathlib.Path(folder)
    page = place / "report.md"
    if not _in_notebook():
        raise ReportError(f"a report is shown in a notebook only, and this is none: open {page}")
    is_run = (place / "config.json").exists()
    if is_run and not (is_whole(place) and (place / "results.json").exists()):
        report([place], place)
    if not page.exists():
        raise ReportError(
            f"{place} holds no run and no report: cbjax.report.report([run.workdir], {str(place)!r}) writes one"
        )
    from IPython.display import Image, Markdown, display

    text, begun = page.read_text(encoding="utf-8", errors="replace"), 0
    for found in _PICTURE.finditer(text):
        display(Markdown(text[begun : found.start()]))
        # At half its pixels: pictures are drawn for print.
        display(Image(data=(place / found[1]).read_bytes(), format="png", retina=True))
        begun = found.end()
    display(Markdown(text[begun:]))


def _in_notebook() -> bool:
    # Whoever runs in a notebook has loaded IPython.
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
