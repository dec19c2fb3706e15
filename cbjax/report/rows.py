"""Reads and writes the figures of a sweep in long form: a CSV file with a row for each finished run."""

import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cbjax.host.locks import locked
from cbjax.host.text import csv_cell, csv_line
from cbjax.host.writers import read_regular, replace
from cbjax.report.sweep_table import row_key

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


class RowsError(ValueError):
    """A file of rows cannot be read; the message says where and why."""


class NoRowsError(RowsError):
    """The file holds something else."""


def read(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads a file of rows; returns [] if there is no file.

    Raises:
      RowsError: if it is damaged.
      NoRowsError: if it is not a file of rows.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    try:
        text = read_regular(path).decode("utf-8-sig")  # Excel begins UTF-8 with a byte order mark
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows, columns = [(reader.line_num, one) for one in reader], tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NoRowsError(f"{path} must be a CSV of rows, in UTF-8; {error}") from error
    if columns != FIELDS:
        raise NoRowsError(
            f"{path} must be a CSV with the columns {','.join(FIELDS)}; got {','.join(columns) or 'nothing'}; "
            "repair it or move it away"
        )
    for number, one in rows:
        if None in one or None in one.values():
            raise RowsError(f"{path}, line {number}: must have {len(FIELDS)} fields; repair or remove the line")
        for field in ("last", "best", "seconds"):
            if not _is_number(one[field]) and (one[field] or field == "seconds"):
                empty = "" if field == "seconds" else ", or empty"
                raise RowsError(
                    f"{path}, line {number}: {field} must be a finite number, such as 20.4{empty}; got "
                    f"{one[field] or 'nothing'}; repair or remove the line"
                )
    return [{field: csv_cell(value) for field, value in one.items()} for _, one in rows]


def add(path: str | os.PathLike, new: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a file; they replace rows of the same config and metric. The file is written whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock"):
        merged = {(one["config"], one["metric"]): dict(one) for one in (*read(path), *new)}
        lines = [csv_line(FIELDS), *(csv_line(one[field] for field in FIELDS) for one in merged.values())]
        replace(path, "".join(f"{line}\n" for line in lines).encode())


def place(labels: Mapping[str, str], rows: Sequence[str], column: str | None) -> dict[str, str]:
    """Returns a run's place in a table: the fields "method", "setting" and "cell" of its row.

    Args:
      labels: axis -> the run's name on it.
      rows: axes that make the table's rows.
      column: axis that makes its columns; None for a single column.
    """
    method, setting = row_key([labels[axis] for axis in rows])
    return {"method": method, "setting": setting, "cell": labels[column] if column else ""}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
