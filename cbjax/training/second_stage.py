"""Second stages: the network of the finished run that they begin from, which parameters train, what needs no step."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cbjax.config import ConfigError
from cbjax.config.compare import SOURCE_KEYS
from cbjax.data.records import quote
from cbjax.host.output import say
from cbjax.host.storage import Place
from cbjax.models import meta_embedding, two_stages
from cbjax.models.pretrained import Pretrained
from cbjax.parallel import sharding
from cbjax.types import Model, Run, Settings, TrainState
from cbjax.workdir import files as workdirs
from cbjax.workdir.checkpoint import Checkpoints

if TYPE_CHECKING:
    from cbjax.training.build import Parts

TAUS = tuple(round(0.1 * step, 1) for step in range(21))  # the authors' grid, 0 to 2
SOURCES = [key.removeprefix("data.") for key in SOURCE_KEYS]
SHOWN = 3  # the most arrays that a message names


def trained(config: ConfigDict, model: Model, params: Any, batch_stats: Any, image_shape: Sequence[int]) -> Any:
    """Returns which parameters a run trains, as a pytree of bools; None for all.

    Args:
      config: resolved.
      model: the network, as `components.build_model` makes it.
      params, batch_stats: its parameters and statistics, or their shapes.
      image_shape: [H, W, channels].

    Raises:
      ConfigError: if the head must be found, and cannot be.
    """
    match config.stage.name:
        case "crt":
            try:
                return two_stages.head_of(model, params, batch_stats, image_shape)
            except ValueError as error:
                raise ConfigError(f"stage.name=crt trains the head alone: {error}") from error
        case "tau":  # it trains nothing, but its mistake is told before anything is written
            try:
                two_stages.require_linear(params, two_stages.head_of(model, params, batch_stats, image_shape))
            except ValueError as error:
                raise ConfigError(f"stage.name=tau normalises the head: {error}") from error
        case "lws" | "ncm":
            added = two_stages.SCALES if config.stage.name == "lws" else two_stages.MEANS
            return {name: _filled(part, name == added) for name, part in params.items()}
        case "oltr":
            own = (*meta_embedding.NEW, meta_embedding.HALLUCINATOR)
            whole = config.oltr.backbone == "trained"
            return {name: _filled(part, whole or name in own) for name, part in params.items()}
    return None


def rate_factors(config: ConfigDict, params: Any, given: Settings) -> Any:
    """Returns what multiplies the learning rate of each parameter, as a pytree of numbers; None for 1.

    OLTR's features, with its attention, and its centroids have rates of their own.
    """
    if config.stage.name != "oltr":
        return None
    classifier = (meta_embedding.HEAD, meta_embedding.SELECTOR, meta_embedding.HALLUCINATOR)
    of = dict.fromkeys(classifier, 1.0) | {meta_embedding.MEMORY: given.method["oltr.memory_rate"]}
    backbone = given.method["oltr.backbone_rate"]
    return {name: _filled(part, of.get(name, backbone)) for name, part in params.items()}


def read_source(
    config: ConfigDict,
    class_names: Sequence[str],
    indices: Mapping[str, np.ndarray],
    model: Model,
    params: Any,
    batch_stats: Any,
    image_shape: Any,
) -> Pretrained:
    """Reads the network of the run that a second stage begins from, as far as the stage keeps it.

    Args:
      config: resolved, of the second stage.
      class_names: its classes.
      indices: `Dataset.indices`, which images its splits have.
      model, params, batch_stats, image_shape: as for `trained`; shapes will do.

    Raises:
      ConfigError: if that run has other classes or another network, or was trained on images that are held out here.
      WorkdirError, CheckpointError: if it cannot be read.
    """
    source = Place(config.stage.source)
    facts, results = (workdirs.read_json(source.files / name) for name in ("data.json", "results.json"))
    if list(facts["class_names"]) != list(class_names):
        raise ConfigError(
            f"stage.source: the run must have the same classes in the same order; it has {quote(facts['class_names'])} "
            f"there, {quote(class_names)} here"
        )
    told = _check_held_out(config, indices, source)
    with contextlib.closing(Checkpoints(source.root, say, reading=True)) as checkpoints:
        there = checkpoints.read_network(results["step"])
    given = _flat(there["params"])
    if config.stage.name == "oltr":
        # The old head says what is recalled, and a new one classifies.
        names = {"head": meta_embedding.HALLUCINATOR}
        given = {(names.get(name[0], name[0]), *name[1:]): leaf for name, leaf in given.items()}
        drawn = {name for name in _flat(params) if name[0] in meta_embedding.NEW}
    else:
        # cRT draws a new head, LWS new scales, and NCM finds its means; all else comes from the run.
        on = trained(config, model, params, batch_stats, image_shape)
        drawn = set() if on is None else {name for name, flag in _flat(on).items() if flag}
    wanted = {name: leaf for name, leaf in _flat(params).items() if name not in drawn}
    _check(wanted, given, config.stage.source)
    _check(_flat(batch_stats), _flat(there["batch_stats"]), config.stage.source)
    kept = _tree({name: given[name] for name in wanted})
    stay = "" if config.stage.name == "oltr" else ", which stay as they are"
    notes = (f"begins with {len(wanted)} arrays of step {results['step']} of {source.root}{stay}", *told)
    return Pretrained(kept, there["batch_stats"], notes)


def find(run: Run, parts: "Parts", tell: Callable[[str], None]) -> Run:
    """Finds the network of a stage that takes no step, from the network of its source.

    Args:
      run: with the network of the source as its state.
      parts: of the run.
      tell: takes a line for the user.

    Returns:
      The run with the network that was found, and what was found in its metrics: "stage/tau", or "stage/images", the
      number of images whose features were averaged.

    Raises:
      ConfigError: if there is nothing held out to choose by.
      DataError, NonFiniteLoss: if a class has no mean.
    """
    return {"tau": _find_tau, "ncm": _find_class_means}[run.config.stage.name](run, parts, tell)


def _find_class_means(run, parts, tell):
    found = parts.class_means(run.state)
    arrays = {"means": found.means.astype(np.float32), "center": found.center.astype(np.float32)}
    params = {**run.state.params, two_stages.MEANS: sharding.replicate(arrays, parts.mesh)}
    tell(f"class means of the {found.means.shape[1]} features of {found.images} training images")
    state = dataclasses.replace(run.state, params=params)
    return dataclasses.replace(run, state=state, metrics={"stage/images": found.images})


def _find_tau(run, parts, tell):
    state, tau = run.state, run.config.stage.tau
    params = jax.device_get(state.params)
    head = two_stages.head_of(run.model, params, state.batch_stats, parts.image_shape)

    def at(tau: float) -> TrainState:
        normalized = two_stages.tau_normalized(params, head, tau)
        return dataclasses.replace(state, params=sharding.replicate(normalized, parts.mesh))

    if tau is None:
        if not parts.has_validation:
            raise ConfigError("stage.tau must be given where nothing is held out to choose it by; got none")
        # Each takes a pass over the held-out images.
        evaluate = parts.evaluate("validation")
        found = {one: evaluate(at(one)).check(f"validation images for tau {one}") for one in TAUS}
        balanced = {one: result.metrics["balanced_accuracy"] for one, result in found.items()}
        tau = max(TAUS, key=lambda one: np.nan_to_num(balanced[one], nan=-1.0))  # the smallest of equally good ones
        tell(f"tau {tau:g}, by the balanced accuracy on held-out images, {100 * balanced[tau]:.1f} %")
    return dataclasses.replace(run, state=at(tau), metrics={"stage/tau": tau})


def _check_held_out(config: ConfigDict, indices: Mapping[str, np.ndarray], source: Place) -> list[str]:
    """Refuses held-out images that the source was trained on: its figures on them would be too good.

    Returns:
      A note for each split that has such images if the data, which lie elsewhere now, are still the same.
    """
    first = workdirs.read_config(source.files)
    if any(first.data[key] != config.data[key] for key in ("name", "egtea_split")):
        return []  # places in other data are other images
    moved = [f"data.{key}" for key in SOURCES if first.data[key] != config.data[key]]
    notes = []
    with np.load(source.files / "indices.npz", allow_pickle=False) as there:
        learned = np.concatenate([there[name] for name in ("train", "meta") if name in there])
    for name in ("test", "validation"):
        if name not in indices or str(indices[f"{name}_from"]) != "train":
            continue
        if seen := int(np.isin(indices[name], learned).sum()):
            seed = first.seed if first.data.seed is None else first.data.seed
            same = (
                f"hold out the same ones, with data.seed={seed}, data.test={first.data.test} and "
                f"data.validation={first.data.validation}"
            )
            if moved:
                notes.append(
                    f"{', '.join(moved)} differ{'s' if len(moved) == 1 else ''} from stage.source: if the data are the "
                    f"same, its run was trained on {seen} of {len(indices[name])} {name} images: {same}"
                )
                continue
            raise ConfigError(
                f"stage.source: images that are held out must not be among those that its run was trained on; got "
                f"{seen} of {len(indices[name])} {name} images: {same}"
            )
    return notes


def _check(wanted: Mapping[tuple[str, ...], Any], given: Mapping[tuple[str, ...], Any], source: str) -> None:
    """Refuses a network that lacks a wanted array, or has it in another shape."""
    wrong = [
        f"{'/'.join(name)} {_shape(given.get(name))} there, {_shape(leaf)} here"
        for name, leaf in wanted.items()
        if _shape(given.get(name)) != _shape(leaf)
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ConfigError(f"stage.source: {source} has another network: {'; '.join(wrong[:SHOWN])}{more}")


def _filled(tree: Any, value: Any) -> Any:
    """Returns the value in the place of each leaf."""
    return jax.tree.map(lambda _: value, tree)


def _shape(leaf):
    return "missing" if leaf is None else list(np.shape(leaf))


def _flat(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {name: leaf for key, part in tree.items() for name, leaf in _flat(part, (*path, key)).items()}


def _tree(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree
