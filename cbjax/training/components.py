"""Builds what a config names: the network, the loss, the method, the optimiser."""

import fractions
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cbjax import losses, models, optim
from cbjax.config import ConfigError, learning_rates
from cbjax.data.batches import Batches
from cbjax.host import code
from cbjax.losses import LossFacts
from cbjax.models import meta_embedding, two_stages
from cbjax.objectives import (
    adjusted,
    equalized,
    ghm,
    ghm_softmax,
    l2rw,
    ldam,
    logit_adjusted,
    mw_net,
    oltr,
    sharpness,
    vector_scaled,
    weighted,
)
from cbjax.objectives.mixing import mixed
from cbjax.objectives.weighted import SettledLoss
from cbjax.parallel import sharding
from cbjax.training import own_loss
from cbjax.types import Array, Model, Objective, TrainState


def build_model(config: ConfigDict, num_classes: int, axis: str | None = sharding.AXIS) -> Model:
    """Builds the config's network. Keys that it does not have are at their defaults; the config's rules check this.

    Args:
      config: resolved.
      num_classes: C.
      axis: the mesh axis that a batch is split over; None where a device has the whole batch.
    """
    model = _build_network(config, num_classes, axis)
    match config.stage.name:
        case "lws":
            return two_stages.class_scaled(model, num_classes)
        case "ncm":
            return two_stages.nearest_mean(model, num_classes, config.stage.similarity)
        case "oltr":
            return meta_embedding.with_memory(model, num_classes, config.oltr.form)
    return model


def _build_network(config: ConfigDict, num_classes: int, axis: str | None) -> Model:
    head = config.model.head
    if head == "auto":
        head = "normalized" if config.loss.name == "ldam" else "linear"
    one_vs_rest = loss_facts(config).one_vs_rest
    prior = config.model.final_bias == "prior" or (config.model.final_bias == "auto" and one_vs_rest)
    options = {
        "head": head,
        "shortcut": config.model.shortcut,
        "initialization": config.model.initialization,
        "final_bias": -math.log(num_classes - 1) if prior else 0.0,
        "channels": config.model.channels,
        "zero_last_scale": config.model.zero_last_scale,
        "batch_norm_axis": axis if config.model.batch_norm_size == "all" else None,
        "batch_norm_size": None if config.model.batch_norm_size == "all" else config.model.batch_norm_size,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
    }
    if code.is_own(config.model.name):
        return _build_own(config, num_classes, options["final_bias"], head)
    known = models.options_of(config.model.name)
    return models.build(
        config.model.name, num_classes, **{name: value for name, value in options.items() if name in known}
    )


def _build_own(config: ConfigDict, num_classes: int, final_bias: float, head: str) -> Model:
    """Builds a user's network. A function that takes `final_bias` or `head` gets them from the config."""
    name, options = config.model.name, dict(config.model.options)
    try:
        if "final_bias" in models.own.options_of(name, config.model.code):
            options = {"final_bias": final_bias, **options}
        elif config.model.final_bias != "auto":
            raise ConfigError(f"model.final_bias={config.model.final_bias} needs a function that takes final_bias")
        if head == "normalized":
            if "head" not in models.own.options_of(name, config.model.code):
                raise ConfigError(
                    f"loss.name=ldam needs a network whose last layer gives cosines. Let {name} take an argument head, "
                    "and end in cbjax.models.linen.Cosines(num_classes) where it is 'normalized'"
                )
            options = {"head": head, **options}
        return models.own.build(name, num_classes, options, config.model.code)
    except code.CodeError as error:
        raise ConfigError(f"model.name: {error}") from error


def build_objective(
    config: ConfigDict,
    model: Model,
    axis: str | None = sharding.AXIS,
    rate: Callable[[TrainState], Array] | None = None,
) -> Objective:
    """Returns the config's method.

    Args:
      config: resolved.
      model: the network, built for the same axis.
      axis: the mesh axis that a batch is split over; None where a device has the whole batch.
      rate: state -> [] the learning rate of its step; only training needs it.
    """
    build = functools.partial(_trained_by, config, axis=axis, rate=rate)
    objective = build(model) if config.mix.name == "none" else mixed(build, model, config.mix.name)
    return adjusted(objective) if config.evaluation.tau else objective


def _trained_by(config, model, *, axis, rate):
    if config.stage.name == "oltr":
        return oltr(model, build_loss(config), axis)
    match config.meta.name:
        case "l2rw":
            return l2rw(model, build_loss(config), axis)
        case "mw_net":
            options = {"variant": config.meta.variant, "optimizer": config.meta.network_optimizer}
            return mw_net(model, build_loss(config), rate, axis=axis, **options)
    match config.loss.name:
        case "ldam":
            return ldam(model, config.loss.mean)
        case "logit_adjusted":
            return logit_adjusted(model, config.loss.mean)
        case "vs":
            return vector_scaled(model, config.loss.mean)
        case "eql":
            return equalized(model, losses.equalization_loss, config.loss.mean, axis)
        case "softmax_eql":
            return equalized(model, losses.softmax_equalization_loss, config.loss.mean, axis)
        case "ghm":
            return ghm(model, config.loss.bins, axis)
        case "ghm_softmax":
            return ghm_softmax(model, config.loss.bins, axis)
    return weighted(model, build_loss(config), config.loss.mean)


