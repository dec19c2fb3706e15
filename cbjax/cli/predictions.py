"""Writes a trained run's predictions for images in files, folders and arrays, as CSV or JSON lines."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cbjax.cli import calibration_file
from cbjax.config import ConfigError
from cbjax.data import DataError, listing
from cbjax.data.clips.finding import contents
from cbjax.data.clips.given import ClipFit
from cbjax.data.files import require_file
from cbjax.data.given import Fit
from cbjax.data.records import quote
from cbjax.host import machine, npz
from cbjax.host.output import say
from cbjax.host.storage import Place, is_remote, why_no_path
from cbjax.host.text import csv_line
from cbjax.training import inputs, scores
from cbjax.training.predict import MOST, images_at_once
from cbjax.training.restore import load
from cbjax.types import NonFiniteLoss
from cbjax.workdir import data_facts

FORMATS = (".csv", ".jsonl")
ARRAYS = (".npz", ".npy")
Batches = Iterator[tuple[list[str], np.ndarray]]  # names and images


def predict(
    workdir: str | os.PathLike,
    images: Sequence[str | os.PathLike] | str | os.PathLike,
    out: str | os.PathLike,
    *,
    checkpoint: str = "last",
    top: int = 1,
    on_bad_image: str = "error",
    trust_code: bool = False,
    calibration: str | os.PathLike | None = None,
    open_below: float | None = None,
    tell: Callable[[str], None] = say,
) -> tuple[int, int]:
    """Writes the most probable classes of each image; images are in the order of their names.

    Args:
      workdir: work directory of a trained run.
      images: image files, or videos and folders of frames if the run was trained on clips; folders with these at any
        depth; an .npz with "images", or an .npy: arrays [N, H, W] or [N, H, W, channels] in the units of the training.
        Images of another size are resized as in the run.
      out: a .csv with the columns image, class_1, probability_1 … class_k, probability_k; or a .jsonl with an object a
        line: "image", "classes", "probabilities". A .jsonl holds names unchanged. A .csv shows control codes as \\x1b,
        and has an apostrophe before a name that a spreadsheet would calculate. The file is replaced only when every
        image is predicted. An image's name is its path below the folder, or its place in the array; if there are
        several sources, the source's path comes first.
      checkpoint: "last" or "best".
      top: k, the number of classes for each image.
      on_bad_image: "error", or "skip" to leave out files that cannot be read.
      trust_code: as for `load`.
      calibration: calibration.json of `cbjax eval --calibrate`, fitted to this checkpoint. Its temperature changes the
        probabilities; its thresholds change the order of the classes, from the highest probability / threshold.
      open_below: if given, an image whose largest probability is below this number is marked as of no known class: 1
        in the last column, open, of a .csv, or "open": true in a .jsonl (OLTR; `cli.open_set` measures it).
      tell: called with a line about each skipped image, about other files in a folder, and about arrays that may be in
        other units, and with what to know about the probabilities.

    Returns:
      The numbers of images predicted and skipped.

    Raises:
      ConfigError: if the format of `out` is unknown.
      DataError: if there are no images, or one cannot be read; the message names it.
      NonFiniteLoss: if the network's outputs for an image are NaN.
      WorkdirError: if the directory holds no run or no such checkpoint.
    """
    out = _checked_out(os.path.expanduser(out))
    given = [images] if isinstance(images, str | os.PathLike) else images
    for one in given:
        if is_remote(one):
            raise DataError(f"{os.fspath(one)}: only files on this machine can be read: copy the images first")
    sources = [pathlib.Path(os.path.expanduser(one)) for one in given]
    for source in sources:
        if not source.exists():
            raise DataError(f"there is no file or folder {source}")
    run = load(workdir, checkpoint=checkpoint, trust_code=trust_code)
    thresholds: np.ndarray | float = 1.0
    if calibration is not None:
        found = calibration_file.read(pathlib.Path(os.path.expanduser(calibration)), run)
        thresholds = 1.0 if found.thresholds is None else found.thresholds
        if found.temperature != 1.0:
            run = load(workdir, checkpoint=checkpoint, trust_code=trust_code, temperature=found.temperature)
    assert run.predict is not None, "a loaded run predicts"
    fit = inputs.fit_given(run.config, data_facts.read(Place(workdir).files))
    skipped: list[str] = []

    def bad(error: DataError) -> None:
        if on_bad_image != "skip":
            raise DataError(f"{error}; --on-bad-image=skip leaves out images that cannot be read")
        skipped.append(str(error))
        tell(f"skipped {error}")

    top, count = min(top, len(run.class_names)), 0
    temporary = out.with_name(out.name + ".part")
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)
        file = stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))
        write = _csv_writer(file, top, open_below) if out.suffix == ".csv" else _json_writer(file, open_below)
        for source in sources:
            for names, pixels in read(source, fit, bad, tell, alone=len(sources) == 1):
                chances = probabilities(run.predict, names, pixels, source, tell)
                for name, row in zip(names, chances, strict=True):
                    best = np.argsort(-row / thresholds, kind="stable")[:top]
                    write(name, [run.class_names[c] for c in best], [float(row[c]) for c in best], float(row.max()))
                count += len(names)
        if not count:
            raise DataError(f"none of the {len(skipped)} images could be read")
        file.close()
        os.replace(temporary, out)
    if (meaning := scores.meaning(run)) is not None:
        tell(meaning)
    return count, len(skipped)


def _checked_out(given: str) -> pathlib.Path:
    """Returns the path of the file to write; raises ConfigError, before anything is predicted, if it cannot be one."""
    out = pathlib.Path(given)
    if is_remote(given) or why_no_path(given):
        raise ConfigError(f"--out must be a file on this machine; got {given!r}")
    if out.suffix not in FORMATS:
        raise ConfigError(f"--out must end in {' or '.join(FORMATS)}; got {out}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out={out}: there is no folder {out.parent}: make it first")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out must be a file, but {out} is a folder, a pipe or a device")
    return out


def probabilities(
    predict: Callable[..., np.ndarray],
    names: list[str],
    pixels: np.ndarray,
    source: pathlib.Path,
    tell: Callable[[str], None],
) -> np.ndarray:
    """Returns the probabilities [B, C] of a batch of `read`; raises NonFiniteLoss where the outputs are NaN."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            chances = predict(pixels, allow_nan=True)
        except ValueError as error:
            raise DataError(f"{source}: {error}") from error
        finally:
            for warning in caught if source.suffix in ARRAYS else ():  # a photo may be dark
                tell(f"{source}: {warning.message}")
    if (lost := np.isnan(chances).any(axis=1)).any():
        raise NonFiniteLoss(
            f"{names[np.argmax(lost)]}: the network's outputs are NaN, so nothing can be predicted; `cbjax eval` shows "
            "how well a checkpoint does (try --checkpoint=best)"
        )
    return chances


