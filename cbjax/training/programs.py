"""The compiled programs of a run, made from its config and the shapes of its data.

Runs whose `program_key` is equal share them: whatever else they differ in is an argument of the programs, in the state
(`TrainState.settings`, class weights, key) or in the data.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError, learning_rates, parts
from cbjax.data.batches import Batches
from cbjax.host.code import CodeError
from cbjax.models import two_stages
from cbjax.parallel import sharding
from cbjax.training import components, evaluate, resident, second_stage
from cbjax.training.input_paths import RESIDENT, InputPath, augmentation, normalize
from cbjax.training.step import make_eval_step, make_feature_step, make_train_step
from cbjax.types import Array, Model, Objective, Settings, TrainState

Kind = TypeVar("Kind")
# Keys that no program depends on: they choose data, class weights and settings, or what the host does.
ARGUMENTS = (
    *("seed", "data.seed", "data.longtail", "data.imbalance", "data.counts", "data.majority_ratio", "data.train_size"),
    *("data.normalization", "data.sampler", "data.images_per_class", "data.validation", "data.test", "data.classes"),
    *("data.sampler_beta", "data.sampler_start", "data.synthesis", "data.synthesis_neighbours"),
    *("weights.name", "weights.beta", "weights.zero_count", "weights.start"),
    *("difficulty.tau", "difficulty.formula", "difficulty.floor", "difficulty.smoothing", "difficulty.scale"),
    *(f"loss.{name}" for name in parts.LOSS_NUMBERS),
    *parts.METHOD_NUMBERS,
    *("mix.start_epochs", "mix.end_epochs"),
    *("evaluation.tau", "data.meta", "stage.source", "stage.checksum", "stage.tau"),
    *("optim.learning_rate", "optim.warmup_from", "optim.weight_decay"),
    *("evaluation.test_every", "evaluation.groups", "checkpoint.every_epochs", "checkpoint.every_minutes"),
    "checkpoint.keep",
    *("log.tensorboard", "log.report", "log.progress"),
)


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled of a run, each at its first use.

    Attributes:
      model: the network.
      state: shapes of the state.
      init: (key, class weights [C], settings) -> the state before the first step, on the mesh.
      steps_per_dispatch: S, how many steps one call of `train` takes at most.
      train: as `InputPath.train_program` makes it.
      evaluate: as `evaluate.make_program` makes it.
      features: the same of `step.make_feature_step`.
      rates: (rate after the warm-up, rate at step 0, steps [N]) -> learning rates [N].
    """

    model: Model
    state: TrainState
    init: Callable[[Array, Any, Any], TrainState]
    steps_per_dispatch: int
    train: Any
    evaluate: Any
    features: Any
    rates: Any


KEPT = 8  # a few shapes: a sweep or a notebook mostly goes on with the one before
_kept: dict[str, Any] = {}


def kept(key: str, make: Callable[[], Kind]) -> Kind:
    """Returns what `make` returned for this key among the last `KEPT` of this process, or calls it: a second seed or a
    run that goes on traces and compiles nothing."""
    found = _kept.pop(key, None) or make()
    _kept[key] = found
    while len(_kept) > KEPT:
        _kept.pop(next(iter(_kept)), None)  # runs in threads share them
    return found


def forget() -> None:
    """Lets go of all programs that are kept, and of what they hold of the devices' memory."""
    _kept.clear()


def static_part(config: ConfigDict) -> dict[str, Any]:
    """Returns what programs are built from a config, as JSON values: all but what is an argument of theirs."""
    flat = json.loads(configs.to_json(config))
    for key in ARGUMENTS:
        section, _, name = key.rpartition(".")
        (flat[section] if section else flat).pop(name)
    return {**flat, "answers_adjusted": bool(config.evaluation.tau)}  # at 0 the program has no adjustment


def program_key(config: ConfigDict, batches: Batches, image_shape: Sequence[int], num_classes: int, mesh: Mesh) -> str:
    """Returns a run's key: two runs with equal keys can share compiled programs."""
    devices = [device.id for device in mesh.devices.flat]
    return json.dumps([static_part(config), batches.num_examples, list(image_shape), num_classes, devices])


