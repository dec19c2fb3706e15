"""The resident input path: all images lie on the devices; a dispatch of steps chooses and augments them there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cbjax.data import Split
from cbjax.data.batches import Batches, Partners
from cbjax.parallel import sharding
from cbjax.types import Array, Batch, TrainState

TRAIN = "train"  # the stream of the training images, which an epoch counts
PLACES = "places"  # whose crops the partners have: the places [B] of those images in the batch
Streams = Mapping[str, tuple[Split, Batches | Partners]]  # name -> images in memory, and their order


def make_advance(
    program: Callable[..., tuple[TrainState, dict[str, Any]]],
    streams: Streams,
    *,
    steps_per_dispatch: int,
    mesh: Mesh,
) -> Callable[[TrainState, int, int], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, first, last) -> (state, metrics), which takes the steps first … last - 1 as one dispatch.

    Args:
      program: from `make_program`, with the same `steps_per_dispatch` and mesh.
      streams: the images of each stream, copied to every device at the first step, and their order.
      steps_per_dispatch: the largest `last - first`.
      mesh: the devices.

    Returns:
      The function. Its metrics are those of the steps, in order; surplus entries may follow.
    """

    @functools.cache
    def data():  # placed at the first step: an evaluation needs no training images
        return sharding.replicate(images_of(streams), mesh)

    def advance(state, first, last):
        indices = indices_of(streams, first, last, steps_per_dispatch)
        return program(state, data(), indices, *([] if steps_per_dispatch == 1 else [np.int32(last - first)]))

    return advance


def images_of(streams: Streams) -> dict[str, dict[str, Any]]:
    """Returns the images and labels of each stream, as the dispatch takes them; not twice if it has the same images."""
    train = streams[TRAIN][0]
    own = {name: split for name, (split, _) in streams.items() if name == TRAIN or split is not train}
    return {name: {"image": split.images, "label": split.labels} for name, split in own.items()}


def indices_of(streams: Streams, first: int, last: int, steps_per_dispatch: int) -> dict[str, np.ndarray]:
    """Returns which images of each stream the steps first … last - 1 take.

    For each stream: [B] if a dispatch is one step, else [S, B], with zeros after `last`. If a stream has `Partners`,
    also `PLACES`, of the same shape.
    """
    last = first + 1 if steps_per_dispatch == 1 else last
    found = {name: batches.indices_between(first, last) for name, (_, batches) in streams.items()}
    for _, order in streams.values():
        if isinstance(order, Partners):
            found[PLACES] = order.places_between(first, last)
    if steps_per_dispatch == 1:
        return {name: taken[0].astype(np.int32) for name, taken in found.items()}
    surplus = ((0, steps_per_dispatch - (last - first)), (0, 0))
    return {name: np.pad(taken, surplus).astype(np.int32) for name, taken in found.items()}


def make_program(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
    prepare: Callable[[Any, Array, Array], Array],
    *,
    steps_per_dispatch: int,
    mesh: Mesh,
    kind: str,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Returns the compiled dispatch. No images are needed to make it.

    With one step it is (state, data, indices [B]) -> (state, metrics).
    With S > 1 steps it is (state, data, indices [S, B], number of steps to take) -> (state, metrics [S]).
    data has "image" and "label" of each stream; indices has an array for each stream. The streams are "train" and those
    that the objective names. A stream that data lacks takes the training images.

    Args:
      train_step: from `step.make_train_step`, with the axis "data".
      prepare: (settings of the state, keys [B], raw images) -> the network's input.
      steps_per_dispatch: S.
      mesh: the devices.
      kind: "shard_map" or "pmap".
    """
    dispatch = make_dispatch(train_step, prepare, steps_per_dispatch=steps_per_dispatch)
    split = (None, None, 0) if steps_per_dispatch == 1 else (None, None, 1, None)
    return sharding.data_parallel(dispatch, mesh, split=split, split_outputs=(None, None), kind=kind, donate=(0,))


def make_dispatch(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]],
    prepare: Callable[[Any, Array, Array], Array],
    *,
    steps_per_dispatch: int,
    axis: str | None = sharding.AXIS,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Returns the pure dispatch that `make_program` compiles; `axis` is the mesh axis of the batch, or None."""
    step = jax.jit(functools.partial(_step, train_step, prepare, axis), inline=True)
    if steps_per_dispatch == 1:
        return step

    def steps(state, data, indices, count):
        # The number of steps is an argument: epochs can differ by a step, and one program serves both lengths.
        shapes = jax.eval_shape(step, state, data, jax.tree.map(lambda leaf: leaf[0], indices))[1]
        metrics = jax.tree.map(lambda leaf: jnp.zeros(indices["train"].shape[0], leaf.dtype), shapes)

        def body(index, carry):
            state, metrics = carry
            state, row = step(state, data, jax.tree.map(lambda leaf: leaf[index], indices))
            return state, jax.tree.map(lambda rows, value: rows.at[index].set(value), metrics, row)

        return jax.lax.fori_loop(0, count, body, (state, metrics))

    return steps


def _step(train_step, prepare, axis, state, data, indices):
    """Takes a step on this device's share of the batch, the images at `indices` [B]. Each device has all raw images."""
    key = jax.random.fold_in(state.key, state.step)

    def batch_of(name, key, places=None):
        chosen, source = indices[name], data.get(name, data[TRAIN])
        # A key for each place in the global batch, so that an image's crop does not depend on the number of devices.
        places = sharding.places_in_batch(chosen.shape[0], axis) if places is None else places
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        image = prepare(state.settings, keys, source["image"][chosen])
        return {"image": image, "label": source["label"][chosen]}

    more = {}
    for n, name in enumerate(sorted(indices.keys() - {TRAIN, PLACES})):
        if PLACES in indices:  # a partner is an image of the same batch, so it has the same crop
            more[name] = batch_of(name, key, indices[PLACES])
        else:  # numbers that neither a place in a batch nor dropout (step._key) has
            more[name] = batch_of(name, jax.random.fold_in(key, 2**32 - 2 - n))
    return train_step(state, {**batch_of(TRAIN, key), **more})
