"""Many runs: which are left, in which groups, and what became of each. The same command goes on after a kill."""

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
from cbjax.host.progress import Board, board
from cbjax.host.storage import is_remote, place_of
from cbjax.host.writers import is_full
from cbjax.parallel import processes, sharding
from cbjax.report import LeftOut, report, report_sweep, rows
from cbjax.sweeps import figures, modes, plan, start
from cbjax.sweeps.file import PlannedRun, shard
from cbjax.sweeps.start import FAILED
from cbjax.sweeps.train_cohort import train_cohort
from cbjax.training.programs import GroupPrograms
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
    """Trains each run in `workdir/NAME`, adds a row for each to the results, then reports on all of them in `workdir`.

    A run whose row is in the results already, or in another table beside them, is not trained again, whether its work
    directory is there or not. One that fails is kept with its error and does not stop the others; the next call tries
    it again, unless it diverged.

    Args:
      name: of the sweep, which its rows bear.
      described: what the runs were made of, for its table.
      runs: all runs of the sweep, as from `sweep_file.load`.
      workdir: the folder of all runs.
      mode: one of `modes.MODES`; "auto" measures once and writes its choice to `workdir/plan*.json`.
      group_size: runs of a group; None to choose.
      part: (i, n): trains every n-th run from the i-th on, from 1; any number of machines may share the folder.
      results: the CSV of rows; None for `workdir/results.csv`, of a part `workdir/results_I_of_N.csv`.
      tell: called with a line for each event where there is no terminal.

    Returns:
      The path of the report, None where only rows are left of a sweep without a table, and name -> error of the runs
      that failed, now or before.

    Raises:
      ConfigError: before anything is trained, if a work directory holds a run of another config, or the folder a run
        or another sweep, or its runs were begun in another mode.
      DataError: before anything is trained, if the data of a run that is left are missing or do not fit it.
    """
    if is_remote(workdir):
        raise ConfigError(f"a sweep is kept in a local folder; got {os.fspath(workdir)}")
    place = place_of(workdir)
    first = processes.is_first()
    path = pathlib.Path(results) if results is not None else place / f"results{plan.suffix(part)}.csv"
    mine = shard(runs, *part)
    # A few sources at most, and those of one sweep are few: read once for all runs.
    load = functools.lru_cache(maxsize=2)(sources.load)
    planned = plan.path_of(place, part)

    def begin():
        plan.check(planned, mode, group_size)
        return start.begin(name, described, runs, mine, place, path, load)

    ended, sizes = processes.from_first(begin)
    if first and (strange := figures.strangers(path, name, runs)):
        tell(f"{path} has {strange} rows of {name} whose settings are those of none of its runs")
    left = [run for run in mine if run.name not in ended]
    failed = {run: error for run, error in ended.items() if error is not None}
    chosen = processes.from_first(lambda: plan.plan(planned, mine, left, mode, group_size, sizes, load, tell))
    by_name, waiting = {run.name: run for run in mine}, {run.name for run in left}
    done, epochs = sum(error is None for error in ended.values()), any(run.config.log.progress != "off" for run in mine)
    with board(len(mine), done, len(failed), tell if first else None, epochs) as shown:
        for lost in failed:
            shown.warn(f"run {lost} failed before: {failed[lost]}; to try it again remove {place / lost}")
        trainer = _Trainer(place, shown, load, chosen["mode"], spread=chosen["asked"]["mode"] == "loop")
        late: list[PlannedRun] = []
        for names in chosen["groups"]:
            if waiting.isdisjoint(names):
                if first and all((place / one / "results.json").exists() for one in names):
                    shutil.rmtree(place / plan.folder(names), ignore_errors=True)  # a kill left it behind
                continue
            group = [by_name[one] for one in names]
            for run, error in trainer.train(group, [run for run in group if run.name in waiting]):
                if error is not None:
                    failed[run.name] = error
                elif first:
                    try:
                        rows.add(path, [figures.row(name, described, run, place / run.name)])
                    except (rows.RowsError, OSError) as problem:  # damaged meanwhile, or a full disk: the others go on
                        shown.warn(f"the row of {run.name} could not be added yet: {problem}")
                        late.append(run)
                shown.end(run.name, error)
    if first:
        if late:
            rows.add(path, [figures.row(name, described, run, place / run.name) for run in late])
        with contextlib.suppress(OSError):  # empty, except of groups that failed
            (place / "groups").rmdir()
        try:
            if described.table is not None:
                report_sweep(place)
            elif not _report_runs(place, runs, path, tell):
                return None, failed
        except Exception as error:  # the figures are on disk: whatever is wrong with their page, the runs are finished
            tell(f"the report could not be written: {error}; `cbjax report {place}` tries again")
            return None, failed
    return place / "report.md", failed