def settings(
    config: ConfigDict, mean: Sequence[float], std: Sequence[float], counts: Any, batches: Batches | None = None
) -> Settings:
    """Returns the numbers of a run that its programs take as arguments.

    Args:
      config: resolved.
      mean, std: of the images, [channels].
      counts: training images of each class, [C].
      batches: the order of the training images; None if nothing is trained.
    """
    method = {key: config[key.partition(".")[0]][key.partition(".")[2]] for key in parts.METHOD_NUMBERS}
    method["mix.first_step"] = batches.epoch_end(config.mix.start_epochs) if batches else 0
    method["mix.end_step"] = batches.epoch_end(config.num_epochs - config.mix.end_epochs) if batches else 0
    rate, warmup_from = learning_rates(config)
    return Settings.of(
        learning_rate=rate,
        warmup_from=warmup_from,
        weight_decay=config.optim.weight_decay,
        loss={name: config.loss[name] for name in parts.LOSS_NUMBERS},
        method=method,
        answer_tau=config.evaluation.tau,
        mean=mean,
        std=std,
        counts=counts,
    )


def build_programs(
    config: ConfigDict,
    batches: Batches,
    image_shape: Sequence[int],
    num_classes: int,
    mesh: Mesh,
    *,
    path: InputPath,
    kind: str | None = None,
) -> Programs:
    """Builds the programs of a run from the shape of its images [H, W, channels] and the number of its classes.

    Args:
      config: resolved.
      batches: the order of the training images, of which only the numbers of images and steps count.
      image_shape: [H, W, channels].
      num_classes: C.
      mesh: the devices.
      path: how images reach the devices.
      kind: "shard_map" or "pmap"; None for what the config says.

    Raises:
      ConfigError: if the model does not fit the images.
    """
    kind = kind or config.parallel
    steps = build_steps(config, batches, image_shape, num_classes)
    count = path.steps_per_dispatch(config, batches, mesh)
    train = path.train_program(steps.train_step, config, count, mesh, kind)
    evaluation = evaluate.make_program(steps.eval_step, normalize, mesh, kind)
    features = evaluate.make_program(make_feature_step(steps.model), normalize, mesh, kind)
    init = jax.jit(steps.make_state, out_shardings=sharding.whole(mesh), compiler_options=_quick(mesh))
    rates = jax.jit(lambda rate, start, steps: components.build_schedule(config, batches, (rate, start))(steps))
    return Programs(steps.model, steps.state, init, count, train, evaluation, features, rates)


def _quick(mesh: Mesh) -> dict[str, int] | None:
    """Returns options to compile a program that runs once: on CPU a ResNet-32's first state takes 2.8 s, not 7.3."""
    # There LLVM polishes the code of each random array. At level 0 the last bits differ, at 1 they do not.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    fewer = jax.config.read("jax_disable_most_optimizations")  # asked for, as by tests
    return {"xla_backend_optimization_level": 1} if on_cpu and not fewer else None


class CohortPrograms(NamedTuple):
    """The programs of several runs at a time, whose state, data and indices have an axis of runs in front.

    Attributes:
      train: (state, data, indices [K, S, B], steps to take) -> (state, metrics [K, S]); for S of 1 (state, data,
        indices [K, B]) -> (state, metrics [K]).
      evaluate: (trained state, data, indices [B], mask [B]) -> (sums, outputs [K, B]).
    """

    train: Any
    evaluate: Any


def build_cohort_programs(
    config: ConfigDict, batches: Batches, image_shape: Sequence[int], num_classes: int, mesh: Mesh, per_device: int
) -> CohortPrograms:
    """Builds the programs of runs that share a `program_key`, `per_device` of them on each device of the mesh."""
    steps = build_steps(config, batches, image_shape, num_classes, axis=None)
    count = RESIDENT.steps_per_dispatch(config, batches, mesh)
    dispatch = resident.make_dispatch(steps.train_step, augmentation(config), steps_per_dispatch=count, axis=None)
    evaluation = evaluate.make_batch_evaluation(steps.eval_step, normalize)
    return CohortPrograms(
        sharding.run_parallel(dispatch, mesh, per_device=per_device, shared=(3,), donate=(0,)),
        sharding.run_parallel(evaluation, mesh, per_device=per_device, shared=(2, 3)),
    )


