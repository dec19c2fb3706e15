"""Turns a checked config and its data into the parts of a run; the only file that knows both."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax.config import ConfigError
from cbjax.data import Dataset
from cbjax.data.batches import Batches
from cbjax.models import pretrained
from cbjax.models.meta_embedding import MEMORY
from cbjax.models.pretrained import Pretrained
from cbjax.parallel import sharding
from cbjax.training import callbacks, components, input_paths, inputs, reweight, second_stage
from cbjax.training.check_data import check_data
from cbjax.training.class_means import ClassMeans, find_means
from cbjax.training.evaluate import Evaluation
from cbjax.training.programs import Programs, build_programs, kept, program_key, settings
from cbjax.training.resident import Streams
from cbjax.training.reweight import Reweighting
from cbjax.types import Array, Callback, Model, Run, Settings, TrainState
from cbjax.workdir import memory


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
      model: the network.
      mesh: the devices.
      init: makes the state before the first step, on the mesh.
      programs: what is compiled of it.
      settings: its numbers, which the state has.
      pretrained: reads the weights that the first state is to have; None where they are those of `init`.
      advance: (state, first, last) -> (state, metrics), as `loop.Plan` wants it.
      batches: the order of the training images.
      streams: what a step takes images from.
      steps_per_dispatch: how many steps `advance` takes at most.
      schedule: step -> learning rate.
      reweighting: the class weights of each epoch.
      evaluate: split -> state -> Evaluation; made at the first use of a split.
      class_means: state -> the means of the training images' features.
      has_memory: whether the network has a memory that begins with them (OLTR).
      has_validation: whether images are held out.
      image_shape: [H, W, channels].
    """

    model: Model
    mesh: Mesh
    init: Callable[[], TrainState]
    programs: Programs
    settings: Settings
    pretrained: Callable[[], Pretrained] | None
    advance: Callable[[TrainState, int, int], tuple[TrainState, dict[str, Array]]]
    batches: Batches
    streams: Streams
    steps_per_dispatch: int
    schedule: optax.Schedule
    reweighting: Reweighting
    evaluate: Callable[[str], Callable[[TrainState], Evaluation]]
    class_means: Callable[[TrainState], ClassMeans]
    has_memory: bool
    has_validation: bool
    image_shape: tuple[int, ...]


def build(
    config: ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    report_bad: input_paths.ReportBad = lambda name, reason: None,
) -> Parts:
    """Builds the parts of a run.

    Args:
      config: resolved.
      dataset: its data.
      mesh: the devices.
      report_bad: is told of each image that is skipped, possibly many times.

    Raises:
      ConfigError: if the config does not fit the data.
    """
    check_data(config, dataset)
    batches = inputs.build_batches(config, dataset)
    components.build_schedule(config, batches)  # refuses a warm-up that is longer than training
    shape, num_classes = dataset.train.images.shape[1:], len(dataset.counts)
    path = input_paths.of(dataset.train.images)
    key = f"{path.name} {program_key(config, batches, shape, num_classes, mesh)}"
    programs = kept(key, lambda: build_programs(config, batches, shape, num_classes, mesh, path=path))
    reweighting = reweight.build(config, dataset.counts)
    first_weights = reweighting.next_weights(memory.start(num_classes))
    given = settings(config, dataset.mean, dataset.std, dataset.counts, batches)
    schedule = functools.partial(programs.rates, given.learning_rate, given.warmup_from)
    return Parts(
        model=programs.model,
        mesh=mesh,
        pretrained=_first_weights(config, dataset, programs),
        init=lambda: programs.init(jax.random.key(config.seed), first_weights, given),
        programs=programs,
        settings=given,
        advance=path.advance(config, dataset, batches, programs.train, programs.steps_per_dispatch, mesh, report_bad),
        batches=batches,
        streams=path.streams(config, dataset, batches),
        steps_per_dispatch=programs.steps_per_dispatch,
        schedule=_known_at_epoch_ends(schedule, batches, config.num_epochs),
        reweighting=reweighting,
        evaluate=inputs.build_evaluate(config, dataset, path, programs.evaluate, mesh, report_bad),
        class_means=functools.partial(find_means, config, dataset, path, programs.features, mesh, report_bad),
        has_memory=config.stage.name == "oltr",
        has_validation=dataset.validation is not None,
        image_shape=tuple(shape),
    )


