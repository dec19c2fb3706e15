import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax.parallel import sharding


def add(total, rows):
    """A stand-in for a step: replicated state, split data, a collective, a split output."""
    return total + sharding.sum_over(sharding.AXIS, rows.sum()), rows * 2


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_both_kinds_take_and_give_global_arrays(kind, count):
    mesh = sharding.make_mesh(count)
    function = sharding.data_parallel(add, mesh, split=(None, 0), split_outputs=(None, 0), kind=kind)
    rows = np.arange(16.0, dtype=np.float32)
    total, doubled = function(sharding.replicate(jnp.float32(1), mesh), rows)
    assert total == 121 and total.shape == ()
    np.testing.assert_array_equal(doubled, 2 * rows)


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_an_inner_axis_can_be_split(kind):
    mesh = sharding.make_mesh(4)
    function = sharding.data_parallel(
        lambda rows: (rows + jax.lax.axis_index(sharding.AXIS),), mesh, split=(1,), split_outputs=(1,), kind=kind
    )
    (found,) = function(np.zeros((3, 8), np.int32))
    np.testing.assert_array_equal(found, np.tile(np.repeat(np.arange(4), 2), (3, 1)))


def test_a_state_goes_from_one_kind_to_the_other():
    mesh = sharding.make_mesh(2)
    total = sharding.replicate(jnp.float32(0), mesh)
    for kind in ("pmap", "shard_map", "pmap"):
        function = sharding.data_parallel(add, mesh, split=(None, 0), split_outputs=(None, 0), kind=kind)
        total, _ = function(total, np.ones(4, np.float32))
    assert total == 12


def test_places_do_not_depend_on_the_number_of_devices():
    found = []
    for count in (1, 2, 8):
        function = sharding.data_parallel(
            lambda rows: (sharding.places_in_batch(rows.shape[0], sharding.AXIS),),
            sharding.make_mesh(count),
            split=(0,),
            split_outputs=(0,),
        )
        found.append(np.asarray(function(np.zeros(16))[0]))
    for places in found:
        np.testing.assert_array_equal(places, np.arange(16))


def test_a_first_state_on_the_mesh_compiles_once():
    mesh = sharding.make_mesh(2)
    traced = []

    def step(state, rows):
        traced.append(1)
        return state + sharding.sum_over(sharding.AXIS, rows.sum()), {}

    function = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), donate=(0,))
    state = sharding.replicate(jnp.float32(0), mesh)
    for _ in range(3):
        state, _ = function(state, np.ones(2, np.float32))
    assert len(traced) == 1


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"devices=9: this machine has 8 cpu device\(s\)"):
        sharding.make_mesh(9)
    with pytest.raises(ValueError, match=r"parallel='threads': must be 'shard_map' or 'pmap'"):
        sharding.data_parallel(add, sharding.make_mesh(1), split=(), split_outputs=(), kind="threads")


def test_devices_are_described():
    mesh = sharding.make_mesh(3)
    assert sharding.describe(mesh) == "3 x cpu"
    assert not sharding.on_accelerator(mesh)
