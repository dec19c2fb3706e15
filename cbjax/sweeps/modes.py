"""Which way of training the runs of a sweep is fastest on the devices at hand: measured, on runs of the sweep.

"loop" trains one run after another, each over all devices; "vmap" several as one program on one device; "devices"
several on every device. All three give the same results. Where shares of a batch would change them, or the devices
do not divide it, or are those of a CPU, a run that is trained alone stays on one device, unless "loop" was asked for or
its images are streamed, which no group has.
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
from cbjax.config.schema import is_streamed
from cbjax.data import Dataset, Source, sources
from cbjax.host import machine
from cbjax.parallel import processes, sharding
from cbjax.sweeps import cohort
from cbjax.sweeps.cohort import Member
from cbjax.sweeps.file import PlannedRun
from cbjax.training import build, programs
from cbjax.training.build import Parts
from cbjax.types import Run

MODES = ("auto", "loop", "vmap", "devices")
LARGEST = 64  # runs of a group on a device
SHARE = 0.8  # of a device's memory that a group may fill
GAIN = 1.1  # a larger group must be so much faster to be worth it
SECONDS = 0.5  # of measuring, after the first dispatch


class Choice(NamedTuple):
    """A mode, the runs of a group, and what was measured: rows of mode, runs, run-steps a second (None: no memory)."""

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
      runs: the runs; the first ones are measured with.
      mode: one of MODES; "auto" for the fastest.
      group_size: runs of a group; None for the fastest that fits into memory.
      load: reads a data source.
      step_bytes: as of `runs_that_fit`.

    Raises:
      ConfigError: if a group of the size that was asked for would not fit into memory, or there are fewer devices than
        a run asks for.
    """
    devices = sharding.count_devices()
    if mode == "loop":
        return Choice("loop", 1, [])
    # Of several devices one alone would leave the others idle.
    name = mode if mode != "auto" else "devices" if devices > 1 else "vmap"
    try:
        alone = sharding.make_mesh(devices_alone(runs[0].config))
    except ValueError as error:
        raise ConfigError(f"run {runs[0].name}: {error}") from None
    dataset, known = data.of_config(runs[0].config, load), {} if step_bytes is None else step_bytes
    if group_size is not None and mode != "auto":
        # Of a group that is no multiple of the devices fewer work, with as many runs each.
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
        rate = _if_it_fits(_group_rate, runs[:size], mesh, per_device, load) if size <= most else None
        measured.append(_row(name, size, rate))
        if rate is None or rate < GAIN * best:
            break
        best, size = rate, 2 * size
    rated = [row for row in measured if row["run_steps_per_second"] and (mode == "auto" or row["mode"] == mode)]
    if not rated:
        return Choice("loop", 1, measured)
    # The first of those that are about as fast: the smaller group, and before any group the loop.
    top = max(row["run_steps_per_second"] for row in rated)
    chosen = next(row for row in rated if GAIN * row["run_steps_per_second"] >= top)
    return Choice(chosen["mode"], chosen["runs"], measured)


def devices_alone(config: ConfigDict) -> int | None:
    """Returns over how many devices a run alone gives what it gives in a group; None for all of them.

    Over several each has a share of the batch, and statistics of BatchNorm are, by default, those of the share. A CPU's
    devices share its cores, and one of them has them all.
    """
    if config.devices is not None or sharding.count_devices() == 1:
        return config.devices
    if processes.count() > 1:
        return None
    if jax.default_backend() == "cpu":
        return 1
    if is_streamed(config.data.name):  # never in a group
        return None
    if config.model.batch_norm_size is None and "batch_norm_size" in models.options_of(config.model.name):
        return 1
    try:
        configs.check_shares(config, sharding.count_devices())
        configs.check_devices(config.evaluation.batch_size or config.batch_size, sharding.count_devices())
    except ConfigError:
        return 1
    return None


def runs_that_fit(run: PlannedRun, devices: int, load: Callable[..., Source], step_bytes: dict[str, int]) -> int:
    """Estimates how many runs of a run's shape fit into the memory of some devices together.

    Args:
      run: one of them.
      devices: how many; each has memory of its own, for one run at least, but for those of a CPU, which share it.
      load: reads a data source.
      step_bytes: what a step of other shapes needs by what decides it, to which that of this one is added.
    """
    # A group has no pmap, and what pmap compiles cannot be asked.
    config = configs.change(run.config, ["parallel=shard_map"])
    dataset = data.of_config(config, load)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    shape = (config.model.to_json_best_effort(), config.batch_size, config.optim.accumulation, config.loss.name)
    key = json.dumps([*shape, dataset.train.images.shape[1:], len(dataset.class_names), parts.steps_per_dispatch == 1])
    if key not in step_bytes:
        step_bytes[key] = _step_bytes(parts, dataset)
    each = max(1, int(SHARE * device_bytes() / run_bytes(parts, dataset, step_bytes[key])))
    return each if jax.default_backend() == "cpu" else devices * each


def run_bytes(parts: Parts, dataset: Dataset, step_bytes: int) -> float:
    """Estimates the memory of a device that one run of a group takes, bytes.

    That of its data, of its state, the best state and a copy while it is saved, and of a step of it alone, of which the
    compiler says what it needs.
    """
    splits = [split for split in (dataset.train, dataset.validation, dataset.test) if split is not None]
    images = float(sum(np.asarray(split.images).nbytes + split.labels.nbytes for split in splits))
    state = sum(leaf.size * 4 for leaf in jax.tree.leaves(parts.programs.state))
    return images + 4 * state + step_bytes


def device_bytes() -> float:
    """Returns the memory of a device, bytes; of a CPU what is free, which its devices share."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return machine.free_bytes()


def _step_bytes(parts: Parts, dataset: Dataset) -> int:
    mesh, size, count = parts.mesh, parts.batches.batch_size, parts.programs.steps_per_dispatch
    train = dataset.train
    images = {
        "image": sharding.abstract(train.images.shape, train.images.dtype, mesh),
        "label": sharding.abstract(train.labels.shape, train.labels.dtype, mesh),
    }
    order: tuple[Any, ...] = (sharding.abstract((size,), np.int32, mesh, 0),)
    if count > 1:
        order = (sharding.abstract((count, size), np.int32, mesh, 1), sharding.abstract((), np.int32, mesh))
    lowered = parts.programs.train.lower(sharding.placed(parts.programs.state, mesh), images, *order)
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
    """Returns what is measured, or None where the device's memory was too small after all."""
    try:
        return measure(*args)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(processes.device_failure(error)):
            return None
        raise


def _group_rate(runs: Sequence[PlannedRun], mesh: Mesh, per_device: int, load: Callable[..., Source]) -> float:
    members = []
    for run in runs:
        dataset = data.of_config(run.config, load)
        parts = build.build(run.config, dataset, sharding.make_mesh(1))
        start = Run(run.config, parts.model, parts.programs.state, {}, dataset.class_names)
        members.append(Member(run.name, start, parts, dataset, lambda run: None))
    first = members[0]
    shape, num_classes = first.dataset.train.images.shape[1:], len(first.dataset.class_names)
    compiled = programs.build_group_programs(
        first.run.config, first.parts.batches, shape, num_classes, mesh, per_device
    )
    advance = cohort.make_advance(members, compiled, mesh)
    steps = min(first.parts.steps_per_dispatch, first.parts.batches.epoch_end(1))
    state, _ = advance(cohort.start(members, mesh).state, 0, steps)
    jax.block_until_ready(state)
    return _rate(lambda state: advance(state, 0, steps)[0], state, steps * len(members))


def _rate(advance, state, steps) -> float:
    """Returns steps a second: the median of several dispatches after the first."""
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        begin = time.perf_counter()
        state = jax.block_until_ready(advance(state))
        seconds.append(time.perf_counter() - begin)
    return steps / float(np.median(seconds))
