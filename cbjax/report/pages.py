"""Writes the report of runs or of a sweep, with its pictures, and returns the same figures for the terminal."""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbjax.host.text import one_line
from cbjax.host.writers import replace
from cbjax.report import canvas, class_files, rows
from cbjax.report import html as one_page
from cbjax.report.comparison import comparison_page
from cbjax.report.methods import Method, group
from cbjax.report.one_run import run_page
from cbjax.report.paper_table import measure_of, one_each, paper_page, paper_table, progress, table_csv
from cbjax.report.read import CHECKPOINTS, LeftOut, ReportError, RunRecord, read_json, read_runs
from cbjax.report.sections import PICTURES, swinging_runs
from cbjax.report.sweep_pictures import sweep_classes, sweep_pictures
from cbjax.report.sweep_table import cells_of
from cbjax.report.table import results_table

if TYPE_CHECKING:
    from rich.table import Table

Directory = str | os.PathLike | tuple[str, str | os.PathLike]
Directories = Sequence[Directory] | Mapping[str, str | os.PathLike] | str | os.PathLike


def report(
    workdirs: Directories,
    out: str | os.PathLike,
    left_out: Sequence[LeftOut] = (),
    *,
    html: bool = False,
    svg: bool = False,
) -> pathlib.Path:
    """Writes `report.md` and its pictures.

    A single run gets its own page, finished or not. Several runs are compared by method, with mean and standard
    deviation over seeds. Runs that are not finished, cannot be read or repeat a seed are listed with the reason.

    Args:
      workdirs: work directories, or directories above them; methods appear in this order. Instead of a directory,
        (name, directory) names the method of the runs there; {name: directory} names them all.
      out: the directory to write to; made if it does not exist. Pictures of an earlier report there are removed.
      left_out: further runs to list as left out.
      html: also write `report.html`, one page that needs no other file and no network.
      svg: also write each picture as SVG.

    Returns:
      The path of `report.md`.

    Raises:
      ReportError: if one of the directories holds no run, or no run can be read. Then nothing is written.
    """
    runs, unread = read_runs(_several(workdirs), out)
    if not runs and unread and not left_out:
        raise ReportError("; ".join(f"{path}: {reason}" for path, reason in unread))
    left_out = [*unread, *left_out]
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in [*PICTURES, *class_files.FILES, *class_files.COMPARED]:
        (out / name).unlink(missing_ok=True)
        (out / name).with_suffix(".svg").unlink(missing_ok=True)
    with canvas.vectors(html or svg) as drawn:
        page = (
            run_page(runs[0], out)
            if len(runs) == 1 and not left_out
            else comparison_page(*_compared(runs, left_out), out)
        )
    return _write(page, out, drawn, html, svg)


def _write(page: str, out: pathlib.Path, drawn: Mapping[str, bytes], html: bool, svg: bool) -> pathlib.Path:
    """Writes the page in the forms that are wanted; an older report.html goes, or it would show other figures."""
    path = out / "report.md"
    replace(path, page.encode(errors="backslashreplace"))
    if svg:
        for name, vectors in drawn.items():
            replace((out / name).with_suffix(".svg"), vectors)
    if html:
        replace(path.with_suffix(".html"), one_page.page(page, drawn, out).encode(errors="backslashreplace"))
    else:
        path.with_suffix(".html").unlink(missing_ok=True)
    return path


def is_whole(out: str | os.PathLike) -> bool:
    """Returns whether the report of a run is complete: page, tables of classes and pictures, none of them empty."""
    path = pathlib.Path(out) / "report.md"
    try:
        page = path.read_text(encoding="utf-8", errors="replace")
        names = ["classes.csv", *(name for name in PICTURES if f"({name})" in page)]
        return bool(page) and all((path.parent / name).stat().st_size for name in names)
    except OSError:
        return False


