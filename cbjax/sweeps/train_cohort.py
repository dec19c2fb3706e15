"""A cohort of runs from their configs to their work directories, resumed from wherever it stands."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from cbjax import config as configs
from cbjax import data
from cbjax.host.interrupts import Interrupts
from cbjax.host.output import say
from cbjax.host.progress import Silent
from cbjax.host.storage import with_absolute_paths
from cbjax.parallel import sharding
from cbjax.sweeps.cohort import (
    Member,
    build_programs,
    evaluate_test,
    make_evaluate,
    make_member,
    make_plan,
    member_state,
    restore,
    start,
)
from cbjax.sweeps.file import PlannedRun
from cbjax.training import callbacks
from cbjax.training.check_process import check_deterministic
from cbjax.training.finish import finish
from cbjax.training.loop import Cohort, fit
from cbjax.training.reweight import smoothing
from cbjax.training.run import Shared
from cbjax.types import NonFiniteLoss, Run, TrainState
from cbjax.workdir import data_facts
from cbjax.workdir import files as workdirs
from cbjax.workdir.checkpoint import Checkpoints
from cbjax.workdir.logs import Logs
from cbjax.workdir.memory import at_best


def train_cohort(
    planned: Sequence[PlannedRun],
    workdir: pathlib.Path,
    folder: pathlib.Path,
    mesh: Mesh,
    per_device: int,
    shared: Shared,
) -> dict[str, Exception]:
    """Trains runs of one shape as one program. Each leaves in `workdir/NAME` what it would leave if trained alone.

    Args:
      planned: the runs, `per_device` for each device of the mesh. A run that is finished is left as it is; a kill at
        the end of a cohort can leave some runs finished and others not.
      workdir: the sweep's folder.
      folder: the cohort's own, for its checkpoints; empty once all its runs have ended.
      mesh: the devices over which the runs are spread.
      per_device: runs side by side on a device.
      shared: what it shares with other cohorts and runs.

    Returns:
      name -> error of the runs that diverged, or could not be evaluated or written at the end. The next call tries to
      finish these last ones again, from the checkpoint.

    Raises:
      ConfigError, DataError: if a run's config does not fit its data, or a work directory holds another run.
      BusyError: if another process is training one of the runs.
      Interrupted: after a signal, once the state is saved.
    """
    with contextlib.ExitStack() as stack:
        places = [workdir / run.name for run in planned]
        for place in places:
            stack.enter_context(workdirs.lock(place))
        # Certain only under the locks: another process may have finished some runs since the sweep began.
        over = [workdirs.is_finished(place, run.config) for run, place in zip(planned, places, strict=True)]
        if all(over):
            return {}
        logs: dict[int, Logs] = {}
        members = [
            _member(run, place, logs, k, shared) for k, (run, place) in enumerate(zip(planned, places, strict=True))
        ]
        if members[0].run.config.deterministic:
            check_deterministic(sharding.platform(mesh))
        compiled = build_programs(members, mesh, per_device)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder, say)))
        cohort = restore(start(members, mesh), members, checkpoints)
        described = f"{sharding.describe(mesh)}, {len(members)} runs as one program"
        for k, (run, place) in enumerate(zip(cohort.runs, places, strict=True)):
            if over[k]:
                continue
            dataset = members[k].dataset
            workdirs.write_start(place, run.config, data_facts.describe(dataset), dataset.indices, described)
            workdirs.write_parameters(place, member_state(cohort.state, k).params)
            opened = Logs(place, run.memory.history, run.config.log.tensorboard)
            logs[k] = stack.enter_context(contextlib.closing(opened))
        evaluate_all = make_evaluate(members, compiled, mesh)
        plan = make_plan(members, compiled, evaluate_all, mesh, checkpoints, shared.tell)
        with Interrupts() as interrupts:
            cohort = fit(cohort, plan, interrupts, shared.bar or Silent())
        checkpoints.finish()
        errors: dict[str, Exception] = {members[k].name: NonFiniteLoss(said) for k, said in cohort.failed.items()}
        tests = evaluate_test(cohort, evaluate_all)
        for k in (k for k in cohort.alive if k in logs):
            try:
                _finish(cohort, k, members[k], places[k], logs[k], tests[k])
            except Exception as error:  # the others have their results all the same
                errors[members[k].name] = error
    if all(isinstance(error, NonFiniteLoss) for error in errors.values()):  # the next call would find the same
        shutil.rmtree(folder, ignore_errors=True)
    return errors


def _member(planned: PlannedRun, place: pathlib.Path, logs: Mapping[int, Logs], index: int, shared: Shared) -> Member:
    config = with_absolute_paths(configs.resolve(planned.config))
    workdirs.check_resume(place, config)
    dataset = data.of_config(config, shared.load)
    data_facts.check_same(place, data_facts.describe(dataset), config.data.on_bad_image)

    def write(run: Run) -> None:
        if index in logs:  # opened once the histories are known; never for a run that is over
            logs[index].write(run)

    return make_member(planned.name, config, dataset, write)


def _finish(cohort: Cohort, k: int, member: Member, place: pathlib.Path, logs: Logs, tests: Mapping) -> None:
    """Writes the last and best checkpoint and the results of a run; `tests` has its evaluations by step."""
    run = dataclasses.replace(cohort.runs[k], state=_alone(cohort.state, k))
    best = run.memory.best
    with contextlib.closing(Checkpoints(place, say)) as checkpoints:
        save = callbacks.save_to(checkpoints)
        if best is not None and best.step != run.memory.step:
            smooth = smoothing(run.config.difficulty.smoothing)
            save(dataclasses.replace(run, state=_alone(cohort.best, k), memory=at_best(run.memory, smooth)))
        save(run)
        parts = dataclasses.replace(member.parts, evaluate=lambda split: lambda state: tests[int(state.step)])
        finish(run, parts, member.dataset, checkpoints, logs, place)


def _alone(states: Any, k: int) -> TrainState:
    return sharding.replicate(member_state(states, k), sharding.make_mesh(1))
