"""Trains the runs of a sweep that are left, in cohorts, and reports on all. The same command goes on after a kill."""

import contextlib
import functools
import os
import pathlib
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from cbjax import config as configs
from cbjax import data
from cbjax.config import ConfigError
from cbjax.data import Source, sources
from cbjax.host.output import say
from cbjax.host.storage import is_remote, place_of
from cbjax.host.writers import is_full
from cbjax.parallel import processes, sharding
from cbjax.report import LeftOut, report, report_sweep, rows
from cbjax.sweeps import modes, plan, result_rows, start
from cbjax.sweeps.board import Board, board
from cbjax.sweeps.file import PlannedRun, shard
from cbjax.sweeps.start import FAILED
from cbjax.sweeps.train_cohort import train_cohort
from cbjax.training.run import Shared, train
from cbjax.types import NonFiniteLoss
from cbjax.variants import Sweep
from cbjax.workdir import environment
from cbjax.workdir import files as workdirs
from cbjax.workdir.files import BusyError, WorkdirError


@environment.in_float32
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
    tell: Callable[[str], None] = say,
) -> tuple[pathlib.Path | None, dict[str, str]]:
    """Trains each run in `workdir/NAME`, adds its row to the results, then writes a report on all runs to `workdir`.

    A run is not trained again if its row is in the results, or in another CSV file in the same folder, even if its work
    directory is gone. A run that fails is noted with its error and does not stop the others. The next call tries it
    again, unless it diverged.

    Args:
      name: name of the sweep, for its rows.
      described: the sweep, for its table.
      runs: all runs of the sweep, as from `file.load`.
      workdir: the folder of all runs.
      mode: one of `modes.MODES`; "auto" measures once and writes its choice to `workdir/plan*.json`.
      group_size: number of runs in a cohort; None to choose.
      part: (i, n): train every n-th run, beginning with the i-th (from 1). Several machines may share the folder.
      results: the CSV of rows; None for `workdir/results.csv`, or for a part `workdir/results_I_of_N.csv`.
      tell: called with a line for each event if there is no terminal.

    Returns:
      The path of the report, or None if there is none (log.report=false, or no table and only rows are left); and name
      -> error for the runs that failed, now or before.

    Raises:
      ConfigError: before anything is trained, if a work directory holds a run of another config, the folder holds a run
        or another sweep, or its runs were begun in another mode.
      DataError: before anything is trained, if the data of a run that is left are missing or do not fit.
    """
    if is_remote(workdir):
        raise ConfigError(f"a sweep is kept in a local folder; got {os.fspath(workdir)}")
    place = place_of(workdir)
    first = processes.is_first()
    path = pathlib.Path(results) if results is not None else place / f"results{plan.suffix(part)}.csv"
    mine = shard(runs, *part)
    # A sweep has few sources; each is read once for all runs.
    load = functools.lru_cache(maxsize=2)(sources.load)
    planned = plan.path_of(place, part)

    def begin():
        plan.check(planned, mode, group_size)
        return start.begin(name, described, runs, mine, place, path, load)

    ended, sizes = processes.from_first(begin)
    if first and (strange := result_rows.strangers(path, name, runs)):
        tell(f"{path} has {strange} rows of {name} whose settings fit none of its runs")
    left = [run for run in mine if run.name not in ended]
    failed = {run: error for run, error in ended.items() if error is not None}
    chosen = processes.from_first(lambda: plan.plan(planned, mine, left, mode, group_size, sizes, load, tell))
    by_name, waiting = {run.name: run for run in mine}, {run.name for run in left}
    done, epochs = sum(error is None for error in ended.values()), any(run.config.log.progress != "off" for run in mine)
    with board(len(mine), done, len(failed), tell if first else None, epochs) as shown:
        for lost in failed:
            shown.warn(f"run {lost} failed before: {failed[lost]}; to try it again, remove {place / lost}")
        trainer = _Trainer(place, shown, load, chosen["mode"], spread=chosen["asked"]["mode"] == "loop")
        late: list[PlannedRun] = []
        for names in chosen["groups"]:
            if waiting.isdisjoint(names):
                if first and all((place / one / "results.json").exists() for one in names):
                    shutil.rmtree(place / plan.folder(names), ignore_errors=True)  # a kill left it behind
                continue
            cohort = [by_name[one] for one in names]
            for run, error in trainer.train(cohort, [run for run in cohort if run.name in waiting]):
                if error is not None:
                    failed[run.name] = error
                elif first:
                    try:
                        made = result_rows.rows(name, described, run, place / run.name)
                        rows.add(path, made)
                        for metric in (row["metric"] for row in made if not row["last"]):
                            shown.warn(f"{run.name} has no {metric} on its test images: its cell stays empty")
                    except (rows.RowsError, OSError) as problem:  # damaged meanwhile, or a full disk: the others go on
                        shown.warn(f"the row of {run.name} could not be added yet: {problem}")
                        late.append(run)
                shown.end(run.name, error)
    if first:
        if late:
            rows.add(path, [row for run in late for row in result_rows.rows(name, described, run, place / run.name)])
        with contextlib.suppress(OSError):  # not empty if a cohort failed
            (place / "groups").rmdir()
        if not any(run.config.log.report for run in mine):
            return None, failed
        try:
            if described.table is not None:
                report_sweep(place)
            elif not _report_runs(place, runs, path, tell):
                return None, failed
        except Exception as error:  # not fatal: the runs are finished, and their figures are on disk
            tell(f"the report could not be written: {error}; `cbjax report {place}` tries again")
            return None, failed
    return place / "report.md", failed


