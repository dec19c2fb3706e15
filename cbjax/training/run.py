"""`train`: a whole run from its config, resumed from wherever its work directory stands."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax import data
from cbjax.config import ConfigError
from cbjax.config.parts import FITTED
from cbjax.data import files, sources
from cbjax.data.records import noun_of
from cbjax.host.code import is_own
from cbjax.host.interrupts import Interrupted, Interrupts
from cbjax.host.output import say
from cbjax.host.progress import Silent, shown
from cbjax.host.storage import with_absolute_paths
from cbjax.parallel import processes, sharding
from cbjax.report import is_whole, report
from cbjax.training import build, callbacks, in_memory, inputs, second_stage
from cbjax.training.check_process import check_deterministic, check_main_guard
from cbjax.training.finish import finish
from cbjax.training.loop import AllImagesSkipped, Cohort, Plan, fit, give_up, in_order
from cbjax.training.profile import trace
from cbjax.training.restore import open_workdir, with_predict
from cbjax.types import NonFiniteLoss, Run
from cbjax.workdir import data_facts, environment, memory, own_code
from cbjax.workdir import files as workdirs
from cbjax.workdir.bad_images import BadImages
from cbjax.workdir.checkpoint import Checkpoints
from cbjax.workdir.files import WorkdirError
from cbjax.workdir.logs import Logs


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the runs of a sweep share.

    Attributes:
      load: reads a data source, as `sources.load` does.
      tell: takes a line for the user.
      bar: is told of the progress; None for a bar of the run's own.
    """

    load: Callable[..., data.Source] = sources.load
    tell: Callable[[str], None] = say
    bar: Silent | None = None


