"""Directions in the space of parameters: random ones of the filters' lengths, lines and planes through networks.

Everything here is NumPy on nested dicts of arrays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

NORMALIZATIONS = ("filter", "layer", "none")
VECTORS = ("zero", "normalize", "copy")

Tree = Any  # nested dicts of arrays


@dataclasses.dataclass(frozen=True)
class Network:
    """The numbers of a network: `params`, and `batch_stats`, which is empty without BatchNorm."""

    params: Tree
    batch_stats: Tree


@dataclasses.dataclass(frozen=True)
class Directions:
    """A line or a plane of networks: center + x * along[0] + y * along[1].

    Attributes:
      center: the network at the origin.
      along: one or two directions. Their `batch_stats` say how BatchNorm's statistics change along them, if they do.
      marks: name -> coordinates [1 or 2] of networks to mark.
      path: [E, 1 or 2] coordinates of networks to join by a line, or None.
      facts: what is to be noted with them, JSON values.
    """

    center: Network
    along: tuple[Network, ...]
    marks: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    path: np.ndarray | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def random(
    center: Network,
    dimensions: int,
    seed: int,
    *,
    normalization: str = "filter",
    biases: str = "zero",
    batch_norm: str = "zero",
) -> Directions:
    """Draws random directions, scaled to the lengths of the network's own filters.

    Directions are not made orthogonal, as in high dimensions they nearly are; `facts` has their cosine.

    Args:
      center: the network.
      dimensions: 1 or 2.
      seed: of the draws; the first direction does not depend on the number of dimensions.
      normalization: "filter" gives each filter of a direction the length of the network's; the filters of a Flax kernel
        lie along its last axis. "layer" does so for whole kernels, "none" leaves them as they are drawn.
      biases: what to do with arrays of one axis, except BatchNorm's: "zero" leaves them out of the direction,
        "normalize" gives a draw the length of the array, "copy" takes the array itself.
      batch_norm: the same for BatchNorm's scales and offsets.

    Raises:
      ValueError: if an option is none of these.

    Source: Li et al. 2018, section 4. The authors' code takes "zero" for both with its option biasbn, else "copy".
    """
    for name, value, known in (
        ("normalization", normalization, NORMALIZATIONS),
        ("biases", biases, VECTORS),
        ("batch_norm", batch_norm, VECTORS),
        ("dimensions", dimensions, (1, 2)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}; got {value!r}")
    rules = {True: batch_norm, False: biases}
    normalised = _modules(center.batch_stats)

    def draw(number):
        generator = np.random.default_rng([seed, number])

        def one(path, weight):
            weight = np.asarray(weight)
            if not np.issubdtype(weight.dtype, np.floating):
                return np.zeros_like(weight)
            drawn = generator.standard_normal(weight.shape)
            if weight.ndim <= 1:
                return _vector(rules[_keys(path)[:-1] in normalised], weight, drawn).astype(np.float32)
            axes = {"filter": tuple(range(weight.ndim - 1)), "layer": None}.get(normalization, ())
            return (drawn if axes == () else drawn * _ratio(weight, drawn, axes)).astype(np.float32)

        return Network(jax.tree_util.tree_map_with_path(one, center.params), _zeros(center.batch_stats))

    along = tuple(draw(number) for number in range(dimensions))
    facts: dict[str, Any] = {"seed": seed, "normalization": normalization, "biases": biases, "batch_norm": batch_norm}
    if dimensions == 2:
        lengths = [np.sqrt(dot(one.params, one.params)) for one in along]
        facts["cosine"] = float(dot(along[0].params, along[1].params) / max(lengths[0] * lengths[1], 1e-30))
    return Directions(center, along, {}, None, facts)


def line(first: Network, second: Network, names: Sequence[str]) -> Directions:
    """Returns the line on which the first network is at 0 and the second at 1."""
    marks = {names[0]: (0.0,), names[1]: (1.0,)}
    return Directions(first, (_difference(second, first),), marks, facts={"distance": _length(second, first)})


def plane(networks: Sequence[Network], names: Sequence[str]) -> Directions:
    """Returns the plane through three networks, with the first at the origin and the second on the first axis.

    Directions have length 1 and are orthogonal, so that distances in the picture are distances of parameters.

    Raises:
      ValueError: if the three lie on one line.

    Source: Garipov et al. 2018, appendix A.
    """
    first, second, third = networks
    u, v = _difference(second, first), _difference(third, first)
    length = np.sqrt(dot(u.params, u.params))
    whole = np.sqrt(dot(v.params, v.params))
    if length == 0 or whole == 0:
        raise ValueError("a plane needs three networks that differ; two of these are the same")
    x = _combine((u,), (1 / length,))
    shadow = dot(v.params, x.params)
    rest = _combine((v, x), (1.0, -shadow))
    height = np.sqrt(dot(rest.params, rest.params))
    if height < 1e-6 * whole:
        raise ValueError("a plane needs three networks that are not on one line; use the line between two of them")
    y = _combine((rest,), (1 / height,))
    marks = {names[0]: (0.0, 0.0), names[1]: (float(length), 0.0), names[2]: (float(shadow), float(height))}
    return Directions(first, (x, y), marks)


def principal(networks: Sequence[Network], labels: Sequence[str], dimensions: int = 2) -> Directions:
    """Returns the principal directions of a path of networks, with the last one at the origin.

    Args:
      networks: at least 3, in their order.
      labels: what to call the first and the last.
      dimensions: 1 or 2.

    Returns:
      The directions, of length 1; the path's coordinates; and in `facts` the share of the variance that each explains.

    Raises:
      ValueError: if there are too few networks, or they do not move.

    Source: Li et al. 2018, section 7.2: principal components of the centred differences to the last network, on which
    the differences themselves are projected.
    """
    if len(networks) < dimensions + 1:
        raise ValueError(f"{dimensions} principal directions need {dimensions + 1} networks; got {len(networks)}")
    last = networks[-1]
    moves = [_difference(one, last) for one in networks]
    count = len(moves)
    products = np.array([[dot(one.params, other.params) for other in moves] for one in moves])
    centring = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(centring @ products @ centring)
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[dimensions - 1] <= 1e-9 * max(values[0], 1e-30):
        raise ValueError("the networks of the path do not span a plane: they differ along fewer directions")
    along, path = [], []
    for k in range(dimensions):
        amounts = centring @ vectors[:, k] / np.sqrt(values[k])
        # The start of the path is on the positive side of the last network, whatever signs the solver chose.
        amounts = amounts * (1.0 if products[0] @ amounts >= 0 else -1.0)
        along.append(_combine(moves, amounts))
        path.append(products @ amounts)
    facts = {"explained": (values[:dimensions] / values[values > 0].sum()).tolist()}
    coordinates = np.stack(path, axis=1)
    marks = {labels[0]: tuple(coordinates[0].tolist()), labels[1]: (0.0,) * dimensions}
    return Directions(last, tuple(along), marks, coordinates, facts)


def dot(one: Tree, other: Tree) -> float:
    """Returns the inner product of two trees of arrays, in float64."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return float(sum(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs))


