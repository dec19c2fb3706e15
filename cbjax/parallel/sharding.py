"""The only file that knows devices: the mesh, what lies where on it, and how a step runs on all devices."""

import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
# Threads take turns: if devices get two programs in different orders, they wait for each other for ever.
_TURN = threading.Lock()


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of the first `num_devices` devices along the axis "data"; None for all devices of all processes.

    Raises:
      ValueError: if there are fewer devices than asked for, or several processes but not all devices are asked for.
    """
    devices = _in_order(jax.devices())
    wanted = len(devices) if num_devices is None else num_devices
    if jax.process_count() > 1 and wanted != len(devices):
        raise ValueError(f"devices={wanted}: {jax.process_count()} processes use all their {len(devices)} devices")
    if not 1 <= wanted <= len(devices):
        has = f"this machine has {len(devices)} {devices[0].platform} device(s)"
        raise ValueError(f"devices={wanted}: {has}; leave it out to use all")
    return Mesh(np.array(devices[:wanted]), (AXIS,), axis_types=(AxisType.Auto,))


def make_topology_mesh(topology: str, **options: Any) -> Mesh:
    """Returns a mesh of the chips of a TPU slice that this machine does not have: to compile for, not to run on.

    Args:
      topology: JAX's name of the slice, such as "v5e:4x8".
      options: what libtpu needs besides the name (`tpu.topology_options`).
    """
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    return Mesh(np.array(_in_order(devices)), (AXIS,), axis_types=(AxisType.Auto,))


def _in_order(devices):
    """Sorts devices by process, so that each process's share of a batch is one slice."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def abstract(shape: Sequence[int], dtype: Any, mesh: Mesh, axis: int | None = None) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array on a mesh; each device has a part along `axis`, or the whole array if None."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=NamedSharding(mesh, _spec(axis)))


def count_devices() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def count_own_devices() -> int:
    """Returns the number of devices of this process."""
    return jax.local_device_count()


def digest(tree: Any) -> str | None:
    """Returns a digest of the values of arrays, to compare between processes; None if there is one process."""
    if jax.process_count() == 1:
        return None
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        values = jax.random.key_data(leaf) if is_key else leaf
        own = values.addressable_data(0) if isinstance(values, jax.Array) else values  # whole on each device
        total.update(np.ascontiguousarray(own).tobytes())
    return total.hexdigest()


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the placement of an array that each device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a copy of every array on each device. The result may alias its source, so do not use the source again.

    With several processes, each must bring the same values.
    """
    place = whole(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, place)

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding == place:
            return leaf
        # Not device_put: it would send the values to all processes to compare them.
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that are divided over devices as whole NumPy arrays, on every process."""
    if jax.process_count() > 1:
        tree = jax.jit(lambda tree: tree, out_shardings=whole(mesh))(tree)
    return jax.device_get(tree)


def divide(tree: Any, mesh: Mesh) -> Any:
    """Places this process's share of a batch on its devices; returns global arrays that are split along axis 0."""
    place = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(place, leaf), tree)


def place_among_processes(mesh: Mesh) -> tuple[int, int]:
    """Returns this process's index among the processes with devices in the mesh, and their number."""
    processes = sorted({device.process_index for device in mesh.devices.flat})
    return processes.index(jax.process_index()), len(processes)


def placed(shapes: Any, mesh: Mesh) -> Any:
    """Returns shapes with the placement that `replicate` would give their arrays."""
    place = whole(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)


def on_one_device(tree: Any) -> Any:
    """Copies replicated arrays to the first of this process's devices."""
    device = jax.local_devices()[0]
    return jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), device), tree)


def platform(mesh: Mesh) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def on_accelerator(mesh: Mesh) -> bool:
    """Returns whether the mesh's devices are GPUs or TPUs, for which one dispatch of many steps pays."""
    return platform(mesh) != "cpu"


def describe(mesh: Mesh) -> str:
    """Returns the devices of a mesh as text: '8 x cpu', '32 x TPU v4 of 4 processes'."""
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}{processes}"


def varying(tree: Any, axis: str | None) -> Any:
    """Casts replicated values to per-device ones, so that gradients with respect to them stay on each device."""
    if axis is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis, to="varying"), tree)


def mean_over(axis: str | None, tree: Any) -> Any:
    """Averages each leaf over the devices of a mesh axis; None leaves it as it is."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def sum_over(axis: str | None, tree: Any) -> Any:
    """Sums each leaf over the devices of a mesh axis; None leaves it as it is."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def places_in_batch(size: int, axis: str | None) -> jax.Array:
    """Returns the places [size] of this device's examples in the global batch."""
    first = 0 if axis is None else jax.lax.axis_index(axis) * size
    return first + jnp.arange(size)


def data_parallel(
    function: Callable[..., tuple[Any, ...]],
    mesh: Mesh,
    *,
    split: Sequence[int | None],
    split_outputs: Sequence[int | None],
    kind: str = "shard_map",
    donate: Sequence[int] = (),
) -> Callable[..., tuple[Any, ...]]:
    """Compiles a function of one device's share for all devices of a mesh.

    Args:
      function: takes one device's share of each argument and returns a tuple; it may use collectives over "data".
      mesh: the devices.
      split: for each argument, the array axis that is divided over devices, or None if each device gets it whole. A
        divided axis must be a multiple of the number of devices.
      split_outputs: the same for each output; None promises that all devices return the same value.
      kind: "shard_map" or "pmap"; results are equal.
      donate: arguments whose memory the outputs may take over.

    Returns:
      The compiled function of global arrays. Both kinds use the same global shapes and placements, so a state can go
      from one to the other.

    Raises:
      ValueError: if `kind` is unknown.
    """
    if kind == "shard_map":
        mapped = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(_spec(axis) for axis in split),
            out_specs=tuple(_spec(axis) for axis in split_outputs),
        )
        compiled = jax.jit(mapped, donate_argnums=tuple(donate))
    elif kind == "pmap":
        compiled = _pmap(function, mesh, split, split_outputs, donate)
    else:
        raise ValueError(f"parallel={kind!r}: must be 'shard_map' or 'pmap'")
    if mesh.devices.size == 1:
        return compiled

    @functools.wraps(function)
    def one_at_a_time(*args):
        with _TURN:
            outputs = compiled(*args)
            # CPU devices share one pool of threads. If several programs are queued, the ones that wait in a collective
            # can take every thread, and the process hangs. So wait for each.
            return outputs if on_accelerator(mesh) else jax.block_until_ready(outputs)

    if hasattr(compiled, "lower"):
        one_at_a_time.lower = compiled.lower  # type: ignore[attr-defined]

    return one_at_a_time


def run_parallel(
    function: Callable[..., Any], mesh: Mesh, *, per_device: int, shared: Sequence[int] = (), donate: Sequence[int] = ()
) -> Callable[..., Any]:
    """Compiles a function of one run for many runs; each device of a mesh computes `per_device` of them on its own.

    Args:
      function: computes one run; no collectives.
      mesh: the devices.
      per_device: number of runs on a device, side by side (`jax.vmap`).
      shared: arguments that are the same for all runs.
      donate: arguments whose memory the outputs may take over.

    Returns:
      The compiled function. All outputs, and all arguments that are not shared, have a first axis of runs, devices ×
      per_device long.
    """

    def device_share(*args):
        if per_device > 1:
            return jax.vmap(function, in_axes=[None if i in shared else 0 for i in range(len(args))])(*args)
        # A single run is not mapped, because XLA's convolutions with several kernels are slow.
        one = [arg if i in shared else jax.tree.map(lambda leaf: leaf[0], arg) for i, arg in enumerate(args)]
        return jax.tree.map(lambda leaf: leaf[None], function(*one))

    def over_devices(*args):
        specs = tuple(_spec(None if i in shared else 0) for i in range(len(args)))
        # The devices share nothing, so check_vma has nothing to find; it would refuse the loop over steps.
        return jax.shard_map(device_share, mesh=mesh, in_specs=specs, out_specs=_spec(0), check_vma=False)(*args)

    return jax.jit(over_devices, donate_argnums=tuple(donate))


def spread(tree: Any, mesh: Mesh) -> Any:
    """Places arrays whose first axis is runs on the devices of a mesh; each device gets its share of the runs."""
    return jax.device_put(tree, NamedSharding(mesh, _spec(0)))


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def _pmap(function, mesh, split, split_outputs, donate):
    mapped = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=tuple(split),
        out_axes=tuple(split_outputs),
        devices=list(mesh.devices.flat),
        donate_argnums=tuple(donate) if jax.process_count() == 1 else (),
    )
    count = mesh.devices.size

    def divide(leaf, axis):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[axis].start)
            return np.stack([np.asarray(shard.data) for shard in shards], axis)
        leaf = leaf.reshape(*leaf.shape[:axis], count, leaf.shape[axis] // count, *leaf.shape[axis + 1 :])
        if jax.process_count() == 1:
            return leaf
        # pmap takes and returns only this process's share.
        share = count // jax.process_count()
        return np.take(leaf, range(jax.process_index() * share, (jax.process_index() + 1) * share), axis)

    def join(leaf, axis):
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    def over_processes(leaf, axis):
        shape = list(leaf.shape)
        if axis is not None:
            shape[axis] = count
        place = NamedSharding(mesh, _spec(axis))
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(tuple(shape), place, shards, dtype=leaf.dtype)

    def over_tree(change, trees, axes):
        return tuple(
            tree if axis is None else jax.tree.map(functools.partial(change, axis=axis), tree)
            for tree, axis in zip(trees, axes, strict=True)
        )

    def compiled(*args):
        outputs = mapped(*over_tree(divide, args, split))
        if jax.process_count() > 1:
            outputs = tuple(
                jax.tree.map(functools.partial(over_processes, axis=axis), tree)
                for tree, axis in zip(outputs, split_outputs, strict=True)
            )
        return over_tree(join, outputs, split_outputs)

    return compiled