def first_state(parts: Parts) -> TrainState:
    """Makes the state before the first step, from the weights of a file or of another run if the run has some.

    What these weights lack, such as the head, is drawn as usual. A memory (OLTR) then holds the classes' mean features.
    """
    state = parts.init()
    if parts.pretrained is None:
        return state
    given = parts.pretrained()
    params, batch_stats = sharding.replicate((given.params, given.batch_stats), parts.mesh)
    state = dataclasses.replace(state, params=_over(state.params, params), batch_stats=batch_stats)
    if not parts.has_memory:
        return state
    means = parts.class_means(state).means.astype(np.float32)
    return dataclasses.replace(state, params={**state.params, MEMORY: sharding.replicate(means, parts.mesh)})


def _over(own, given):
    """Returns nested dicts of arrays: those of `given`, and those of `own` that `given` lacks."""
    if not isinstance(own, dict):
        return given
    return {name: _over(part, given[name]) if name in given else part for name, part in own.items()}


def like(parts: Parts) -> TrainState:
    """Returns what a checkpoint of the run is restored into: the shapes of its state, and its settings themselves.

    Shapes alone, because a state to restore into would lie on the devices beside the restored one.
    """
    placed = sharding.placed(parts.programs.state, parts.mesh)
    return dataclasses.replace(placed, settings=sharding.replicate(parts.settings, parts.mesh))


def build_callbacks(
    config: ConfigDict,
    parts: Parts,
    place: Callable[[np.ndarray], Array],
    log: Callable[[Run], None],
    save: Callable[[Run], None],
    tell: Callable[[str], None],
) -> list[Callback]:
    """Returns what happens after each epoch, in order.

    Args:
      config: resolved.
      parts: of the run.
      place: puts class weights on the devices.
      log: writes the run's rows.
      save: saves the run.
      tell: takes a line for the user.
    """
    after = []
    if config.weights.name == "difficulty" and config.difficulty.tau == "dynamic":
        after.append(callbacks.log_tau(parts.reweighting, config.difficulty.formula))
    if parts.has_validation:
        smooth = reweight.smoothing(config.difficulty.smoothing)
        after.append(callbacks.evaluate_validation(parts.evaluate("validation"), smooth))
    if config.evaluation.test_every:
        after.append(callbacks.evaluate_test(parts.evaluate("test"), config.evaluation.test_every))
    if config.weights.name == "difficulty":
        after += [callbacks.log_moved, callbacks.warn_of_swing(config.difficulty.smoothing, tell)]
    after.append(callbacks.reweight(parts.reweighting, place))
    after.append(callbacks.log(log))
    after.append(callbacks.checkpoint(save, config.checkpoint.every_epochs, config.num_epochs))
    return after


def _known_at_epoch_ends(schedule: optax.Schedule, batches: Batches, num_epochs: int) -> optax.Schedule:
    """Returns a schedule that computes the rates of all epochs' last steps, which are logged, at once: each by itself
    would take many small dispatches."""

    @functools.cache
    def rates():
        steps = [batches.epoch_end(epoch) - 1 for epoch in range(1, num_epochs + 1)]
        return dict(zip(steps, np.asarray(schedule(np.array(steps, np.int32))), strict=True))

    return lambda step: rates()[step] if step in rates() else schedule(step)


def _first_weights(config, dataset, programs):
    if config.stage.name != "none":
        shapes, image_shape = programs.state, dataset.train.images.shape[1:]
        known = (dataset.class_names, dataset.indices, programs.model, shapes.params, shapes.batch_stats, image_shape)
        return functools.cache(lambda: second_stage.read_source(config, *known))
    if config.model.pretrained:
        return functools.cache(lambda: _read_pretrained(config.model.pretrained, programs.state))
    return None


def _read_pretrained(path, shapes):
    try:
        return pretrained.load(path, shapes.params, shapes.batch_stats)
    except ValueError as error:
        raise ConfigError(f"model.pretrained: {error}") from error
