"""Times a training step of each method against one of cross entropy, in turns, in one process.

Run by hand: python tests/benchmarks/method_cost.py sharpness.name=sam "meta.name=l2rw data.meta=5"
Each argument is a method: its keys, as they are given to `cbjax train`, with spaces between them. A step is that of
training, with everything from the choice of images to the update. Data: random images in the shape of CIFAR-10, with a
long tail; ResNet-32, batch 128 (also of meta images). Rounds of steps alternate between the methods, and the ratio is
taken round by round, so that other work on the machine falls on all. Compilation is excluded, and so is the first step
of each turn, which fetches memory again. On a busy machine read the ratio of processor time; it also counts threads
that wait. --out=FILE adds the ratios to a file after each round.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from cbjax import config as configs
from cbjax import data
from cbjax.cli import startup
from cbjax.parallel import sharding
from cbjax.training import build

CLASSES = 10
CLOCKS = ("time", "processor time")


class Steps:
    """A run that can be taken some steps further and timed."""

    def __init__(self, keys, path, model, batch_size):
        given = [f"data.file={path}", f"model.name={model}", f"batch_size={batch_size}", "devices=1"]
        if "meta.name" in keys:
            given.append(f"meta.batch_size={batch_size}")
        config = configs.load("cifar_lt:cui", [*_PLAIN, *given, *keys.split()])
        self.parts = build.build(config, data.of_config(config), sharding.make_mesh(1))
        self.state, self.step = self.parts.init(), 0
        self.take(1)

    def take(self, count):
        for _ in range(count):
            self.state, metrics = self.parts.advance(self.state, self.step, self.step + 1)
            self.step += 1
        jax.block_until_ready((self.state.params, metrics))

    def seconds(self, count):
        """Returns the mean time of a step over `count` steps, and the mean time of all processors."""
        self.take(1)
        started = time.perf_counter(), time.process_time()
        self.take(count)
        return (time.perf_counter() - started[0]) / count, (time.process_time() - started[1]) / count


_PLAIN = (
    *("data.name=arrays", "data.longtail=natural", "data.imbalance=1", "loss.name=softmax", "weights.name=uniform"),
    *("steps_per_dispatch=1", "num_epochs=1000"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="keys of a method: 'loss.name=ghm loss.bins=30'")
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="steps of each method in a round")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to add the ratios to")
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    startup.set_flags(deterministic=False)  # those of `cbjax train`
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "random.npz")
        np.savez(path, **_images())
        methods = {"cross entropy": "", **{keys: keys for keys in arguments.methods}}
        runs = {name: Steps(keys, path, arguments.model, arguments.batch_size) for name, keys in methods.items()}
    times = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name].append(run.seconds(arguments.steps))
        about = f"{arguments.model}, batch {arguments.batch_size}, {jax.devices()[0].device_kind}"
        about += f", rounds of {arguments.steps} steps, load {os.getloadavg()[0]:.1f}"
        found = {name: {"about": about, **_ratios(own, times["cross entropy"])} for name, own in times.items()}
        if arguments.out:  # after each round, so that an end before the last one loses one at most
            arguments.out.write_text(json.dumps(before | found, indent=1) + "\n")
    print(f"{about}; medians of {arguments.rounds} rounds (least and most):")
    for name, own in times.items():
        print(f"  {name}: {1000 * statistics.median(seconds for seconds, _ in own):.1f} ms")
        for clock in CLOCKS:
            ratios = found[name][clock]
            middle, span = statistics.median(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"    {clock}: {middle:.3f} ({span}) of cross entropy's")


def _ratios(own, plain):
    """Returns for each clock the ratios of a method's steps to those of cross entropy, round by round."""
    return {
        clock: [round(ours[place] / theirs[place], 4) for ours, theirs in zip(own, plain, strict=True)]
        for place, clock in enumerate(CLOCKS)
    }


def _images():
    """Returns random images with a long tail, 500 down to 10 of a class, and a few to test."""
    rng = np.random.default_rng(0)
    counts = np.geomspace(500, 10, CLASSES).astype(int)
    labels = np.repeat(np.arange(CLASSES), counts)
    few = np.arange(CLASSES)
    arrays = {"train_labels": labels, "test_labels": few, "validation_labels": few}
    for split in ("train", "test", "validation"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (len(arrays[f"{split}_labels"]), 32, 32, 3), np.uint8)
    return arrays


if __name__ == "__main__":
    main()
