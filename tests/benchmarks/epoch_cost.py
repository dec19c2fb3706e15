"""Times an epoch of CDB against a plain epoch with the same validation pass, in turns, in one process.

Run by hand: python tests/benchmarks/epoch_cost.py [--epochs=30]
LeNet-5 on random 28x28 images: 5,000 for training, 1,000 held out, batch 100. Compilation is excluded; nothing is saved
or written, so that what differs is the computing of the class weights alone.
"""

import argparse
import contextlib
import pathlib
import statistics
import tempfile
import time

import numpy as np

from cbjax import config as configs
from cbjax import data
from cbjax.host.interrupts import Interrupts
from cbjax.host.progress import Silent
from cbjax.parallel import sharding
from cbjax.training import build, callbacks, loop, reweight
from cbjax.types import Run
from cbjax.workdir import memory


class Epochs:
    """One run that can be taken an epoch further and timed."""

    def __init__(self, path, weights):
        settings = {"data.name": "arrays", "data.file": str(path), "model.name": "lenet5", "weights.name": weights}
        overrides = [f"{key}={value}" for key, value in settings.items()]
        config = configs.load("mnist_binary", [*overrides, *_NATURAL])
        mesh = sharding.make_mesh(1)
        dataset = data.prepare(config.data, 0)
        self.parts = build.build(config, dataset, mesh)
        self.run = Run(config, self.parts.model, self.parts.init(), {}, dataset.class_names, memory=memory.start(10))
        place = lambda array: sharding.replicate(array, mesh)  # noqa: E731
        self.after = [callbacks.log_tau(self.parts.reweighting, "paper")] if weights == "difficulty" else []
        self.after.append(callbacks.evaluate_validation(self.parts.evaluate("validation"), reweight.smoothing(0.0)))
        self.after.append(callbacks.reweight(self.parts.reweighting, place))

    def seconds(self):
        plan = loop.Plan(
            advance=self.parts.advance,
            epoch_end=self.parts.batches.epoch_end,
            num_epochs=self.run.memory.epoch + 1,
            steps_per_dispatch=self.parts.steps_per_dispatch,
            learning_rates=[self.parts.schedule],
            after_epoch=loop.in_order(self.after),
            save=lambda cohort: None,
            diverged=loop.give_up,
        )
        started = time.perf_counter()
        self.run = loop.fit(loop.Cohort.of_one(self.run), plan, Interrupts(), Silent()).run
        return time.perf_counter() - started


_NATURAL = (
    "data.classes=()",
    "data.longtail=natural",
    "data.majority_ratio=none",
    "data.train_size=none",
    "data.validation=0",
    "data.test=0",
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    count = parser.parse_args().epochs
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()), "random.npz")
        arrays = {}
        for split, size in (("train", 5000), ("validation", 1000), ("test", 10)):
            arrays[f"{split}_images"] = rng.integers(0, 256, (size, 28, 28), np.uint8)
            arrays[f"{split}_labels"] = np.arange(size) % 10
        np.savez(path, **arrays)
        plain, cdb = Epochs(path, "uniform"), Epochs(path, "difficulty")
        for epochs in (plain, cdb):
            epochs.seconds()
        times = [(plain.seconds(), cdb.seconds()) for _ in range(count)]
    for name, values in zip(("plain", "CDB"), zip(*times, strict=True), strict=True):
        print(
            f"{name}: median {1000 * statistics.median(values):.1f} ms an epoch with its validation pass, n = {count}"
        )
    print(f"CDB / plain: median of the ratios {statistics.median(b / a for a, b in times):.4f}")


if __name__ == "__main__":
    main()
