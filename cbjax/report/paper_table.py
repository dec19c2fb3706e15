"""Lays out a sweep's figures in the paper's own layout: each cell has the measured figure and the paper's."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cbjax.host.text import code, csv_line, escape
from cbjax.report.sweep_table import group_of, row_key
from cbjax.report.table import markdown_table

CHECKPOINTS = {"last": "Last epoch", "best": "Best epoch, chosen on held-out validation"}
FAR = 1.5  # points from the paper's figure
NAMES = {
    "accuracy": "test accuracy, %",
    "error": "test error, %",
    "balanced_accuracy": "balanced test accuracy, %",
    "top5_accuracy": "top-5 test accuracy, %",
    "top5_error": "top-5 test error, %",
    "macro_recall": "macro recall on test, %",
    "macro_precision": "macro precision on test, %",
    "macro_f1": "macro F1 on test, %",
    "geometric_mean": "geometric mean of the recalls on test, %",
    "matthews": "Matthews' correlation on test, in hundredths",
}


def measure_of(table: Mapping[str, Any]) -> str:
    """Names a table's figures: by its metric, or in general if each column has a metric of its own."""
    metric = table["metric"]
    if not isinstance(metric, str):
        return "figures on test, %"
    group = group_of(metric)
    return NAMES[metric] if group is None else f"{metric.removeprefix(group)[1:]} of {group} classes on test, %"


