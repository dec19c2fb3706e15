"""Loads a run from its work directory alone (`cbjax.load`), and evaluates it (`cbjax eval`)."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cbjax import data, report
from cbjax.config import ConfigError, evaluation
from cbjax.data import DataError, augment, labelled
from cbjax.data.batches import Batches
from cbjax.data.records import noun_of, quote
from cbjax.host.output import say
from cbjax.host.storage import Place
from cbjax.parallel import processes, sharding
from cbjax.training import build, components, input_paths, inputs, programs
from cbjax.training.check_data import check_adjustment
from cbjax.training.check_process import check_main_guard
from cbjax.training.evaluate import Evaluation, make_program
from cbjax.training.predict import make_predict
from cbjax.types import Run, Trained
from cbjax.workdir import data_facts, environment, own_code
from cbjax.workdir import files as workdirs
from cbjax.workdir.bad_images import BadImages
from cbjax.workdir.checkpoint import CheckpointError, Checkpoints
from cbjax.workdir.files import WorkdirError
from cbjax.workdir.memory import from_json


@environment.in_float32
def load(
    workdir: str | os.PathLike, *, checkpoint: str = "last", trust_code: bool = False, temperature: float = 1.0
) -> Run:
    """Reads a run from its work directory alone; the data that it was trained on need not be there.

    Args:
      workdir: a work directory with at least one checkpoint.
      checkpoint: "last", or "best": that of the highest held-out balanced accuracy.
      trust_code: whether the work directory's copies of a user's network and loss may be run. Without it they are taken
        from installed packages alone, from files of equal SHA-256: packages that use cbjax, JAX or Flax, or that are
        worked on here (pip install -e). The current folder never counts.
      temperature: above 0; `predict` divides logits by it before they become probabilities. `cbjax eval
        --calibrate=temperature` fits one.

    Returns:
      The run on this machine's first device: `predict` takes raw images, `metrics` are the final ones of a finished
      run.

    Raises:
      WorkdirError: if the directory holds no run or no such checkpoint.
      ConfigError: if code would have to be run that is not trusted, or cannot be.
    """
    if not 0 < temperature < np.inf:
        raise ConfigError(f"temperature must be above 0 and finite; got {temperature}")
    home = open_workdir(workdir)
    place = home.files
    config = own_code.allow(place, workdirs.read_config(place), trust_code)
    facts = data_facts.read(place)
    state, saved = _restore(home, config, facts, sharding.make_mesh(1), checkpoint)
    model = components.build_model(config, len(facts["class_names"]))
    metrics = workdirs.read_final_metrics(place)
    run = Run(
        config, model, state, metrics, tuple(facts["class_names"]), memory=from_json(saved), workdir=str(home.root)
    )
    return with_predict(run, facts, temperature)


@environment.in_float32
def evaluate(workdir: str | os.PathLike, **options: Any) -> dict[str, float]:
    """Evaluates a run's checkpoint; arguments and errors as `examine`, of which it returns the metrics by name."""
    return examine(workdir, **options).evaluation.metrics


@dataclasses.dataclass(frozen=True)
class Examined:
    """A checkpoint on labelled images.

    Attributes:
      run: restored; its `predict` takes the images one by one.
      evaluation: the figures.
      split: the images and their labels, in the order of the run's classes.
      names: [N] what to call each image: its file, or its place in its array.
      counts: [C] training images of each class.
      about: what was evaluated, for a file of results.
      areas: further figures of each class, name -> [C] (`scores.with_areas`, `calibrate.with_accuracy_after`).
      chances: [N, C] probabilities of all images, if they are known.
      logits: as the run's `predict`, but gives the logits that the probabilities are made from.
      own: whether the images are the run's own.
    """

    run: Run
    evaluation: Evaluation
    split: data.Split
    names: Sequence[str]
    counts: np.ndarray
    about: dict[str, Any]
    areas: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    chances: np.ndarray | None = None
    logits: Callable[..., np.ndarray] | None = None
    own: bool = True