def _report_runs(
    place: pathlib.Path, runs: Sequence[PlannedRun], path: pathlib.Path, tell: Callable[[str], None]
) -> bool:
    """Reports on the runs of a sweep without a table, as on any runs; says whether any work directory is there."""
    made = [place / run.name for run in runs if (place / run.name / "config.json").exists()]
    kept = {one["config"] for one in rows.read(path)}
    gone = [place / run.name for run in runs if place / run.name not in made and run.identity in kept]
    if gone:
        tell(f"of {len(gone)} finished runs only the rows in {path} are left: the report has no figures of them")
    if made:
        report(made, place, [LeftOut(one, f"only its row in {path.name} is left") for one in gone])
    return bool(made)


class _Trainer:
    """Trains groups one after another, which share their programs."""

    def __init__(self, place: pathlib.Path, shown: Board, load: Callable[..., Source], mode: str, spread: bool):
        self._place, self._shown, self._mode, self._spread = place, shown, mode, spread
        self._shared = Shared(load=load, tell=shown.line, bar=shown.bar)
        self._known: dict[str, GroupPrograms] = {}

    def train(self, group: Sequence[PlannedRun], left: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, str | None]]:
        """Trains the runs of a group that are left; yields each with its error, or None, as soon as it ended.

        The error is noted in its folder, too.
        """
        errors = None
        if self._mode != "loop" and len(group) > 1:
            self._shown.begin([run.name for run in left], group[0].config.num_epochs)
            errors = self._together(group, left)
        for run in left:
            error = self._alone(run) if errors is None else errors.get(run.name)
            if error is None:
                (self._place / run.name / FAILED).unlink(missing_ok=True)
            yield run, error

    def _alone(self, run: PlannedRun) -> str | None:
        self._shown.begin([run.name], run.config.num_epochs)
        config = run.config
        if not self._spread and (devices := modes.devices_alone(config)) is not None:
            config = configs.change(config, [f"devices={devices}"])
        try:
            train(config, self._place / run.name, shared=self._shared)
        except Exception as error:
            # All processes meet a loss that is not finite; at anything else the others are not where this one is.
            if processes.count() > 1 and not isinstance(error, NonFiniteLoss):
                raise
            if is_full(error):  # for the runs that are left as well
                raise
            return _note(self._place / run.name, error)
        return None

    def _together(self, group: Sequence[PlannedRun], left: Sequence[PlannedRun]) -> dict[str, str] | None:
        """Returns the errors of runs; None where the group cannot be trained as one."""
        devices = sharding.count_devices() if self._mode == "devices" else 1
        count = max(n for n in range(1, devices + 1) if len(group) % n == 0)
        folder = self._place / plan.folder([run.name for run in group])
        mesh, size = sharding.make_mesh(count), len(group) // count
        try:
            failed = train_cohort(group, self._place, folder, mesh, size, self._known, self._shared)
        except Exception as error:
            if is_full(error):
                raise
            if plan.is_begun(folder):  # the next call goes on from its checkpoint
                return {run.name: _note(self._place / run.name, error) for run in left}
            self._shown.warn(f"{len(group)} runs as one program failed, so each is trained alone: {_said(error)}")
            if not isinstance(error, BusyError):
                shutil.rmtree(folder, ignore_errors=True)
            return None
        return {name: _note(self._place / name, error) for name, error in failed.items()}


def _note(place: pathlib.Path, error: Exception) -> str:
    """Writes down why a run failed, unless it is trained by another process; returns it as a line."""
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
