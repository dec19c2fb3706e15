"""Checks of a config that can be made only once its data are known."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cbjax.config import ConfigError, class_groups
from cbjax.config.parts import COUNT_WEIGHTS
from cbjax.data import Dataset
from cbjax.host import code, machine
from cbjax.training import components, own_loss

MOST_STEPS = 2**31 - 1  # the step is a number of 32 bits in the state


def check_data(config: ConfigDict, dataset: Dataset) -> None:
    """Checks what can be said only once the data are known.

    Raises:
      ConfigError: with the key, the rule, what came, and what to do.
    """
    size = len(dataset.train.labels)
    if config.batch_size > size:
        held_out = [f"data.{name}" for name in ("validation", "test", "meta") if config.data[name]]
        less = f", which {' and '.join(held_out)} made fewer" if held_out else ""
        raise ConfigError(
            f"batch_size: must be at most the number of training images; got {config.batch_size} for {size} "
            f"images{less}: set batch_size={size} or below"
        )
    _check_steps(config, size)
    _check_memory(config, dataset)
    if config.weights.name == "difficulty" and dataset.validation is None:
        raise ConfigError(
            "weights.name='difficulty' needs held-out validation images to measure each class on, and these data have "
            "none; set data.validation to a number or a fraction per class, such as data.validation=0.1"
        )
    class_groups.resolve(config.evaluation.groups, dataset.class_names)
    side = min(dataset.train.images.shape[1:3])
    if config.data.crop_padding >= side:
        raise ConfigError(f"data.crop_padding: must be below the images' side, {side}; got {config.data.crop_padding}")
    empty = [name for name, count in zip(dataset.class_names, dataset.counts, strict=True) if count == 0]
    if empty and config.weights.name in COUNT_WEIGHTS and config.weights.zero_count == "error":
        raise ConfigError(
            f"weights.name={config.weights.name!r}: a class without training images has no weight, and there are "
            f"{len(empty)}: {', '.join(empty[:10])}; weights.zero_count=ignore gives them weight 0"
        )
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        if dataset.multi_label and split is not None and not split.labels.any():
            raise ConfigError(f"data.{name}: none of the {len(split.labels)} images has a label; hold out more")
    if config.stage.name == "ncm":
        if dataset.multi_label:
            raise ConfigError("stage.name must not be ncm when labels are multi-hot: an image has no single class")
        _check_every_class("stage.name=ncm", dataset.class_names, dataset.counts)
    if dataset.multi_label and not components.loss_facts(config).one_vs_rest:
        raise ConfigError(
            f"loss.name={config.loss.name!r} needs one label an image, and these are multi-hot; use sigmoid or focal"
        )
    check_adjustment(config, dataset.class_names, dataset.counts, dataset.multi_label)
    if components.loss_facts(config).needs_counts:
        _check_every_class(f"loss.name={config.loss.name}", dataset.class_names, dataset.counts)
    if config.stage.name == "oltr":
        _check_every_class("stage.name=oltr", dataset.class_names, dataset.counts)
    if dataset.meta is not None and dataset.multi_label:
        raise ConfigError("meta.name must be none when labels are multi-hot")
    if config.mix.name in ("remix", "cmo") and dataset.multi_label:
        raise ConfigError(
            f"mix.name must not be {config.mix.name} when labels are multi-hot, because it counts the images of a class"
        )
    if config.sharpness.name == "imbsam":
        if dataset.multi_label:
            raise ConfigError(
                "sharpness.name must not be imbsam when labels are multi-hot: an image has several classes"
            )
        if not any(count < config.sharpness.tail_below for count in dataset.counts):
            raise ConfigError(
                f"sharpness.tail_below must be above the smallest class, of {min(dataset.counts)} training images, or "
                f"imbsam has no tail class; got {config.sharpness.tail_below}"
            )
    check_own_code(config, dataset.train.images.shape[1:], len(dataset.counts), dataset.multi_label)
    if dataset.multi_label and config.loss.mean == "weight_sum":
        raise ConfigError(
            "loss.mean='weight_sum' needs one label an image, and these are multi-hot; use loss.mean=batch"
        )


def check_adjustment(config: ConfigDict, class_names: Sequence[str], counts: Any, multi_label: bool) -> None:
    """Checks, for a training or an evaluation, that answers can be adjusted by the classes' shares if they are to be.

    Args:
      config: resolved.
      class_names: C names.
      counts: training images of each class.
      multi_label: whether labels are multi-hot.

    Raises:
      ConfigError: if classes have no shares, the loss is one-vs-rest, or a class has no training image.
    """
    tau = config.evaluation.tau
    if not tau:
        return
    if multi_label:
        raise ConfigError("evaluation.tau must be 0 when labels are multi-hot, because classes then have no shares")
    if components.loss_facts(config).one_vs_rest:
        raise ConfigError(
            f"evaluation.tau must be 0 when loss.name is {config.loss.name}, whose answers are one-vs-rest; got {tau}"
        )
    _check_every_class("evaluation.tau", class_names, counts)


def _check_every_class(key: str, class_names: Sequence[str], counts: Any) -> None:
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise ConfigError(
            f"{key} needs a training image of every class, and {len(empty)} have none: {', '.join(empty[:10])}"
        )


def check_own_code(config: ConfigDict, image_shape: Sequence[int], num_classes: int, multi_label: bool) -> None:
    """Tries a user's own network and loss, if the config names them, and their gradients, by their shapes alone.

    Args:
      config: resolved.
      image_shape: [H, W, channels], or [T, H, W, channels] of clips.
      num_classes: C.
      multi_label: whether labels are [B, C].

    Raises:
      ConfigError: with the file and line, or the rule that is broken.
    """
    if code.is_own(config.loss.name):
        loss = components.loss_facts(config).function
        try:
            forward_mode = config.meta.name != "none"
            own_loss.check(config.loss.name, loss, num_classes, multi_label, forward_mode)
        except code.CodeError as error:
            raise ConfigError(f"loss.name: {error}") from error
    if code.is_own(config.model.name):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        model = components.build_model(config, num_classes)

        def gradient(key):
            params, batch_stats = model.init(key, images)
            few = jnp.zeros((2, *image_shape), jnp.float32)
            return jax.grad(lambda params: jnp.sum(model.apply(params, batch_stats, few, True, key=key)[0]))(params)

        try:
            with code.reported(code.find(config.model.name).path):
                jax.eval_shape(gradient, jax.eval_shape(lambda: jax.random.key(0)))
        except ValueError as error:
            raise ConfigError(f"model.name={config.model.name!r}: {error}") from error


def _check_steps(config: ConfigDict, size: int) -> None:
    steps = -(-config.num_epochs * size // config.batch_size)
    if steps > MOST_STEPS:
        raise ConfigError(
            f"num_epochs: a run can have at most {MOST_STEPS} steps; got {config.num_epochs} epochs of {size} images, "
            f"which are {steps} steps: use fewer epochs or a larger batch_size"
        )


def _check_memory(config: ConfigDict, dataset: Dataset) -> None:
    """Refuses what does not fit into memory: Linux ends a process that takes too much, without a message."""
    free = machine.free_bytes()
    shape = dataset.train.images.shape[1:]
    image = 4 * math.prod(shape)  # as float32
    sizes = {"batch_size": config.batch_size, "evaluation.batch_size": config.evaluation.batch_size or 0}
    for key, batch_size in sizes.items():
        needed = image * batch_size / jax.process_count()
        if needed > free:
            raise ConfigError(
                f"{key}: {batch_size} images of {' x '.join(map(str, shape))} take {needed / 1e9:,.1f} GB, and this "
                f"machine has {free / 1e9:,.1f} GB free: use a smaller batch or smaller images"
            )
    # The indices of all images of a dispatch, 4 bytes each.
    needed = 4 * (config.steps_per_dispatch or 1) * config.batch_size
    if needed > free:
        raise ConfigError(
            f"steps_per_dispatch: {config.steps_per_dispatch} steps of {config.batch_size} images take "
            f"{needed / 1e9:,.1f} GB, and this machine has {free / 1e9:,.1f} GB free: use fewer steps"
        )