def examine(
    workdir: str | os.PathLike,
    *,
    split: str = "test",
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> Examined:
    """Evaluates a run's checkpoint on one of its own splits, or on new labelled data; the work directory stays as it
    is.

    Args:
      workdir: of the run.
      split: "validation" or "test".
      checkpoint: "last" or "best".
      overrides: "data.image_size=320", of `config.evaluation.KEYS`; without any the figures are those of the training,
        to the bit on the same devices. "data.test_list=other.csv" and the like (`config.evaluation.new_data`) name new
        data, unless they are the run's own at another place. Normalisation and classes stay those of the run.
      trust_code: as for `load`.

    Raises:
      WorkdirError: if the directory holds no run or no such checkpoint.
      DataError: if the data are missing, or not those of the run, or new ones have a class that the run has not.
      ConfigError: if the run has no such split, an override is wrong, or code is not trusted.
    """
    if split not in ("validation", "test"):
        raise ConfigError(f"split must be validation or test; got {split!r}")
    home = open_workdir(workdir)
    place = home.files
    own = own_code.allow(place, workdirs.read_config(place), trust_code)
    facts = data_facts.read(place)
    new = evaluation.new_data(own, overrides, split)
    dataset = None if new is None else _own_data(own, overrides, facts)
    if new is not None and dataset is None:
        config, changes = evaluation.change(own, new.overrides)
    else:
        new = None
        config, changes = evaluation.change(own, overrides)
        if not facts["sizes"].get(split):
            raise ConfigError(f"split={split!r}: the run has no such images; it has {facts['sizes']}")
    check_main_guard(config.data.workers)
    # The batch fits some of this machine's devices, if not those of the machine that trained.
    most = min(config.devices or sharding.count_devices(), sharding.count_devices())
    batch_size = config.evaluation.batch_size or config.batch_size
    mesh = sharding.make_mesh(max(count for count in range(1, most + 1) if batch_size % count == 0))
    examples: data.Split | None
    notes: list[str] = []
    if new is not None:
        chosen = bool(config.data.classes)
        fit = inputs.fit_given(config, facts)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            given = labelled.read(new.kind, new.places, split, facts["class_names"], fit, chosen)
        if given.split.multi_label != facts["multi_label"]:
            raise DataError(f"{given.place}: labels must be {'multi-hot' if facts['multi_label'] else 'one an image'}")
        examples, names, where = given.split, given.names, given.place
        evaluate_split = _new_evaluate(config, examples, facts, mesh)
        changes.append(_about_new(given, facts))
        notes = [*given.notes, *(str(warning.message) for warning in caught)]
    else:
        dataset = dataset or data.of_config(config)
        data_facts.check_same(place, data_facts.describe(dataset), config.data.on_bad_image)
        examples = dataset.validation if split == "validation" else dataset.test
        names, where = _names(dataset, split), f"the run's own {split} split"
        parts = build.build(config, dataset, mesh, BadImages(None).add)
        evaluate_split = parts.evaluate(split)
    state, saved = _restore(home, config, facts, mesh, checkpoint)
    for line in [*(f"evaluated with {change}" for change in changes), *notes] if processes.is_first() else ():
        say(line)
    model = components.build_model(config, len(facts["class_names"]))
    assert examples is not None, "its size is above 0"
    facts = _in_their_units(facts, examples.images)
    run = with_predict(Run(config, model, state, {}, tuple(facts["class_names"]), memory=from_json(saved)), facts)
    about: dict[str, Any] = {
        "workdir": str(home.root),
        "checkpoint": checkpoint,
        "step": run.memory.step,
        "split": split,
    }
    about |= {"data": where, "images": len(examples), "changes": changes, "notes": notes}
    counts, logits = np.asarray(facts["counts"]), _predictor(run, facts, lambda logits: logits)
    return Examined(run, evaluate_split(state), examples, names, counts, about, logits=logits, own=new is None)


def _own_data(config, overrides, facts):
    """Returns the run's data where overrides say only where they are now; None where those are others."""
    try:
        dataset = data.of_config(evaluation.change(config, overrides)[0])
    except (ConfigError, DataError):
        return None
    return dataset if data_facts.describe(dataset)["sha256"] == facts["sha256"] else None


def _in_their_units(facts, images):
    """Returns the facts with a range of pixels that has these images: a pixel beyond training's is no other unit."""
    if isinstance(images, data.Encoded) or facts.get("image_span") is None:
        return facts
    low, high = facts["image_span"]
    return {**facts, "image_span": [min(low, images.min().item()), max(high, images.max().item())]}


def _names(dataset, split):
    images = getattr(dataset, split).images
    if isinstance(images, data.Encoded):
        return [images.name(position) for position in range(len(images))]
    return [str(place) for place in dataset.indices[split]]


def _new_evaluate(config, examples, facts, mesh):
    size = config.batch_size
    num_classes, path = len(facts["class_names"]), input_paths.of(examples.images)
    # Its evaluation does not depend on the order of training.
    steps = programs.build_steps(config, Batches(size, size, config.seed), examples.images.shape[1:], num_classes)
    program = make_program(steps.eval_step, input_paths.normalize, mesh, config.parallel)
    names, counts = tuple(facts["class_names"]), np.asarray(facts["counts"])
    dataset = data.Dataset(examples, None, examples, names, counts, {}, facts["mean"], facts["std"])
    return inputs.build_evaluate(config, dataset, path, program, mesh, BadImages(None).add)("test")


def _about_new(given, facts):
    labels, names = given.split.labels, facts["class_names"]
    present = labels.any(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names)) > 0
    absent = [name for name, there in zip(names, present, strict=True) if not there]
    noun = noun_of(given.split.images.shape[1:])
    text = f"new data, {len(labels)} {noun}s of {given.place}, which are not those of the run"
    return f"{text}; none of classes {quote(absent)}" if absent else text


