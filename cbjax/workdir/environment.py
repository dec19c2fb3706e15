"""Describes what figures may depend on besides config and data: processor, devices, flags, versions of libraries."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax

from cbjax.host import machine

# Libraries that compute, then libraries that read, decode and resize images.
PACKAGES = ("cbjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
IMAGE_PACKAGES = ("simplejpeg", "pillow", "cykooz.resizer", "array_record", "grain")
SETTINGS = ("jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
NO_MATTER = ("commit", "earlier", "python")
P = ParamSpec("P")
T = TypeVar("T")


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function compute in float32, even if the caller has set JAX_ENABLE_X64, which would change figures."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapper


def describe() -> dict[str, Any]:
    """Returns the facts that a run's figures may depend on, JSON values."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in (*PACKAGES, *IMAGE_PACKAGES)},
        **{name: getattr(jax.config, name, None) for name in SETTINGS},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # On a CPU the number of cores decides how sums are split, and its kind decides the instructions.
        "cores": machine.cores(),
        "processor": _processor(),
    }


def differences(former: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Returns a line for each fact that differs from a former environment, which must have noted it."""
    return [
        f"{key}: {former[key]} there, {value} here"
        for key, value in facts.items()
        if key in former and key not in NO_MATTER and former[key] != value
    ]


def note(former: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Returns the line that a resumed run prints if its environment changed; no line if it did not."""
    found = differences(former, facts)
    return [f"the environment differs, so last digits may differ: {'; '.join(found)}"] if found else []


def added(former: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns facts, with the facts of earlier parts of the run under "earlier", oldest first."""
    earlier = [*former.get("earlier", ())]
    if former and differences(former, facts):
        earlier.append({key: value for key, value in former.items() if key != "earlier"})
    return {**facts, "earlier": earlier}


def commit() -> str | None:
    """Returns the commit of cbjax's own repository; None if it is installed without one."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments):
        # Git's hooks set variables that name another repository, so leave them out.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", *arguments]
        done = subprocess.run(command, check=True, cwd=root, env=clean, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        # site-packages may lie inside a repository of the user.
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        git("ls-files", "--error-unmatch", "cbjax/workdir/environment.py")
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, ValueError):
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
