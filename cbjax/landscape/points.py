"""Programs that measure points of a landscape: several at a time on each device, by the way that is fastest here."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.landscape.directions import Directions, Network
from cbjax.landscape.subject import Subject, build_sums, rest_of
from cbjax.parallel import sharding
from cbjax.training import components, input_paths
from cbjax.types import Batch

STATISTICS = ("keep", "interpolate", "recompute")
SLOW = 0.5  # seconds of a point on a batch, above which several at a time on a CPU cannot save much
AT_ONCE = (4, 16)  # points that are tried side by side on a device


class Way(NamedTuple):
    """How points are spread: over how many devices, and how many side by side on each (`jax.vmap`)."""

    devices: int
    at_once: int

    @property
    def points(self) -> int:
        """How many points a call takes."""
        return self.devices * self.at_once


class Points(NamedTuple):
    """Programs for points, on one way.

    Attributes:
      way: how they are spread.
      mesh: the devices.
      sums: (places [n, 1 or 2], batch, statistics) -> sums of each point, leaves [n, ...]; n is at most `way.points`.
        `statistics` are those of BatchNorm at each place, leaves [n, ...], where they are recomputed; else None.
      moments: (places, batch, statistics before) -> statistics after the batch, both with an axis of points.
    """

    way: Way
    mesh: Any
    sums: Callable[[np.ndarray, Batch, Any], Any]
    moments: Callable[[np.ndarray, Batch, Any], Any]


def build(subject: Subject, directions: Directions, statistics: str, way: Way) -> Points:
    """Builds the programs.

    Args:
      subject: the network's functions.
      directions: the line or plane.
      statistics: "keep" those of the network at the origin; "interpolate" between the networks, along with the
        parameters; "recompute" at each point.
      way: how points are spread.
    """
    mesh = sharding.make_mesh(way.devices)
    network_sums = build_sums(subject)
    model = components.build_model(subject.run.config, subject.num_classes, axis=None)
    line = _pair(directions.center), [_pair(one) for one in directions.along]
    center, along, rest = sharding.replicate((*line, rest_of(subject)), mesh)
    positive = _positive(directions)

    def parameters(place, center, along):
        return _at(place, center[0], [one[0] for one in along])

    def stats_at(place, center, along):
        if statistics != "interpolate":
            return center[1]
        found = _at(place, center[1], [one[1] for one in along])
        leaves, structure = jax.tree.flatten(found)
        # Beyond the networks, straight lines would make variances negative.
        leaves = [jnp.maximum(leaf, 0) if kept else leaf for leaf, kept in zip(leaves, positive, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    def sums(place, given, center, along, rest, batch):
        stats = given if statistics == "recompute" else stats_at(place, center, along)
        return network_sums(parameters(place, center, along), stats, rest, batch)

    def moments(place, stats, center, along, rest, batch):
        image, key = input_paths.normalize(rest[0], batch["image"]), jax.random.key(0)
        return model.apply(parameters(place, center, along), stats, image, train=True, key=key)[1]

    spread = functools.partial(sharding.run_parallel, mesh=mesh, per_device=way.at_once, shared=(2, 3, 4, 5))
    run_sums, run_moments = spread(sums), spread(moments)

    def call(program, places, batch, given=None):
        count = len(places)
        # The last points of a grid are filled up, so that one program serves all.
        filled = np.concatenate([places, np.repeat(places[-1:], way.points - count, axis=0)]).astype(np.float32)
        given = () if given is None else jax.tree.map(lambda leaf: _fill(leaf, way.points), given)
        found = program(*sharding.spread((filled, given), mesh), center, along, rest, batch)
        return found if count == way.points else jax.tree.map(lambda leaf: leaf[:count], found)

    return Points(way, mesh, functools.partial(call, run_sums), functools.partial(call, run_moments))


def ways(count: int, devices: int) -> list[Way]:
    """Returns the ways to try for so many points on so many devices; the first is a plain loop on one device."""
    devices = min(devices, count)
    tried = [Way(1, 1), Way(devices, 1), *(Way(devices, number) for number in AT_ONCE if devices * number <= count)]
    return list(dict.fromkeys(tried))


def fastest(make: Callable[[Way], tuple[Points, Callable[[], Any]]], tried: Sequence[Way]) -> tuple[Points, float]:
    """Builds and measures ways; returns the programs of the fastest, and its seconds for a point on a batch.

    Args:
      make: way -> (its programs, a function that calls them once on a batch and waits).
      tried: the ways, a plain loop first.
    """
    found: list[tuple[float, Points]] = []
    for way in tried:
        points, once = make(way)
        once()  # compiles
        seconds = min(_seconds(once) for _ in range(3)) / way.points
        found.append((seconds, points))
        # With long calls nothing is gained by more points on a device, only by more devices.
        if seconds > SLOW and way.devices == tried[-1].devices and not sharding.on_accelerator(points.mesh):
            break
    # A way must be clearly faster than a simpler one, as measurements scatter.
    best = min(seconds for seconds, _ in found)
    return next((points, seconds) for seconds, points in found if seconds <= 1.05 * best)


def _seconds(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _pair(network: Network):
    return network.params, network.batch_stats


def _positive(directions):
    """Says for each statistic whether it is at least 0 in all marked networks. Variances are."""
    center, along = directions.center.batch_stats, [one.batch_stats for one in directions.along]
    places = [(0.0,) * len(along), *directions.marks.values()]
    networks = [[np.asarray(leaf) for leaf in jax.tree.leaves(_at(place, center, along))] for place in places]
    # Rounding may put a variance of 0 a little below.
    return [
        all(leaf.min(initial=np.inf) >= -1e-6 * np.abs(leaf).max(initial=0) for leaf in one)
        for one in zip(*networks, strict=True)
    ]


def _at(place, center, along):
    def one(leaf, *steps):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        for k, step in enumerate(steps):
            leaf = leaf + (place[k] * step).astype(leaf.dtype)
        return leaf

    return jax.tree.map(one, center, *along)


def _fill(leaf, count):
    leaf = np.asarray(leaf)
    return np.concatenate([leaf, np.repeat(leaf[-1:], count - len(leaf), axis=0)]) if len(leaf) < count else leaf
