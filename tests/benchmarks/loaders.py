"""Times loaders of images or clips in turns, each in a process of its own, on two cores, for `input` and `clips`."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

MEASURED = 8  # times that the resident memory is looked at in a round, at least


def usage() -> tuple[float, float]:
    """Returns the seconds on a core, of ended workers too, and the resident MiB of this process and all below it."""
    stats = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            stats[path.parent.name] = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
    family, grown = {str(os.getpid())}, True
    while grown:
        below = {pid for pid, fields in stats.items() if fields[1] in family} - family
        family, grown = family | below, bool(below)
    seconds = sum(int(ticks) for pid in family for ticks in stats[pid][11:15]) / os.sysconf("SC_CLK_TCK")
    return seconds, sum(int(stats[pid][21]) for pid in family) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(batches: Iterable[Any], what: str, size: int, warm: int, steps: int) -> dict[str, Any]:
    """Times the batches behind the first `warm` ones, of which there are `steps`, of `size` images or clips each."""
    rest = iter(batches)
    for _ in range(warm):
        next(rest)
    started, (seconds, memory) = time.perf_counter(), usage()
    resident, count = [memory], 0
    for step, _ in enumerate(rest, 1):
        count += size
        if step % max(1, steps // MEASURED) == 0:
            resident.append(usage()[1])
    passed = time.perf_counter() - started
    return {
        f"{what}_per_second": count / passed,
        f"{what}_per_core_second": count / (usage()[0] - seconds),
        "resident_mib": resident,
    }


def main(
    script: str,
    what: str,
    ways: Mapping[str, str],
    measure_way: Callable[[str, str, int], dict[str, Any]],
    write_files: Callable[[pathlib.Path], None],
    epochs: int,
) -> None:
    """Runs a benchmark's command line.

    Args:
      script: its file, which is started again for each measurement.
      what: "images" or "clips".
      ways: way of loading -> the option with the path of its Python; "" for this Python.
      measure_way: (way, folder, epochs) -> what `measure` returns.
      write_files: writes the files into an empty folder.
      epochs: passes over the files in a round.
    """
    parser = argparse.ArgumentParser()
    for option in dict.fromkeys(filter(None, ways.values())):
        parser.add_argument(f"--{option}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--out")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_way(*options.measure, options.epochs)))
        return
    pythons = {name: getattr(options, option) if option else sys.executable for name, option in ways.items()}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    rounds: dict[str, list[dict]] = {name: [] for name, python in pythons.items() if python}
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder))
        sizes = [path.stat().st_size for path in pathlib.Path(folder).glob("*/*")]
        load = os.getloadavg()[0]
        print(f"{len(sizes)} files of {statistics.mean(sizes) / 1000:.0f} KB; load {load:.1f} before the first round")
        for _ in range(options.rounds):
            for name, taken in rounds.items():
                command = [pythons[name], script, "--measure", name, folder, f"--epochs={options.epochs}"]
                load = os.getloadavg()[0]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                taken.append(json.loads(done.stdout.splitlines()[-1]) | {"load": load})
    for name, taken in rounds.items():
        _tell(name, what, taken, rounds["cbjax"])
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(rounds, indent=1) + "\n")


def _tell(name, what, taken: Collection[dict], ours: Collection[dict]):
    for clock, unit in ((f"{what}_per_second", "on 2 cores"), (f"{what}_per_core_second", "a core")):
        values = [one[clock] for one in taken]
        ratios = [mine[clock] / other for mine, other in zip(ours, values, strict=True)]
        print(
            f"{name}: median {statistics.median(values):.4g} {what}/s {unit}, {min(values):.4g} to {max(values):.4g}, "
            f"n = {len(values)}; cbjax is {statistics.median(ratios):.2f} times as fast"
        )
    resident = [one["resident_mib"] for one in taken]
    print(
        f"{name}: {statistics.median(values[0] for values in resident):.0f} MiB resident after the first batches, "
        f"{statistics.median(values[-1] for values in resident):.0f} after the last, at most "
        f"{max(map(max, resident)):.0f}"
    )
