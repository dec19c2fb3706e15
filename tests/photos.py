"""Small sets of encoded images for tests: classes that differ in brightness, in every kind of order on disk."""

import io
import pathlib

import numpy as np
from PIL import Image


def photo(label, number, kind="JPEG"):
    """Returns an encoded image of about 40×50 pixels; its class shows in its brightness, its number in its pattern."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 60, (40 + number % 7, 50 - number % 5, 3)) + 60 * label
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_photo(path, label, seed):
    path.write_bytes(photo(label, seed))


def write_tree(root, splits, names=("ant", "bee", "cat"), ending="jpg", write=write_photo):
    """Writes root/SPLIT/CLASS/NUMBER.jpg; splits: name -> images of each class. Returns split -> [(path, label)].

    `write` makes a file from its path, label and seed.
    """
    rows = {}
    for offset, (split, counts) in enumerate(splits.items()):
        rows[split] = []
        for label, (name, count) in enumerate(zip(names, counts, strict=True)):
            folder = pathlib.Path(root, split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                write(folder / f"{number}.{ending}", label, 1000 * offset + number)
                rows[split].append((f"{split}/{name}/{number}.{ending}", label))
    return rows


def write_list(path, rows):
    """Writes `path label` lines."""
    path.write_text("".join(f"{image} {label}\n" for image, label in rows))
    return path


def write_csv(path, rows, names=("ant", "bee", "cat")):
    """Writes a table of path and label name."""
    path.write_text("path,label\n" + "".join(f"{image},{names[label]}\n" for image, label in rows))
    return path
