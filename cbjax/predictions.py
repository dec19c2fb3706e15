"""Predictions of a trained run for a folder of images or an .npz, written as CSV or JSON lines."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cbjax import inputs
from cbjax import workdir as workdirs
from cbjax.config import ConfigError
from cbjax.data import DataError
from cbjax.data.decode import DecodeError, decode
from cbjax.data.files import SUFFIXES, list_images
from cbjax.restore import load
from cbjax.storage import Place
from cbjax.text import csv_line

FORMATS = (".csv", ".jsonl")
BATCH = 256


def predict(
    workdir: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    checkpoint: str = "last",
    top: int = 1,
) -> int:
    """Writes the most probable classes of each image, in the order of their names; returns the number of images.

    Args:
      workdir: of a trained run.
      images: a folder, searched whole, or an .npz with "images" as the run was trained on.
      out: a .csv with the columns image, class_1, probability_1 … class_k, probability_k, or a .jsonl with an object a
        line: "image", "classes", "probabilities". A .jsonl has names as they are; a .csv shows control codes as \\x1b
        and has an apostrophe before what a spreadsheet would calculate. Replaced only once every image is predicted.
      checkpoint: "last" or "best".
      top: k, how many classes of each image.

    Raises:
      ConfigError: if the format of `out` is unknown.
      DataError: if there are no images, or one cannot be read; its name is said.
      WorkdirError: if the directory holds no run or no such checkpoint.
    """
    out, source = pathlib.Path(out).expanduser(), pathlib.Path(images).expanduser()
    if out.suffix not in FORMATS:
        raise ConfigError(f"--out must end in {' or '.join(FORMATS)}; got {out}")
    run = load(workdir, checkpoint=checkpoint)
    assert run.predict is not None, "a loaded run predicts"
    place = Place(workdir)
    shape = tuple(workdirs.read_facts(place.files)["image_shape"])
    batches = _from_arrays(source) if source.suffix == ".npz" else _from_folder(source, run.config, shape)
    top = min(top, len(run.class_names))
    count, temporary = 0, out.with_name(out.name + ".part")
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)
        file = stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))
        write = _csv_writer(file, top) if out.suffix == ".csv" else _json_writer(file)
        for names, pixels in batches:
            try:
                chances = run.predict(pixels)
            except ValueError as error:
                raise DataError(f"{source}: {error}") from error
            for name, row in zip(names, chances, strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                write(name, [run.class_names[c] for c in best], [float(row[c]) for c in best])
            count += len(names)
        file.close()
        os.replace(temporary, out)
    return count


def _from_arrays(path: pathlib.Path) -> Iterator[tuple[list[str], np.ndarray]]:
    from cbjax.data.arrays import read

    arrays = read(path)
    if "images" not in arrays:
        raise DataError(f"{path} has no images among its keys {sorted(arrays)}: write them with numpy.savez(images=…)")
    images = arrays["images"]
    for first in range(0, len(images), BATCH):
        part = images[first : first + BATCH]
        yield [str(first + i) for i in range(len(part))], part


def _from_folder(root: pathlib.Path, config: Any, shape: tuple[int, ...]) -> Iterator[tuple[list[str], np.ndarray]]:
    if not root.is_dir():
        raise DataError(f"there is no folder and no .npz {root}")
    files = [root / name for name in list_images(root, root)]
    if not files:
        raise DataError(f"{root} has no image, a file that ends in {', '.join(SUFFIXES)}")
    transform = inputs.evaluation_transform(config) or _fit(shape)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(files), BATCH):
            part = files[first : first + BATCH]
            pixels = np.stack(list(pool.map(lambda path: _read(path, transform), part)))
            yield [str(path.relative_to(root)) for path in part], pixels


def _read(path, transform):
    try:
        return transform(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise DataError(f"{path}: it cannot be read ({error}); repair it or leave it out") from error


def _fit(shape: tuple[int, ...]) -> Callable[[bytes], np.ndarray]:
    """Brings an image to the size and the channels of a run whose images had one size from the start."""
    from PIL import Image

    height, width, channels = shape

    def transform(data):
        image = Image.fromarray(decode(data)).convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(shape)

    return transform


def _csv_writer(file, top):
    places = range(1, top + 1)
    file.write(csv_line(["image", *(name for i in places for name in (f"class_{i}", f"probability_{i}"))]) + "\r\n")

    def write(name, classes, chances):
        pairs = zip(classes, chances, strict=True)
        file.write(csv_line([name, *(value for pair in pairs for value in (pair[0], f"{pair[1]:.6g}"))]) + "\r\n")

    return write


def _json_writer(file):
    def write(name, classes, chances):
        row = {"image": name, "classes": classes, "probabilities": chances}
        # Names as people read them; JSON's own escapes where a terminal or a reader of UTF-8 could not take them.
        readable = all(text.isprintable() for text in (name, *classes))
        file.write(json.dumps(row, ensure_ascii=not readable) + "\n")

    return write
