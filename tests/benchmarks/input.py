"""Times the streaming input: JPEG decode, random resized crop to 224, flip, batches of 128; images/s on two cores.

    python tests/benchmarks/input.py [--pytorch=PATH] [--tensorflow=PATH] [--rounds=5] [--epochs=1] [--out=FILE]

PATH: a python with torch and Pillow, or with tensorflow; this one needs cbjax. Each reads the same 2,048 files in the
same way as its users do: PyTorch's DataLoader, two workers, Pillow; tf.data's fused decode-and-crop, as it is by
default (a faster and less exact DCT, no smoothing where an image shrinks) and with the exact DCT and the smoothing of
the other two. They take turns, each in a process of its own; the first batches, in which threads and workers start, are
not counted. The files are 500×375, cut from the photographs of scikit-learn and, where it is installed, scikit-image.
Beside the wall clock there is the time on a core, which other programs on the machine lengthen less, and the resident
memory; both are those of the process and its workers, and need Linux. FILE gets every round in JSON.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

BATCH, SIDE, COUNT, WARM = 128, 224, 2048, 4


def write_files(folder):
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = list(load_sample_images().images)
    try:
        from skimage import data

        photos += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    except ImportError:
        pass
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        photo = photos[number % len(photos)]
        height = int(
            rng.integers(
                min(photo.shape[0], photo.shape[1] * 3 // 4) // 2, min(photo.shape[0], photo.shape[1] * 3 // 4)
            )
        )
        width = height * 4 // 3
        top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
        image = Image.fromarray(photo[top : top + height, left : left + width]).resize((500, 375))
        (folder / str(number % 8)).mkdir(exist_ok=True)
        image.save(folder / str(number % 8) / f"{number}.jpg", quality=96)


def with_cbjax(folder, epochs):
    from cbjax.data import sources
    from cbjax.data.crops import TrainTransform
    from cbjax.data.sampling import Batches
    from cbjax.data.stream import Reading, stream

    split = sources.load("folder", root=folder, image_size=SIDE).train
    stop = WARM + epochs * COUNT // BATCH
    return stream(split, Batches(COUNT, BATCH, 0), TrainTransform(SIDE, seed=0), Reading(2), start=0, stop=stop)


class Files:
    """What a PyTorch user writes, as torchvision's RandomResizedCrop."""

    def __init__(self, folder, epochs):
        self.epochs = epochs
        self.paths = sorted(map(str, pathlib.Path(folder).glob("*/*.jpg")))

    def __len__(self):
        return self.epochs * len(self.paths) + WARM * BATCH

    def __getitem__(self, index):
        import numpy as np
        import torch
        from PIL import Image

        path = self.paths[index % len(self.paths)]
        with Image.open(path) as file:
            image = file.convert("RGB")
        width, height = image.size
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= width and h <= height:
                break
        else:
            w, h = width, height
        left, top = random.randint(0, width - w), random.randint(0, height - h)
        image = image.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)), int(pathlib.Path(path).parent.name)


def with_pytorch(folder, epochs):
    import torch

    files = Files(folder, epochs)
    return torch.utils.data.DataLoader(files, batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)


def with_tensorflow(folder, epochs, exact=False):
    import tensorflow as tf

    paths = sorted(map(str, pathlib.Path(folder).glob("*/*.jpg")))

    def load(path):
        data = tf.io.read_file(path)
        start, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([start[0], start[1], size[0], size[1]])
        method = "INTEGER_ACCURATE" if exact else ""
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method=method)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (SIDE, SIDE), antialias=exact))
        return tf.cast(image, tf.uint8), 0

    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(COUNT).repeat()
    dataset = dataset.map(load, num_parallel_calls=2).batch(BATCH).prefetch(2).with_options(options)
    return iter(dataset.take(WARM + epochs * COUNT // BATCH).as_numpy_iterator())


WAYS = {
    "cbjax": with_cbjax,
    "pytorch": with_pytorch,
    "tensorflow": with_tensorflow,
    "tensorflow_exact": functools.partial(with_tensorflow, exact=True),
}


def usage():
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


def measure(name, folder, epochs):
    batches = iter(WAYS[name](folder, epochs))
    for _ in range(WARM):
        next(batches)
    started, (seconds, memory), count, resident = time.perf_counter(), usage(), 0, []
    resident.append(memory)
    for step, _ in enumerate(batches, 1):
        count += BATCH
        if step % (epochs * COUNT // BATCH // 8) == 0:
            resident.append(usage()[1])
    passed = time.perf_counter() - started
    return {
        "images_per_second": count / passed,
        "images_per_core_second": count / (usage()[0] - seconds),
        "resident_mib": resident,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pytorch")
    parser.add_argument("--tensorflow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.epochs)))
        return
    pythons = {"cbjax": sys.executable, "pytorch": options.pytorch, "tensorflow": options.tensorflow}
    pythons["tensorflow_exact"] = options.tensorflow
    rounds: dict[str, list[dict]] = {name: [] for name, python in pythons.items() if python}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder))
        mean_size = statistics.mean(path.stat().st_size for path in pathlib.Path(folder).glob("*/*.jpg"))
        print(f"{COUNT} files of {mean_size / 1000:.0f} KB; load {os.getloadavg()[0]:.1f} before the first round")
        for _ in range(options.rounds):
            for name in rounds:
                command = [pythons[name], __file__, "--measure", name, folder, f"--epochs={options.epochs}"]
                load = os.getloadavg()[0]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rounds[name].append(json.loads(done.stdout.splitlines()[-1]) | {"load": load})
    for name, taken in rounds.items():
        for clock, unit in (("images_per_second", "on 2 cores"), ("images_per_core_second", "a core")):
            values = [one[clock] for one in taken]
            ratios = [ours[clock] / other for ours, other in zip(rounds["cbjax"], values, strict=True)]
            print(
                f"{name}: median {statistics.median(values):.0f} images/s {unit}, {min(values):.0f} to "
                f"{max(values):.0f}, n = {len(values)}; cbjax is {statistics.median(ratios):.2f} times as fast"
            )
        resident = [one["resident_mib"] for one in taken]
        print(
            f"{name}: {statistics.median(values[0] for values in resident):.0f} MiB resident after the first batches, "
            f"{statistics.median(values[-1] for values in resident):.0f} after the last, at most "
            f"{max(map(max, resident)):.0f}"
        )
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(rounds, indent=1) + "\n")


if __name__ == "__main__":
    main()
