"""Reads files that list images: lines of `path label`, as long-tailed benchmarks publish them, and CSV."""

import collections
import csv
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.data import listing, overlaps
from cbjax.data.files import IMAGES, Medium, as_path, make_split, read_whole
from cbjax.data.records import DataError, Source, Split, alike, check_names, is_text, quote
from cbjax.host.storage import is_remote, why_no_path

Rows = tuple[list[str], list]  # paths and labels, in the order of the lines
LISTS = "which was to list images"  # for messages
_LARGEST = 1 << 31  # most bytes of a list
_LOOKED_AT = 10_000  # files are looked up only in lists up to this length; a million would take minutes
_SEPARATORS = "|;,/+&"  # signs that join labels


def load_lists(
    lists: Mapping[str, str | None], root: str | os.PathLike | None, image_size: int, medium: Medium = IMAGES
) -> Source:
    """Reads a file with lines of `path label` for each split; labels count from 0.

    If each class has its own folder, the folders' names are the class names; else the numbers are.

    Args:
      lists: "train", "validation", "test" -> file (.gz too), or None; train must be there.
      root: folder that the paths are relative to; None for the folder of each list.
      image_size: side of the images to make.
      medium: what is listed.

    Raises:
      DataError: if a list is missing or empty, a line is malformed, a label has no training image, an image has the
        label of one class and is in the folder of another, or the images of a list are not there.
    """
    files = _given(lists, "list")
    rows = {split: read_list(file) for split, file in files.items()}
    labels = np.asarray(rows["train"][1])
    # A set, not counts: a label may be an identifier of nine digits, and counts would need that much memory.
    present = set(labels.tolist())
    if len(present) <= labels.max():
        without = (label for label in range(labels.max()) if label not in present)
        raise DataError(
            f"{files['train']}: labels must be 0 to C - 1, each with a training image; the largest is {labels.max()}, "
            f"and these have no image: {quote(itertools.islice(without, 20))}"
        )
    num_classes = len(present)
    if num_classes < 2:
        raise DataError(f"{files['train']}: there must be at least 2 classes, got 1")
    for split, (_, found) in rows.items():
        if (largest := max(found)) >= num_classes:
            line = found.index(largest) + 1
            raise DataError(
                f"{files[split]}: label {largest} of image {line} is out of range: training has 0 to {num_classes - 1}"
            )
    class_names = _folder_names(*rows["train"], num_classes)
    if class_names is not None:
        for split, (paths, numbers) in rows.items():
            _check_numbers(files[split], paths, numbers, class_names)
    return _source(files, rows, root, class_names or tuple(map(str, range(num_classes))), image_size, medium)


def load_csv(
    lists: Mapping[str, str | None], root: str | os.PathLike | None, image_size: int, medium: Medium = IMAGES
) -> Source:
    """Reads CSV files with the columns path and label; labels are names. Other columns are ignored.

    The classes are the training labels, sorted; as numbers if all are whole numbers. Arguments and errors as in
    `load_lists`.
    """
    files = _given(lists, "csv")
    rows = {split: read_csv(file) for split, file in files.items()}
    names = set(rows["train"][1])
    numeric = all(name.isdecimal() and len(name) < 100 for name in names)
    class_names = tuple(sorted(names, key=lambda name: (int(name), name)) if numeric else sorted(names))
    if len(class_names) < 2:
        raise DataError(f"{files['train']}: there must be at least 2 classes, got {quote(class_names)}")
    index = {name: label for label, name in enumerate(class_names)}
    for split, (_, found) in rows.items():
        if unknown := sorted(set(found) - names):
            raise DataError(
                f"{files[split]}: labels {quote(unknown)} are not among the classes of training{alike(unknown, names)}"
            )
    notes = _joined_labels(files["train"], class_names)
    indexed = {split: (paths, [index[name] for name in found]) for split, (paths, found) in rows.items()}
    return _source(files, indexed, root, class_names, image_size, medium, notes)


