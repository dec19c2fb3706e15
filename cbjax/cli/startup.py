"""Checks and sets what must be in place before JAX's backend starts. Only the command does so, not `import cbjax`."""

import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from cbjax.config import ConfigError
from cbjax.host import machine
from cbjax.host.output import say
from cbjax.training.check_process import DETERMINISTIC_FLAGS

# By default XLA on CPU sends convolutions to a library whose filter gradient takes twice as long as its own. This flag
# leaves it only reductions and element-wise operations. An unknown flag kills the process, so versions are listed.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_ELTWISE"
CPU_FLAG_TESTED_WITH = ("0.10.2", "0.12.0.1")
COUNT_FLAG = "--xla_force_host_platform_device_count"
OPEN_FILES = 1024  # a run with workers and checkpoints may need so many
LEAST_OPEN_FILES = 64
LEAST_ADDRESSES = 4 << 30  # bytes; JAX's threads reserve some GiB, though they use little of it
LEAST_THREADS = 32
MOST_CPU_DEVICES = 1024  # each has its own threads


def check_environment() -> None:
    """Checks settings of the environment that would make JAX fail in C++ or with a long traceback.

    Raises:
      ConfigError: names the setting, and says what to do.
    """
    _check_limits()
    _check_cpu_devices()
    _check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    # Figures go to files, so a missing backend for windows must not matter.
    os.environ["MPLBACKEND"] = "agg"
    try:
        import jax  # noqa: F401
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"JAX does not start: {error}; {_settings()}") from error


def check_devices() -> None:
    """Starts the devices; raises ConfigError if JAX finds none of the platform that the environment asks for."""
    import jax

    try:
        jax.device_count()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = str(error).splitlines()[0] if str(error) else f"there is no device of platform {asked!r}"
        raise ConfigError(
            f"JAX finds no device: {why}; {_settings()}. Unset JAX_PLATFORMS to use the devices that there are"
            f"{_how_to_install(asked)}"
        ) from error


def _how_to_install(platforms: str) -> str:
    """Returns the end of a message: how to install what a platform needs; "" for one that cbjax has nothing for."""
    for extra, names in (("cuda", ("cuda", "gpu")), ("tpu", ("tpu",))):
        if any(name in names for name in platforms.lower().split(",")):
            return f", or install what that platform needs, pip install 'cbjax[train,{extra}]'"
    return ""


def _check_limits() -> None:
    """Raises the limit of open files as far as allowed; raises ConfigError for limits that are too low."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        files = OPEN_FILES if most == resource.RLIM_INFINITY else max(files, min(OPEN_FILES, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
        if files < LEAST_OPEN_FILES:
            raise ConfigError(
                f"a process may open only {files} files here, but a run needs {LEAST_OPEN_FILES}, better {OPEN_FILES}: "
                f"`ulimit -n {OPEN_FILES}` raises the limit"
            )
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < LEAST_ADDRESSES:
        raise ConfigError(
            f"a process may use only {addresses / 2**30:.1f} GiB of addresses here, but JAX needs "
            f"{LEAST_ADDRESSES / 2**30:.0f}, better no limit: `ulimit -v unlimited` removes it"
        )
    _check_threads()


def _check_cpu_devices() -> None:
    """Raises ConfigError for more CPU devices than anybody means: JAX would take minutes or all memory to make them."""
    asked = [
        f"JAX_NUM_CPU_DEVICES={os.environ.get('JAX_NUM_CPU_DEVICES', '')}",
        *os.environ.get("XLA_FLAGS", "").split(),
    ]
    for setting in asked:
        count = re.fullmatch(rf"(?:JAX_NUM_CPU_DEVICES|{COUNT_FLAG})=0*(\d+)", setting)
        if count and (len(count[1]) > 4 or int(count[1]) > MOST_CPU_DEVICES):
            raise ConfigError(f"{setting[:100]}: a CPU can be at most {MOST_CPU_DEVICES} devices; ask for fewer")


def _check_threads() -> None:
    enough = threading.Event()
    started = []
    try:
        for _ in range(LEAST_THREADS):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise ConfigError(
            f"only {len(started)} threads can be started here, but JAX needs {LEAST_THREADS} or more: end other "
            "processes, or raise the limit (`ulimit -u`, or the container's or the job's limit)"
        ) from None
    finally:
        enough.set()
        for thread in started:
            thread.join()


@functools.cache  # a second command of one process need not try them again
def _check_xla_flags(flags: str) -> None:
    """Tries the user's flags in another process, because XLA ends a process with a flag that it does not know."""
    known = {CPU_FLAG, *DETERMINISTIC_FLAGS}
    if all(flag in known or re.fullmatch(rf"{COUNT_FLAG}=\d+", flag) for flag in flags.split()):
        return
    program = "from jaxlib import xla_client; xla_client.CompileOptions()"
    tried = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", tried.stderr)
    if tried.returncode and unknown:
        raise ConfigError(f"XLA does not know the flag {unknown[1].strip()} of XLA_FLAGS={flags!r}; leave it out")
    if tried.returncode:
        raise ConfigError(f"XLA does not start with XLA_FLAGS={flags!r}: a flag is unknown or its value is wrong")


