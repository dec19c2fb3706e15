"""Reads, writes and checks a work directory's files, except checkpoints and reports: config, data, results …"""

import contextlib
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.config.compare import SOURCE_KEYS
from cbjax.host import checked_json
from cbjax.host.checked_json import RecordError
from cbjax.host.locks import locked
from cbjax.host.output import say
from cbjax.host.storage import Place, with_absolute_paths
from cbjax.host.writers import EVENTS, remove_remains, replace
from cbjax.types import Row
from cbjax.workdir import environment, own_code
from cbjax.workdir.logs import is_log_of


class WorkdirError(ValueError):
    """A work directory cannot be used as asked: it holds no run, or another process is training there."""


class BusyError(WorkdirError):
    """Another process is training in the work directory."""


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a local directory (see `locks.locked`).

    For a directory in a bucket it locks only this process's local copy, so it keeps nobody out.

    Raises:
      BusyError: if another process holds the lock.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(workdir / ".lock", wait=False))
        except BlockingIOError:
            raise BusyError(
                f"{workdir}: another process is training here; wait for it or choose another --workdir"
            ) from None
        remove_remains(workdir)
        yield


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file and its checksum, whole or not at all; numbers that are not finite become null."""
    checked_json.write(path, value)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; raises WorkdirError, with the path, if the file is missing, damaged or edited."""
    try:
        return checked_json.read(path)
    except RecordError as error:
        raise WorkdirError(str(error)) from error


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads the config of the run in a work directory.

    Raises:
      WorkdirError: if there is no run, or the file is damaged or was edited.
    """
    path = workdir / "config.json"
    if not path.exists():
        instead = _run_of_sweep(workdir) or f"`cbjax train --config=… --workdir={workdir}` makes one"
        raise WorkdirError(f"{workdir} holds no run: there is no config.json; {instead}")
    try:
        return configs.from_json(json.dumps(read_json(path)))
    except ConfigError as error:
        raise WorkdirError(f"{path}: {error}") from error


def tell_unfinished(*places: Place) -> None:
    """Says which runs have not ended, so that nobody takes their figures for those of the end."""
    for place in places:
        if not (place.files / "results.json").exists():
            text = "this run is not finished, so a checkpoint on its way is used; its training command goes on"
            say(f"{place.root}: {text}", error=True)


def _run_of_sweep(workdir: pathlib.Path) -> str | None:
    """Returns what to give in place of a sweep's folder; None if it is none, or none of its runs has begun."""
    try:
        names = [run["name"] for run in read_json(workdir / "sweep.json")["runs"]]
        there = next((workdir / name for name in names if (workdir / name / "config.json").exists()), None)
    except (WorkdirError, KeyError, TypeError):
        return None
    return None if there is None else f"it has the runs of a sweep: give one of them, such as {there}"


def read_final_metrics(workdir: pathlib.Path) -> dict[str, float]:
    """Reads the metrics of a finished run, under the names that `train` uses; returns {} for an unfinished run."""
    path = workdir / "results.json"
    if not path.exists():
        return {}
    try:
        results = checked_json.read(path)
    except RecordError as error:
        if not path.exists():  # a run that goes on has just removed it
            return {}
        raise WorkdirError(f"{error}; or run the same `cbjax train` command again, which makes a new one") from error
    final: dict[str, float] = {}
    try:
        for name in ("last", "best"):
            for split, values in (results[name] or {}).items():
                if split in ("validation", "test"):
                    final |= {f"{split}/{name}/{key}": value for key, value in values.items()}
                else:
                    final[f"{name}/{split}"] = values
    except (KeyError, AttributeError) as error:
        raise WorkdirError(f"{path} is damaged: it lacks the last and the best figures") from error
    return final


def lacks(workdir: pathlib.Path, history: Mapping[str, Sequence[Row]], tensorboard: bool) -> list[str]:
    """Returns the names of a finished run's files that are missing, damaged, or do not fit its history."""
    lost = [
        name
        for name in ("config.json", "data.json", "environment.json", "results.json")
        if not checked_json.is_sound(workdir / name)
    ]
    for name in ("indices.npz", "parameters.txt"):
        with contextlib.suppress(OSError):
            if (workdir / name).stat().st_size and checked_json.is_unchanged(workdir / name):
                continue
        lost.append(name)
    for name, rows in history.items():
        log = workdir / f"{name}.jsonl"
        if not (is_log_of(log, rows) and checked_json.is_unchanged(log)):
            lost.append(log.name)
    if tensorboard and not any(path.stat().st_size for path in workdir.glob(EVENTS)):
        lost.append(EVENTS)
    return lost


def check_resume(workdir: pathlib.Path, config: ConfigDict, extend: bool = False) -> list[str]:
    """Checks that a run in a work directory, if any, may go on under `config`; returns lines to print.

    Raises:
      ConfigError: if the run has other settings.
    """
    if not (workdir / "config.json").exists():
        return []
    try:
        return configs.check_resume(read_config(workdir), config, extend)
    except WorkdirError:
        if checked_json.was_written(workdir / "config.json", json.loads(configs.to_json(config))):
            return []  # the file is damaged, but once said the same
        raise
    except ConfigError as error:
        raise ConfigError(f"{workdir}: {error}") from error


def write_parameters(workdir: pathlib.Path, params: Any) -> None:
    """Writes a table of the parameters, with their shapes and initial statistics."""
    table = parameter_overview.get_parameter_overview(params) + "\n"
    replace(workdir / "parameters.txt", table.encode())


def is_finished(workdir: pathlib.Path, config: ConfigDict) -> bool:
    """Returns whether a work directory holds the finished run of this config.

    If the data lie elsewhere now, the answer is no: training will read them and find out whether they are the same.

    Raises:
      ConfigError: if it holds a run of another config.
    """
    config = with_absolute_paths(config)
    check_resume(workdir, config)
    if not all(checked_json.is_sound(workdir / name) for name in ("results.json", "config.json", "environment.json")):
        return False
    return not set(configs.difference(read_config(workdir), config)[0]) & set(SOURCE_KEYS)


def write_start(
    workdir: pathlib.Path, config: ConfigDict, facts: Mapping[str, Any], indices: Mapping[str, np.ndarray], devices: str
) -> None:
    """Writes what is known before the first step: config, data, chosen indices and environment.

    If a finished run is extended, its results and report are removed; its new end writes new ones.
    """
    if (workdir / "results.json").exists():
        (workdir / "report.md").unlink(missing_ok=True)
        (workdir / "results.json").unlink()
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **indices)
    replace(workdir / "indices.npz", packed.getvalue())
    checked_json.vouch(workdir, ["indices.npz"])
    write_json(workdir / "data.json", facts)
    facts_here = {**environment.describe(), "commit": environment.commit(), "devices": devices}
    write_json(workdir / "environment.json", environment.added(read_environment(workdir), facts_here))
    own_code.keep(workdir, config)
    # The config comes last: it tells others that all files are there.
    write_json(workdir / "config.json", json.loads(configs.to_json(config)))


def read_environment(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the noted facts about a run's machine and software; {} if there are none."""
    try:
        noted = read_json(workdir / "environment.json")
    except WorkdirError:
        return {}
    return noted if isinstance(noted, dict) else {}


def check_environment(workdir: pathlib.Path, devices: str) -> list[str]:
    """Returns a line to print if a run goes on on another machine or with other software."""
    path = workdir / "environment.json"
    if path.exists() and not checked_json.is_sound(path):
        return [f"{path} is damaged, so a change of machine or software cannot be noticed; it is written again"]
    return environment.note(read_environment(workdir), {**environment.describe(), "devices": devices})
