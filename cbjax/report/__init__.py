"""Reports from work directories: Markdown with pictures, and the same figures as a table for the terminal."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cbjax.report.comparison import comparison_page
from cbjax.report.one_run import run_page
from cbjax.report.read import CHECKPOINTS, LeftOut, Method, ReportError, RunRecord, group, read_runs
from cbjax.report.sections import PICTURES
from cbjax.report.table import results_table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ReportError", "report", "table_for_terminal"]

Directories = Sequence[str | os.PathLike] | str | os.PathLike


def report(workdirs: Directories, out: str | os.PathLike) -> pathlib.Path:
    """Writes `report.md` and its pictures.

    One run gets a page of its own, finished or not. Several are compared by method, with mean and standard deviation
    over seeds; those that are not finished, cannot be read or repeat a seed are listed with the reason.

    Args:
      workdirs: work directories, or directories above them; methods appear in this order.
      out: the directory to write to; made if it does not exist. Pictures of an earlier report in it are removed.

    Returns:
      The path of `report.md`.

    Raises:
      ReportError: if one of the directories holds no run.
    """
    runs, left_out = read_runs(_several(workdirs))
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        (out / name).unlink(missing_ok=True)
    page = (
        run_page(runs[0], out) if len(runs) == 1 and not left_out else comparison_page(*_compared(runs, left_out), out)
    )
    path = out / "report.md"
    path.write_text(page, encoding="utf-8")
    return path


def table_for_terminal(workdirs: Directories) -> "Table":
    """Returns the comparison of the finished runs in and below the directories, for rich to print.

    Raises:
      ReportError: if one of the directories holds no run.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    methods, left_out = _compared(*read_runs(_several(workdirs)))
    caption = "Test accuracy, %: mean±standard deviation over n seeds."
    if any(run.test_metrics("best") for method in methods for run in method.runs):
        caption += " The best epoch is chosen on held-out validation."
    if left_out:
        caption += f" Left out: {len(left_out)}, see the report."
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    # Without the calibration error and the precision of groups the table fits into 80 columns.
    groups = {name for method in methods for run in method.runs for name in run.groups}
    leave_out = ("ece", *(f"{name}_precision" for name in groups))
    for checkpoint in CHECKPOINTS:
        header, rows = results_table(methods, checkpoint, leave_out)
        if not rows:
            continue
        if not table.columns:
            for name in header:
                table.add_column(name.removesuffix(" class"), justify="left" if name == "method" else "right")
        table.add_row(Text(f"{checkpoint} epoch", style="italic"))
        for label, *cells in rows:
            table.add_row(Text(label), *(cell.replace(" ± ", "±") for cell in cells))
        table.add_section()
    return table


def _compared(runs: Sequence[RunRecord], left_out: Sequence[LeftOut]) -> tuple[list[Method], list[LeftOut]]:
    unfinished = [LeftOut(run.path, run.stopped()) for run in runs if run.results is None]
    methods, repeated = group([run for run in runs if run.results is not None])
    return methods, [*left_out, *unfinished, *repeated]


def _several(workdirs: Directories) -> Sequence[str | os.PathLike]:
    return [workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs
