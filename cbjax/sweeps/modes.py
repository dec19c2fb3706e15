"""Measures which way of training the runs of a sweep is fastest on the devices at hand.

"loop" trains one run after another, each over all devices. "vmap" trains several as one program on one device.
"devices" trains several on each device. All three give the same results. For this, a run that is trained alone stays on
one device of a CPU, and also if the devices do not divide its batch or if shares of the batch would change the results.
Exceptions: "loop" was asked for, or the images are streamed, which no cohort has.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax import data, models
from cbjax.config import ConfigError
from cbjax.config.image_sources import is_streamed
from cbjax.data import Dataset, Source, sources
from cbjax.host import machine
from cbjax.host.code import is_own
from cbjax.parallel import processes, sharding
from cbjax.sweeps import cohort
from cbjax.sweeps.file import PlannedRun
from cbjax.training import build, resident
from cbjax.training.build import Parts

MODES = ("auto", "loop", "vmap", "devices")
LARGEST = 64  # most runs of a cohort on a device
SHARE = 0.8  # share of a device's memory that a cohort may fill
GAIN = 1.1  # a larger cohort must be faster by this factor
SECONDS = 0.5  # time of a measurement, after the first dispatch


class Choice(NamedTuple):
    """A mode, the size of a cohort, and the measurements: mode, runs, run-steps a second (None: too little memory)."""

    mode: str
    group_size: int
    measured: list[dict[str, Any]]


def choose(
    runs: Sequence[PlannedRun],
    mode: str,
    group_size: int | None,
    load: Callable[..., Source] = sources.load,
    step_bytes: dict[str, int] | None = None,
) -> Choice:
    """Chooses how to train runs of one shape.

    Args:
      runs: the runs; the first ones are used to measure.
      mode: one of MODES; "auto" for the fastest.
      group_size: number of runs in a cohort; None for the fastest that fits into memory.
      load: reads a data source.
      step_bytes: as in `runs_that_fit`.

    Raises:
      ConfigError: if a cohort of the given size would not fit into memory, or a run asks for more devices than there
        are.
    """
    devices = sharding.count_devices()
    if mode == "loop":
        return Choice("loop", 1, [])
    # Not vmap if there are several devices: it would leave all but one idle.
    name = mode if mode != "auto" else "devices" if devices > 1 else "vmap"
    try:
        alone = sharding.make_mesh(devices_alone(runs[0].config))
    except ValueError as error:
        raise ConfigError(f"run {runs[0].name}: {error}") from None
    dataset, known = data.of_config(runs[0].config, load), {} if step_bytes is None else step_bytes
    if group_size is not None and mode != "auto":
        # If the cohort is not a multiple of the devices, fewer devices work, each with equally many runs.
        used = max(n for n in range(1, devices + 1) if group_size % n == 0) if mode == "devices" else 1
        if group_size > (most := runs_that_fit(runs[0], used, load, known)):
            raise ConfigError(
                f"--group-size: {group_size} runs would not fit into the memory of {used} device(s) together; use at "
                f"most {most}"
            )
        return Choice(mode, group_size, [])
    measured = [_row("loop", 1, _loop_rate(runs[0], dataset, alone))]
    best = measured[0]["run_steps_per_second"] if mode == "auto" else 0.0
    spread = devices if name == "devices" else 1
    most = runs_that_fit(runs[0], spread, load, known)
    largest = min(group_size or LARGEST * spread, len(runs))
    size = max(2, min(spread, largest, most))
    while size <= largest:
        mesh = sharding.make_mesh(min(spread, size))
        per_device = size // mesh.devices.size
        rate = _if_it_fits(_cohort_rate, runs[:size], mesh, per_device, load) if size <= most else None
        measured.append(_row(name, size, rate))
        if rate is None or rate < GAIN * best:
            break
        best, size = rate, 2 * size
    rated = [row for row in measured if row["run_steps_per_second"] and (mode == "auto" or row["mode"] == mode)]
    if not rated:
        return Choice("loop", 1, measured)
    # The first one that is about as fast as the best: the smallest such cohort, or the loop.
    top = max(row["run_steps_per_second"] for row in rated)
    chosen = next(row for row in rated if GAIN * row["run_steps_per_second"] >= top)
    return Choice(chosen["mode"], chosen["runs"], measured)


def devices_alone(config: ConfigDict) -> int | None:
    """Returns on how many devices a run alone gives the same results as in a cohort; None for all.

    On several devices each has a share of the batch, and by default BatchNorm takes its statistics from the share. On a
    CPU the devices share the cores, and a single device has all of them.
    """
    if config.devices is not None or sharding.count_devices() == 1:
        return config.devices
    if processes.count() > 1:
        return None
    if jax.default_backend() == "cpu":
        return 1
    if is_streamed(config.data.name):  # never in a cohort
        return None
    if is_own(config.model.name):  # it may have BatchNorm, or dropout, whose masks differ on each device
        return 1
    if config.model.batch_norm_size is None and "batch_norm_size" in models.options_of(config.model.name):
        return 1
    try:
        configs.check_shares(config, sharding.count_devices())
        configs.check_devices(config.evaluation.batch_size or config.batch_size, sharding.count_devices())
        if config.meta.name != "none":
            configs.check_devices(config.meta.batch_size, sharding.count_devices())
    except ConfigError:
        return 1
    return None


def runs_that_fit(run: PlannedRun, devices: int, load: Callable[..., Source], step_bytes: dict[str, int]) -> int:
    """Estimates how many runs of a run's shape fit into the memory of some devices together.

    Args:
      run: one of the runs.
      devices: number of devices. Each has its own memory, enough for at least one run; a CPU's devices share memory.
      load: reads a data source.
      step_bytes: known memory of a step, by shape; this shape's is added.
    """
    # With shard_map, since cohorts do not use pmap, and the memory of a pmap program is not known.
    config = configs.change(run.config, ["parallel=shard_map"])
    dataset = data.of_config(config, load)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    objective = (config.loss.name, config.meta.to_json_best_effort(), config.mix.name, config.sharpness.name)
    stage = (config.stage.name, config.oltr.form, config.oltr.backbone)
    shape = (config.model.to_json_best_effort(), config.batch_size, config.optim.accumulation, *objective, *stage)
    key = json.dumps([*shape, dataset.train.images.shape[1:], len(dataset.class_names), parts.steps_per_dispatch == 1])
    if key not in step_bytes:
        step_bytes[key] = memory_of_a_step(parts)
    each = max(1, int(SHARE * device_bytes() / run_bytes(parts, dataset, step_bytes[key])))
    return each if jax.default_backend() == "cpu" else devices * each


def run_bytes(parts: Parts, dataset: Dataset, step_bytes: int) -> float:
    """Estimates how many bytes of a device's memory one run of a cohort takes.

    It counts the run's data, its state, the best state and a copy while it is saved, and what the compiler says that a
    step of the run alone needs.
    """
    splits = (dataset.train, dataset.validation, dataset.test, dataset.meta)
    images = float(sum(np.asarray(one.images).nbytes + one.labels.nbytes for one in splits if one is not None))
    state = sum(leaf.size * 4 for leaf in jax.tree.leaves(parts.programs.state))
    return images + 4 * state + step_bytes


def device_bytes() -> float:
    """Returns the memory of a device in bytes; for a CPU the free memory, which its devices share."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return machine.free_bytes()


def memory_of_a_step(parts: Parts) -> int:
    """Asks the compiler how many bytes of working memory a step of a run alone needs."""
    mesh, count = parts.mesh, parts.programs.steps_per_dispatch
    whole = resident.images_of(parts.streams)
    images = jax.tree.map(lambda leaf: sharding.abstract(leaf.shape, leaf.dtype, mesh), whole)
    indices = resident.indices_of(parts.streams, 0, 1, count)
    order = {name: sharding.abstract(taken.shape, taken.dtype, mesh, taken.ndim - 1) for name, taken in indices.items()}
    steps = () if count == 1 else (sharding.abstract((), np.int32, mesh),)
    lowered = parts.programs.train.lower(sharding.placed(parts.programs.state, mesh), images, order, *steps)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def _row(mode, size, rate):
    return {"mode": mode, "runs": size, "run_steps_per_second": rate and round(rate, 3)}


def _loop_rate(run: PlannedRun, dataset: Dataset, mesh: Mesh) -> float:
    parts = build.build(run.config, dataset, mesh)
    state = parts.init()
    steps = min(parts.steps_per_dispatch, parts.batches.epoch_end(1))
    state, _ = parts.advance(state, 0, steps)
    jax.block_until_ready(state)
    return _rate(lambda state: parts.advance(state, 0, steps)[0], state, steps)


def _if_it_fits(measure, *args):
    """Returns the result of a measurement, or None if the device's memory was too small after all."""
    try:
        return measure(*args)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(processes.device_failure(error)):
            return None
        raise


def _cohort_rate(runs: Sequence[PlannedRun], mesh: Mesh, per_device: int, load: Callable[..., Source]) -> float:
    members = [cohort.make_member(run.name, run.config, data.of_config(run.config, load)) for run in runs]
    parts = members[0].parts
    advance = cohort.make_advance(members, cohort.build_programs(members, mesh, per_device), mesh)
    steps = min(parts.steps_per_dispatch, parts.batches.epoch_end(1))
    state, _ = advance(cohort.start(members, mesh).state, 0, steps)
    jax.block_until_ready(state)
    return _rate(lambda state: advance(state, 0, steps)[0], state, steps * len(members))


def _rate(advance, state, steps) -> float:
    """Returns steps a second, from the median of several dispatches after the first."""
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        begin = time.perf_counter()
        state = jax.block_until_ready(advance(state))
        seconds.append(time.perf_counter() - begin)
    return steps / float(np.median(seconds))