def _joined_labels(file, names) -> tuple[str, ...]:
    """Refuses a label such as cat|dog if cat and dog are labels too; returns a note about others that look joined."""
    known, suspects = set(names), collections.Counter[str]()
    for name in names:
        for separator in _SEPARATORS:
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and known.issuperset(parts):
                raise DataError(
                    f"{file}: an image must have one label, but {quote([name])} joins the labels {quote(parts)}: give "
                    "each image one of them; rename the label if it is a class of its own; or give images with several "
                    "labels as an .npz with labels [N, C] of zeros and ones (data.name=arrays)"
                )
        if len(parts := name.split()) > 1 and all(part.isdecimal() for part in parts):
            suspects.update([name])
        for separator in "|;":
            if separator in name:
                suspects.update([name])
    if not suspects:
        return ()
    return (
        f"{file}: {len(suspects)} labels, such as {quote(list(suspects)[:1])}, look like several labels joined; each "
        "is a class of its own here",
    )


def _given(lists, name):
    if not lists.get("train"):
        raise DataError(f"data.name={name!r} reads a file that lists images: set data.train_list to it")
    return {split: as_path(file) for split, file in lists.items() if file}


def _source(files, rows, root, class_names, image_size, medium, notes=()):
    folders = {split: as_path(root) if root else files[split].parent for split in rows}
    stores = {split: medium.store(folders[split], rows[split][0]) for split in rows}
    for split, store in stores.items():
        if not store.are_there():
            raise DataError(
                f"{files[split]}: its {medium.noun}s, such as {store.name(0)}, are not there: set data.root to the "
                f"folder that the paths are relative to; for {medium.noun}s in a folder for each class, also "
                f"data.name=folder{_frames_between(medium, rows[split][0])}"
            )
    texts = {split: os.fspath(folder) for split, folder in folders.items()}
    paths = [_whole_path(texts[split], path) for split in rows for path in rows[split][0]]
    labels = {split: np.asarray(rows[split][1], np.int32) for split in rows}
    where = ", ".join(str(files[split]) for split in rows)
    repeated, found = overlaps.judge(pairs(paths), paths, labels, class_names, where, medium.noun)
    splits: dict[str, Split] = {}
    for split, store in stores.items():
        splits[split] = make_split(store, labels[split], image_size, medium.num_frames, repeated[split])
    return Source(splits["train"], splits.get("validation"), splits.get("test"), class_names, (*notes, *found))


def _frames_between(medium, paths):
    """Returns the end of a message if the lines are `path frames label`, as lists for other programs have them."""
    if medium.num_frames and all(path[-1:].isdecimal() and len(path.split()) > 1 for path in paths):
        return "; if lines are `path frames label`, take out the number of frames"
    return ""


def pairs(paths: Sequence[str]) -> overlaps.Pairs:
    """Returns the pairs of rows that are one image: equal paths, and in short lists also other paths to one file."""
    found = set(overlaps.of_paths(paths))
    if len(paths) <= _LOOKED_AT and not any(map(is_remote, paths)):
        found.update(listing.same_files(paths, listing.inodes_of(paths)))
    return sorted(found)


def _whole_path(folder, path):
    whole = path if is_remote(path) else os.path.join(folder, path)
    return whole if is_remote(whole) else os.path.normpath(whole)


def read_list(file) -> Rows:
    """Returns the paths and the labels of a list; labels are whole numbers."""
    paths, labels = [], []
    for number, line in enumerate(lines_of(file, LISTS), 1):
        parts = line.rsplit(None, 1)
        if not parts:
            continue
        # Not int(): it accepts 1_000 and Arabic digits, but a label must not be guessed.
        if len(parts) == 2 and parts[1].startswith("-") and parts[1][1:].isdecimal():
            raise DataError(f"{file}, line {number}: label {parts[1]} is out of range: labels count from 0")
        if len(parts) < 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise DataError(
                f"{file}, line {number}: must be a path and a whole number, got {line.strip()[:80]!r}; for names of "
                "classes write a table with the header path,label (data.name=csv)"
            )
        paths.append(_checked(file, number, parts[0].strip()))
        # Python's int() refuses thousands of digits, so count them first.
        if len(parts[1].lstrip("0")) > 10 or int(parts[1]) >= 2**31:
            raise DataError(f"{file}, line {number}: label {parts[1][:20]} is out of range: labels are 0 to C - 1")
        labels.append(int(parts[1]))
    return _not_empty(file, paths, labels)