def one_each(table: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Returns one row of each run: those of the table's first metric."""
    metric = table["metric"]
    return [row for row in rows if isinstance(metric, str) or row["metric"] == next(iter(metric.values()))]


def paper_table(
    table: Mapping[str, Any], rows: Sequence[Mapping[str, str]], checkpoint: str
) -> tuple[list[str], list[list[str]]]:
    """Lays out the rows of a sweep.

    Args:
      table: a `sweep_table.Table` as JSON (`sweep_table.as_json`).
      rows: as from `rows.read`; figures in per cent.
      checkpoint: "last" or "best".

    Returns:
      The header, and a line for each method and setting in the table's order. Each cell holds the measured mean ±
      standard deviation (n), and the paper's figure in brackets; a dash if there is neither.
    """
    figures = figures_of(rows, checkpoint)
    paper = {(row_key(one["row"]), one["column"]): one for one in table["paper"]}
    columns, lines = table["column_names"], [row_key(row) for row in table["row_names"]]
    body = []
    for line in lines:
        cells = []
        for column in columns:
            measured, printed = figures.get((line, column)), paper.get((line, column))
            cells.append(_cell(measured, printed) or "–")
        body.append([" ".join(part for part in line if part), *cells])
    return [f"{', '.join(table['rows'])} \\ {table['columns']}", *columns], body


def table_csv(table: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    """Returns the cells of the table as CSV, in per cent: a line for each cell with a measured or a printed figure."""
    lines = [csv_line(["row", table["columns"], "n", "last", "last_std", "best", "best_std", "paper", "paper_std"])]
    found = {checkpoint: figures_of(rows, checkpoint) for checkpoint in CHECKPOINTS}
    paper = {(row_key(one["row"]), one["column"]): one for one in table["paper"]}
    for line in map(row_key, table["row_names"]):
        for column in table["column_names"]:
            measured = [found[checkpoint].get((line, column), []) for checkpoint in CHECKPOINTS]
            printed = paper.get((line, column), {"mean": None, "std": None})
            if measured[0] or printed["mean"] is not None:
                ours = [f for one in measured for f in ((statistics.fmean(one), _std(one)) if one else (None, None))]
                figures = ["" if f is None else f"{f:.4f}" for f in (*ours, printed["mean"], printed["std"])]
                lines.append(csv_line([" ".join(filter(None, line)), column, len(measured[0]), *figures]))
    return "\n".join(lines) + "\n"


def paper_page(
    table: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    name: str,
    pictures: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
    num_runs: int | None = None,
) -> str:
    """Returns the report of a sweep with a table, as Markdown.

    Args:
      table: as for `paper_table`.
      rows: as for `paper_table`.
      name: name of the sweep.
      pictures: lines that show pictures.
      failed: run -> its error.
      num_runs: all runs of the sweep; None if each has its row.
    """
    each = one_each(table, rows)
    failed, num_runs = failed or {}, len(each) if num_runs is None else num_runs
    printed = ", [the paper's figure]" if table["paper"] else ""
    parts = [
        f"# {escape(table['title'])}",
        "",
        f"{code(f'cbjax sweep --config={name}')}; {measure_of(table)}: mean ± sample "
        f"standard deviation (n runs) of what was measured{printed}.",
        "",
    ]
    for checkpoint, title in CHECKPOINTS.items():
        header, body = paper_table(table, rows, checkpoint)
        if any(row[checkpoint] for row in rows):
            body = [[escape(label), *cells] for label, *cells in body]
            parts += [f"## {title}", "", markdown_table([escape(name) for name in header], body), ""]
    if far := _far(table, rows):
        parts += [f"More than {FAR} points from the paper at the last epoch: {escape('; '.join(far))}.", ""]
    parts += [line for note in table["notes"] for line in (escape(note), "")]
    if failed:
        parts += ["Failed:", "", *(f"- {escape(run)}: {escape(error)}" for run, error in failed.items()), ""]
    parts += [line for picture in pictures for line in (picture, "")]
    parts += [_cost(each, num_runs, len(failed)), ""]
    return "\n".join(parts)


def progress(num_rows: int, num_runs: int, num_failed: int) -> str:
    """Returns how many runs of a sweep have finished and failed, as text: "105 runs", "5 of 20 runs, 2 failed"."""
    finished = f"{num_runs} runs" if num_rows == num_runs else f"{num_rows} of {num_runs} runs"
    return f"{finished}, {num_failed} failed" if num_failed else finished


def figures_of(rows: Sequence[Mapping[str, str]], checkpoint: str) -> dict[tuple[tuple[str, str], str], list[float]]:
    """Returns (row, column) -> the figures of its runs."""
    found: dict[tuple, list[float]] = {}
    for row in rows:
        if row[checkpoint]:
            found.setdefault(((row["method"], row["setting"]), row["cell"]), []).append(float(row[checkpoint]))
    return found


def _cell(measured: Sequence[float] | None, printed: Mapping[str, Any] | None) -> str:
    ours = "" if not measured else f"{_mean(measured, _std(measured))} ({len(measured)})"
    theirs = "" if printed is None else f"[{_mean([printed['mean']], printed['std'])}]"
    return " ".join(part for part in (ours, theirs) if part)


def _mean(figures: Sequence[float], std: float | None) -> str:
    mean = f"{statistics.fmean(figures):.2f}"
    return mean if std is None else f"{mean} ± {std:.2f}"


def _std(figures: Sequence[float]) -> float | None:
    return statistics.stdev(figures) if len(figures) > 1 else None


def _far(table: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[str]:
    figures = figures_of(rows, "last")
    far = []
    for one in table["paper"]:
        measured = figures.get((row_key(one["row"]), one["column"]))
        if measured and abs(gap := statistics.fmean(measured) - one["mean"]) > FAR:
            far.append(f"{' '.join(filter(None, one['row']))} at {one['column']} ({gap:+.1f})")
    return far


def _cost(rows: Sequence[Mapping[str, str]], num_runs: int, num_failed: int) -> str:
    if not rows:
        return f"No run has finished{f', {num_failed} of {num_runs} failed' if num_failed else ''}."
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    devices = ", ".join(dict.fromkeys(escape(row["device"]) for row in rows))
    return f"{progress(len(rows), num_runs, num_failed)}; {hours:.1f} hours of training, on {devices}."