def read(
    source: pathlib.Path, fit: Fit | ClipFit, bad: Callable[[DataError], None], tell: Callable[[str], None], alone: bool
) -> Batches:
    """Yields the images of a source, with their names."""
    if source.suffix in ARRAYS:
        if fit.medium.num_frames:
            raise DataError(f"{source}: the run was trained on clips: give videos or folders of frames")
        arrays = _from_npz(source) if source.suffix == ".npz" else _from_npy(source)
        for first in range(0, len(arrays), MOST):
            part = arrays[first : first + MOST]
            yield [f"{first + i}" if alone else f"{source}:{first + i}" for i in range(len(part))], part
        return
    files = [source]
    medium = fit.medium
    held = contents(source) if medium.num_frames and source.is_dir() else None
    if held and held.is_clip:
        if held.folders:
            tell(f"{source}: it holds images, so it is one clip; not looked at in it: {quote(held.folders, 3)}")
    elif source.is_dir():
        found = medium.search(source, "")
        files, left_out = [source / name for name in found.paths], listing.describe({"": found.left_out})
        if not files:
            raise DataError("; ".join([f"{source} has no {medium.noun}, {medium.one}", *left_out]))
        for line in left_out:
            tell(f"{source}: {line}")
    root = source if alone and files != [source] else None
    with concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool:
        at_once = images_at_once(fit.shape)
        for first in range(0, len(files), at_once):
            names, pixels = [], []
            part = files[first : first + at_once]
            for path, image in zip(part, pool.map(_or_error(fit.file), part), strict=True):
                if isinstance(image, DataError):
                    bad(image)
                    continue
                names.append(str(path if root is None else path.relative_to(root)))
                pixels.append(image)
            if names:
                yield names, np.stack(pixels)


def _or_error(read):
    def call(path):
        try:
            return read(path)
        except DataError as error:
            return error

    return call


def _from_npz(path):
    from cbjax.data.arrays import read

    arrays = read(path)
    if "images" not in arrays:
        raise DataError(f"{path} has no images among its keys {sorted(arrays)}: write them with numpy.savez(images=…)")
    return _not_empty(path, arrays["images"])


def _from_npy(path):
    require_file(path, "an array that numpy.save wrote")
    try:
        with open(path, "rb") as stream:
            return _not_empty(path, npz.read_npy(stream))
    except npz.NpzError as error:
        raise DataError(f"{path} {error}") from None


def _not_empty(path, images):
    if not isinstance(images, np.ndarray) or images.ndim not in (3, 4) or not len(images):
        raise DataError(
            f"{path}: images must be an array [N, height, width] or [N, height, width, channels] with one image or "
            f"more; got {list(np.shape(images))}"
        )
    return images


def _csv_writer(file, top, open_below):
    ranked = [name for i in range(1, top + 1) for name in (f"class_{i}", f"probability_{i}")]
    file.write(csv_line(["image", *ranked, *([] if open_below is None else ["open"])]) + "\r\n")

    def write(name, classes, chances, highest):
        cells = [value for pair in zip(classes, chances, strict=True) for value in (pair[0], f"{pair[1]:.6g}")]
        is_open = [] if open_below is None else [str(int(highest < open_below))]
        file.write(csv_line([name, *cells, *is_open]) + "\r\n")

    return write


def _json_writer(file, open_below):
    def write(name, classes, chances, highest):
        row = {"image": name, "classes": classes, "probabilities": chances}
        row |= {} if open_below is None else {"open": highest < open_below}
        # Names are written as people read them; escaped only if a terminal or a reader of UTF-8 could not take them.
        readable = all(text.isprintable() for text in (name, *classes))
        file.write(json.dumps(row, ensure_ascii=not readable) + "\n")

    return write
