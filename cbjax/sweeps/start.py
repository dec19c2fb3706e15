"""Starts a sweep: checks everything that can be wrong before the first run, then writes down what the sweep is."""

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cbjax import data
from cbjax.config import ConfigError, class_groups
from cbjax.data import Source
from cbjax.data.files import check_outside
from cbjax.host.code import is_own
from cbjax.host.locks import locked
from cbjax.host.writers import replace
from cbjax.report import rows
from cbjax.report.sweep_table import group_of
from cbjax.sweeps import result_rows
from cbjax.sweeps.file import PlannedRun, table_as_json
from cbjax.training.check_data import check_own_code
from cbjax.variants import Sweep
from cbjax.workdir import files as workdirs
from cbjax.workdir.files import WorkdirError

FAILED = "failed.json"


def begin(
    name: str,
    described: Sweep,
    runs: Sequence[PlannedRun],
    mine: Sequence[PlannedRun],
    place: pathlib.Path,
    path: pathlib.Path,
    load: Callable[..., Source],
) -> tuple[dict[str, str | None], dict[str, list[int]]]:
    """Writes the sweep's description and its known rows. All checks come before anything is written.

    Returns:
      name -> error or None for runs that are over; name -> sizes of the data for runs that are left.
    """
    _check_place(place, name, runs)
    for run in mine:
        check_outside(run.config.data, place)
        workdirs.is_finished(place / run.name, run.config)
    found = result_rows.known(path, name, described, mine)
    having = {(one["config"], one["metric"]) for one in found}
    with_row = {
        run.identity for run in mine if all((run.identity, one) in having for one in result_rows.metrics(described))
    }
    # A kill may have come after a run's results and before its row.
    finished = [
        run for run in mine if run.identity not in with_row and workdirs.is_finished(place / run.name, run.config)
    ]
    found += [row for run in finished for row in result_rows.rows(name, described, run, place / run.name)]
    ended: dict[str, str | None] = {run.name: None for run in mine if run.identity in with_row}
    ended |= dict.fromkeys([run.name for run in finished])
    for run in mine:
        if run.name not in ended:
            with contextlib.suppress(WorkdirError):  # no note, or one cut off by a full disk: the run is tried again
                note = workdirs.read_json(place / run.name / FAILED)
                if note.get("diverged"):
                    ended[run.name] = note["error"]
    sizes = _check_data([run for run in mine if run.name not in ended], described, load)
    _check_own_code([run for run in mine if run.name not in ended], load)
    place.mkdir(parents=True, exist_ok=True)
    _write_description(place, name, described, runs, path)
    rows.add(path, found)
    for run in (run for run in mine if run.name in ended and ended[run.name] is None):
        (place / run.name / FAILED).unlink(missing_ok=True)
    return ended, sizes


def _check_place(place: pathlib.Path, name: str, runs: Sequence[PlannedRun]) -> None:
    """Raises ConfigError if the folder holds a run or another sweep; this sweep's report would replace its report."""
    if (place / "config.json").exists():
        raise ConfigError(f"{place} holds a run; a sweep needs its own folder: use another --workdir")
    try:
        former = workdirs.read_json(place / "sweep.json")
    except WorkdirError:  # no sweep, or a file cut off by a full disk
        return
    # Runs are compared by name, not by config: configs change when data move.
    shared = {one["name"] for one in former["runs"]} & {run.name for run in runs}
    # The names of the two files, without recipe and overrides.
    files = [re.split("[: ]", one)[0].removesuffix(".py") for one in (former["name"], name)]
    if files[0] != files[1] or not shared:
        raise ConfigError(
            f"{place} holds the sweep {former['name']!r}, which has other runs; got {name!r}: use another --workdir, "
            "or move that sweep away"
        )


def _check_data(runs: Sequence[PlannedRun], described: Sweep, load: Callable[..., Source]) -> dict[str, list[int]]:
    """Prepares the data of each run once, so that an error shows now and not after hours of other runs.

    Returns:
      name -> numbers of training, validation, test and meta images and of classes. A run is left out if its disk could
      not be read just now.

    Raises:
      DataError: if the data are missing, do not fit a run, or do not have the table's metrics.
    """
    metrics = result_rows.metrics(described)
    checked: dict[Any, list[int] | None] = {}
    for run in runs:
        asked = _asked(run)
        if asked in checked:
            continue
        try:
            found = data.of_config(run.config, load)
            classes = len(found.class_names)
            if (top5 := [one for one in metrics if one.startswith("top5_")]) and classes <= 5:
                raise data.DataError(f"the table's metric {top5[0]} needs more than 5 classes; got {classes}")
            if metrics != ["balanced_accuracy"] and found.multi_label:
                raise data.DataError(
                    "the table's metric must be balanced_accuracy for images with several labels; got "
                    f"{', '.join(metrics)}"
                )
            groups = class_groups.resolve(run.config.evaluation.groups, found.class_names)
            for metric in metrics:
                if (group := group_of(metric)) and not np.isin(found.test.labels, groups[group]).any():
                    raise data.DataError(f"the table's metric {metric} needs test images of the group {group}")
            splits = (found.train, found.validation, found.test, found.meta)
            checked[asked] = [*(0 if split is None else len(split) for split in splits), classes]
        except data.DataError as error:
            raise data.DataError(f"run {run.name}: {error}") from error
        except OSError:
            checked[asked] = None
    sizes = {run.name: checked[_asked(run)] for run in runs}
    return {name: found for name, found in sizes.items() if found is not None}


def _asked(run: PlannedRun) -> tuple[Any, ...]:
    """Returns what decides whether a run's data are as they must be."""
    return run.config.seed, run.config.data.to_json_best_effort(), run.config.evaluation.groups


def _check_own_code(runs: Sequence[PlannedRun], load: Callable[..., Source]) -> None:
    """Tries users' own networks and losses by their shapes alone, each once; raises ConfigError with the run's name."""
    tried = set()
    for run in runs:
        config = run.config
        if not (is_own(config.model.name) or is_own(config.loss.name)):
            continue
        key = json.dumps([config[section].to_dict() for section in ("model", "loss", "data")])
        if key in tried:
            continue
        tried.add(key)
        try:
            with contextlib.suppress(OSError):  # a disk that could not be read just now
                given = data.of_config(config, load)
                check_own_code(config, given.train.images.shape[1:], len(given.counts), given.multi_label)
        except ConfigError as error:
            raise ConfigError(f"run {run.name}: {error}") from error


def _write_description(
    place: pathlib.Path, name: str, described: Sweep, runs: Sequence[PlannedRun], results: pathlib.Path
) -> None:
    listed = [
        {"name": run.name, "labels": dict(run.labels), "config": run.identity, "weights": run.config.weights.name}
        for run in runs
    ]
    description = {"name": name, "config": str(described.config), "table": table_as_json(described), "runs": listed}
    path = place / "sweep.json"
    with locked(place / ".lock"):  # shards of a sweep add their own files of rows here
        files: list[str] = []
        with contextlib.suppress(WorkdirError):  # not there yet, or cut off by a full disk
            files = workdirs.read_json(path).get("files", [])
        # A relative path, if possible, still holds when the folder moves.
        inside = results.absolute().is_relative_to(place)
        files = list(
            dict.fromkeys([*files, str(results.absolute().relative_to(place) if inside else results.absolute())])
        )
        # Without a checksum, because the shards of a sweep share the file and each command rewrites it.
        replace(path, (json.dumps({**description, "files": files}, indent=2) + "\n").encode())