def with_predict(run: Run, facts: dict[str, Any], temperature: float = 1.0) -> Run:
    """Gives a run its `predict`, from what `data_facts.describe` said of its data, and its `show`.

    The temperature is as for `load`.
    """
    probabilities = components.build_probabilities(run.config)
    if temperature == 1.0:
        predict = _predictor(run, facts, probabilities)
    else:
        predict = _predictor(run, facts, lambda logits: probabilities(logits / temperature))
    show = None if run.workdir is None else functools.partial(_show, run.workdir)
    return dataclasses.replace(run, predict=predict, show=show)


def _show(workdir):
    report.show(open_workdir(workdir).files)


def _predictor(run, facts, probabilities):
    # On one device whatever the run was trained on: predictions are small beside training.
    predict = make_predict(
        components.build_objective(run.config, run.model).logits,
        sharding.on_one_device(Trained.of(run.state)),
        fit=inputs.fit_given(run.config, facts),
        normalize=functools.partial(augment.normalize, mean=tuple(facts["mean"]), std=tuple(facts["std"])),
        probabilities=probabilities,
    )
    return environment.in_float32(predict)


def open_workdir(workdir: str | os.PathLike) -> Place:
    """Returns the place of a work directory."""
    if not str(workdir):
        raise WorkdirError("the work directory must have a name; got an empty one")
    return Place(workdir)


def _restore(home, config, facts, mesh, checkpoint):
    if checkpoint not in ("last", "best"):
        raise ConfigError(f"checkpoint={checkpoint!r}: must be 'last' or 'best'")
    num_classes = len(facts["class_names"])
    check_adjustment(config, facts["class_names"], facts["counts"], facts.get("multi_label", False))
    model = components.build_model(config, num_classes)
    given = programs.settings(config, facts["mean"], facts["std"], facts["counts"])
    objective = components.build_objective(config, model)
    make_state = functools.partial(programs.initial_state, config, model, objective, facts["image_shape"])
    like = jax.eval_shape(make_state, jax.random.key(config.seed), np.ones(num_classes, np.float32), given)
    like = dataclasses.replace(sharding.placed(like, mesh), settings=sharding.replicate(given, mesh))
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
            try:
                return checkpoints.restore_step(like, best["step"])
            except CheckpointError:
                # Beside a run that trains, a better one may just have taken its place.
                newer = checkpoints.restore(like)
                if newer is None or newer[2]["best"] == best:
                    raise
                return checkpoints.restore_step(like, newer[2]["best"]["step"])
    return restored[1:]
