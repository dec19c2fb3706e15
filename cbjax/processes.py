"""Several processes that train one model, on one machine or many: how they meet, who writes, what they agree on.

All of them run the same program. With one process everything here does nothing and costs nothing.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

# JAX's own is 100 s. A process that is gone for so long is lost, and the others end.
HEARTBEAT_SECONDS = 30
T = TypeVar("T")


class ProcessError(RuntimeError):
    """The processes could not meet, or the first one failed in what it does for all."""


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Makes this process one of several; before anything else asks JAX for devices.

    Args:
      coordinator: HOST:PORT of the first process; None on Cloud TPU, Slurm and Kubernetes, which say all three.
      count: the number of processes.
      index: which one this is, from 0.

    Raises:
      ProcessError: if the processes do not meet.
    """
    # It would take SIGTERM for itself; the loop saves on it by its own agreement.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            # What is said counts: JAX would look round for a cluster all the same, and take one device for each task.
            cluster_detection_method="deactivate" if coordinator else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=2 * HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = f"at {coordinator}" if coordinator else "as the machine's environment says"
        raise ProcessError(f"the processes did not meet {where}: {error}") from error


def leave(status: int, error: Exception | None = None) -> None:
    """Ends this process at once if it is one of several: at exit JAX waits for the others a minute, and then aborts.

    Args:
      status: the exit status.
      error: printed with its traceback before.
    """
    if jax.distributed.is_initialized():  # unlike the count of processes, asked without starting the devices
        if error is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def device_failure(error: BaseException | None) -> jax.errors.JaxRuntimeError | None:
    """Returns the failure of a device or of the connection between processes that lies behind an error, if any."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error


def count() -> int:
    """Returns how many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Says whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def from_first(function: Callable[[], T]) -> T:
    """Returns the function's value, a JSON value, on every process; only the first one calls it.

    Every process must get here.

    Raises:
      ProcessError: on the other processes, where the function failed; on the first one its own error.
    """
    if jax.process_count() == 1:
        return function()
    value, failure = None, None
    if is_first():
        try:
            value = function()
        except Exception as error:
            failure = error
    said = _broadcast({"value": value, "error": failure and str(failure)})
    if failure is not None:
        raise failure
    if said["error"] is not None:
        raise ProcessError(f"the first process says: {said['error']}")
    return said["value"]


def from_all(value: T) -> list[T]:
    """Returns the JSON value of each process, in their order, on every process; every process must get here."""
    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(_padded_size(sizes.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(np.asarray(row)[:size])) for row, size in zip(rows, sizes, strict=True)]


def same(values: np.ndarray) -> np.ndarray:
    """Returns the first process's values on every process: hosts of two kinds may differ in a last bit."""
    return values if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(values))


class Agreement:
    """What the processes want to do next, a number each, agreed on without waiting for the device.

    Each call takes this process's wish and returns the greatest wish of all processes: with one process of this call,
    with several of the call before, whose answer has arrived while the device worked. All processes get the same.
    """

    def __init__(self) -> None:
        self._asked: jax.Array | None = None

    def __call__(self, wish: int) -> int:
        """Returns what was agreed on; 0 is no wish."""
        if jax.process_count() == 1:
            return wish
        asked, self._asked = self._asked, _greatest(wish)
        agreed = 0 if asked is None else int(asked)
        if agreed:
            self._asked = None  # said before this answer was acted on: the same save would come twice
        return agreed

    def now(self, wish: int) -> int:
        """Waits for every process's wish of this very call."""
        return wish if jax.process_count() == 1 else int(_greatest(wish))


def _greatest(wish: int) -> jax.Array:
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    wishes = jax.make_array_from_callback((jax.device_count(),), split, lambda index: np.array([wish], np.int32))
    greatest = _maximum(wishes)
    # Devices of a CPU share a pool of threads; see sharding.data_parallel.
    return jax.block_until_ready(greatest) if jax.default_backend() == "cpu" else greatest


@jax.jit
def _maximum(values: jax.Array) -> jax.Array:
    return values.max()


def _broadcast(value: Any) -> Any:
    """Sends the first process's JSON value to all."""
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(_padded_size(size), np.uint8)
    if is_first():
        padded[:size] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size]))


def _padded_size(size: int) -> int:
    # Of few sizes, for each is a program.
    return max(1024, 1 << (int(size) - 1).bit_length())
