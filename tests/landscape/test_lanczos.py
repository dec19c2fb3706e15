"""Lanczos on matrices whose eigenvalues are known, in float64."""

import numpy as np
import pytest

from cbjax.landscape import lanczos


def quadratic(values, seed=0):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return axes @ np.diag(values) @ axes.T


def test_outer_eigenvalues_of_a_quadratic_of_known_curvature():
    values = np.concatenate([[-3.0], np.linspace(-0.1, 1, 197), [10.0, 40.0]])
    matrix = quadratic(values)
    found = lanczos.lanczos(lambda vector: matrix @ vector, lanczos.rademacher(200, 0, 0), 40)
    np.testing.assert_allclose(found.values[[0, -2, -1]], [-3, 10, 40], rtol=1e-6)
    assert found.weights.sum() == pytest.approx(1)
    # Each bound holds, and no outer eigenvalue comes twice.
    nearest = np.abs(found.values[:, None] - values).min(axis=1)
    assert (nearest <= found.residuals + 1e-9).all()
    assert (found.values > 2).sum() == 2


def test_all_steps_give_all_eigenvalues_and_few_distinct_ones_end_it_early():
    values = np.arange(1.0, 13)
    matrix = quadratic(values)
    found = lanczos.lanczos(lambda vector: matrix @ vector, lanczos.rademacher(12, 0, 0), 50)
    np.testing.assert_allclose(found.values, values, rtol=1e-9)
    two = quadratic(np.repeat([2.0, 5.0], 10))
    found = lanczos.lanczos(lambda vector: two @ vector, lanczos.rademacher(20, 0, 0), 10)
    np.testing.assert_allclose(found.values, [2, 5], rtol=1e-9)
    nothing = lanczos.lanczos(lambda vector: 0 * vector, lanczos.rademacher(20, 0, 0), 10)
    np.testing.assert_array_equal(nothing.values, 0)


def test_the_trace_is_that_of_the_start_vectors_and_near_the_true_one():
    values = np.linspace(-1, 5, 100)
    matrix = quadratic(values)
    starts = [lanczos.rademacher(100, 1, number) for number in range(30)]
    found = [lanczos.lanczos(lambda vector: matrix @ vector, start, 3) for start in starts]
    mean, error = lanczos.trace(found, 100)
    assert mean == pytest.approx(np.mean([start @ matrix @ start for start in starts]))
    assert abs(mean - values.sum()) < 4 * error < 0.2 * values.sum()
    assert np.isnan(lanczos.trace(found[:1], 100)[1])


def test_the_density_has_the_moments_of_the_eigenvalues():
    values = np.concatenate([np.full(150, 0.0), np.linspace(2, 3, 50)])
    matrix = quadratic(values)
    found = [lanczos.lanczos(lambda vector: matrix @ vector, lanczos.rademacher(200, 0, n), 12) for n in range(20)]
    grid, density = lanczos.density(found)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-3)
    assert (grid * density).sum() * step == pytest.approx(values.mean(), abs=0.05)
    assert density[np.abs(grid) < 0.2].sum() * step == pytest.approx(0.75, abs=0.05)
