"""Directions against NumPy in float64: lengths of filters, and where the networks lie on lines and planes."""

import jax
import numpy as np
import pytest

from cbjax.landscape import directions
from cbjax.landscape.directions import Network


def network(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {
        "conv": {"kernel": draw(3, 3, 2, 5), "bias": draw(5)},
        "norm": {"scale": draw(5), "bias": draw(5)},
        "head": {"kernel": draw(4, 3), "bias": draw(3)},
    }
    return Network(params, {"norm": {"mean": draw(5), "var": draw(5) ** 2}})


def lengths(kernel):
    return np.sqrt(np.square(kernel, dtype=np.float64).reshape(-1, kernel.shape[-1]).sum(axis=0))


def at(found, place):
    total = directions.flat(found.center)
    for amount, one in zip(place, found.along, strict=True):
        total = {name: leaf + amount * directions.flat(one)[name] for name, leaf in total.items()}
    return total


def test_filters_have_the_lengths_of_the_networks_own():
    center = network(0)
    first, second = directions.random(center, 2, seed=5).along
    for name in ("conv", "head"):
        for one in (first, second):
            kernel = one.params[name]["kernel"]
            np.testing.assert_allclose(lengths(kernel), lengths(center.params[name]["kernel"]), rtol=1e-5)
        assert np.abs(first.params[name]["kernel"] - second.params[name]["kernel"]).max() > 0.1
    assert not any(leaf.any() for leaf in jax.tree.leaves(first.batch_stats))
    np.testing.assert_array_equal(first.params["norm"]["scale"], 0)
    again = directions.random(center, 1, seed=5).along[0]
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


def test_biases_and_batch_norm_do_what_their_names_say():
    center = network(0)
    (found,) = directions.random(center, 1, seed=0, normalization="layer", biases="normalize", batch_norm="copy").along
    whole = np.linalg.norm(center.params["conv"]["kernel"])
    assert np.linalg.norm(found.params["conv"]["kernel"]) == pytest.approx(whole, rel=1e-5)
    for name in ("conv", "head"):
        own = center.params[name]["bias"]
        assert np.linalg.norm(found.params[name]["bias"]) == pytest.approx(np.linalg.norm(own), rel=1e-5)
        assert np.abs(found.params[name]["bias"] - own).max() > 0.1
    for name in ("scale", "bias"):
        np.testing.assert_array_equal(found.params["norm"][name], center.params["norm"][name])
    (drawn,) = directions.random(center, 1, seed=0, normalization="none").along
    assert np.std(drawn.params["conv"]["kernel"]) == pytest.approx(1, abs=0.3)
    with pytest.raises(ValueError, match="normalization must be one of filter, layer, none; got 'filters'"):
        directions.random(center, 1, seed=0, normalization="filters")


def test_lines_and_planes_go_through_the_networks():
    networks = [network(seed) for seed in range(3)]
    for found in (directions.line(*networks[:2], "ab"), directions.plane(networks, "abc")):
        for one, place in zip(networks, found.marks.values(), strict=False):
            for name, leaf in at(found, place).items():
                np.testing.assert_allclose(leaf, directions.flat(one)[name], atol=2e-6)
    x, y = (one.params for one in found.along)
    products = [directions.dot(x, x), directions.dot(y, y), directions.dot(x, y)]
    np.testing.assert_allclose(products, [1, 1, 0], atol=1e-6)
    half = Network(jax.tree.map(lambda a, b: (a + b) / 2, networks[0].params, networks[1].params), {})
    networks = [Network(one.params, {}) for one in networks]
    with pytest.raises(ValueError, match="not on one line"):
        directions.plane([*networks[:2], half], "abc")
    with pytest.raises(ValueError, match="b differ in params/conv/bias"):
        directions.check_alike([networks[0], Network({"other": np.zeros(2)}, {})], ["a", "b"])


def test_principal_directions_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    path = (rng.normal(size=(7, 3)) * [5, 2, 0.5]) @ rng.normal(size=(3, 40))
    networks = [
        Network({"w": row[:30].reshape(5, 6).astype(np.float32)}, {"mean": row[30:].astype(np.float32)}) for row in path
    ]
    found = directions.principal(networks, ["a", "b"])
    moves = (path - path[-1])[:, :30]
    _, values, axes = np.linalg.svd(moves - moves.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.facts["explained"], values[:2] ** 2 / np.sum(values**2), rtol=1e-4)
    for k, one in enumerate(found.along):
        sign = np.sign(one.params["w"].ravel() @ axes[k])
        np.testing.assert_allclose(one.params["w"].ravel(), sign * axes[k], atol=1e-4)
        np.testing.assert_allclose(found.path[:, k], moves @ (sign * axes[k]), atol=1e-3)
    assert found.marks["b"] == (0, 0) and (found.path[0] >= 0).all()
    with pytest.raises(ValueError, match="2 principal directions need 3 networks; got 2"):
        directions.principal(networks[:2], "ab")
