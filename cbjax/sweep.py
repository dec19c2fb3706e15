"""Many runs: which are left, in which groups, and what became of each. The same command goes on after a kill."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cbjax import config as configs
from cbjax import modes, processes, programs, rows, sharding, variants
from cbjax import workdir as workdirs
from cbjax.config import ConfigError
from cbjax.config_schema import is_streamed
from cbjax.data import Source, sources
from cbjax.interrupts import Interrupted
from cbjax.loop import NonFiniteLoss
from cbjax.programs import GroupPrograms
from cbjax.progress import Board, board
from cbjax.report import report, report_sweep
from cbjax.run import Shared, train
from cbjax.train_group import train_group
from cbjax.variants import PlannedRun, Sweep, shard
from cbjax.workdir import WorkdirError

FAILED = "failed.json"


def sweep(
    name: str,
    described: Sweep,
    runs: Sequence[PlannedRun],
    workdir: str | os.PathLike,
    *,
    mode: str = "auto",
    group_size: int | None = None,
    part: tuple[int, int] = (1, 1),
    results: str | os.PathLike | None = None,
    tell: Callable[[str], None] = print,
) -> tuple[pathlib.Path, dict[str, str]]:
    """Trains each run in `workdir/NAME`, adds a row for each to the results, then reports on all of them in `workdir`.

    A run whose row is in the results already, or in another table beside them, is not trained again, whether its work
    directory is there or not. One that fails is kept with its error and does not stop the others; the next call tries
    it again, unless it diverged.

    Args:
      name: of the sweep, which its rows bear.
      described: what the runs were made of, for its table.
      runs: all runs of the sweep, as from `variants.load`.
      workdir: the folder of all runs.
      mode: one of `modes.MODES`; "auto" measures once and writes its choice to `workdir/plan*.json`.
      group_size: runs of a group; None to choose.
      part: (i, n): trains every n-th run from the i-th on, from 1; any number of machines may share the folder.
      results: the CSV of rows; None for `workdir/results.csv`, of a part `workdir/results_I_of_N.csv`.
      tell: called with a line for each event where there is no terminal.

    Returns:
      The path of the report, and name -> error of the runs that failed, now or before.

    Raises:
      ConfigError: before anything is trained, if a work directory holds a run of another config.
    """
    place = pathlib.Path(workdir).expanduser().absolute()
    first = processes.is_first()
    suffix = "" if part[1] == 1 else f"_{part[0]}_of_{part[1]}"
    path = pathlib.Path(results) if results is not None else place / f"results{suffix}.csv"
    mine = shard(runs, *part)
    ended = processes.from_first(lambda: _begin(name, described, runs, mine, place, path))
    left = [run for run in mine if run.name not in ended]
    failed = {run: error for run, error in ended.items() if error is not None}
    # A few sources at most, and those of one sweep are few: read once for all runs.
    load = functools.lru_cache(maxsize=2)(sources.load)
    plan = _plan(place / f"plan{suffix}.json", left, mode, group_size, load, tell if first else _say_nothing)
    by_name = {run.name: run for run in left}
    with board(
        len(mine), sum(error is None for error in ended.values()), len(failed), tell if first else None
    ) as shown:
        trainer = _Trainer(place, shown, load)
        for names in plan["groups"]:
            group = [by_name[one] for one in names if one in by_name]
            if not group:
                continue
            outcome = trainer.train(group, plan["mode"], whole=len(group) == len(names))
            for run in group:
                error = outcome.get(run.name)
                if error is not None:
                    failed[run.name] = error
                elif first:
                    rows.add(path, [rows.row(name, described, run, place / run.name)])
                shown.end(run.name, error)
    if first:
        made = [place / run.name for run in runs if (place / run.name / "config.json").exists()]
        if described.table is not None:
            report_sweep(place)
        elif made:
            report(made, place)
    return place / "report.md", failed


class _Trainer:
    """Trains groups one after another, which share their programs."""

    def __init__(self, place: pathlib.Path, shown: Board, load: Callable[..., Source]):
        self._place, self._shown = place, shown
        self._shared = Shared(load=load, tell=shown.line, bar=shown.bar)
        self._known: dict[str, GroupPrograms] = {}

    def train(self, group: Sequence[PlannedRun], mode: str, whole: bool) -> dict[str, str]:
        """Trains runs; returns name -> error of those that failed, each of which is also noted in its folder."""
        self._shown.begin([run.name for run in group])
        if mode != "loop" and len(group) > 1 and whole:
            return self._attempt(group, lambda: self._together(group, mode))
        failed: dict[str, str] = {}
        # What a kill left of a group that was being finished is trained alone, to the same results.
        for run in group:
            failed |= self._attempt([run], functools.partial(self._alone, run))
        return failed

    def _attempt(self, group: Sequence[PlannedRun], work: Callable[[], dict[str, str]]) -> dict[str, str]:
        try:
            failed = work()
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            if processes.count() > 1:
                raise  # the others are not where this one is
            failed = {run.name: _said(error) for run in group if not _has_results(self._place / run.name)}
            for name in failed:
                _note(self._place / name, error)
            return failed
        for name, said in failed.items():
            _note(self._place / name, NonFiniteLoss(said))
        return failed

    def _alone(self, run: PlannedRun) -> dict[str, str]:
        train(run.config, self._place / run.name, shared=self._shared)
        return {}

    def _together(self, group, mode):
        devices = sharding.count_devices() if mode == "devices" else 1
        count = max(n for n in range(1, devices + 1) if len(group) % n == 0)
        names = "\n".join(run.name for run in group)
        folder = self._place / "groups" / hashlib.sha256(names.encode()).hexdigest()[:12]
        mesh = sharding.make_mesh(count)
        return train_group(group, self._place, folder, mesh, len(group) // count, self._known, self._shared)


def _plan(
    path: pathlib.Path,
    left: Sequence[PlannedRun],
    mode: str,
    group_size: int | None,
    load: Callable[..., Source],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Reads how the runs are trained, or decides it and writes it down; runs that are not in it come alone."""
    plan: dict[str, Any] = {"mode": "loop", "groups": []}
    if path.exists():
        plan = json.loads(path.read_text())
        asked = {"mode": mode, "group_size": group_size}
        if mode != "auto" and plan["asked"] != asked:
            raise ConfigError(
                f"{path}: these runs were begun with {plan['asked']}; go on with that, or use another --workdir"
            )
    elif left:
        plan = _decide(left, mode, group_size, load, tell)
        workdirs.write_json(path, plan)
    planned = {name for names in plan["groups"] for name in names}
    return {**plan, "groups": [*plan["groups"], *([run.name] for run in left if run.name not in planned)]}


