"""Several runs of one shape as one program, a cohort: each with its own data, order, class weights and files.

A run in a cohort goes the same way as alone. A run that diverges is marked and left behind; the others do not notice.
The cohort's state is saved whole, and each run ends with a work directory of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax.config import class_groups
from cbjax.data import Dataset
from cbjax.data.batches import Batches
from cbjax.host.code import is_own
from cbjax.parallel import sharding
from cbjax.training import build, evaluate, programs, resident
from cbjax.training.build import Parts
from cbjax.training.evaluate import Evaluation
from cbjax.training.loop import Advance, Cohort, Plan, leave_behind
from cbjax.training.programs import CohortPrograms
from cbjax.types import Callback, NonFiniteLoss, Run, TrainState
from cbjax.workdir import memory
from cbjax.workdir.checkpoint import Checkpoints, copied

EvaluateAll = Callable[[str], Callable[[TrainState], list[Evaluation]]]


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a cohort: its name, parts and data, and what writes its rows."""

    name: str
    run: Run
    parts: Parts
    dataset: Dataset
    write: Callable[[Run], None]


def make_member(
    name: str,
    config: ConfigDict,
    dataset: Dataset,
    write: Callable[[Run], None] = lambda run: None,
) -> Member:
    """Builds a member from a resolved config and its data."""
    # The parts of a run alone, on one device. A cohort uses only the first state of its programs.
    parts = build.build(config, dataset, sharding.make_mesh(1))
    begun = memory.start(len(dataset.class_names))
    run = Run(config, parts.model, parts.programs.state, {}, dataset.class_names, memory=begun)
    return Member(name, run, parts, dataset, write)


def build_programs(members: Sequence[Member], mesh: Mesh, per_device: int) -> CohortPrograms:
    """Returns the programs of a cohort, those of the last cohort if they are the same."""
    arguments = [_shapes(member, mesh) for member in members]
    keys = [programs.program_key(*one) for one in arguments]
    if others := [member.name for member, key in zip(members, keys, strict=True) if key != keys[0]]:
        raise RuntimeError(
            f"the runs of a group must share their programs; got others for {', '.join(others)} than for "
            f"{members[0].name}: this is a fault of cbjax, please report it; --mode=loop trains each run alone"
        )
    key = f"cohort of {per_device} a device {keys[0]}"
    return programs.kept(key, lambda: programs.build_cohort_programs(*arguments[0], per_device))


def _shapes(member: Member, mesh: Mesh) -> tuple[ConfigDict, Batches, tuple[int, ...], int, Mesh]:
    """Returns what a run's programs are built from."""
    dataset = member.dataset
    return member.run.config, member.parts.batches, dataset.train.images.shape[1:], len(dataset.class_names), mesh


def start(members: Sequence[Member], mesh: Mesh) -> Cohort:
    """Makes a cohort of runs before their first step."""
    states = [build.first_state(member.parts) for member in members]
    state = sharding.spread(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), mesh)
    # A copy: the step takes over the memory of the state.
    best = copied(state) if members[0].parts.has_validation else None
    return Cohort(tuple(member.run for member in members), state, best=best)


def make_plan(
    members: Sequence[Member],
    compiled: CohortPrograms,
    evaluate_all: EvaluateAll,
    mesh: Mesh,
    checkpoints: Checkpoints,
    tell: Callable[[str], None],
) -> Plan:
    """Returns what the training of a cohort does; `evaluate_all` is from `make_evaluate`, `tell` takes a line."""
    first, loss = members[0].parts, members[0].run.config.loss.name
    # The runs of a cohort may differ in when they are saved.
    seconds = 60 * min(member.run.config.checkpoint.every_minutes for member in members)
    num_epochs, end_epoch = members[0].run.config.num_epochs, _make_end_epoch(members, evaluate_all, mesh, tell)

    def is_save_due() -> bool:
        return checkpoints.seconds_since_save() > seconds

    def after_epoch(cohort: Cohort) -> Cohort:
        cohort = end_epoch(cohort)
        if cohort.alive and (is_save_due() or cohort.epoch == num_epochs):  # not at every epoch: a cohort is large
            save(cohort, members, checkpoints)
        return cohort

    return Plan(
        advance=make_advance(members, compiled, mesh),
        epoch_end=first.batches.epoch_end,
        num_epochs=num_epochs,
        steps_per_dispatch=first.steps_per_dispatch,
        learning_rates=[member.parts.schedule for member in members],
        after_epoch=after_epoch,
        save=lambda cohort: save(cohort, members, checkpoints),
        diverged=leave_behind,
        is_save_due=is_save_due,
        own_loss=loss if is_own(loss) else None,
    )


def make_advance(members: Sequence[Member], compiled: CohortPrograms, mesh: Mesh) -> Advance:
    """Returns (state, first, last) -> (state, metrics [K, S]), which takes the steps first … last - 1 of each run."""
    streams = [member.parts.streams for member in members]
    steps_per_dispatch = members[0].parts.steps_per_dispatch

    def together(trees):
        return sharding.spread(jax.tree.map(lambda *leaves: np.stack(leaves), *trees), mesh)

    data = together([resident.images_of(own) for own in streams])

    def advance(state, first, last):
        indices = together([resident.indices_of(own, first, last, steps_per_dispatch) for own in streams])
        return compiled.train(state, data, indices, *([] if steps_per_dispatch == 1 else [np.int32(last - first)]))

    return advance


