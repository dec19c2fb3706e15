"""The figures of a sweep in long form: a CSV with a row for each finished run."""

import contextlib
import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cbjax import records
from cbjax.config import ConfigError
from cbjax.sweep_file import PlannedRun
from cbjax.sweep_table import row_key
from cbjax.text import csv_cell, csv_line, visible
from cbjax.variants import Sweep
from cbjax.writers import only_writer, read_regular, replace

FIELDS = (
    "table",
    "method",
    "setting",
    "cell",
    "seed",
    "metric",
    "last",
    "best",
    "device",
    "seconds",
    "commit",
    "config",
)
# Name of a table's metric -> the test split's own, and whether it counts errors.
MEASURES = {
    "accuracy": ("accuracy", False),
    "error": ("accuracy", True),
    "balanced_accuracy": ("balanced_accuracy", False),
    "top5_error": ("top5_accuracy", True),
    "macro_recall": ("macro_recall", False),
    "macro_precision": ("macro_precision", False),
}


class RowsError(ValueError):
    """A file of rows that cannot be read; the message says where and why."""


class NoRowsError(RowsError):
    """A file of something else."""


def row(name: str, sweep: Sweep, run: PlannedRun, workdir: pathlib.Path) -> dict[str, str]:
    """Returns the row of a finished run.

    Args:
      name: of the sweep.
      sweep: for its table's axes and metric; without a table the method is the run's name without its seed.
      run: the run.
      workdir: its work directory, with `results.json` and `environment.json`.

    Raises:
      ConfigError: if the run has no such metric.
      RowsError: if one of the files is missing or damaged.
    """
    try:
        results = records.read(workdir / "results.json")
        environment = records.read(workdir / "environment.json")
    except records.RecordError as error:
        raise RowsError(str(error)) from error
    names = _names(name, sweep, run)
    return {
        **names,
        "last": _figure(results, "last", names["metric"]),
        "best": _figure(results, "best", names["metric"]),
        "device": environment["devices"],
        "seconds": f"{results['seconds']:.1f}",
        "commit": environment["commit"] or "",
    }


def known(path: pathlib.Path, name: str, sweep: Sweep, runs: Iterable[PlannedRun]) -> list[dict[str, str]]:
    """Returns the rows that a file, or another beside it, has of these runs, under the names of this sweep.

    Tables share runs: CDB with dynamic tau stands in tables 1 and 2 of its paper, of the same configs. A row counts
    where it has the sweep's metric.

    Raises:
      RowsError: if the file, or a file of rows beside it, is damaged.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for neighbour in sorted(set(path.parent.glob("*.csv")) - {path}):
        with contextlib.suppress(NoRowsError):
            found |= {(one["config"], one["metric"]): one for one in read(neighbour)}
    found |= {(one["config"], one["metric"]): one for one in read(path)}
    named = [_names(name, sweep, run) for run in runs]
    return [found[key] | one for one in named if (key := (one["config"], one["metric"])) in found]


def strangers(path: pathlib.Path, name: str, runs: Iterable[PlannedRun]) -> int:
    """Returns how many rows a file has under the name of a sweep that are of none of its runs."""
    known = {run.identity for run in runs}
    return sum(one["table"] == visible(name) and one["config"] not in known for one in read(path))


def read(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads a file of rows; one that is not there has none.

    Raises:
      RowsError: if it is damaged.
      NoRowsError: if it is no such file.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    try:
        text = read_regular(path).decode("utf-8-sig")  # Excel begins UTF-8 with a mark
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows, columns = [(reader.line_num, one) for one in reader], tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NoRowsError(f"{path} must be a CSV of rows, in UTF-8; {error}") from error
    if columns != FIELDS:
        raise NoRowsError(
            f"{path} must be a CSV with the columns {','.join(FIELDS)}; got {','.join(columns) or 'nothing'}; "
            "mend it or move it away"
        )
    for number, one in rows:
        if None in one or None in one.values():
            raise RowsError(f"{path}, line {number}: must have {len(FIELDS)} fields; mend it or take the line away")
        for field in ("last", "best", "seconds"):
            if not _is_number(one[field]) and (one[field] or field == "seconds"):
                empty = "" if field == "seconds" else ", or empty"
                raise RowsError(
                    f"{path}, line {number}: {field} must be a finite number, such as 20.4{empty}; got "
                    f"{one[field] or 'nothing'}; mend it or take the line away"
                )
    return [{field: csv_cell(value) for field, value in one.items()} for _, one in rows]


def add(path: str | os.PathLike, new: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a file, in the place of those of the same config and metric; writes it whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path.parent):
        merged = {(one["config"], one["metric"]): dict(one) for one in (*read(path), *new)}
        lines = [csv_line(FIELDS), *(csv_line(one[field] for field in FIELDS) for one in merged.values())]
        replace(path, "".join(f"{line}\n" for line in lines).encode())


def place(labels: Mapping[str, str], rows: Sequence[str], column: str | None) -> dict[str, str]:
    """Returns where a run stands in a table: the fields "method", "setting" and "cell" of its row.

    Args:
      labels: axis -> the run's name on it.
      rows: the table's axes of rows.
      column: its axis of columns; None for a single one.
    """
    method, setting = row_key([labels[axis] for axis in rows])
    return {"method": method, "setting": setting, "cell": labels[column] if column else ""}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _names(name: str, sweep: Sweep, run: PlannedRun) -> dict[str, str]:
    """Returns the part of a run's row that says which run it is and where in its table it stands."""
    axes = {axis: label for axis, label in run.labels.items() if axis != "seed"} or {"": name}
    rows, column = (sweep.table.rows, sweep.table.columns) if sweep.table else (tuple(axes), None)
    return {
        "table": visible(name),
        **place(axes, rows, column),
        "seed": str(run.config.seed),
        "metric": sweep.table.metric if sweep.table else "balanced_accuracy",
        "config": run.identity,
    }


def _figure(results: Mapping[str, Any], checkpoint: str, metric: str) -> str:
    """Returns a metric of the test split in per cent, empty where the run has no such checkpoint."""
    key, counts_errors = MEASURES[metric]
    if not results.get(checkpoint):
        return ""
    measured = results[checkpoint]["test"]
    if measured.get(key) is None:
        raise ConfigError(f"the table's metric must be one that its runs have; got {metric}: no {key} was measured")
    share = measured[key]
    return f"{100 * (1 - share if counts_errors else share):.4f}"
