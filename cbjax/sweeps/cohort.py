"""Several runs of one shape as one program: each with its own data, order, class weights, callbacks and files.

What happens to a run in a group is what happens to it alone. One that diverges is marked and left behind; its
neighbours do not notice. The group's state is saved whole, and each run ends with a work directory of its own.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cbjax.config import class_groups
from cbjax.data import Dataset
from cbjax.host.interrupts import Interrupted, Interrupts
from cbjax.host.progress import Silent
from cbjax.parallel import sharding
from cbjax.training import build, evaluate, loop
from cbjax.training.build import Parts
from cbjax.training.evaluate import Evaluation
from cbjax.training.programs import GroupPrograms
from cbjax.types import Callback, NonFiniteLoss, Run, Sums, TrainState
from cbjax.workdir import memory
from cbjax.workdir.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a group: its name, parts and data, and what writes its rows."""

    name: str
    run: Run
    parts: Parts
    dataset: Dataset
    write: Callable[[Run], None]


@dataclasses.dataclass
class Group:
    """A group in training.

    Attributes:
      members: the runs, in order.
      runs: each one's memory, without its state.
      state: of all runs, with an axis of runs in front.
      best: the state of each run at its best epoch; None where nothing is held out.
      failed: name -> error of the runs that diverged.
    """

    members: Sequence[Member]
    runs: list[Run]
    state: TrainState
    best: TrainState | None
    failed: dict[str, str]

    @property
    def step(self) -> int:
        """The steps taken."""
        return max(run.memory.step for run in self.runs)

    @property
    def epoch(self) -> int:
        """The epochs completed."""
        return max(run.memory.epoch for run in self.runs)

    def alive(self) -> list[int]:
        """Returns the places of the runs that have not failed."""
        return [k for k, member in enumerate(self.members) if member.name not in self.failed]


def start(members: Sequence[Member], mesh: Mesh) -> Group:
    """Makes a group of runs before their first step."""
    state = stack([build.first_state(member.parts) for member in members], mesh)
    has_validation = members[0].parts.has_validation
    # A copy: the step takes over the memory of the state.
    best = jax.tree.map(jnp.copy, state) if has_validation else None
    runs = [dataclasses.replace(m.run, memory=memory.start(len(m.dataset.class_names))) for m in members]
    return Group(members, runs, state, best, {})


def fit(
    group: Group,
    programs: GroupPrograms,
    mesh: Mesh,
    checkpoints: Checkpoints,
    bar: Silent,
    tell: Callable[[str], None],
) -> None:
    """Trains the group to its last epoch, from wherever it stands; the arguments are those of its runs.

    Raises:
      Interrupted: after a signal, once the state is saved.
    """
    first = group.members[0]
    config, batches = first.run.config, first.parts.batches
    advance = make_advance(group.members, programs, mesh)
    validate = _make_evaluate(group.members, "validation", programs, mesh) if first.parts.has_validation else None
    # The runs of a group may differ in when they are tested and saved.
    settings = [member.run.config for member in group.members]
    test_every = {own.evaluation.test_every for own in settings} - {0}
    test = _make_evaluate(group.members, "test", programs, mesh) if test_every else None
    save_after = 60 * min(own.checkpoint.every_minutes for own in settings)
    found: dict[str, list[Evaluation]] = {}
    after = [_callbacks(k, member, found, tell) for k, member in enumerate(group.members)]
    keep_best = jax.jit(_keep_best, donate_argnums=1)
    pace = loop.Pace(first.parts.steps_per_dispatch, loop.Agreement())

    with Interrupts() as interrupts:
        while group.epoch < config.num_epochs and group.alive():
            begun, end = time.perf_counter(), batches.epoch_end(group.epoch + 1)
            images = 0
            pace.start()
            while group.step < end:
                begin = group.step
                stop = min(begin + pace.size, end)
                group.state, metrics = advance(group.state, begin, stop)
                values = loop.fetch(metrics)
                pace.measure(stop - begin)
                for k in group.alive():
                    own = {key: np.atleast_1d(value[k])[: stop - begin] for key, value in values.items()}
                    _add(group, k, own, stop)
                images += (stop - begin) * batches.batch_size * len(group.members)
                if not group.alive():
                    return
                loss = np.atleast_1d(values["loss"][group.alive()[0]])[stop - begin - 1]
                bar.update(stop, group.epoch + 1, float(loss), images / (time.perf_counter() - begun))
                if stop < end and (interrupts.signum is not None or checkpoints.seconds_since_save() > save_after):
                    save(group, checkpoints)
                if stop < end and interrupts.signum is not None:
                    raise Interrupted(interrupts.signum, stop)
            seconds = time.perf_counter() - begun
            if validate is not None:
                found["validation"] = validate(group.state)
            if test is not None and any((group.epoch + 1) % every == 0 for every in test_every):
                found["test"] = test(group.state)
            improved = _end_epoch(group, after, seconds, mesh)
            bar.end_epoch(group.epoch, [group.runs[k].metrics for k in group.alive()])
            if group.best is not None and improved.any():
                group.best = keep_best(group.state, group.best, sharding.spread(improved, mesh))
            is_due = checkpoints.seconds_since_save() > save_after  # not at every epoch: a group is large
            if is_due or interrupts.signum is not None or group.epoch == config.num_epochs:
                save(group, checkpoints)
            if interrupts.signum is not None:
                raise Interrupted(interrupts.signum, group.step)


