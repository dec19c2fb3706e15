"""Turns a checked config and its data into the parts of a run; the only file that knows both."""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import callbacks, inputs, losses, models, optim, pretrained, sharding, weights
from cbjax.check_data import check_data
from cbjax.config import ConfigError, learning_rates
from cbjax.data import Dataset
from cbjax.data.sampling import Batches
from cbjax.evaluate import Evaluation
from cbjax.pretrained import Pretrained
from cbjax.train_step import make_eval_step, make_train_step
from cbjax.types import Array, Callback, Loss, Model, Run, TrainState


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
      model: the network.
      mesh: the devices.
      init: makes the state before the first step, on the mesh.
      pretrained: reads the weights that the first state is to have; None where they are those of `init`.
      advance: (state, first, last) -> (state, metrics), as `loop.Plan` wants it.
      batches: the order of the training images.
      steps_per_dispatch: how many steps `advance` takes at most.
      schedule: step -> learning rate.
      weights: run -> class weights [C] once they are not equal any more.
      start_epoch: the number of epochs with equal weights.
      evaluate: split -> (params, batch_stats) -> Evaluation; made at the first use of a split.
      has_validation: whether images are held out.
    """

    model: Model
    mesh: Mesh
    init: Callable[[], TrainState]
    pretrained: Callable[[], Pretrained] | None
    advance: Callable[[TrainState, int, int], tuple[TrainState, dict[str, Array]]]
    batches: Batches
    steps_per_dispatch: int
    schedule: optax.Schedule
    weights: Callable[[Run], np.ndarray]
    start_epoch: int
    evaluate: Callable[[str], Callable[[Any, Any], Evaluation]]
    has_validation: bool


def build(
    config: ConfigDict, dataset: Dataset, mesh: Mesh, report_bad: inputs.ReportBad = lambda name, reason: None
) -> Parts:
    """Builds the parts of a run; `report_bad` is told of each image that is skipped, possibly many times.

    Raises:
      ConfigError: if the config does not fit the data.
    """
    check_data(config, dataset)
    batches = inputs.build_batches(config, dataset)
    steps = build_steps(config, batches, dataset.train.images.shape[1:], dataset.counts)
    rule, _ = build_weights(config, dataset.counts)
    return Parts(
        model=steps.model,
        mesh=mesh,
        pretrained=functools.cache(lambda: _read_pretrained(config.model.pretrained, steps.state))
        if config.model.pretrained
        else None,
        init=lambda: jax.jit(steps.make_state, out_shardings=sharding.whole(mesh))(jax.random.key(config.seed)),
        advance=inputs.build_advance(config, dataset, batches, steps.train_step, mesh, report_bad),
        batches=batches,
        steps_per_dispatch=inputs.steps_per_dispatch(config, dataset, batches, mesh),
        schedule=steps.schedule,
        weights=rule,
        start_epoch=math.ceil(_exactly(config.weights.start) * config.num_epochs),
        evaluate=inputs.build_evaluate(config, dataset, steps.eval_step, mesh, report_bad),
        has_validation=dataset.validation is not None,
    )


@dataclasses.dataclass(frozen=True)
class Steps:
    """What a config makes of shapes alone: the network, key -> first state and its shapes, step -> rate, the steps."""

    model: Model
    make_state: Callable[[Array], TrainState]
    state: TrainState
    schedule: optax.Schedule
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]


def build_steps(
    config: ConfigDict, batches: Batches, image_shape: Sequence[int], counts: Sequence[int] | np.ndarray
) -> Steps:
    """Builds the steps of a run from the shape of its images [H, W, channels] and the training images of each class.

    Raises:
      ConfigError: if the model does not fit the images.
    """
    model = build_model(config, len(counts))
    schedule = build_schedule(config, batches)

    def make_state(key):
        return initial_state(key, config, model, image_shape, counts)

    # The seed is an argument of the program, so that the runs of a sweep share it.
    try:
        state = jax.eval_shape(make_state, jax.random.key(config.seed))
    except ValueError as error:
        raise ConfigError(f"model.name={config.model.name!r} does not fit the images: {error}") from error
    tx = build_optimizer(config, schedule, state.params)
    return Steps(
        model=model,
        make_state=make_state,
        state=state,
        schedule=schedule,
        train_step=make_train_step(
            model, tx, build_loss(config), mean=config.loss.mean, accumulation=config.optim.accumulation
        ),
        eval_step=make_eval_step(model, build_loss(config, smooth=False), build_probabilities(config)),
    )


def initial_state(
    key: Array, config: ConfigDict, model: Model, image_shape: Sequence[int], counts: Sequence[int] | np.ndarray
) -> TrainState:
    """Makes the state before the first step from the run's random key."""
    key, params_key = jax.random.split(key)
    params, batch_stats = model.init(params_key, jnp.zeros((1, *image_shape)))
    # The optimiser's state does not depend on its schedule.
    tx = build_optimizer(config, optax.constant_schedule(0.0), params)
    _, class_weights = build_weights(config, np.asarray(counts))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        class_weights=jnp.asarray(class_weights, jnp.float32),
        key=key,
    )


def with_pretrained(state: TrainState, given: Pretrained, mesh: Mesh) -> TrainState:
    """Puts pretrained weights into the state before the first step; a head that they lack stays as it is."""
    params, batch_stats = sharding.replicate((given.params, given.batch_stats), mesh)
    return dataclasses.replace(state, params={**state.params, **params}, batch_stats=batch_stats)