@processes.together
@environment.in_float32
def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    arrays: Mapping[str, Any] | None = None,
    extend: bool = False,
    profile: int = 0,
    shared: Shared | None = None,
) -> Run:
    """Trains as the config says, from wherever the work directory stands, and leaves results and a report there.

    Call it again after an interrupt, a kill or a lost machine, with the same config and work directory: it goes on from
    the last checkpoint and ends with the same parameters and metrics, to the bit. With several processes
    (`cbjax.parallel.processes`), each must call it, with a work directory that all can reach. The first process writes.

    Args:
      config: from `config.load` or `config.default`; checked before anything else happens.
      workdir: where the run is kept, a folder or gs://BUCKET/FOLDER; made if it does not exist.
      arrays: images and labels in memory instead of a source that the config names, by the names that an .npz has (see
        `data.arrays.load`): {"images": …, "labels": …}. They are kept in `workdir/data.npz`.
      extend: allows `num_epochs` to be larger than that of the run in the work directory.
      profile: writes a trace of at least so many steps to `workdir/profile`; 0 for none.
      shared: given by a sweep, which writes one report on all its runs instead of one for each.

    Returns:
      The finished run: the state after the last step, and the final metrics.

    Raises:
      ConfigError: if the config is wrong, does not fit the data, or is not that of the run in the work directory.
      DataError: if the data are missing or unusable.
      WorkdirError: if another process is training in the work directory.
      NonFiniteLoss: if training diverged.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
      ProcessError: if the processes differ in config, data, software or first parameters, or one of them is lost.
    """
    config = config if arrays is None else in_memory.keep(config, arrays, workdir)
    config = with_absolute_paths(configs.resolve(config))
    check_main_guard(config.data.workers)
    home = open_workdir(workdir)
    place = home.files
    files.check_outside(config.data, place)
    here = environment.describe()
    processes.agree(
        configs.of_all_processes(config)
        | {"--workdir": str(home.root), "--extend": extend, "--profile": profile}
        | {name: here[name] for name in (*environment.PACKAGES, *environment.SETTINGS)}
        | {"number of devices": sharding.count_own_devices()}
    )
    noted = processes.from_first(lambda: workdirs.check_resume(place, config, extend))
    mesh = _make_mesh(config, config.devices)
    if config.deterministic:
        check_deterministic(sharding.platform(mesh))
    within = shared or Shared()
    dataset = data.of_config(config, within.load)
    facts = data_facts.describe(dataset)
    processes.agree(_data_facts(facts, dataset.indices, config.data.on_bad_image))
    processes.from_first(lambda: data_facts.check_same(place, facts, config.data.on_bad_image))
    tell = within.tell if processes.is_first() else _say_nothing
    bad_images = BadImages(place, written=home.send)
    parts = build.build(config, dataset, mesh, bad_images.add)
    total = 0 if config.stage.name in FITTED else parts.batches.epoch_end(config.num_epochs)
    with contextlib.ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(workdirs.lock(place)))
        # Another process may have ended or changed the run since it was looked at.
        noted = processes.from_first(lambda: workdirs.check_resume(place, config, extend))
        processes.from_first(lambda: data_facts.check_same(place, facts, config.data.on_bad_image))
        checkpoints = Checkpoints(home.root, say, keep_all=config.checkpoint.keep == "all")
        stack.push(functools.partial(_close, checkpoints))
        if parts.pretrained is not None and not checkpoints.steps():
            parts.pretrained()  # a file that does not fit is refused before anything is compiled
        restored = checkpoints.restore(build.like(parts))
        resumed = restored is not None
        has_results = processes.from_first((place / "results.json").exists)
        if not resumed and has_results:
            raise WorkdirError(f"{home.root} holds the results of a run and no checkpoint: move it away to train again")
        if restored is None:
            step, state, remembered = 0, build.first_state(parts), memory.start(len(dataset.class_names))
        else:
            step, state, remembered = *restored[:2], memory.from_json(restored[2])
        del restored
        processes.agree({"step to go on from": step, "first parameters": sharding.digest(state)})
        state = sharding.replicate(state, mesh)
        run = Run(config, parts.model, state, {}, dataset.class_names, memory=remembered, workdir=str(home.root))
        tensorboard = config.log.tensorboard
        lost: list[str] = []
        if has_results:
            lost = processes.from_first(lambda: workdirs.lacks(place, remembered.history, tensorboard))
            lost += processes.from_first(lambda: own_code.lacks(place, config))
        if step == total and lost:
            _each(tell, f"restored step {step}: finished, but missing or damaged and made again: {', '.join(lost)}")
        elif step == total and has_results:
            _each(tell, f"restored step {step}: finished", *(f"noted: {line}" for line in noted))
            if shared is None and config.log.report and processes.is_first() and not is_whole(place):
                _report(home)
                home.send()
            return with_predict(dataclasses.replace(run, metrics=workdirs.read_final_metrics(place)), facts)
        unreadable = processes.from_first(lambda: inputs.check_readable(config, dataset))
        if not resumed:
            _each(tell, f"training in {home.root}: {total} steps on {sharding.describe(mesh)}", *dataset.notes)
            _each(tell, *(f"note: {line}" for line in configs.cautions(config, dataset.counts.tolist())))
            _each(tell, *(parts.pretrained().notes if parts.pretrained else ()))
        else:
            noted += processes.from_first(lambda: workdirs.check_environment(place, sharding.describe(mesh)))
            _each(tell, f"resumed at step {step} of {total}", *(f"noted: {line}" for line in noted))
            # An extended run may be before the start of its deferred weights again. The checkpoint does not know, also
            # where the extension was killed before and this call does not ask for it.
            if parts.reweighting.is_equal(run.memory.epoch):
                run = callbacks.set_weights(run, parts.reweighting, functools.partial(_place_weights, mesh=mesh))
        _each(tell, *unreadable)
        logs: Logs | None = None
        if processes.is_first():
            workdirs.write_start(place, config, facts, dataset.indices, sharding.describe(mesh))
            workdirs.write_parameters(place, state.params)
            logs = stack.enter_context(
                contextlib.closing(Logs(place, remembered.history, tensorboard, written=home.send))
            )
            home.send()
        if profile:
            shown = home.root / "profile"
            advance = stack.enter_context(trace(parts.advance, profile, place / "profile", shown, tell))
            parts = dataclasses.replace(parts, advance=advance)
        interrupts = Interrupts()
        # A stage that trains nothing has nothing half done to save, so a signal ends it at once.
        with contextlib.nullcontext() if config.stage.name in FITTED else interrupts:
            run = _fit(run, parts, checkpoints, logs, bad_images, interrupts, within.bar, tell)
        # Everything is saved: from here on a signal acts as usual, and the same command ends what it stopped.
        run = finish(run, parts, dataset, checkpoints, logs, place)
        bad_images.share()
    if processes.is_first():
        if shared is None and config.log.report:
            _report(home)
        home.send()
    return with_predict(run, facts)


