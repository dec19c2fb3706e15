"""Describes the table of a sweep: how its figures are laid out next to a paper's; checks such a layout."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from cbjax.config import ConfigError
from cbjax.config.schema import show

T = TypeVar("T")
METRICS = (
    *("accuracy", "error", "balanced_accuracy", "top5_accuracy", "top5_error", "macro_recall", "macro_precision"),
    *("macro_f1", "geometric_mean", "matthews"),
)
_OF_GROUP = re.compile(r"([\w-]{1,100})_(accuracy|precision)")


@dataclasses.dataclass(frozen=True)
class Table:
    """The layout of a sweep's figures, and the figures that a paper prints there.

    Attributes:
      title: a line above the table.
      rows: axes whose names make a row, in order, such as ("method", "setting").
      columns: the axis across.
      metric: one of METRICS, or NAME_accuracy (recall) or NAME_precision of a group in `evaluation.groups`, on the test
        split, in per cent. {column: metric, …} gives each metric a column, in this order; then no run has a name on
        `columns`.
      paper: row (its names, in the order of `rows`) -> column -> (mean, standard deviation or None), in per cent. If it
        has all rows, or all columns, of the runs, its order is the table's; else its own rows or columns come last.
      notes: lines below the table.
    """

    # All fields have defaults, so that `check` can say in words what is missing, instead of Python.
    title: str = ""
    rows: tuple[str, ...] = ()
    columns: str = ""
    metric: str | Mapping[str, str] = "accuracy"
    paper: Mapping[tuple[str, ...], Mapping[str, tuple[float, float | None]]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check(path: Path, table: Table, labels: Sequence[Mapping[str, str]]) -> None:
    """Checks a table against the names of its runs.

    Args:
      path: path of the sweep's file, for messages.
      table: the table.
      labels: axis -> name, for each run.

    Raises:
      ConfigError: if a field is wrong, a run has no cell, runs of one seed share a cell, two rows read the same, or the
        paper's figures stand in columns that no run has.
    """
    given: Any  # a user may have written anything
    if not isinstance(given := table.title, str):
        raise ConfigError(f"{path}: the table's title must be a text; got {show(given)}")
    for name, given in {"rows": table.rows, "notes": table.notes}.items():
        if not isinstance(given, tuple | list) or not all(isinstance(one, str) for one in given):
            raise ConfigError(f"{path}: the table's {name} must be a tuple of texts, such as ('a',); got {show(given)}")
    if not isinstance(table.columns, str):
        raise ConfigError(f"{path}: the table's columns must be the name of one axis; got {show(table.columns)}")
    for name in ("rows", "columns"):
        if not getattr(table, name):
            raise ConfigError(
                f"{path}: the table has no {name}; got {getattr(table, name)!r}: its rows are axes, such as "
                "('method',), and its columns the axis across, such as 'imbalance'; a sweep without a table has the "
                "usual comparison of methods"
            )
    _check_metric(path, table, labels)
    axes = (*table.rows, table.columns)
    if "seed" in axes or table.columns in table.rows:
        raise ConfigError(
            f"{path}: the table's rows must be one axis or more, its columns another, and none of them the seed; got "
            f"rows {list(table.rows)}, columns {table.columns!r}"
        )
    _check_cells(path, axes if isinstance(table.metric, str) else table.rows, labels)
    if not isinstance(given := table.paper, Mapping):
        raise ConfigError(
            f"{path}: the paper's figures must be {{row: {{column: figure}}}}, with {{}} for none; got {show(given)}"
        )
    for row, cells in table.paper.items():
        _check_paper(path, table, row, cells)
    _check_rows(path, [*table.paper, *(tuple(one[axis] for axis in table.rows) for one in labels)])
    printed = {column for cells in table.paper.values() for column in cells}
    own = dict.fromkeys(one[table.columns] for one in _of_cells(table, labels))
    if printed and not printed & own.keys():
        raise ConfigError(
            f"{path}: the paper's figures must be in columns of the axis {table.columns!r}; the runs have "
            f"{', '.join(map(repr, own))}; got {', '.join(sorted(map(repr, printed)))}"
        )


def as_json(table: Table, labels: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Returns a table's layout as JSON values; rows and columns are in order (`Table.paper`), settings by number."""
    runs = list(labels)
    row_names = _merged(table.paper, [tuple(one[axis] for axis in table.rows) for one in runs])
    printed = [column for cells in table.paper.values() for column in cells]
    own = [one[table.columns] for one in _of_cells(table, runs)]
    paper = [
        {"row": list(row), "column": column, "mean": mean, "std": std}
        for row, cells in table.paper.items()
        for column, (mean, std) in cells.items()
    ]
    return {
        "title": table.title,
        "rows": list(table.rows),
        "columns": table.columns,
        "metric": table.metric if isinstance(table.metric, str) else dict(table.metric),
        "row_names": [list(names) for names in _in_order(row_names)],
        "column_names": _merged(printed, own) if isinstance(table.metric, str) else list(dict.fromkeys(own + printed)),
        "paper": paper,
        "notes": list(table.notes),
    }


