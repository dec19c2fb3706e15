"""What a landscape is of: a finished run's network, its images, and its loss for each class of them."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax import data, metrics
from cbjax.config import ConfigError, class_groups, difference, evaluation, rules
from cbjax.config.reading import complete
from cbjax.data import Dataset, Split
from cbjax.host.storage import is_remote
from cbjax.landscape.directions import Network
from cbjax.metrics import has_answer
from cbjax.parallel import sharding
from cbjax.training import components, input_paths
from cbjax.training.check_data import check_adjustment
from cbjax.training.check_process import check_main_guard
from cbjax.training.restore import load, open_workdir
from cbjax.types import Array, Batch, Run, Trained
from cbjax.workdir import data_facts

SPLITS = ("train", "validation", "test")
# Keys that a network's outputs, or the loss of them, depend on at given parameters.
OF_NETWORK = (
    *("model.name", "model.options", "model.code", "model.shortcut", "model.channels", "model.dtype"),
    *("stage.similarity", "oltr.form"),
)
OF_LOSS = (
    *("loss.name", "loss.options", "loss.code", "loss.gamma", "loss.epsilon", "loss.max_margin", "loss.scale"),
    *("loss.tau", "loss.divisor_power", "loss.rare_below", "loss.label_smoothing", "evaluation.tau"),
)


@dataclasses.dataclass(frozen=True, repr=False)
class Subject:
    """A network and the images that its loss is measured on.

    Attributes:
      run: restored.
      network: its parameters and statistics, NumPy.
      examples: images with their labels.
      dataset: of the run; its training images are what BatchNorm's statistics can be computed from again.
      counts: [C] training images of each class.
      groups: name -> classes: many, medium and few, and those of `evaluation.groups`.
      about: what it is, JSON values: the run, its step, the split, the data.
      root: the work directory.
      changed: what overrides changed of what is computed, key -> value; empty if all is as in training.
    """

    run: Run
    network: Network
    examples: Split
    dataset: Dataset
    counts: np.ndarray
    groups: Mapping[str, np.ndarray]
    about: dict[str, Any]
    root: pathlib.Path | None
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def devices(self) -> int:
        """How many devices measure: all, or as many as the run's config allows."""
        return min(self.run.config.devices or sharding.count_devices(), sharding.count_devices())

    @property
    def num_classes(self) -> int:
        return len(self.run.class_names)

    def __repr__(self) -> str:
        about = self.about
        return f"Subject({about['workdir']}, {about['checkpoint']} step {about['step']}, {len(self.examples)} images)"