def _report_runs(
    place: pathlib.Path, runs: Sequence[PlannedRun], path: pathlib.Path, tell: Callable[[str], None]
) -> bool:
    """Reports on the runs of a sweep without a table; returns whether any work directory is there."""
    made = [place / run.name for run in runs if (place / run.name / "config.json").exists()]
    kept = {one["config"] for one in rows.read(path)}
    gone = [place / run.name for run in runs if place / run.name not in made and run.identity in kept]
    if gone:
        tell(f"only the rows in {path} are left of {len(gone)} finished runs: the report has no figures of them")
    if made:
        report(made, place, [LeftOut(one, f"only its row in {path.name} is left") for one in gone])
    return bool(made)


class _Trainer:
    """Trains cohorts one after another; they share compiled programs."""

    def __init__(self, place: pathlib.Path, shown: Board, load: Callable[..., Source], mode: str, spread: bool):
        self._place, self._shown, self._mode, self._spread = place, shown, mode, spread
        self._shared = Shared(load=load, tell=shown.line, bar=shown.bar)

    def train(
        self, cohort: Sequence[PlannedRun], left: Sequence[PlannedRun]
    ) -> Iterator[tuple[PlannedRun, str | None]]:
        """Trains the runs of a cohort that are left; yields each run with its error, or None, when it ends.

        An error is also noted in the run's folder.
        """
        errors = None
        if self._mode != "loop" and len(cohort) > 1:
            self._begin(left)
            errors = self._together(cohort, left)
        for run in left:
            error = self._alone(run) if errors is None else errors.get(run.name)
            if error is None:
                (self._place / run.name / FAILED).unlink(missing_ok=True)
            yield run, error

    def _begin(self, runs: Sequence[PlannedRun]) -> None:
        config = runs[0].config
        self._shown.begin([run.name for run in runs], config.num_epochs, "clip" if config.data.frames else "image")

    def _alone(self, run: PlannedRun) -> str | None:
        self._begin([run])
        config = run.config
        if not self._spread and (devices := modes.devices_alone(config)) is not None:
            config = configs.change(config, [f"devices={devices}"])
        try:
            train(config, self._place / run.name, shared=self._shared)
        except Exception as error:
            # A loss that is not finite stops all processes at the same place. Any other error may be this one's alone.
            if processes.count() > 1 and not isinstance(error, NonFiniteLoss):
                raise
            if is_full(error):  # the disk is full for all other runs too
                raise
            return _note(self._place / run.name, error)
        return None

    def _together(self, cohort: Sequence[PlannedRun], left: Sequence[PlannedRun]) -> dict[str, str] | None:
        """Trains a cohort as one program; returns the errors of its runs, or None if this is not possible."""
        devices = sharding.count_devices() if self._mode == "devices" else 1
        count = max(n for n in range(1, devices + 1) if len(cohort) % n == 0)
        folder = self._place / plan.folder([run.name for run in cohort])
        mesh, size = sharding.make_mesh(count), len(cohort) // count
        try:
            failed = train_cohort(cohort, self._place, folder, mesh, size, self._shared)
        except Exception as error:
            if is_full(error):
                raise
            if plan.is_begun(folder):  # the next call goes on from the cohort's checkpoint
                return {run.name: _note(self._place / run.name, error) for run in left}
            self._shown.warn(f"{len(cohort)} runs as one program failed, so each is trained alone: {_said(error)}")
            if not isinstance(error, BusyError):
                shutil.rmtree(folder, ignore_errors=True)
            return None
        return {name: _note(self._place / name, error) for name, error in failed.items()}


def _note(place: pathlib.Path, error: Exception) -> str:
    """Notes why a run failed, unless another process trains it; returns the reason as a line."""
    if isinstance(error, BusyError) or not processes.is_first():
        return _said(error)
    trace = "".join(traceback.format_exception(error))
    note = {
        "error": _said(error),
        "diverged": isinstance(error, NonFiniteLoss),
        "traceback": trace,
        "time": time.time(),
    }
    with contextlib.suppress(OSError):  # a full disk must not stop the other runs
        place.mkdir(parents=True, exist_ok=True)
        workdirs.write_json(place / FAILED, note)
    return _said(error)


def _said(error: Exception) -> str:
    known = (ConfigError, data.DataError, NonFiniteLoss, WorkdirError, OSError)
    return str(error) if isinstance(error, known) else f"{type(error).__name__}: {error}"
