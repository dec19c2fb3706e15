"""The images of a landscape, batch by batch on the devices: placed once, or read again at each walk."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cbjax.data import Encoded, Split
from cbjax.data.stream import Sweep, stream
from cbjax.landscape.subject import Subject
from cbjax.parallel import sharding
from cbjax.training import input_paths
from cbjax.training.streaming import with_stand_ins
from cbjax.types import Batch
from cbjax.workdir.bad_images import BadImages

VALUES = 1_500_000  # numbers in a batch of images: enough for a device, little beside the network's own memory

# Each call walks through all images: (batch on the devices, [C + 1] images in it, of each class and of all).
Batches = Callable[[], Iterator[tuple[Batch, np.ndarray]]]


def some(examples: Split, chosen: np.ndarray) -> Split:
    """Returns the images at the chosen positions."""
    return Split(examples.images[chosen], examples.labels[chosen])


def batch_size(subject: Subject, size: int, values: int = VALUES) -> int:
    """Returns how many of `size` images to take at once, so that there are few batches of almost equal size.

    A batch has at most `values` numbers, or as many images as a batch of the run if these have more.
    """
    config = subject.run.config
    shape = subject.examples.images.shape[1:]
    most = max(config.evaluation.batch_size or config.batch_size, values // int(np.prod(shape)))
    count = math.ceil(size / most)
    return math.ceil(size / count)


def rounded(size: int, multiple: int) -> int:
    """Returns the least multiple of `multiple` that is at least `size`."""
    return multiple * math.ceil(size / multiple)


def in_batches(subject: Subject, examples: Split, size: int, place: Callable[[Any], Any]) -> Batches:
    """Returns a function that walks through images: it yields batches on the devices, and how many images of
    each class, and of all, are in them.

    Images in memory are placed once. Encoded ones are read again at each walk, by the run's evaluation transform; those
    that cannot be read count nowhere if the run skips such.

    Args:
      subject: whose images they are.
      examples: the images.
      size: of a batch; the last one is filled up with masked images.
      place: puts a batch on the devices.
    """

    def shown(batch):
        labels, mask = batch["label"], batch["mask"]
        of_class = np.bincount(labels[mask], minlength=subject.num_classes) if labels.ndim == 1 else labels[mask] > 0
        return np.append(of_class if labels.ndim == 1 else of_class.sum(axis=0), mask.sum())

    sweep = Sweep(len(examples), size)
    if not isinstance(examples.images, Encoded):
        kept = []
        for step in range(sweep.num_steps):
            positions = sweep.indices(step)
            batch = {"image": examples.images[positions], "label": examples.labels[positions], "mask": positions >= 0}
            kept.append((place(batch), shown(batch)))
        return lambda: iter(kept)
    config = subject.run.config
    transform = input_paths.evaluation_transform(config)
    assert transform is not None, "encoded images come from a streamed source"
    reading = input_paths.reading(config, BadImages(None).add)

    def walk():
        for batch in stream(examples, sweep, transform, reading, start=0, stop=sweep.num_steps):
            # Statistics of a batch must come from real images; masked ones count nowhere else.
            yield place(with_stand_ins(batch, size)), shown(batch)

    return walk


def everywhere(mesh: Mesh) -> Callable[[Any], Any]:
    """Returns what puts a whole batch on each device."""
    return lambda batch: sharding.replicate(batch, mesh)