def make_evaluate(members: Sequence[Member], compiled: CohortPrograms, mesh: Mesh) -> EvaluateAll:
    """Returns split -> states of all runs -> an Evaluation of each, made at the first use of a split."""
    config = members[0].run.config

    @functools.cache
    def evaluate_all(split):
        return evaluate.make_cohort_evaluate(
            compiled.evaluate,
            [getattr(member.dataset, split) for member in members],
            counts=[member.dataset.counts for member in members],
            groups=[class_groups.resolve(m.run.config.evaluation.groups, m.dataset.class_names) for m in members],
            batch_size=config.evaluation.batch_size or config.batch_size,
            mesh=mesh,
        )

    return evaluate_all


def evaluate_test(cohort: Cohort, evaluate_all: EvaluateAll) -> list[dict[int, Evaluation]]:
    """Evaluates the test split of each run on its last and on its best state; returns step -> Evaluation of each."""
    found: list[dict[int, Evaluation]] = [{} for _ in cohort.runs]
    for state in (cohort.best, cohort.state):  # if the last is the best, both are the same
        if state is not None:
            steps = np.asarray(state.step)
            for place, evaluation in enumerate(evaluate_all("test")(state)):
                found[place][int(steps[place])] = evaluation
    return found


def save(cohort: Cohort, members: Sequence[Member], checkpoints: Checkpoints) -> None:
    """Saves a cohort whole."""
    failed = {members[place].name: said for place, said in cohort.failed.items()}
    remembered = {"runs": [memory.to_json(run.memory) for run in cohort.runs], "failed": failed}
    checkpoints.save(cohort.step, _saved(cohort), remembered)


def restore(cohort: Cohort, members: Sequence[Member], checkpoints: Checkpoints) -> Cohort:
    """Returns a cohort in the state of its newest checkpoint; unchanged if there is none."""
    restored: Any = checkpoints.restore(_saved(cohort))
    if restored is None:
        return cohort
    _, trees, remembered = restored
    runs = [
        dataclasses.replace(run, memory=memory.from_json(kept))
        for run, kept in zip(cohort.runs, remembered["runs"], strict=True)
    ]
    places = {member.name: place for place, member in enumerate(members)}
    failed = {places[name]: said for name, said in remembered["failed"].items()}
    return Cohort(tuple(runs), trees["state"], failed, trees.get("best"))


def member_state(tree: Any, place: int) -> TrainState:
    """Returns the state of one run of a cohort."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _saved(cohort: Cohort) -> Any:
    return {"state": cohort.state} | ({} if cohort.best is None else {"best": cohort.best})


def _make_end_epoch(
    members: Sequence[Member], evaluate_all: EvaluateAll, mesh: Mesh, tell: Callable[[str], None]
) -> Callable[[Cohort], Cohort]:
    """Returns what each run alone does after an epoch, except checkpoints: evaluates, reweights, writes rows.

    All runs are evaluated together, and the states of their best epochs are kept together.
    """
    found: dict[str, list[Evaluation]] = {}
    after = [_callbacks(place, member, found, tell) for place, member in enumerate(members)]
    test_every = {member.run.config.evaluation.test_every for member in members} - {0}
    keep_best = jax.jit(_keep_best, donate_argnums=1)

    def end_epoch(cohort: Cohort) -> Cohort:
        if members[0].parts.has_validation:
            found["validation"] = evaluate_all("validation")(cohort.state)
        if any(cohort.epoch % every == 0 for every in test_every):
            found["test"] = evaluate_all("test")(cohort.state)
        weights, improved = np.array(cohort.state.class_weights), np.zeros(len(members), bool)
        for place in cohort.alive:
            run = dataclasses.replace(cohort.runs[place], state=_only_weights(weights[place]))
            try:
                for callback in after[place]:
                    run = callback(run)
            except NonFiniteLoss as error:
                cohort = leave_behind(cohort, place, error)
                continue
            weights[place] = run.state.class_weights
            improved[place] = run.memory.best is not None and run.memory.best.step == run.memory.step
            cohort = cohort.with_run(place, run)
        state = dataclasses.replace(cohort.state, class_weights=sharding.spread(weights, mesh))
        best = cohort.best
        if best is not None and improved.any():
            best = keep_best(state, best, sharding.spread(improved, mesh))
        return dataclasses.replace(cohort, state=state, best=best)

    return end_epoch


def _callbacks(
    place: int, member: Member, found: dict[str, list[Evaluation]], tell: Callable[[str], None]
) -> list[Callback]:
    """Returns what a run alone does after an epoch, but with the evaluations in `found` and without checkpoints."""

    def evaluate(split):
        return lambda state: found[split][place]

    parts = dataclasses.replace(member.parts, evaluate=evaluate)

    def tell_of_it(line):
        tell(f"{member.name}: {line}")

    return build.build_callbacks(member.run.config, parts, _as_it_is, member.write, lambda run: None, tell_of_it)


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
