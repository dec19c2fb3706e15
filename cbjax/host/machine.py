"""What of this machine a process may take: memory and cores."""

import os
import pathlib

CONTROL_GROUPS = pathlib.Path("/sys/fs/cgroup")
OWN = pathlib.Path("/proc/self/cgroup")  # names those that this process is in


def free_bytes() -> float:
    """Returns the memory that this process may still take, bytes.

    Of Linux what the kernel says is available, pages that only keep files in memory included, within the limits of its
    control groups, as containers and job schedulers set them; elsewhere the free pages, or 4 GiB where not even those
    are known.
    """
    return float(min([_available(), *_of_control_groups()]))


def cores() -> int:
    """Returns how many cores this process may use: those it is bound to, within the shares of its control groups."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        found = os.cpu_count() or 1
    for folder in _control_groups():
        try:
            share, period = (folder / "cpu.max").read_text().split()  # microseconds of cores, in so many of time
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
    """Returns what the limit of memory of each control group that this process is in leaves."""
    left = []
    for folder in _control_groups():
        try:
            limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        except OSError:  # the outermost has no limit, and above it are other folders
            continue
        if limit != "max":
            files = _numbers(folder / "memory.stat").get("inactive_file", 0)  # given up when memory runs short
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
    """Reads lines of a name and a number."""
    try:
        fields = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {one[0]: int(one[1]) for one in fields if len(one) > 1 and one[1].isdigit()}