def cells_of(
    metric: str | Mapping[str, str], columns: str, labels: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Lists the cells that a run fills: the metric of each, and the run's names there, with that of the column.

    Args:
      metric: as in `Table`; columns too.
      labels: axis -> the run's name on it.
    """
    if isinstance(metric, str):
        return [(metric, dict(labels))]
    return [(one, {**labels, columns: column}) for column, one in metric.items()]


def group_of(metric: str) -> str | None:
    """Returns the group of classes whose recall or precision a metric is; None for the metrics of all classes."""
    match = None if metric in METRICS else _OF_GROUP.fullmatch(metric)
    return match and match[1]


def row_key(names: Sequence[str]) -> tuple[str, str]:
    """Turns a row's names on its axes into method and setting, as rows of results hold them."""
    return names[0], ", ".join(filter(None, names[1:]))


def _merged(printed: Iterable[T], own: Sequence[T]) -> list[T]:
    """Lists the names of the paper and of the runs, each once; in the paper's order if it has all of the runs."""
    printed = list(printed)
    return list(dict.fromkeys([*printed, *own] if set(own) <= set(printed) else [*own, *printed]))


def _in_order(row_names: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Puts the rows of a method together, and sorts rows of one kind of setting, such as beta, by number."""
    kinds: dict[tuple[str, Any], int] = {}
    keys = {}
    for names in dict.fromkeys(row_names):
        kind, number = read_setting(names[-1]) or (names[-1], 0.0)
        first = kinds.setdefault((names[0], None), len(kinds))
        keys[names] = (first, kinds.setdefault((names[0], (*names[1:-1], kind)), len(kinds)), number)
    return sorted(keys, key=keys.__getitem__)


def read_setting(setting: str) -> tuple[str, float] | None:
    """Returns the name and the number of a setting such as "beta 0.999"; None for any other text."""
    match = re.fullmatch(r"(.*\S) (\d+(?:\.\d+)?(?:e[+-]?\d+)?)", setting)
    return (match[1], float(match[2])) if match else None


def _of_cells(table: Table, labels: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    return [names for one in labels for _, names in cells_of(table.metric, table.columns, one)]


def _check_metric(path: Path, table: Table, labels: Sequence[Mapping[str, str]]) -> None:
    given: Any = table.metric  # a user may have written anything
    several = isinstance(given, Mapping)
    metrics = list(given.values()) if several else [given]
    if not metrics or not all(isinstance(one, str) and (one in METRICS or group_of(one)) for one in metrics):
        raise ConfigError(
            f"{path}: the table's metric must be one of {', '.join(METRICS)}, or NAME_accuracy or NAME_precision of a "
            f"group of classes, or {{column: metric}} of these; got {show(given)}"
        )
    if several and (not all(isinstance(column, str) for column in given) or len(set(metrics)) < len(metrics)):
        raise ConfigError(f"{path}: the table's metrics need texts as columns, and one column each; got {show(given)}")
    if several and any(table.columns in one for one in labels):
        raise ConfigError(
            f"{path}: the columns of a table with several metrics are these, so no run may have a name on the axis "
            f"{table.columns!r}; put it in the table's rows, and give its columns another name"
        )


def _check_cells(path: Path, axes: Sequence[str], labels: Sequence[Mapping[str, str]]) -> None:
    cells: dict[Any, Mapping[str, str]] = {}
    for one in labels:
        if missing := [axis for axis in axes if axis not in one]:
            raise ConfigError(
                f"{path}: each run needs a name on the axes of the table; {dict(one)} has none on {', '.join(missing)}"
            )
        place = (*(one[axis] for axis in axes), one.get("seed"))
        other = cells.setdefault(place, one)
        if other is not one and dict(other) == dict(one):
            raise ConfigError(f"{path}: a run is there twice: {dict(one)}")
        if other is not one:
            raise ConfigError(
                f"{path}: runs of one seed must stand in different cells of the table; {dict(other)} and {dict(one)} "
                "do not: name the axis in which they differ in its rows"
            )


def _check_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    known: dict[str, tuple[str, ...]] = {}
    for row in rows:
        text = " ".join(filter(None, row_key(row)))
        if (other := known.setdefault(text, row)) != row:
            raise ConfigError(
                f"{path}: no two rows of the table may read the same; {other} and {row} are both {text!r}: give one "
                "of them another name"
            )


def _check_paper(path: Path, table: Table, row: Any, cells: Any) -> None:
    if not isinstance(row, tuple) or len(row) != len(table.rows) or not all(isinstance(name, str) for name in row):
        raise ConfigError(
            f"{path}: a row of the paper's figures must be a tuple of {len(table.rows)} texts, its names on "
            f"{', '.join(table.rows)}; got {show(row)}"
        )
    if not isinstance(cells, Mapping):
        raise ConfigError(
            f"{path}: the paper's figures of a row must be {{column: (mean, standard deviation or None)}}; got "
            f"{show(cells)} in the row {row}"
        )
    for column, cell in cells.items():
        if not isinstance(column, str):
            raise ConfigError(
                f"{path}: columns of the paper's figures must be texts, such as '{show(column)}'; got "
                f"{show(column)} in the row {row}"
            )
        mean, std = cell if isinstance(cell, tuple) and len(cell) == 2 else (None, None)
        if not _is_number(mean) or not (std is None or _is_number(std)):
            raise ConfigError(
                f"{path}: a figure of the paper must be (mean, standard deviation or None), in per cent; got "
                f"{show(cell)} in the row {row}, column {column}: leave out columns that the paper lacks"
            )


def _is_number(figure: Any) -> bool:
    try:
        return isinstance(figure, Real) and math.isfinite(figure)
    except OverflowError:  # a whole number with hundreds of digits
        return False