def read_csv(file) -> Rows:
    """Returns the paths and the labels of a table."""
    reader = csv.reader(lines_of(file, LISTS))
    try:
        return _read_rows(file, reader)
    except csv.Error as error:  # a quotation mark that never ends
        raise DataError(f"{file}, line {reader.line_num}: {error}; is a quotation mark left open?") from None


def _read_rows(file, reader) -> Rows:
    paths, labels = [], []
    header = [name.strip().lower() for name in next(reader, [])]
    if "path" not in header or "label" not in header:
        line = ",".join(header)
        other = next((f"{sign!r}" for sign in ";\t|" if sign in line), None)
        hint = f"; commas must separate the columns, not {other}: save it as CSV with commas" if other else ""
        raise DataError(f"{file}, line 1: must be a header with path and label, got {line[:80]!r}{hint}")
    for name in ("path", "label"):
        if header.count(name) > 1:
            raise DataError(
                f"{file}, line 1: must have one column {name}, got {header.count(name)} in {','.join(header)[:80]!r}: "
                "rename or remove the others"
            )
    path, label = header.index("path"), header.index("label")
    for row in reader:
        if not row:
            continue
        if len(row) != len(header) or not row[path].strip() or not row[label].strip():
            raise DataError(
                f"{file}, line {reader.line_num}: must have a path and a label in {len(header)} columns, got "
                f"{','.join(row)[:80]!r}"
            )
        if not is_text(row[label]):
            raise DataError(
                f"{file}, line {reader.line_num}: the label {row[label]!r} is not UTF-8: save the file as UTF-8"
            )
        paths.append(_checked(file, reader.line_num, row[path].strip()))
        labels.append(row[label].strip())
    check_names(sorted(set(labels)), str(file))
    return _not_empty(file, paths, labels)


def _not_empty(file, paths, labels):
    if not paths:
        raise DataError(f"{file}: the list is empty")
    return paths, labels


def _checked(file, number, path):
    if problem := why_no_path(path):
        raise DataError(f"{file}, line {number}: the path {path!r} {problem}")
    return path


def lines_of(file: Any, what: str) -> Iterator[str]:
    """Returns the lines of a text file, which may be gzipped; arguments and errors as in `files.read_whole`."""
    content = read_whole(file, what)
    try:
        if file.suffix == ".gz":
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DataError(f"{file} has more than {_LARGEST} bytes, so it is not a list")
        if b"\0" in content:
            raise DataError(f"{file} cannot be read as text (it has NUL characters): save it as UTF-8")
        # "utf-8-sig" drops the byte order mark that some editors write; it would become part of the first path.
        # "surrogateescape" keeps paths whose bytes are not UTF-8, as on disk.
        return io.StringIO(content.decode("utf-8-sig", "surrogateescape"), newline=None)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read as text ({error})") from None


def folder_of(path: str) -> str:
    """Returns the name of the folder that a file is in, "" if its path has none."""
    return os.path.basename(os.path.dirname(path))


def other_number(file: os.PathLike, path: str, number: int, name: str) -> str:
    """Returns the message about a label that contradicts the folder of its image."""
    return (
        f"{file}: {path} has the label {number}, which is the class '{name}': number the classes as in the training "
        "list, or write a CSV with the columns path and label, where labels are names"
    )


def _check_numbers(file, paths, numbers, class_names):
    """Refuses a list that numbers the folders of the classes in another way than training does.

    Each folder must have one label throughout: one with several is none of a class, but of a day, say.
    """
    own = {name: label for label, name in enumerate(class_names)}
    found: dict[str, tuple[int, str]] = {}
    for path, number in zip(paths, numbers, strict=True):
        if (folder := folder_of(path)) in own and found.setdefault(folder, (number, path))[0] != number:
            return
    for folder, (number, path) in found.items():
        if number != own[folder]:
            raise DataError(other_number(file, path, number, class_names[number]))


def _folder_names(paths, labels, num_classes):
    """Returns the folders' names if each class has its own folder, else None."""
    folders: dict[int, str] = {}
    for path, label in zip(paths, labels, strict=True):
        if folders.setdefault(label, folder := folder_of(path)) != folder:
            return None
    if len(set(folders.values())) < num_classes or not all(folders.values()):
        return None
    return tuple(folders[label] for label in range(num_classes))
