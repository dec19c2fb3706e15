"""Several processes that train one model, on one machine or many: how they meet, who writes, how they agree.

All of them run the same program. With a single process, everything here does nothing and costs nothing.
"""

import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax._src import distributed  # holds the store that `watch` needs, as in JAX's own multihost_utils
from jax.experimental import multihost_utils

from cbjax.host.output import say
from cbjax.parallel import lobby, watch

# A process that is silent for so long is lost, and the others end. JAX's default is 100 s.
HEARTBEAT_SECONDS = 30
MEETING_SECONDS = 300
TELLING_SECONDS = 60
T = TypeVar("T")
P = ParamSpec("P")
_watch: watch.Watch | None = None


class ProcessError(RuntimeError):
    """The processes could not meet, they differ, one was lost, or process 0 failed in work that it does for all.

    Attributes:
      status: the exit status of the command.
    """

    def __init__(self, message: str, status: int = watch.FAILED):
        super().__init__(message)
        self.status = status


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Makes this process one of several. It must be called before anything asks JAX for devices.

    Args:
      coordinator: HOST:PORT of process 0. On Cloud TPU, Slurm and Kubernetes all three arguments can be None.
      count: number of processes.
      index: index of this process, from 0.

    Raises:
      ProcessError: if the processes do not meet.
    """
    # JAX's service would catch SIGTERM; here the loop itself does, and saves.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator and count is not None and index is not None:
        try:
            lobby.gather(coordinator, count, index, MEETING_SECONDS, _tell_waiting)
        except lobby.LobbyError as error:
            status = watch.LOST if isinstance(error, lobby.MissingError) else watch.FAILED
            raise ProcessError(str(error), status) from error
    where = f"at {coordinator}" if coordinator else "as the machine's environment says"
    witness = watch.Witness()
    witness.remember(f"cbjax: the processes did not meet {where} in {MEETING_SECONDS} s: {lobby.WHAT_TO_DO}")
    waiting = threading.Timer(
        lobby.FIRST_NOTE_SECONDS,
        _tell_waiting,
        [f"waiting for the other processes {where}, {MEETING_SECONDS} s at most"],
    )
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            # With a coordinator, JAX must not look for a cluster: it would then take only one device for each task.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=2 * HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the processes did not meet {where}: {error}") from error
    finally:
        waiting.cancel()
    state = distributed.global_state
    global _watch
    _watch = watch.Watch(state.client, state.process_id, state.num_processes, witness)


def _tell_waiting(line: str) -> None:
    say(f"cbjax: {line}", error=True)


def together(function: Callable[P, T]) -> Callable[P, T]:
    """Wraps a function so that its errors also end the other processes, within seconds and with the same message.

    An error with `of_all = True` is not passed on: all processes meet it themselves.

    Raises:
      ProcessError: if the error means that another process was lost.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _tell(error)
            raise

    return wrapper


def _tell(error: Exception) -> None:
    if _watch is None or isinstance(error, ProcessError) or getattr(error, "of_all", False):
        return
    if _is_broken_connection(error):
        lost = _watch.silent()
        if lost:
            _watch.tell(_watch.lost_line(lost), watch.LOST, lost)
            raise ProcessError(watch.lost_text(lost, jax.process_count()), watch.LOST) from error
    said = str(error) or type(error).__name__
    status = watch.FAILED if isinstance(error, ValueError) else watch.LOST  # a mistake, or something worth a retry
    _watch.tell(f"cbjax: process {distributed.global_state.process_id} failed, so all end: {said}", status)