def report_sweep(
    workdir: str | os.PathLike, out: str | os.PathLike | None = None, *, html: bool = False, svg: bool = False
) -> pathlib.Path:
    """Writes `report.md` and `table.csv` of a sweep from the rows of its results, in the layout of its table.

    Args:
      workdir: work directory of the sweep.
      out: the directory to write to; None for the sweep's own.
      html: also write `report.html`, one page that needs no other file and no network.
      svg: also write each picture as SVG.

    Returns:
      The path of `report.md`.

    Raises:
      ReportError: if the directory holds no sweep, or runs have finished but their rows are gone. Then an earlier
        report stays.
    """
    place = pathlib.Path(workdir)
    out = place if out is None else pathlib.Path(out)
    description, found = _sweep(place)
    out.mkdir(parents=True, exist_ok=True)
    names = [run["name"] for run in description["runs"]]
    with canvas.vectors(html or svg) as drawn:
        pictures = sweep_pictures(place, out, description["table"], found, description["runs"])
        pictures += sweep_classes(place, out, description)
    failed = _failed(place, description, found)
    table = description["table"]
    if (swinging := swinging_runs(place, names)) is not None:
        table = {**table, "notes": [*table["notes"], swinging]}
    page = paper_page(table, found, description["name"], pictures, failed, len(names))
    replace(out / "table.csv", table_csv(description["table"], found).encode())
    return _write(page, out, drawn, html, svg)


def has_table(workdir: str | os.PathLike) -> bool:
    """Returns whether a directory holds a sweep with a table."""
    path = pathlib.Path(workdir) / "sweep.json"
    return path.exists() and _description(path)["table"] is not None


def sweep_table_for_terminal(workdir: str | os.PathLike, width: int) -> "Table":
    """Returns the table of a sweep at the last epoch, for rich to print.

    Args:
      workdir: work directory of the sweep.
      width: width of the terminal. If it is too small, cells have several lines, but no figure is cut. A table that is
        still wider keeps its width.

    Raises:
      ReportError: as `report_sweep`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    description, found = _sweep(pathlib.Path(workdir))
    layout, num_runs = description["table"], len(description["runs"])
    printed = " [the paper's]" if layout["paper"] else ""
    title = f"{layout['title']}: {measure_of(layout)}, last epoch, mean ± std (n){printed}"
    finished = len(one_each(layout, found))
    state = progress(finished, num_runs, len(_failed(pathlib.Path(workdir), description, found)))
    caption = Text(f"{state}.") if finished < num_runs else None
    table = Table(
        title=Text(one_line(title)), caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    header, body = paper_table(layout, found, "last")
    header, body = [one_line(name) for name in header], [[one_line(cell) for cell in line] for line in body]
    # The paper's deviations are left out, to keep lines short.
    body = [[re.sub(r"\[([\d.]+) ± [\d.]+\]", r"[\1]", cell).replace(" ± ", "±") for cell in line] for line in body]
    for name, room in zip(header, _widths([header, *body], width), strict=True):
        table.add_column(Text(name), justify="left" if name == header[0] else "right", width=room)
    for line in body:
        table.add_row(*map(Text, line))
    return table


def _widths(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Returns the widths of columns: at least their longest word, and their longest cell if there is room."""
    columns = list(zip(*lines, strict=True))
    whole = [max(map(len, column)) for column in columns]
    found = [max(len(word) for cell in column for word in cell.split()) for column in columns]
    room = width - sum(found) - 3 * len(columns) - 1  # the box and its padding
    for place in sorted(range(len(columns)), key=lambda place: whole[place] - found[place]):
        more = min(whole[place] - found[place], room)
        # A column of figures gets room for whole cells or none: then its words stand below each other.
        if more > 0 and (place == 0 or found[place] + more == whole[place]):
            found[place], room = found[place] + more, room - more
    return found


