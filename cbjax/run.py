"""`train` and `load`: a whole run from its config, and the same run again from its work directory."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
from clu import parameter_overview, platform
from ml_collections import ConfigDict

from cbjax import build, callbacks, config_test_time, data, memory, processes, sharding, startup
from cbjax import config as configs
from cbjax import workdir as workdirs
from cbjax.bad_images import BadImages
from cbjax.checkpoint import Checkpoints
from cbjax.config import ConfigError
from cbjax.data import augment
from cbjax.interrupts import Interrupted, Interrupts
from cbjax.loop import AllImagesSkipped, NonFiniteLoss, Plan, fit
from cbjax.predict import make_predict
from cbjax.profile import trace
from cbjax.progress import progress_bar
from cbjax.report import report
from cbjax.results import finish
from cbjax.storage import Place
from cbjax.types import Run
from cbjax.workdir import WorkdirError


def train(config: ConfigDict, workdir: str | os.PathLike, *, extend: bool = False, profile: int = 0) -> Run:
    """Trains as the config says, from wherever the work directory stands, and leaves results and a report there.

    Call it again after an interrupt, a kill or a lost machine, with the same config and work directory: it goes on from
    the last checkpoint and ends with the same parameters and metrics, to the bit. Of several processes
    (`cbjax.processes`) all must call it, with a work directory that all can reach; the first one writes.

    Args:
      config: from `config.load` or `config.default`; checked before anything else happens.
      workdir: where the run is kept, a folder or gs://BUCKET/FOLDER; made if it does not exist.
      extend: allows `num_epochs` to be larger than that of the run in the work directory.
      profile: writes a trace of at least so many steps to `workdir/profile`; 0 for none.

    Returns:
      The finished run: the state after the last step, and the final metrics.

    Raises:
      ConfigError: if the config is wrong, does not fit the data, or is not that of the run in the work directory.
      DataError: if the data are missing or unusable.
      WorkdirError: if another process is training in the work directory.
      NonFiniteLoss: if training diverged.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    config = workdirs.with_absolute_paths(configs.resolve(config))
    home = _open(workdir)
    place = home.files
    noted = processes.from_first(lambda: workdirs.check_resume(place, config, extend))
    mesh = _make_mesh(config, config.devices)
    if config.deterministic:
        startup.check_deterministic(sharding.platform(mesh))
    dataset = data.prepare(config.data, config.seed if config.data.seed is None else config.data.seed)
    facts = workdirs.describe_data(dataset)
    processes.from_first(lambda: workdirs.check_same_data(place, facts, config.data.on_bad_image))
    bad_images = BadImages(place, written=home.send)
    parts = build.build(config, dataset, mesh, bad_images.add)
    total = parts.batches.epoch_end(config.num_epochs)
    with contextlib.ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(workdirs.lock(place)))
        checkpoints = Checkpoints(home.root, print)
        stack.push(functools.partial(_close, checkpoints))
        if parts.pretrained is not None and not checkpoints.steps():
            parts.pretrained()  # a file that does not fit is refused before anything is compiled
        fresh = parts.init()
        restored = checkpoints.restore(fresh)
        has_results = processes.from_first((place / "results.json").exists)
        if restored is None and has_results:
            raise WorkdirError(f"{home.root} holds the results of a run and no checkpoint: move it away to train again")
        if restored is None and parts.pretrained is not None:
            fresh = build.with_pretrained(fresh, parts.pretrained(), mesh)
        step, state, remembered = restored or (0, fresh, memory.start(len(dataset.class_names)))
        state = sharding.replicate(state, mesh)
        run = Run(config, parts.model, state, {}, dataset.class_names, memory=remembered)
        if step == total and has_results:
            _tell(f"restored step {step}: finished", *(f"noted: {line}" for line in noted))
            if processes.is_first() and not (place / "report.md").exists():
                report([place], place)
                home.send()
            return _with_predict(dataclasses.replace(run, metrics=workdirs.read_final_metrics(place)), facts)
        if restored is None:
            _tell(f"training in {home.root}: {total} steps on {sharding.describe(mesh)}", *dataset.notes)
            _tell(*(parts.pretrained().notes if parts.pretrained else ()))
        else:
            _tell(f"resumed at step {step} of {total}", *(f"noted: {line}" for line in noted))
            # Of an extended run the moment may lie before deferred weights begin, again.
            put = functools.partial(_place_weights, mesh=mesh)
            run = callbacks.set_weights(run, parts.weights, parts.start_epoch, put) if extend else run
        # Does nothing but log, except where a scheduler has its own clu platform.
        platform.work_unit().create_artifact(platform.ArtifactType.DIRECTORY, str(home.root), "workdir")
        platform.work_unit().set_task_status(f"step {step} of {total}")
        logs: workdirs.Logs | None = None
        if processes.is_first():
            workdirs.write_start(place, config, facts, dataset.indices, sharding.describe(mesh))
            (place / "parameters.txt").write_text(parameter_overview.get_parameter_overview(state.params) + "\n")
            logs = stack.enter_context(
                contextlib.closing(
                    workdirs.Logs(place, remembered["history"], config.log.tensorboard, written=home.send)
                )
            )
            home.send()
        if profile:
            advance = stack.enter_context(trace(parts.advance, profile, place / "profile", _tell))
            parts = dataclasses.replace(parts, advance=advance)
        with Interrupts() as interrupts:
            run = _fit(run, parts, checkpoints, logs, bad_images, interrupts)
        # Everything is saved: from here on a signal acts as usual, and the same command ends what it stopped.
        run = finish(run, parts, dataset, checkpoints, logs, place)
        bad_images.share()
    if processes.is_first():
        report([place], place)
        home.send()
    return _with_predict(run, facts)


