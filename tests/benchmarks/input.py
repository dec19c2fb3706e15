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

import functools
import math
import os
import pathlib
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import loaders  # beside this file

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
    from cbjax.data.batches import Batches
    from cbjax.data.crops import TrainTransform
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


def measure(name, folder, epochs):
    return loaders.measure(WAYS[name](folder, epochs), "images", BATCH, WARM, epochs * COUNT // BATCH)


if __name__ == "__main__":
    pythons = {"cbjax": "", "pytorch": "pytorch", "tensorflow": "tensorflow", "tensorflow_exact": "tensorflow"}
    loaders.main(__file__, "images", pythons, measure, write_files, epochs=1)