def build_around(config: ConfigDict) -> sharpness.Around:
    """Returns how a step takes the gradient of its objective: once, or as sharpness-aware minimisation does."""
    return {"none": sharpness.once, "sam": sharpness.sam, "imbsam": sharpness.imbsam}[config.sharpness.name]


def loss_facts(config: ConfigDict) -> LossFacts:
    """Returns the config's loss and what follows from it. Raises ConfigError if a user's own loss is wrong."""
    chosen = config.loss
    if not code.is_own(chosen.name):
        return losses.LOSSES[chosen.name]
    try:
        return own_loss.facts(chosen.name, dict(chosen.options), chosen.code)
    except code.CodeError as error:
        raise ConfigError(f"loss.name: {error}") from error


def build_loss(config: ConfigDict, *, smooth: bool = True) -> SettledLoss:
    """Returns the config's loss, (logits, labels, class_weights, settings) -> [B].

    For evaluation it leaves out the smoothing of labels.
    """
    facts = loss_facts(config)
    options: dict[str, Any] = {}
    if smooth and config.loss.label_smoothing:  # the rules refuse it for any loss but softmax
        options["label_smoothing"] = config.loss.label_smoothing

    def loss(logits, labels, class_weights, settings):
        given = {name: settings.loss[name] for name in facts.numbers}
        return facts.function(logits, labels, class_weights, **options, **given)

    return loss


def build_probabilities(config: ConfigDict) -> Callable[[Array], Array]:
    """Returns logits -> probabilities, as the loss means them: one of C classes, or C independent answers."""
    return jax.nn.sigmoid if loss_facts(config).one_vs_rest else jax.nn.softmax


def build_schedule(
    config: ConfigDict, batches: Batches, rates: tuple[float | Array, float | Array] | None = None
) -> optax.Schedule:
    """Returns step -> learning rate; fractions of training become steps.

    Args:
      config: resolved.
      batches: the order of the training images.
      rates: the rate after the warm-up, and the rate at step 0 if there is a warm-up; None for the config's.

    Raises:
      ConfigError: if the warm-up is longer than training.
    """
    chosen = config.optim
    num_steps = batches.epoch_end(config.num_epochs)
    steps_per_epoch = fractions.Fraction(batches.num_examples, batches.batch_size)
    if chosen.warmup_steps is not None:
        warmup = chosen.warmup_steps
        if warmup >= num_steps:
            raise ConfigError(f"optim.warmup_steps: must be below the number of steps, {num_steps}; got {warmup}")
    else:
        warmup_epochs = chosen.warmup_epochs
        if warmup_epochs is None:
            warmup_epochs = exactly(chosen.warmup) * config.num_epochs
        warmup = min(round(exactly(warmup_epochs) * steps_per_epoch), num_steps - 1)
    rate, warmup_from = rates or learning_rates(config)
    options = {"warmup_steps": warmup, "warmup_from": warmup_from}
    if chosen.schedule == "cosine":
        return optim.cosine_schedule(rate, num_steps, **options)
    boundaries = (
        [math.ceil(exactly(fraction) * config.num_epochs * steps_per_epoch) for fraction in chosen.decay_at]
        if chosen.schedule == "step"
        else []
    )
    return optim.step_schedule(rate, boundaries, chosen.decay_factor, **options)


def build_optimizer(
    config: ConfigDict,
    schedule: optax.Schedule,
    params: Any,
    weight_decay: float | Array,
    trained: Any = None,
    factors: Any = None,
) -> optax.GradientTransformation:
    """Returns SGD as configured. With a one-vs-rest loss the last bias starts at its prior and does not decay (CB).

    Args:
      config: resolved.
      schedule: step -> learning rate.
      params: what it changes.
      weight_decay: coefficient.
      trained: pytree of bools in the shape of `params`; the others stay as they are. None for all.
      factors: pytree of numbers in the shape of `params`, of the learning rate. None for 1.
    """
    mask = optim.decay_mask(params, rule=config.optim.decay_rule, last_bias=not loss_facts(config).one_vs_rest)
    sgd = optim.sgd(
        schedule,
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
        weight_decay=weight_decay,
        decay_mask=mask,
    )
    tx = sgd if trained is None else optim.of_part(sgd, trained)
    return tx if factors is None else optim.scaled(tx, factors)


def exactly(number):
    """Returns the number as it was written: 0.55 * 100 in floats is above 55, so a switch would come too late."""
    return fractions.Fraction(str(number))
