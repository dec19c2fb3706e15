"""Finds how much memory and how many cores a process may use on this machine."""

import os
import pathlib

CONTROL_GROUPS = pathlib.Path("/sys/fs/cgroup")
OWN = pathlib.Path("/proc/self/cgroup")  # names the control groups that this process is in


def free_bytes() -> float:
    """Returns the memory that this process may still take, in bytes.

    On Linux this is what the kernel calls available, with pages that only cache files, within the limits of the control
    groups that containers and job schedulers set. On other systems it is the free pages, or 4 GiB if unknown.
    """
    return float(min([_available(), *_of_control_groups()]))


def cores() -> int:
    """Returns how many cores this process may use: the cores it is bound to, within its control groups' limits."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        found = os.cpu_count() or 1
    for folder in _control_groups():
        try:
            share, period = (folder / "cpu.max").read_text().split()  # microseconds of cores in a period of time
        except OSError:
            continue
        if share != "max":
            found = min(found, int(share) // int(period))
    return max(1, found)


def _available() -> float:
    found = _numbers(pathlib.Path("/proc/meminfo")).get("MemAvailable:")
    if found is not None:
        return found * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not on every system
        return 4 << 30


def _of_control_groups() -> list[float]:
    """Returns, for each control group of this process with a limit, how much memory is left."""
    left = []
    for folder in _control_groups():
        try:
            limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        except OSError:  # the outermost group has no such file, nor have the folders above it
            continue
        if limit != "max":
            files = _numbers(folder / "memory.stat").get("inactive_file", 0)  # freed when memory runs short
            left.append(max(0.0, int(limit) - int(used) + files))
    return left


def _control_groups() -> list[pathlib.Path]:
    """Returns the folders of the control groups (version 2) that this process is in, its own first."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return [] if own is None else [CONTROL_GROUPS / own, *(CONTROL_GROUPS / own).parents]


def _numbers(path: pathlib.Path) -> dict[str, int]:
    """Reads lines that hold a name and a number."""
    try:
        fields = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {one[0]: int(one[1]) for one in fields if len(one) > 1 and one[1].isdigit()}
