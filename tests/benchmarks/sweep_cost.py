"""Trains a sweep of many tiny runs, and says what a run costs beside its training, how memory grows, and the report.

Run by hand: python tests/benchmarks/sweep_cost.py --runs=650 --epochs=1
A run of one epoch is almost only overhead, which a long run has too: its seconds are measured.
Memory is this process's resident set when a tenth of the runs, half of them and all but the last have ended.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time

from cbjax.cli.startup import set_flags
from cbjax.report import report_sweep
from cbjax.sweeps import file
from cbjax.sweeps.sweep import sweep
from cbjax.variants import Sweep, Table, choices, product, seeds

METHODS = {"CE": {"weights.name": "uniform"}, "CDB": {"weights.name": "difficulty"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=650)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--mode", default="loop", choices=("loop", "vmap"))
    parser.add_argument("--group_size", type=int, default=None)
    arguments = parser.parse_args()
    set_flags(deterministic=False)
    described = Sweep(
        "digits_lt",
        product(choices("size", {"tiny": {}}), choices("method", METHODS), seeds(arguments.runs // len(METHODS))),
        Table("Tiny runs", rows=("method",), columns="size"),
    )
    quick = [f"num_epochs={arguments.epochs}", "log.tensorboard=false"]
    ended, memory = [time.perf_counter()], []

    def note(line):
        if line.startswith("training in"):
            ended.append(time.perf_counter())
            memory.append(resident_mib())

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "many.py"
        runs = planned(described, quick, path)
        _, failed = sweep(
            "many", described, runs, folder, mode=arguments.mode, group_size=arguments.group_size, tell=note
        )
        assert not failed, failed
        started = time.perf_counter()
        report_sweep(folder)
        reported = time.perf_counter() - started
        spent = [json.loads(one.read_text())["seconds"] for one in pathlib.Path(folder).rglob("results.json")]
    between = [after - before for before, after in itertools.pairwise(ended[1:])]
    print(f"{len(spent)} runs of {arguments.epochs} epochs, mode {arguments.mode}, {os.cpu_count()} cores")
    if between:
        print(f"a run: {statistics.median(between):.2f} s, of which training {statistics.median(spent):.2f} s")
        tenth = len(between) // 10
        first, last = statistics.median(between[:tenth]), statistics.median(between[-tenth:])
        print(f"the first tenth {first:.2f} s a run, the last {last:.2f} s")
    told = ", ".join(f"{memory[at]:,.0f}" for at in (len(memory) // 10, len(memory) // 2, -1))
    print(f"memory, MiB, after a tenth, after half and at the last run: {told}")
    print(f"the report of all: {reported:.1f} s")


def planned(described, quick, path):
    """Resolves the runs, by way of a file as the command does."""
    lines = ("from cbjax.variants import *", "def get_sweep():", f"    return {described!r}", "")
    path.write_text("\n".join(lines))
    return file.load(path, quick)[1]


def resident_mib():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
