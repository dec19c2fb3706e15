"""Times a training step of each method against one of cross entropy, in turns, in one process.

Run by hand: python tests/benchmarks/method_cost.py sharpness.name=sam "meta.name=l2rw data.meta=5"
Each argument is a method: its keys, as they are given to `cbjax train`, with spaces between them. A step is that of
training, with everything from the choice of images to the update. Data: random images in the shape of CIFAR-10, with a
long tail; ResNet-32, batch 128 (also of meta images). Rounds of steps alternate between the methods, and the ratio is
taken round by round, so that other work on the machine falls on all. Compilation is excluded, and so is the first step
of each turn, which fetches memory again. On a busy machine read the ratio of processor time; it also counts threads
that wait.
"""

import argparse
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
    arguments = parser.parse_args()
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
    device, load = jax.devices()[0].device_kind, os.getloadavg()[0]
    print(f"{arguments.model}, batch {arguments.batch_size}, {device}, load {load:.1f}")
    print(f"medians of {arguments.rounds} rounds of {arguments.steps} steps (least and most):")
    for name, own in times.items():
        print(f"  {name}: {1000 * statistics.median(seconds for seconds, _ in own):.1f} ms")
        for place, clock in enumerate(("time", "processor time")):
            ratios = sorted(ours[place] / plain[place] for ours, plain in zip(own, times["cross entropy"], strict=True))
            print(
                f"    {clock}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) of cross entropy's"
            )


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