def _settings() -> str:
    """Lists JAX's settings in the environment."""
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("JAX_")]
    return f"the environment has {', '.join(found) or 'no settings of JAX'}"


def set_flags(deterministic: bool) -> None:
    """Adds flags to XLA_FLAGS, unless the user has set them."""
    flags = []
    if importlib.metadata.version("jaxlib") in CPU_FLAG_TESTED_WITH:
        flags.append(CPU_FLAG)
    if deterministic:
        flags.extend(DETERMINISTIC_FLAGS)
    present = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.split("=")[0] not in present]
    os.environ["XLA_FLAGS"] = " ".join([present, *missing]).strip()


def print_errors_once() -> None:
    """Keeps Orbax and TensorStore from printing tracebacks of a failed save; `Checkpoints` raises its error anyway."""
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    printed = sys.unraisablehook
    if not isinstance(printed, _UnlessLoopClosed):
        sys.unraisablehook = _UnlessLoopClosed(printed)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


class _UnlessLoopClosed:
    """Hides errors of TensorStore's other writes in a failed save: they fail after Orbax has stopped listening."""

    def __init__(self, print_error: Callable[[Any], Any]):
        self._print_error = print_error

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._print_error(unraisable)


def make_cores_devices() -> None:
    """Makes each core of a CPU a device of JAX, unless the user's environment sets their number.

    A sweep is faster with a core for each run than with one run after another on all cores, because a small network's
    step is too short to be shared: LeNet-5 on two cores does 1.3 times as many steps a second.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and "xla_force_host_platform_device_count" not in flags:
        jax.config.update("jax_num_cpu_devices", machine.cores())


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs, in JAX_COMPILATION_CACHE_DIR or else in the user's cache folder.

    So a sweep compiles each program once, and a resumed run starts at once. If the folder can't be written, nothing is
    kept, and a line says so.
    """
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or _cache_folder()
    if not _is_writable(folder):
        # Turned off, or JAX would warn about each program.
        jax.config.update("jax_enable_compilation_cache", False)
        say(
            f"compiled programs are not kept, since {folder} can't be written; JAX_COMPILATION_CACHE_DIR names another "
            "folder",
            error=True,
        )
        return
    if "://" not in folder:
        remove_unreadable_programs(pathlib.Path(folder))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def remove_unreadable_programs(folder: pathlib.Path) -> None:
    """Removes compiled programs that JAX cannot read, for example after a full disk, as soon as JAX warns of them.

    JAX alone would warn at each start, compile them again, and never replace them.
    """
    show = warnings.showwarning

    def remove_or_show(message, *more, **options):
        unreadable = re.match(r"Error reading persistent compilation cache entry for '([^']+)'", str(message))
        if not unreadable:
            show(message, *more, **options)
            return
        # JAX gives only the program's name, so all programs of this name are removed and compiled again.
        for path in folder.iterdir():
            if path.name.startswith(f"{unreadable[1]}-"):
                path.unlink(missing_ok=True)

    warnings.showwarning = remove_or_show


def _cache_folder() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return str(pathlib.Path(cache, "cbjax", _processor()))


def _is_writable(folder: str) -> bool:
    if "://" in folder:
        return True  # a bucket, which JAX writes by other libraries
    if folder.startswith("~"):
        return False  # there is no home folder
    try:
        os.makedirs(folder, exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _processor() -> str:
    """Names the kind of processor: on a shared home folder, programs for another kind may not run here."""
    facts = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        facts += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