def _decide(left, mode, group_size, load, tell):
    shapes: dict[str, list[PlannedRun]] = {}
    for run in left:
        shapes.setdefault(_shape(run), []).append(run)
    largest = max(shapes.values(), key=len)
    choice = modes.Choice("loop", 1, [])
    alone = len(largest) == 1 or any(is_streamed(run.config.data.name) for run in left) or processes.count() > 1
    if alone and mode in ("vmap", "devices"):
        raise ConfigError(
            f"mode={mode!r} needs several runs that differ in settings alone, of images that fit on the "
            "devices, and one process; use mode=loop"
        )
    if not alone and mode != "loop":
        tell(f"choosing how to train {len(left)} runs" if mode == "auto" else f"measuring groups of runs, {mode}")
        choice = modes.choose(largest, mode, group_size, load)
        tell(f"mode {choice.mode}, {choice.group_size} runs at a time")
    groups = [
        [run.name for run in same[i : i + choice.group_size]]
        for same in shapes.values()
        for i in range(0, len(same), choice.group_size)
    ]
    # In the order of the sweep, which puts the most telling runs first.
    place = {run.name: number for number, run in enumerate(left)}
    groups.sort(key=lambda names: place[names[0]])
    asked = {"mode": mode, "group_size": group_size}
    return {
        "asked": asked,
        "mode": choice.mode,
        "group_size": choice.group_size,
        "measured": choice.measured,
        "groups": groups,
    }


def _shape(run: PlannedRun) -> str:
    """Returns a text that is equal for runs whose programs and data have the same shapes."""
    flat = json.loads(configs.to_json(run.config))
    for key in programs.ARGUMENTS:
        section, _, key_name = key.rpartition(".")
        if section != "data" or key_name == "seed":
            (flat[section] if section else flat).pop(key_name)
    return json.dumps(flat)


def _begin(
    name: str,
    described: Sweep,
    runs: Sequence[PlannedRun],
    mine: Sequence[PlannedRun],
    place: pathlib.Path,
    path: pathlib.Path,
) -> dict[str, str | None]:
    """Writes down what the sweep is and the rows that are there already; returns the runs that are over."""
    _ended(mine, place, path)  # refuses folders of other configs before anything is written
    place.mkdir(parents=True, exist_ok=True)
    _write_description(place, name, described, runs, path)
    # A kill may come between a run's results and its row.
    rows.add(path, [rows.row(name, described, run, place / run.name) for run in _without_rows(mine, place, path)])
    rows.add(path, rows.from_neighbours(path, name, described, mine))
    return _ended(mine, place, path)


def _ended(runs: Sequence[PlannedRun], place: pathlib.Path, path: pathlib.Path) -> dict[str, str | None]:
    """Returns the runs that are over: name -> None, or the error of one that diverged."""
    known = {one["config"] for one in rows.read(path)}
    ended: dict[str, str | None] = {}
    for run in runs:
        finished = workdirs.is_finished(place / run.name, run.config)
        noted = place / run.name / FAILED
        if finished or rows.config_hash(run) in known:
            ended[run.name] = None
        elif noted.exists() and json.loads(noted.read_text())["diverged"]:
            ended[run.name] = json.loads(noted.read_text())["error"]
    return ended


def _without_rows(runs: Sequence[PlannedRun], place: pathlib.Path, path: pathlib.Path) -> list[PlannedRun]:
    known = {one["config"] for one in rows.read(path)}
    missing = [run for run in runs if rows.config_hash(run) not in known]
    return [run for run in missing if _has_results(place / run.name)]


def _write_description(
    place: pathlib.Path, name: str, described: Sweep, runs: Sequence[PlannedRun], results: pathlib.Path
) -> None:
    listed = [{"name": run.name, "labels": dict(run.labels), "config": rows.config_hash(run)} for run in runs]
    description = {"name": name, "config": described.config, "results": str(results.absolute())}
    workdirs.write_json(
        place / "sweep.json", {**description, "table": variants.table_as_json(described), "runs": listed}
    )


def _has_results(place: pathlib.Path) -> bool:
    return (place / "results.json").exists()


def _note(place: pathlib.Path, error: Exception) -> None:
    place.mkdir(parents=True, exist_ok=True)
    trace = "".join(traceback.format_exception(error))
    note = {
        "error": _said(error),
        "diverged": isinstance(error, NonFiniteLoss),
        "traceback": trace,
        "time": time.time(),
    }
    with contextlib.suppress(OSError):  # a full disk must not stop the other runs
        workdirs.write_json(place / FAILED, note)


def _said(error: Exception) -> str:
    known = (ConfigError, NonFiniteLoss, WorkdirError, OSError)
    return str(error) if isinstance(error, known) else f"{type(error).__name__}: {error}"


def _say_nothing(line: str) -> None:
    """Of several processes the first one speaks."""