def load(workdir: str | os.PathLike, *, checkpoint: str = "last") -> Run:
    """Reads a run from its work directory alone; the data that it was trained on need not be there.

    Args:
      workdir: a work directory with at least one checkpoint.
      checkpoint: "last", or "best": that of the highest held-out balanced accuracy.

    Returns:
      The run on this machine's first device: `predict` takes raw images, `metrics` are the final ones of a finished
      run.

    Raises:
      WorkdirError: if the directory holds no run or no such checkpoint.
    """
    home = _open(workdir)
    place = home.files
    config, facts = workdirs.read_config(place), workdirs.read_facts(place)
    state, remembered = _restore(home, config, facts, sharding.make_mesh(1), checkpoint)
    model = build.build_model(config, len(facts["class_names"]))
    metrics = workdirs.read_final_metrics(place)
    return _with_predict(Run(config, model, state, metrics, tuple(facts["class_names"]), memory=remembered), facts)


def evaluate(
    workdir: str | os.PathLike, *, split: str = "test", checkpoint: str = "last", overrides: Sequence[str] = ()
) -> dict[str, float]:
    """Evaluates a run's checkpoint on one of its own splits; the work directory stays as it is.

    Args:
      workdir: of the run.
      split: "validation" or "test".
      checkpoint: "last" or "best".
      overrides: "data.image_size=320", of `config_test_time.KEYS`; without any the figures are those of the training,
        to the bit on the same devices.

    Returns:
      The metrics by name.

    Raises:
      WorkdirError: if the directory holds no run or no such checkpoint.
      DataError: if the data are missing, or not those of the run.
      ConfigError: if the run has no such split, or an override is wrong.
    """
    home = _open(workdir)
    place = home.files
    config, changes = config_test_time.change(workdirs.read_config(place), overrides)
    facts = workdirs.read_facts(place)
    if not facts["sizes"].get(split):
        raise ConfigError(f"split={split!r}: the run has no such images; it has {facts['sizes']}")
    # The batch fits some of this machine's devices, if not those of the machine that trained.
    most = min(config.devices or sharding.count_devices(), sharding.count_devices())
    batch_size = config.evaluation.batch_size or config.batch_size
    mesh = sharding.make_mesh(max(count for count in range(1, most + 1) if batch_size % count == 0))
    dataset = data.prepare(config.data, config.seed if config.data.seed is None else config.data.seed)
    workdirs.check_same_data(place, workdirs.describe_data(dataset), config.data.on_bad_image)
    state, _ = _restore(home, config, facts, mesh, checkpoint)
    _tell(*(f"evaluated with {line}" for line in changes))
    parts = build.build(config, dataset, mesh, BadImages(None).add)
    return parts.evaluate(split)(state.params, state.batch_stats).metrics


