"""Trains on videos whose classes differ by motion alone: networks that see it or not, and cross entropy beside CDB.

    python tests/benchmarks/motion.py [--seeds=10] [--out=FILE]

Clips of eight frames, H.264: a square goes right, goes left, or there and back. All classes visit the same places, so
a frame, and the set of frames without their order, tell nothing; start, colours and noise are random. 100, 40 and 10
clips are trained on, 30 of each class choose the epoch and are CDB's validation, 60 of each are the test. The network
has two 3D convolutions; "frame" gives it the middle frame alone, "order-blind" has kernels of one frame. Prints the
recall of each class for each seed, and the paired difference of the worst class's recall with its interval (t, 95 %).
FILE gets them in JSON. Seeds change the first values, the order and CDB's way; the clips stay.
"""

import argparse
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

import cbjax
from cbjax import config as configs
from tests import clips, own_nets

SPLITS = {"train": (100, 40, 10), "val": (30, 30, 30), "test": (60, 60, 60)}
COMMON = (
    *("data.name=folder", "data.longtail=natural", "data.imbalance=1", "data.validation=0", "data.test=0"),
    "data.flip=false",
    *("data.normalization=imagenet", "data.image_size=16", "data.resize=16", "data.crop_padding=0"),
    *("data.crop=square", "data.frames=8", "data.threads=2", "devices=1", "batch_size=16", "num_epochs=30"),
    *("optim.schedule=cosine", "optim.warmup=0.1", "optim.learning_rate=0.1", "optim.weight_decay=1e-4"),
    *("log.tensorboard=false", "log.report=false", "log.progress=off"),
)
WAYS = {
    "cross entropy": ("method=ce",),
    "CDB": ("method=cdb",),
    "frame": ("method=cdb", "data.frames=1"),
    "order-blind": ("method=cdb", "model.options.depth=1"),
}


def recalls(root, way, seed, workdir):
    """Trains once; returns the recall of each class in the test, of the epoch that is best in validation."""
    own = f"model.name={own_nets.__file__}:movement"
    config = configs.load("own_images", [*COMMON, own, f"data.root={root}", f"seed={seed}", *WAYS[way]])
    cbjax.train(config, workdir)
    return json.loads((pathlib.Path(workdir) / "results.json").read_text())["per_class"]["best"]


class Difference(NamedTuple):
    """What CDB's recall of its worst class is above cross entropy's: for each seed, the mean, and half its interval."""

    each: list[float]
    mean: float
    half: float


def difference(table):
    """Returns the paired difference of the worst class; the interval is that of Student's t, 95 %."""
    from scipy import stats

    found = np.subtract(*(np.min(table[way], axis=1) for way in ("CDB", "cross entropy")))
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return Difference(found.tolist(), float(found.mean()), float(half))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "clips")
        clips.write_motions(root, SPLITS)
        table = {way: [] for way in options.ways}
        for seed in range(options.seeds):
            for way in table:
                table[way].append(recalls(root, way, seed, pathlib.Path(folder, f"{way}{seed}")))
                print(f"{way}, seed {seed}: {np.round(table[way][-1], 3).tolist()}", flush=True)
    for way, rows in table.items():
        worst, mean = np.min(rows, axis=1), np.mean(rows, axis=1)
        print(f"{way}: worst class {worst.mean():.3f} ± {worst.std(ddof=1):.3f}, mean of classes {mean.mean():.3f}")
    if {"CDB", "cross entropy"} <= set(table):
        found = difference(table)
        print(f"CDB less cross entropy, worst class: {found.mean:+.3f} ± {found.half:.3f}, n = {options.seeds}")
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