def open_run(
    run: Run | str | os.PathLike,
    *,
    split: str = "train",
    checkpoint: str = "last",
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> Subject:
    """Reads a run and its data.

    Args:
      run: its work directory, or the run itself from `cbjax.train` or `cbjax.load`.
      split: "train" (without augmentation), "validation" or "test".
      checkpoint: "last" or "best"; for a work directory.
      overrides: "data.data_dir=…" or "evaluation.tau=1", as for `cbjax eval`; the images must be the run's own.
      trust_code: as for `cbjax.load`.

    Raises:
      ConfigError: if there is no such split, or an override is wrong.
      WorkdirError, DataError: if the run or its data cannot be read.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if isinstance(run, Run):
        loaded, checkpoint = run, f"step {run.memory.step}"
        if run.workdir is None:
            raise ConfigError("a landscape needs the run's work directory: give a run from cbjax.train or cbjax.load")
    else:
        loaded = load(run, checkpoint=checkpoint, trust_code=trust_code)
    assert loaded.workdir is not None, "given above"
    home = open_workdir(loaded.workdir)
    config, _ = evaluation.change(loaded.config, overrides)
    check_main_guard(config.data.workers)
    dataset = data.of_config(config)
    facts = data_facts.describe(dataset)
    data_facts.check_same(home.files, facts, config.data.on_bad_image)
    check_adjustment(config, dataset.class_names, dataset.counts, dataset.multi_label)
    # The state has the training's tau. All its other numbers belong to keys that no evaluation changes.
    settings = loaded.state.settings._replace(answer_tau=np.float32(config.evaluation.tau))
    loaded = dataclasses.replace(loaded, state=dataclasses.replace(loaded.state, settings=settings))
    examples = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if examples is None or not len(examples):
        raise ConfigError(f"split={split!r}: the run has no such images; it has {facts['sizes']}")
    trained = jax.device_get(Trained.of(loaded.state))
    about = {
        "workdir": str(home.root),
        "checkpoint": checkpoint,
        "step": loaded.memory.step,
        "split": split,
        "images": len(examples),
        "data_sha256": facts["sha256"],
        "method": {"loss": config.loss.name, "weights": config.weights.name, "seed": config.seed},
    }
    return Subject(
        dataclasses.replace(loaded, config=config),
        Network(trained.params, trained.batch_stats),
        examples,
        dataset,
        np.asarray(dataset.counts),
        groups_of(dataset.counts, config.evaluation.groups, dataset.class_names),
        about,
        None if is_remote(home.root) else pathlib.Path(home.root),
        {key: evaluation.value_of(config, key) for key in difference(loaded.config, config)[1]},
    )


def differences(first: Subject, one: Subject) -> list[str]:
    """Returns in words what differs between two runs and is taken from `first` when both are measured."""
    mine, its = first.run.state.settings, one.run.state.settings
    both = [complete(subject.run.config) for subject in (first, one)]
    differing = difference(first.run.config, one.run.config)[1]
    differing = [key for key in differing if any(rules.has_effect(key, values) for values in both)]
    found = []
    for what, keys in (("network", OF_NETWORK), ("loss", OF_LOSS)):
        if named := [key for key in differing if key in keys]:
            found.append(f"{what} ({', '.join(named)})")
    if first.about["data_sha256"] != one.about["data_sha256"]:
        found.append("set of images")
    if not (np.array_equal(mine.mean, its.mean) and np.array_equal(mine.std, its.std)):
        found.append("scale of pixels")
    return found


def groups_of(counts: Any, chosen: Any, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns many, medium and few, and a user's own groups, by name -> classes."""
    return {**metrics.class_groups(counts), **class_groups.resolve(chosen, class_names)}


def build_logits(subject: Subject, axis: str | None = None) -> Callable[[Any, Any, Any, Array], Array]:
    """Returns (params, batch_stats, rest, images) -> logits [B, C], as evaluation reads them; `rest` is `rest_of`."""
    run = subject.run
    model = components.build_model(run.config, subject.num_classes, axis)
    objective = components.build_objective(run.config, model, axis)

    def logits(params, batch_stats, rest, images):
        given, remembered = rest
        trained = Trained(params, batch_stats, given, remembered)
        return objective.logits(trained, input_paths.normalize(given, images))

    return logits


def rest_of(subject: Subject) -> Any:
    """Returns what the logits read besides parameters and statistics, NumPy."""
    trained = jax.device_get(Trained.of(subject.run.state))
    return trained.settings, trained.objective


def build_losses(subject: Subject) -> Callable[[Array, Array, Any], Array]:
    """Returns (logits, labels, rest) -> [B], the run's loss as evaluation measures it: without weights of classes."""
    loss = components.build_loss(subject.run.config, smooth=False)
    return lambda logits, labels, rest: loss(logits, labels, None, rest[0])


def build_sums(subject: Subject) -> Callable[[Any, Any, Any, Batch], dict[str, Array]]:
    """Returns (params, batch_stats, rest, batch) -> sums over a batch.

    They are "loss" [], "class_loss" [C] and "correct" [C]. An image counts for each class that it shows. Of multi-hot
    labels, a class is recognised if its probability is above one half.
    """
    logits_of, losses_of = build_logits(subject), build_losses(subject)
    chances_of, num_classes = components.build_probabilities(subject.run.config), subject.num_classes

    def sums(params, batch_stats, rest, batch):
        labels, mask = batch["label"], batch["mask"]
        logits = logits_of(params, batch_stats, rest, batch["image"])
        losses = losses_of(logits, labels, rest)
        shown = labels > 0 if labels.ndim == 2 else labels[:, None] == jnp.arange(num_classes)[None, :]
        shown &= mask[:, None]
        right = chances_of(logits) > 0.5 if labels.ndim == 2 else (jnp.argmax(logits, axis=-1) == labels)[:, None]
        right &= has_answer(logits)[:, None]
        # `where`, not a product: far from the network a loss may be infinite, and others' 0 times that is NaN.
        return {
            "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
            "class_loss": jnp.sum(jnp.where(shown, losses[:, None], 0.0), axis=0),
            "correct": jnp.sum(shown & right, axis=0),
        }

    return sums
