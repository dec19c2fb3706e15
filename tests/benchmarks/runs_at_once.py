"""Times runs at once against one after another, in turns, in one process: the steps a second of all runs together.

Run by hand: python tests/benchmarks/runs_at_once.py [--config=mnist_binary] [--runs=1,2,4] [--rounds=10] [--seconds=1]
The config is one of MNIST or CIFAR; its images here are random. "vmap" has all runs on one device, "devices" as many on
every device, which on a CPU are its cores. Compilation is excluded.
"""

import argparse
import functools
import statistics

import numpy as np

from cbjax import config as configs
from cbjax import data
from cbjax.cli.startup import keep_compiled_programs, make_cores_devices, set_flags
from cbjax.data.records import Source, Split
from cbjax.parallel import sharding
from cbjax.sweeps import modes
from cbjax.sweeps.file import PlannedRun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist_binary")
    parser.add_argument("--runs", default="1,2,4", help="runs on a device, a comparison for each number")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    arguments = parser.parse_args()
    make_cores_devices()
    set_flags(deterministic=False)
    keep_compiled_programs()
    modes.SECONDS = arguments.seconds
    devices, numbers = sharding.count_devices(), [int(one) for one in arguments.runs.split(",")]
    alone, everywhere = sharding.make_mesh(1), sharding.make_mesh()
    runs = [planned(arguments.config, seed) for seed in range(devices * max(numbers))]
    dataset = data.of_config(runs[0].config, load)
    rates = {"loop": lambda: modes._loop_rate(runs[0], dataset, alone)}
    for number in numbers:
        if number > 1:
            rates[f"vmap, {number} runs"] = functools.partial(modes._cohort_rate, runs[:number], alone, number, load)
        if devices > 1:
            name, spread = f"devices, {devices} x {number} runs", runs[: devices * number]
            rates[name] = functools.partial(modes._cohort_rate, spread, everywhere, number, load)
    found = [{name: rate() for name, rate in rates.items()} for _ in range(arguments.rounds)]
    print(f"{arguments.config}, {sharding.describe(everywhere)}, medians of {arguments.rounds} rounds")
    for name in rates:
        ratio = statistics.median(one[name] / one["loop"] for one in found)
        print(f"{name}: {statistics.median(one[name] for one in found):.1f} steps/s, {ratio:.2f} times the loop's")


def planned(config, seed):
    return PlannedRun(f"seed_{seed}", {"seed": str(seed)}, configs.load(config, [f"seed={seed}"]))


COUNTS = {"mnist": (6000, 10), "cifar10": (5000, 10), "cifar20": (2500, 20), "cifar100": (500, 100)}


@functools.lru_cache(maxsize=1)
def load(name, **places):
    """Gives random images, as many as there are real ones."""
    shape, (number, classes) = (28, 28, 1) if name == "mnist" else (32, 32, 3), COUNTS[name]
    rng = np.random.default_rng(0)

    def split(number):
        labels = np.repeat(np.arange(classes, dtype=np.int32), number)
        return Split(rng.integers(0, 256, (len(labels), *shape), np.uint8), labels)

    return Source(split(number), None, split(1000), tuple(str(i) for i in range(classes)))


if __name__ == "__main__":
    main()