def _close(checkpoints, kind, error, trace):
    # Of several processes one may fail alone, at an image of its share: what the others take part in would never end,
    # or mix with the step that they are in.
    if kind is None or jax.process_count() == 1 or issubclass(kind, (Interrupted, NonFiniteLoss)):
        checkpoints.close()


def _open(workdir):
    if not str(workdir):
        raise WorkdirError("the work directory must have a name; got an empty one")
    return Place(workdir)


def _make_mesh(config, num_devices):
    try:
        mesh = sharding.make_mesh(num_devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    configs.check_shares(config, mesh.devices.size)
    if config.evaluation.batch_size is not None:
        configs.check_devices(config.evaluation.batch_size, mesh.devices.size, "evaluation.batch_size")
    return mesh


def _restore(home, config, facts, mesh, checkpoint):
    if checkpoint not in ("last", "best"):
        raise ConfigError(f"checkpoint={checkpoint!r}: must be 'last' or 'best'")
    model = build.build_model(config, len(facts["class_names"]))
    key = jax.random.key(config.seed)
    like = jax.eval_shape(lambda: build.initial_state(key, config, model, facts["image_shape"], facts["counts"]))
    like = sharding.placed(like, mesh)
    with contextlib.closing(Checkpoints(home.root, print, reading=True)) as checkpoints:
        restored = checkpoints.restore(like)
        if restored is None:
            raise WorkdirError(f"{home.root}: no checkpoint to load; `cbjax train` with this --workdir makes one")
        if checkpoint == "best":
            best = restored[2]["best"]
            if best is None:
                raise WorkdirError(
                    f"{home.root}: nothing was held out for validation, so no checkpoint is the best; use the last"
                )
            return checkpoints.restore_step(like, best["step"])
    return restored[1:]


def _fit(
    run: Run,
    parts: build.Parts,
    checkpoints: Checkpoints,
    logs: workdirs.Logs | None,
    bad_images: BadImages,
    interrupts: Interrupts,
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

    plan = Plan(
        advance=parts.advance,
        epoch_end=parts.batches.epoch_end,
        num_epochs=config.num_epochs,
        steps_per_dispatch=parts.steps_per_dispatch,
        learning_rate=parts.schedule,
        save=save,
        is_save_due=lambda: checkpoints.seconds_since_save() > 60 * config.checkpoint.every_minutes,
    )
    after_epoch = build.build_callbacks(config, parts, functools.partial(_place_weights, mesh=parts.mesh), log, save)
    total, step = parts.batches.epoch_end(config.num_epochs), run.memory["step"]
    try:
        with progress_bar(total, step, config.log.progress if logs else "off") as progress:
            return fit(run, plan, after_epoch, interrupts, progress)
    except AllImagesSkipped:
        bad_images.share()
        raise
    except NonFiniteLoss as error:
        checkpoints.finish()
        steps = checkpoints.steps()
        kept = f"the last good checkpoint is that of step {steps[-1]}" if steps else "no checkpoint was saved before it"
        raise NonFiniteLoss(f"{error}; {kept}") from None


def _with_predict(run: Run, facts: dict[str, Any]) -> Run:
    # On one device whatever the run was trained on: predictions are small beside training.
    params, batch_stats = sharding.on_one_device((run.state.params, run.state.batch_stats))
    predict = make_predict(
        run.model,
        params,
        batch_stats,
        image_shape=tuple(facts["image_shape"]),
        image_dtype=facts["image_dtype"],
        normalize=functools.partial(augment.normalize, mean=tuple(facts["mean"]), std=tuple(facts["std"])),
        probabilities=build.build_probabilities(run.config),
    )
    return dataclasses.replace(run, predict=predict)


def _place_weights(weights, mesh):
    return sharding.replicate(processes.same(weights), mesh)


def _tell(*lines: str) -> None:
    for line in lines if processes.is_first() else ():
        print(line, flush=True)
