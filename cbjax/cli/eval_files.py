"""Prints and writes the results of `cbjax eval`: figures of each class, confusion, and every image's prediction."""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cbjax.config import ConfigError
from cbjax.data.records import noun_of
from cbjax.host.text import one_line
from cbjax.host.writers import plain, replace
from cbjax.metrics import confusion_matrix
from cbjax.report import class_tables
from cbjax.training import scores
from cbjax.training.finish import CONFUSION_CLASSES
from cbjax.training.restore import Examined

if TYPE_CHECKING:
    from rich.table import Table

LISTED = 10  # most classes in a line
SHOWN = 40  # most classes in the printed table; if there are more, the ones with the lowest accuracy


def figures(found: Examined, split: str) -> Iterator[str]:
    """Yields a line for each figure, and one each about images without an answer and classes without images, if any."""
    measured = found.evaluation
    for name, value in measured.metrics.items():
        yield f"{split}/{name} {value:.6g}"
    if measured.unanswered:
        how = "counted as wrong" if found.split.labels.ndim == 1 else "left out of the figures"
        yield (
            f"the network's outputs for {measured.unanswered} of {measured.count} images are NaN or infinite: these "
            f"are {how}, and {split}/unanswered is their share"
        )
    without = np.flatnonzero(measured.class_count == 0)
    if without.size:
        listed = ", ".join(one_line(found.run.class_names[c]) for c in without[:LISTED])
        more = f" and {without.size - LISTED} others" if without.size > LISTED else ""
        noun = noun_of(found.split.images.shape[1:])
        yield f"no figure counts {listed}{more}, of which there is no {noun}"


def class_table(found: Examined) -> "Table":
    """Returns the figures of each class, for rich to print."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, names = class_columns(found), found.run.class_names
    noun = noun_of(found.split.images.shape[1:])
    order = np.arange(len(names))
    caption = None
    if len(names) > SHOWN:
        measured = np.nan_to_num(found.evaluation.per_class, nan=np.inf)
        order = np.argsort(measured, kind="stable")[:SHOWN]
        caption = Text(f"The {SHOWN} of {len(names)} classes with the lowest figures; --out=DIR writes all.")
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column("class", overflow="fold")
    for header in columns:
        table.add_column(header.replace("_", " ").replace("image", noun), justify="right")
    for c in order:
        cells = [values[c] for values in columns.values()]
        table.add_row(Text(one_line(names[c])), *(_percent(cell) for cell in cells))
    return table


def class_columns(found: Examined) -> dict[str, np.ndarray]:
    """Returns header -> [C] values for the table of classes."""
    labels, outputs = found.split.labels, found.evaluation.outputs
    columns: dict[str, np.ndarray] = {"train_images": found.counts, "images": found.evaluation.class_count}
    if labels.ndim == 2:
        return {**columns, "average_precision": found.evaluation.per_class, **found.areas}
    columns["accuracy"] = found.evaluation.per_class
    return columns | class_tables.by_class(outputs, labels, found.evaluation.class_count) | found.areas


def check_out(out: pathlib.Path) -> None:
    """Raises ConfigError if a folder cannot be written, or is a work directory, which has files of the same names."""
    if (out / "config.json").exists():
        raise ConfigError(f"--out must not be a work directory; got {out}")
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out must be a folder, but {there} is a file, a pipe or a device; got {out}")


def write(found: Examined, out: pathlib.Path, top: int) -> list[str]:
    """Makes a folder and writes classes.csv, confusion.csv, predictions.csv and evaluation.json there.

    Args:
      found: the evaluation.
      out: the folder; files with these names are replaced.
      top: number of classes for each image in predictions.csv, with their probabilities.

    Returns:
      The names of the files. There is no confusion.csv for multi-hot labels, or for more than 200 classes.

    Raises:
      ConfigError: as `check_out`.
    """
    check_out(out)
    names, labels, outputs = found.run.class_names, found.split.labels, found.evaluation.outputs
    out.mkdir(parents=True, exist_ok=True)
    files = {"classes.csv": class_tables.table(names, class_columns(found))}
    if labels.ndim == 1 and len(names) <= CONFUSION_CLASSES:
        there = outputs >= 0
        files["confusion.csv"] = class_tables.confusion(
            names, confusion_matrix(outputs[there], labels[there], len(names))
        )
    files["predictions.csv"] = class_tables.csv(_predictions(found, min(top, len(names))))
    results = {**found.about, "metrics": found.evaluation.metrics}
    files["evaluation.json"] = json.dumps(plain(results), indent=2, allow_nan=False) + "\n"
    for stale in {"confusion.csv"} - files.keys():
        (out / stale).unlink(missing_ok=True)
    for name, content in files.items():
        replace(out / name, content.encode("utf-8", "surrogateescape"))
    return list(files)


def _predictions(found: Examined, top: int) -> Iterator[list]:
    """Yields the rows of predictions.csv; images that could not be read have no prediction."""
    names, outputs, labels = found.run.class_names, found.evaluation.outputs, found.split.labels
    single = labels.ndim == 1
    ranked = [header for i in range(1, top + 1) for header in (f"class_{i}", f"probability_{i}")]
    yield ["image", "true", *(["predicted"] if single else []), *ranked]
    for first, chances in _chances(found):
        for i, row in enumerate(chances, first):
            true = names[labels[i]] if single else "|".join(names[c] for c in np.flatnonzero(labels[i]))
            cells = [found.names[i], true]
            if single:
                cells.append(names[outputs[i]] if outputs[i] >= 0 and np.isfinite(row).all() else "")
            if np.isfinite(row).all():
                best = np.argsort(-row, kind="stable")[:top]
                ranking = [cell for c in best for cell in (names[c], f"{row[c]:.6g}")]
            else:
                ranking = [""] * len(ranked)
            yield [*cells, *ranking]


def _chances(found: Examined) -> Iterable[tuple[int, np.ndarray]]:
    """Returns the place of each batch's first image and the batch's probabilities [B, C]; NaN if unreadable."""
    if found.chances is not None:
        return [(0, found.chances)]
    assert found.run.predict is not None, "a restored run predicts"
    return scores.in_batches(found, found.run.predict)


def _percent(value):
    if not np.issubdtype(np.asarray(value).dtype, np.floating):
        return str(value)
    return f"{100 * value:.1f}" if np.isfinite(value) else "–"