def leave(status: int, error: Exception, trace: bool = False) -> None:
    """Ends this process and, by its error, the others at once, if there are several.

    A normal exit would wait a minute for the others, and then abort.

    Args:
      status: the exit status.
      error: the reason, which this process has printed already.
      trace: whether to print its traceback.
    """
    if jax.distributed.is_initialized():  # process_count() would start the devices
        if trace:
            traceback.print_exception(error)
        _tell(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def meet_to_tell(options: Any, error: Exception) -> None:
    """Tells the others about a mistake that this process found before they met; else they would wait for it.

    Args:
      options: options of the command.
      error: the mistake, which this process has printed already.
    """
    if distributed.global_state.client or isinstance(error, ProcessError) or not getattr(options, "coordinator", None):
        return
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else JAX would go on waiting after Ctrl-C
    timer = threading.Timer(TELLING_SECONDS, os._exit, [watch.FAILED])
    timer.daemon = True
    timer.start()
    start(options.coordinator, options.processes, options.process)


def agree(facts: Mapping[str, Any]) -> None:
    """Checks that all processes hold the same facts, which are JSON values. Every process must call it.

    Raises:
      ProcessError: on every process; it lists the keys whose values differ, and each process's value.
    """
    if jax.process_count() == 1:
        return
    all_facts = from_all(dict(facts))
    differing = []
    for key in sorted(set().union(*all_facts)):
        holders: dict[str, list[int]] = {}
        for index, own in enumerate(all_facts):
            holders.setdefault(json.dumps(own.get(key)), []).append(index)
        if len(holders) > 1:
            listed = [f"{_shortened(value)} in process {_listed(where)}" for value, where in holders.items()]
            differing.append(f"{key}: {', '.join(listed[:4])}")
    if differing:
        more = f"; and {len(differing) - 8} more" if len(differing) > 8 else ""
        raise ProcessError(f"the processes of one run must be alike, but differ in {'; '.join(differing[:8])}{more}")


def _shortened(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}…"


def _listed(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:4])) + (", …" if len(indices) > 4 else "")


def _is_broken_connection(error: BaseException | None) -> bool:
    failure = device_failure(error)
    if failure is not None:
        return "RESOURCE_EXHAUSTED" not in str(failure)
    while error is not None:  # some errors of Gloo come as a ValueError
        if "Gloo" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def device_failure(error: BaseException | None) -> jax.errors.JaxRuntimeError | None:
    """Returns the failure of a device or of a connection between processes that caused an error, if one did."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error


def count() -> int:
    """Returns how many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Returns whether this process is process 0, which writes and prints."""
    return jax.process_index() == 0


def from_first(function: Callable[[], T]) -> T:
    """Calls a function on process 0 only, and returns its JSON value on every process.

    Every process must call it.

    Raises:
      ProcessError: on the other processes, if the function failed. Process 0 raises the function's own error.
    """
    if jax.process_count() == 1:
        return function()
    value, failure = None, None
    if is_first():
        try:
            value = function()
        except Exception as error:
            failure = error
            error.of_all = True  # type: ignore[attr-defined]  # the others are told below
    said = _broadcast({"value": value, "error": failure and str(failure)})
    if failure is not None:
        raise failure
    if said["error"] is not None:
        raise ProcessError(f"the first process says: {said['error']}")
    return said["value"]


def from_all(value: T) -> list[T]:
    """Returns the JSON values of all processes, in order, on every process. Every process must call it."""
    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(_padded_size(sizes.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(np.asarray(row)[:size])) for row, size in zip(rows, sizes, strict=True)]


def same(values: np.ndarray) -> np.ndarray:
    """Returns process 0's values on every process, since hosts of different kinds may differ in a last bit."""
    return values if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(values))


class Agreement:
    """Lets the processes agree on what to do next, without waiting for the device.

    Each call takes this process's wish, a number, and returns the greatest wish of all processes. If there are several,
    this is the answer to the call before, which arrived while the device worked. All processes get the same answer.
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
            self._asked = None  # these wishes came before this answer was acted on; the same save would come twice
        return agreed

    def now(self, wish: int) -> int:
        """Returns the greatest wish of this very call; it waits for every process."""
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
    # Only few sizes, since each needs its own compiled program.
    return max(1024, 1 << (int(size) - 1).bit_length())