@dataclasses.dataclass(frozen=True)
class Steps:
    """The pure functions that programs are made of; they use the config's numbers by way of the state alone.

    Attributes:
      model: the network.
      make_state: (key, class weights [C], settings) -> the state before the first step.
      state: its shapes.
      train_step: (state, batch) -> (state, metrics), one device's share where `axis` is a mesh axis.
      eval_step: (state, batch) -> (sums, outputs).
    """

    model: Model
    make_state: Callable[[Array, Any, Any], TrainState]
    state: TrainState
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]


def build_steps(
    config: ConfigDict,
    batches: Batches,
    image_shape: Sequence[int],
    num_classes: int,
    axis: str | None = sharding.AXIS,
) -> Steps:
    """Builds the steps of a run; arguments and errors as `build_programs`."""
    model = components.build_model(config, num_classes, axis)

    def schedule(given):
        return components.build_schedule(config, batches, (given.learning_rate, given.warmup_from))

    rate = lambda state: schedule(state.settings)(state.step)  # noqa: E731
    channels = image_shape[-1]
    try:
        trained = _trained(config, model, image_shape)
        learner = model if trained is None else two_stages.frozen(model, trained, config.stage.batch_norm)
        objective = components.build_objective(config, learner, axis, rate)
        make_state = functools.partial(initial_state, config, model, objective, tuple(image_shape))
        state = jax.eval_shape(
            make_state,
            jax.random.key(0),
            np.ones(num_classes, np.float32),
            settings(config, (0.0,) * channels, (1.0,) * channels, (1,) * num_classes),
        )
    except ValueError as error:
        why = "" if isinstance(error, CodeError | ConfigError) else " does not fit the images"
        raise ConfigError(f"model.name={config.model.name!r}{why}: {error}") from error

    def train_step(state, batch):
        given = state.settings
        factors = second_stage.rate_factors(config, state.params, given)
        tx = components.build_optimizer(config, schedule(given), state.params, given.weight_decay, trained, factors)
        options = {"around": components.build_around(config), "accumulation": config.optim.accumulation}
        after, metrics = make_train_step(objective, tx, axis=axis, **options)(state, batch)
        if trained is not None:
            # Even + 0 would change the bits of -0 and of the smallest numbers.
            kept = jax.tree.map(lambda new, old, on: new if on else old, after.params, state.params, trained)
            after = dataclasses.replace(after, params=kept)
        return after, metrics

    loss = components.build_loss(config, smooth=False)
    eval_step = make_eval_step(objective, loss, components.build_probabilities(config), axis=axis)
    return Steps(model, make_state, state, train_step, eval_step)


def _trained(config, model, image_shape):
    if config.stage.name == "none":
        return None
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return second_stage.trained(config, model, params, batch_stats, image_shape)


def initial_state(
    config: ConfigDict,
    model: Model,
    objective: Objective,
    image_shape: Sequence[int],
    key: Array,
    class_weights: Array,
    given: Settings,
) -> TrainState:
    """Makes the state before the first step from the run's random key, its first class weights and its settings."""
    key, params_key = jax.random.split(key)
    params, batch_stats = model.init(params_key, jnp.zeros((1, *image_shape)))
    # The optimiser's state does not depend on its numbers.
    trained = second_stage.trained(config, model, params, batch_stats, image_shape)
    factors = second_stage.rate_factors(config, params, given)
    tx = components.build_optimizer(config, optax.constant_schedule(0.0), params, 0.0, trained, factors)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        class_weights=jnp.asarray(class_weights, jnp.float32),
        key=key,
        settings=jax.tree.map(jnp.asarray, given),
        objective=objective.init(jax.random.fold_in(params_key, 1), params, given),
    )