def _report(home):
    try:
        report([home.files], home.files)
    except Exception as error:  # the results are on disk: the run is finished even without its report
        say(f"the report could not be written: {error}; `cbjax report {home.root}` tries again", error=True)


def _data_facts(facts, indices, on_bad_image):
    """Returns what must be the same on all processes, by names for messages."""
    same = dict(facts)
    same["labels, order and names or content of images (sha256)"] = same.pop("sha256")
    sizes = same.pop("sizes_sha256")
    if on_bad_image == "error":  # if bad images are skipped, one process may lack a file
        same["sizes of image files (sha256)"] = sizes
    chosen = {name: hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest() for name, rows in indices.items()}
    return {f"data: {key}": value for key, value in same.items()} | {
        f"data: images chosen for {name} (sha256)": value for name, value in chosen.items()
    }


def _close(checkpoints, kind, error, trace):
    # One of several processes may fail alone, at an image of its share. Closing needs all processes: it would never
    # end, or mix with the step that the others are in.
    if kind is None or jax.process_count() == 1 or issubclass(kind, (Interrupted, NonFiniteLoss)):
        checkpoints.close()


def _make_mesh(config, num_devices):
    try:
        mesh = sharding.make_mesh(num_devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    configs.check_shares(config, mesh.devices.size)
    if config.meta.name != "none":
        configs.check_devices(config.meta.batch_size, mesh.devices.size, "meta.batch_size")
    if config.evaluation.batch_size is not None:
        configs.check_devices(config.evaluation.batch_size, mesh.devices.size, "evaluation.batch_size")
    return mesh


def _fit(
    run: Run,
    parts: build.Parts,
    checkpoints: Checkpoints,
    logs: Logs | None,
    bad_images: BadImages,
    interrupts: Interrupts,
    bar: Silent | None,
    tell: Callable[[str], None],
) -> Run:
    config = run.config
    write_checkpoint = callbacks.save_to(checkpoints)

    # Both happen on all processes at the same step.
    def save(run: Run) -> None:
        bad_images.share()
        write_checkpoint(run)

    def log(run: Run) -> None:
        bad_images.share()
        if logs is not None:
            logs.write(run)

    place = functools.partial(_place_weights, mesh=parts.mesh)
    after_epoch = in_order(build.build_callbacks(config, parts, place, log, save, tell))
    if config.stage.name in FITTED:
        # The first row is that of the network that was found, and comes with its checkpoint.
        known = run.memory.history["metrics"]
        return run if known else after_epoch(Cohort.of_one(second_stage.find(run, parts, tell))).run
    plan = Plan(
        advance=parts.advance,
        epoch_end=parts.batches.epoch_end,
        num_epochs=config.num_epochs,
        steps_per_dispatch=parts.steps_per_dispatch,
        learning_rates=[parts.schedule],
        after_epoch=after_epoch,
        save=lambda cohort: save(cohort.run),
        diverged=give_up,
        is_save_due=lambda: checkpoints.seconds_since_save() > 60 * config.checkpoint.every_minutes,
        own_loss=config.loss.name if is_own(config.loss.name) else None,
    )
    total, step = parts.batches.epoch_end(config.num_epochs), run.memory.step
    try:
        mode = config.log.progress if logs else "off"
        own = shown(total, step, config.num_epochs, mode, tell, noun_of(parts.image_shape))
        with own if bar is None else contextlib.nullcontext(bar) as progress:
            return fit(Cohort.of_one(run), plan, interrupts, progress).run
    except AllImagesSkipped:
        bad_images.share()
        raise
    except NonFiniteLoss as error:
        checkpoints.finish()
        steps = checkpoints.steps()
        kept = f"the last checkpoint is that of step {steps[-1]}" if steps else "no checkpoint was saved before it"
        raise NonFiniteLoss(f"{error}; {kept}") from None


def _place_weights(weights, mesh):
    return sharding.replicate(processes.same(weights), mesh)


def _each(tell: Callable[[str], None], *lines: str) -> None:
    for line in lines:
        tell(line)


def _say_nothing(line: str) -> None:
    """Takes the place of `tell` on all processes but the first."""