def _sweep(place: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    path = place / "sweep.json"
    if not path.exists():
        raise ReportError(f"{place} holds no sweep: there is no sweep.json; `cbjax sweep --workdir={place}` makes one")
    description = _description(path)
    if description["table"] is None:
        raise ReportError(f"{place}: the sweep has no table, and none of its work directories is there")
    # Files are named below the sweep's folder or by absolute paths. If the folder has moved, look in its new place.
    named = [place / file for file in description.get("files", [])]
    named = [place / file.name if not file.exists() and (place / file.name).exists() else file for file in named]
    # Each shard of a sweep writes its own file there.
    own = [row for file in named for row in rows.read(file)]
    for file in sorted(place.glob("results*.csv")):
        with contextlib.suppress(rows.RowsError):  # a CSV file with other content
            own += rows.read(file)
    table = description["table"]
    # Another table may share these runs, so a file may also hold rows with its names or its metric.
    places = {
        (run["config"], metric): rows.place(names, table["rows"], table["columns"])
        for run in description["runs"]
        for metric, names in cells_of(table["metric"], table["columns"], run["labels"])
    }
    found = {key: {**row, **places[key]} for row in own if (key := (row["config"], row["metric"])) in places}
    finished = () if found else (run["name"] for run in description["runs"] if _is_finished(place / run["name"]))
    for name in finished:
        raise ReportError(
            f"{place}: runs such as {name} have finished, but the rows with their figures are gone from "
            f"{', '.join(map(str, named)) or place / 'results.csv'}; `cbjax sweep --config={description['name']} "
            f"--workdir={place}`, with the same config as before, adds them again"
        )
    lost = [str(file) for file in named if not file.exists() and file.parent.resolve() != place.resolve()]
    if lost and len(found) < len(places):
        note = f"Rows are missing, because these files are gone: {', '.join(lost)}."
        description["table"] = {**table, "notes": [*table["notes"], note]}
    return description, list(found.values())


def _is_finished(workdir: pathlib.Path) -> bool:
    with contextlib.suppress(ValueError):  # the file is missing or damaged
        return bool(read_json(workdir / "results.json").get("finished"))
    return False


def _description(path: pathlib.Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ReportError(f"{path.parent}: {error}; run the sweep's command again to write a new one") from error


def _failed(place: pathlib.Path, description: dict[str, Any], rows: Sequence[dict[str, str]]) -> dict[str, str]:
    failed, finished = {}, {row["config"] for row in rows}
    for run in description["runs"]:
        path = place / run["name"] / "failed.json"
        if path.exists() and run["config"] not in finished:
            try:
                failed[run["name"]] = str(read_json(path)["error"])
            except (ValueError, KeyError) as error:
                failed[run["name"]] = f"the reason is lost: {error}"
    return failed


def table_for_terminal(workdirs: Directories) -> "Table":
    """Returns the comparison of finished runs in and below the directories, for rich to print.

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
    if not methods:
        table = Table("no finished run", box=box.SIMPLE_HEAD)
        for one in left_out:
            table.add_row(Text(one_line(f"{one.path}: {one.reason}"), overflow="fold"))
        return table
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    # The calibration error and the precision of groups are left out, so that the table fits into 80 columns.
    groups = {name for method in methods for run in method.runs for name in run.groups}
    leave_out = ("ece", *(f"{name}_precision" for name in groups))
    for checkpoint in CHECKPOINTS:
        header, rows = results_table(methods, checkpoint, leave_out)
        if not rows:
            continue
        if not table.columns:
            for name in header:
                # Names are folded, not cut: methods may differ only in a setting at the end.
                shown = Text(one_line(name.removesuffix(" class")))
                table.add_column(shown, justify="left" if name == "method" else "right", overflow="fold")
        table.add_row(Text(f"{checkpoint} epoch", style="italic"))
        for label, *cells in rows:
            table.add_row(Text(one_line(label)), *(cell.replace(" ± ", "±") for cell in cells))
        table.add_section()
    return table


def _compared(runs: Sequence[RunRecord], left_out: Sequence[LeftOut]) -> tuple[list[Method], list[LeftOut]]:
    unfinished = [LeftOut(run.path, run.stopped()) for run in runs if run.results is None]
    methods, repeated = group([run for run in runs if run.results is not None])
    return methods, [*left_out, *unfinished, *repeated]


def _several(workdirs: Directories) -> Sequence[Directory]:
    if isinstance(workdirs, Mapping):
        return list(workdirs.items())
    return [workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs
