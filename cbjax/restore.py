"""A run again from its work directory alone: its model, and its evaluations."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cbjax import build, components, config_test_time, data, inputs, processes, programs, sharding
from cbjax import workdir as workdirs
from cbjax.bad_images import BadImages
from cbjax.checkpoint import Checkpoints
from cbjax.config import ConfigError
from cbjax.data import augment
from cbjax.output import say
from cbjax.predict import make_predict
from cbjax.storage import Place
from cbjax.types import Run
from cbjax.workdir import WorkdirError


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
    home = open_workdir(workdir)
    place = home.files
    config, facts = workdirs.read_config(place), workdirs.read_facts(place)
    state, remembered = _restore(home, config, facts, sharding.make_mesh(1), checkpoint)
    model = components.build_model(config, len(facts["class_names"]))
    metrics = workdirs.read_final_metrics(place)
    return with_predict(Run(config, model, state, metrics, tuple(facts["class_names"]), memory=remembered), facts)


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
    home = open_workdir(workdir)
    place = home.files
    config, changes = config_test_time.change(workdirs.read_config(place), overrides)
    facts = workdirs.read_facts(place)
    if not facts["sizes"].get(split):
        raise ConfigError(f"split={split!r}: the run has no such images; it has {facts['sizes']}")
    # The batch fits some of this machine's devices, if not those of the machine that trained.
    most = min(config.devices or sharding.count_devices(), sharding.count_devices())
    batch_size = config.evaluation.batch_size or config.batch_size
    mesh = sharding.make_mesh(max(count for count in range(1, most + 1) if batch_size % count == 0))
    dataset = data.of_config(config)
    workdirs.check_same_data(place, workdirs.describe_data(dataset), config.data.on_bad_image)
    state, _ = _restore(home, config, facts, mesh, checkpoint)
    for line in changes if processes.is_first() else ():
        say(f"evaluated with {line}")
    parts = build.build(config, dataset, mesh, BadImages(None).add)
    return parts.evaluate(split)(state).metrics


def with_predict(run: Run, facts: dict[str, Any]) -> Run:
    """Gives a run its `predict`, from what `workdir.describe_data` said of its data."""
    # On one device whatever the run was trained on: predictions are small beside training.
    params, batch_stats = sharding.on_one_device((run.state.params, run.state.batch_stats))
    predict = make_predict(
        run.model,
        params,
        batch_stats,
        fit=inputs.fit_given(run.config, facts),
        normalize=functools.partial(augment.normalize, mean=tuple(facts["mean"]), std=tuple(facts["std"])),
        probabilities=components.build_probabilities(run.config),
    )
    return dataclasses.replace(run, predict=predict)


def open_workdir(workdir: str | os.PathLike) -> Place:
    """Returns the place of a work directory."""
    if not str(workdir):
        raise WorkdirError("the work directory must have a name; got an empty one")
    return Place(workdir)


def _restore(home, config, facts, mesh, checkpoint):
    if checkpoint not in ("last", "best"):
        raise ConfigError(f"checkpoint={checkpoint!r}: must be 'last' or 'best'")
    num_classes = len(facts["class_names"])
    model = components.build_model(config, num_classes)
    given = programs.settings(config, facts["mean"], facts["std"])
    make_state = functools.partial(programs.initial_state, config, model, facts["image_shape"])
    like = jax.eval_shape(make_state, jax.random.key(config.seed), np.ones(num_classes, np.float32), given)
    like = sharding.placed(like, mesh)
    with contextlib.closing(Checkpoints(home.root, say, reading=True)) as checkpoints:
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