def make_advance(
    members: Sequence[Member], programs: GroupPrograms, mesh: Mesh
) -> Callable[[TrainState, int, int], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, first, last) -> (state, metrics [K, S]), which takes the steps first … last - 1 of each run."""
    train = [member.dataset.train for member in members]
    images, labels = (np.stack(part) for part in zip(*((one.images, one.labels) for one in train), strict=True))
    data = sharding.spread({"image": images, "label": labels}, mesh)
    steps_per_dispatch = members[0].parts.steps_per_dispatch

    def advance(state, first, last):
        order = np.stack([member.parts.batches.indices_between(first, last) for member in members]).astype(np.int32)
        if steps_per_dispatch == 1:
            return programs.train(state, data, sharding.spread(order[:, 0], mesh))
        padded = np.zeros((len(members), steps_per_dispatch, order.shape[2]), np.int32)
        padded[:, : last - first] = order
        return programs.train(state, data, sharding.spread(padded, mesh), np.int32(last - first))

    return advance


def evaluate_test(group: Group, programs: GroupPrograms, mesh: Mesh) -> list[dict[int, Evaluation]]:
    """Evaluates the test split of each run on its last and on its best state; returns step -> Evaluation of each."""
    test = _make_evaluate(group.members, "test", programs, mesh)
    found: list[dict[int, Evaluation]] = [{} for _ in group.members]
    for state in (group.best, group.state):  # where the last is the best, the last counts: both are the same
        if state is not None:
            steps = np.asarray(state.step)
            for k, evaluation in enumerate(test(state)):
                found[k][int(steps[k])] = evaluation
    return found


def save(group: Group, checkpoints: Checkpoints) -> None:
    """Saves the group whole."""
    remembered = {"runs": [memory.to_json(run.memory) for run in group.runs], "failed": group.failed}
    checkpoints.save(group.step, _saved(group), remembered)


def restore(group: Group, checkpoints: Checkpoints, mesh: Mesh) -> int | None:
    """Goes back to the newest checkpoint, if there is one; returns its step."""
    restored: Any = checkpoints.restore(_saved(group))
    if restored is None:
        return None
    step, trees, remembered = restored
    group.state, group.best = trees["state"], trees.get("best")
    group.failed = remembered["failed"]
    group.runs = [
        dataclasses.replace(run, memory=memory.from_json(kept))
        for run, kept in zip(group.runs, remembered["runs"], strict=True)
    ]
    return step


def member_state(tree: Any, place: int) -> TrainState:
    """Returns the state of one run of a group."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


def stack(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """Puts states of single runs behind each other and spreads them over the devices."""
    return sharding.spread(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), mesh)


def _saved(group: Group) -> Any:
    return {"state": group.state} | ({} if group.best is None else {"best": group.best})


def _make_evaluate(members, split, programs, mesh):
    config = members[0].run.config
    return evaluate.make_group_evaluate(
        programs.evaluate,
        [getattr(member.dataset, split) for member in members],
        counts=[member.dataset.counts for member in members],
        groups=[class_groups.resolve(m.run.config.evaluation.groups, m.dataset.class_names) for m in members],
        batch_size=config.evaluation.batch_size or config.batch_size,
        mesh=mesh,
    )


def _callbacks(
    place: int, member: Member, found: dict[str, list[Evaluation]], tell: Callable[[str], None]
) -> list[Callback]:
    """What a run alone does after an epoch, with the group's evaluations and without its checkpoints."""

    def evaluate(split):
        return lambda state: found[split][place]

    parts = dataclasses.replace(member.parts, evaluate=evaluate)

    def tell_of_it(line):
        tell(f"{member.name}: {line}")

    return build.build_callbacks(member.run.config, parts, _as_it_is, member.write, lambda run: None, tell_of_it)


def _add(group: Group, place: int, values: dict[str, np.ndarray], stop: int) -> None:
    """Adds a dispatch's metrics of one run to its memory; a run whose loss is not finite has failed."""
    run, member = group.runs[place], group.members[place]
    try:
        loop.check_finite(values, run.memory.step, member.parts.schedule)
    except NonFiniteLoss as error:
        group.failed[member.name] = str(error)
        return
    images, sums = run.memory.images + int(values["count"].sum()), loop.add(run.memory.sums, values)
    group.runs[place] = run.remember(step=stop, images=images, sums=sums)


def _end_epoch(group: Group, after: Sequence[Sequence[Callback]], seconds: float, mesh: Mesh) -> np.ndarray:
    """Calls each run's callbacks and places their class weights; returns which runs [K] are at their best so far."""
    weights = np.array(group.state.class_weights)
    improved = np.zeros(len(group.members), bool)
    alive = group.alive()
    seconds /= len(alive)  # a run's share of the time, so that the times of runs add up
    for k in alive:
        run, member = group.runs[k], group.members[k]
        sums, step = run.memory.sums, run.memory.step
        row = loop.epoch_row(sums, float(member.parts.schedule(step - 1)), seconds, sums.count)
        run = dataclasses.replace(run, metrics=row, state=_only_weights(weights[k]))
        run = run.remember(epoch=run.memory.epoch + 1, sums=Sums())
        try:
            for callback in after[k]:
                run = callback(run)
        except NonFiniteLoss as error:
            group.failed[member.name] = str(error)
            continue
        weights[k] = run.state.class_weights
        improved[k] = run.memory.best is not None and run.memory.best.step == step
        group.runs[k] = run
    group.state = dataclasses.replace(group.state, class_weights=sharding.spread(weights, mesh))
    return improved


def _as_it_is(weights: np.ndarray) -> Any:
    return weights


def _only_weights(weights: np.ndarray) -> Any:
    empty = {field.name: None for field in dataclasses.fields(TrainState)}
    return TrainState(**{**empty, "class_weights": weights})  # type: ignore[arg-type]


def _keep_best(state, best, improved):
    def choose(new, old):
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            return new  # the key of a run never changes
        return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, state, best)