def check_alike(networks: Sequence[Network], names: Sequence[str]) -> None:
    """Raises ValueError if networks differ in the names or shapes of their parameters or statistics."""
    shapes = [[(name, leaf.shape) for name, leaf in flat(one).items()] for one in networks]
    for name, found in zip(names[1:], shapes[1:], strict=True):
        wrong = [one for one in set(found) ^ set(shapes[0])]
        if wrong:
            raise ValueError(
                f"networks to draw a line or a plane through must have the same shape; {names[0]} and {name} differ in "
                f"{min(wrong)[0]}"
            )


def flat(network: Network) -> dict[str, np.ndarray]:
    """Returns the arrays of a network by their paths, as "params/dense/kernel"."""
    tree = {"params": network.params, "batch_stats": network.batch_stats}
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(_keys(path)): np.asarray(leaf) for path, leaf in leaves}


def _vector(rule: str, weight: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    ways: dict[str, Callable[[], np.ndarray]] = {
        "zero": lambda: np.zeros_like(drawn),
        "normalize": lambda: drawn * _ratio(weight, drawn, None),
        "copy": lambda: weight.astype(np.float64),
    }
    return ways[rule]()


def _ratio(weight, drawn, axes):
    wanted = np.sqrt(np.sum(np.square(weight, dtype=np.float64), axis=axes, keepdims=True))
    return wanted / (np.sqrt(np.sum(np.square(drawn), axis=axes, keepdims=True)) + 1e-10)


def _keys(path) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _modules(batch_stats: Tree) -> set[tuple[str, ...]]:
    """Returns the paths of the modules that keep statistics: those are BatchNorm's."""
    return {_keys(path)[:-1] for path, _ in jax.tree_util.tree_flatten_with_path(batch_stats)[0]}


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), np.float32), tree)


def _difference(one: Network, other: Network) -> Network:
    return _combine((one, other), (1.0, -1.0))


def _length(one: Network, other: Network) -> float:
    difference = _difference(one, other).params
    return float(np.sqrt(dot(difference, difference)))


def _combine(networks: Sequence[Network], amounts: Sequence[float] | np.ndarray) -> Network:
    def one(*leaves):
        total = sum(np.asarray(leaf, np.float64) * amount for leaf, amount in zip(leaves, amounts, strict=True))
        return np.asarray(total, np.float32)

    return Network(
        jax.tree.map(one, *(network.params for network in networks)),
        jax.tree.map(one, *(network.batch_stats for network in networks)),
    )