def build_model(config: ConfigDict, num_classes: int) -> Model:
    """Builds the config's network; options that it does not have were checked to be at their defaults."""
    prior = config.model.final_bias == "prior" or (config.model.final_bias == "auto" and config.loss.name != "softmax")
    options = {
        "shortcut": config.model.shortcut,
        "initialization": config.model.initialization,
        "final_bias": -math.log(num_classes - 1) if prior else 0.0,
        "zero_last_scale": config.model.zero_last_scale,
        "batch_norm_axis": sharding.AXIS if config.model.batch_norm_size == "all" else None,
        "batch_norm_size": None if config.model.batch_norm_size == "all" else config.model.batch_norm_size,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
    }
    known = models.options_of(config.model.name)
    return models.build(
        config.model.name, num_classes, **{name: value for name, value in options.items() if name in known}
    )


def build_loss(config: ConfigDict, *, smooth: bool = True) -> Loss:
    """Returns the config's loss, (logits, labels, class_weights) -> [B]; for evaluation without smoothing of labels."""
    options = {"gamma": config.loss.gamma} if config.loss.name == "focal" else {}
    if smooth and config.loss.label_smoothing:  # the rules refuse it for any loss but softmax
        options["label_smoothing"] = config.loss.label_smoothing
    return functools.partial(losses.LOSSES[config.loss.name], **options)


def build_probabilities(config: ConfigDict) -> Callable[[Array], Array]:
    """Returns logits -> probabilities, as the loss means them: one of C classes, or C independent answers."""
    return jax.nn.softmax if config.loss.name == "softmax" else jax.nn.sigmoid


def build_schedule(config: ConfigDict, batches: Batches) -> optax.Schedule:
    """Returns step -> learning rate; fractions of training become steps."""
    settings = config.optim
    num_steps = batches.epoch_end(config.num_epochs)
    steps_per_epoch = fractions.Fraction(batches.num_examples, batches.batch_size)
    if settings.warmup_steps is not None:
        warmup = settings.warmup_steps
        if warmup >= num_steps:
            raise ConfigError(f"optim.warmup_steps: must be below the number of steps, {num_steps}; got {warmup}")
    else:
        warmup_epochs = settings.warmup_epochs
        if warmup_epochs is None:
            warmup_epochs = _exactly(settings.warmup) * config.num_epochs
        warmup = min(round(_exactly(warmup_epochs) * steps_per_epoch), num_steps - 1)
    rate, warmup_from = learning_rates(config)
    options = {"warmup_steps": warmup, "warmup_from": warmup_from}
    if settings.schedule == "cosine":
        return optim.cosine_schedule(rate, num_steps, **options)
    boundaries = (
        [math.ceil(_exactly(fraction) * config.num_epochs * steps_per_epoch) for fraction in settings.decay_at]
        if settings.schedule == "step"
        else []
    )
    return optim.step_schedule(rate, boundaries, settings.decay_factor, **options)


def build_optimizer(config: ConfigDict, schedule: optax.Schedule, params: Any) -> optax.GradientTransformation:
    """Returns SGD as configured; the last bias of a sigmoid loss, which starts at its prior, does not decay (CB)."""
    mask = optim.decay_mask(params, rule=config.optim.decay_rule, last_bias=config.loss.name == "softmax")
    return optim.sgd(
        schedule,
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
        weight_decay=config.optim.weight_decay,
        decay_mask=mask,
    )


def build_weights(config: ConfigDict, counts: np.ndarray) -> tuple[Callable[[Run], np.ndarray], np.ndarray]:
    """Returns the rule of class weights, run -> [C], and the weights of the first epoch."""
    settings = config.weights
    equal = weights.uniform(len(counts))
    if settings.name == "difficulty":
        options = config.difficulty
        rule = callbacks.from_difficulty(options.tau, options.formula, options.floor, options.scale)
        return rule, equal
    if settings.name == "uniform":
        return lambda run: equal, equal
    options = {"zero_count": settings.zero_count}
    if settings.name == "class_balanced":
        options["beta"] = settings.beta
    try:
        fixed = weights.WEIGHTS[settings.name](counts, **options)
    except ValueError as error:
        raise ConfigError(f"weights.name={settings.name!r}: {error}") from error
    return lambda run: fixed, equal if settings.start > 0 else fixed


def build_callbacks(
    config: ConfigDict,
    parts: Parts,
    place: Callable[[np.ndarray], Array],
    log: Callable[[Run], None],
    save: Callable[[Run], None],
) -> list[Callback]:
    """Returns what happens after each epoch, in order; `place` puts class weights on the devices."""
    after = []
    if parts.has_validation:
        after.append(callbacks.evaluate_validation(parts.evaluate("validation")))
    if config.evaluation.test_every:
        after.append(callbacks.evaluate_test(parts.evaluate("test"), config.evaluation.test_every))
    if config.weights.name == "difficulty" and config.difficulty.tau == "dynamic":
        after.append(callbacks.log_tau(config.difficulty.formula))
    after.append(callbacks.reweight(parts.weights, parts.start_epoch, place))
    after.append(callbacks.log(log))
    after.append(callbacks.checkpoint(save, config.checkpoint.every_epochs, config.num_epochs))
    return after


def _read_pretrained(path, shapes):
    try:
        return pretrained.load(path, shapes.params, shapes.batch_stats)
    except ValueError as error:
        raise ConfigError(f"model.pretrained: {error}") from error


def _exactly(number):
    """Returns the number that was written: in binary 0.55 * 100 is above 55, and a switch would come too late."""
    return fractions.Fraction(str(number))
