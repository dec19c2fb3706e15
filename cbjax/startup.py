"""What the command sets before JAX's backend starts; importing cbjax changes no environment."""

import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any

from cbjax import host
from cbjax.config import ConfigError

# By default XLA sends convolutions on CPU to a library whose filter gradient is half as fast as its own; reductions and
# element-wise operations stay with that library. An unknown flag kills the process, hence the list of versions.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_ELTWISE"
CPU_FLAG_TESTED_WITH = ("0.10.2",)
DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def set_flags(deterministic: bool) -> None:
    """Adds to the user's own XLA_FLAGS what they do not say themselves."""
    flags = []
    if importlib.metadata.version("jaxlib") in CPU_FLAG_TESTED_WITH:
        flags.append(CPU_FLAG)
    if deterministic:
        flags.extend(DETERMINISTIC_FLAGS)
    present = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.split("=")[0] not in present]
    os.environ["XLA_FLAGS"] = " ".join([present, *missing]).strip()


def print_errors_once() -> None:
    """Keeps Orbax and TensorStore from printing tracebacks of a save that failed: `Checkpoints` raises its error."""
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    printed = sys.unraisablehook
    if not isinstance(printed, _UnlessLoopClosed):
        sys.unraisablehook = _UnlessLoopClosed(printed)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


class _UnlessLoopClosed:
    """TensorStore's other writes of a save that failed fail as well, when Orbax has stopped listening."""

    def __init__(self, print_error: Callable[[Any], Any]):
        self._print_error = print_error

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._print_error(unraisable)


def make_cores_devices() -> None:
    """Makes each core of a CPU a device of JAX's, unless the user's environment says how many there are.

    Runs of a sweep that have a core each leave less of them idle than one after another on all cores, since a small
    network's step is too short to be shared: 1.3 times as many steps a second of LeNet-5 on two cores.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "xla_force_host_platform_device_count" not in flags:
        jax.config.update("jax_num_cpu_devices", host.cores())


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where.

    A sweep compiles each program once, and a resumed run starts at once.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(cache, "cbjax", _processor())))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def check_deterministic(platform_name: str) -> None:
    """Raises ConfigError unless a GPU, which adds up in any order, was told to use one; other devices always do."""
    missing = [flag for flag in DETERMINISTIC_FLAGS if flag not in os.environ.get("XLA_FLAGS", "")]
    if platform_name == "gpu" and missing:
        raise ConfigError(
            f"deterministic=True: needs XLA_FLAGS='{' '.join(missing)}' in the environment before JAX starts; the "
            "cbjax command sets it"
        )


def _processor() -> str:
    """Names this kind of processor: a program for another one, met on a shared home folder, may not run."""
    facts = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        facts += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
