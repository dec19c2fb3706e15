"""Makes rows from the figures of a sweep's runs: of a run that just finished, or from files of rows."""

import contextlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from cbjax.host import checked_json
from cbjax.host.text import visible
from cbjax.report.rows import NoRowsError, RowsError, place, read
from cbjax.report.sweep_table import cells_of
from cbjax.sweeps.file import PlannedRun
from cbjax.variants import Sweep

# A table's metric -> the metric of the test split, and whether the table shows errors. Groups' metrics are not listed:
# both names are the same.
MEASURES = {
    "accuracy": ("accuracy", False),
    "error": ("accuracy", True),
    "balanced_accuracy": ("balanced_accuracy", False),
    "top5_accuracy": ("top5_accuracy", False),
    "top5_error": ("top5_accuracy", True),
    "macro_recall": ("macro_recall", False),
    "macro_precision": ("macro_precision", False),
    "macro_f1": ("macro_f1", False),
    "geometric_mean": ("geometric_mean", False),
    "matthews": ("matthews", False),
}


def metrics(sweep: Sweep) -> list[str]:
    """Lists the metrics of a sweep's table; a run has a row for each."""
    return [metric for metric, _ in cells_of(*_axes(sweep), {})]


def rows(name: str, sweep: Sweep, run: PlannedRun, workdir: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a finished run, one for each metric; a figure that it lacks is "".

    Args:
      name: name of the sweep.
      sweep: gives the table's axes and metrics; without a table the method is the run's name without its seed.
      run: the run.
      workdir: its work directory, with `results.json` and `environment.json`.

    Raises:
      RowsError: if one of the files is missing or damaged.
    """
    try:
        results = checked_json.read(workdir / "results.json")
        environment = checked_json.read(workdir / "environment.json")
    except checked_json.RecordError as error:
        raise RowsError(str(error)) from error
    return [
        {
            **names,
            "last": _figure(results, "last", names["metric"]),
            "best": _figure(results, "best", names["metric"]),
            "device": environment["devices"],
            "seconds": f"{results['seconds']:.1f}",
            "commit": environment["commit"] or "",
        }
        for names in _names(name, sweep, run)
    ]


def known(path: pathlib.Path, name: str, sweep: Sweep, runs: Iterable[PlannedRun]) -> list[dict[str, str]]:
    """Returns the rows of these runs from a file and from other CSV files in its folder, with this sweep's names.

    Tables share runs: CDB with dynamic tau is in tables 1 and 2 of its paper, with the same configs. A row counts if it
    has a metric of the sweep.

    Raises:
      RowsError: if one of the files of rows is damaged.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for neighbour in sorted(set(path.parent.glob("*.csv")) - {path}):
        with contextlib.suppress(NoRowsError):
            found |= {(one["config"], one["metric"]): one for one in read(neighbour)}
    found |= {(one["config"], one["metric"]): one for one in read(path)}
    named = [names for run in runs for names in _names(name, sweep, run)]
    return [found[key] | one for one in named if (key := (one["config"], one["metric"])) in found]


def strangers(path: pathlib.Path, name: str, runs: Iterable[PlannedRun]) -> int:
    """Returns how many rows of a file have a sweep's name but belong to none of its runs."""
    known = {run.identity for run in runs}
    return sum(one["table"] == visible(name) and one["config"] not in known for one in read(path))


def _names(name: str, sweep: Sweep, run: PlannedRun) -> list[dict[str, str]]:
    """Returns the fields of each row that say which run it is and where in the table it stands."""
    axes = {axis: label for axis, label in run.labels.items() if axis != "seed"} or {"": name}
    across, column = (sweep.table.rows, sweep.table.columns) if sweep.table else (tuple(axes), None)
    return [
        {
            "table": visible(name),
            **place(labels, across, column),
            "seed": str(run.config.seed),
            "metric": metric,
            "config": run.identity,
        }
        for metric, labels in cells_of(*_axes(sweep), axes)
    ]


def _axes(sweep: Sweep) -> tuple[str | Mapping[str, str], str]:
    """Returns the metric and the columns of a sweep's table (`sweep_table.Table`)."""
    return (sweep.table.metric, sweep.table.columns) if sweep.table else ("balanced_accuracy", "")


def _figure(results: Mapping[str, Any], checkpoint: str, metric: str) -> str:
    """Returns a metric of the test split in per cent; "" if the run has no such checkpoint, or no such figure there.

    A group's accuracy is missing if none of its images could be read, for example.
    """
    key, counts_errors = MEASURES.get(metric, (metric, False))
    if not results.get(checkpoint):
        return ""
    share = results[checkpoint]["test"].get(key)
    if share is None:
        return ""
    return f"{100 * (1 - share if counts_errors else share):.4f}"
