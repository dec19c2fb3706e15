"""Reads labelled images that a run has not seen, and translates their class names to the run's labels."""

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cbjax.data import arrays, files, levels, listing, lists, overlaps
from cbjax.data.clips.given import ClipFit
from cbjax.data.given import Fit
from cbjax.data.records import DataError, Encoded, Split, quote
from cbjax.host import machine

KINDS = ("arrays", "folder", "list", "csv")


class Labelled(NamedTuple):
    """Images with labels in the order of the run's classes.

    Attributes:
      split: images in the size of the network's input, or `Encoded`.
      names: [N] a name for each image: its file, or its place in the array.
      place: file or folder that they were read from.
      notes: lines about what was left out.
    """

    split: Split
    names: Sequence[str]
    place: str
    notes: Sequence[str] = ()


def read(
    kind: str,
    places: Mapping[str, Any],
    split: str,
    class_names: Sequence[str],
    fit: Fit | ClipFit,
    chosen: bool = False,
) -> Labelled:
    """Reads labelled images.

    Args:
      kind: one of KINDS, as `data.name` in a config.
      places: file, root, validation_list, test_list, as the keys of a config.
      split: "validation" or "test". It chooses the list, the arrays of an .npz, or the folder of a tree.
      class_names: [C] names of the run. Labels are names; a number in a list is an index into these.
      fit: converts images to the run's size.
      chosen: whether the run uses only some classes of its data. Then a number is a class that has it for a name.

    Raises:
      DataError: if the data are missing or damaged, a class is not one of the run's, or an image has two labels.
    """
    if kind == "arrays":
        if isinstance(fit, ClipFit):
            raise DataError("the run was trained on clips, which cannot be given as arrays: name files or folders")
        return _arrays(places["file"], split, class_names, fit, chosen)
    if kind == "folder":
        root = files.as_path(places["root"])
        paths, labels, notes = _tree(root, split, class_names, fit.medium)
        return _files(root, paths, labels, split, class_names, f"{root}", fit, notes)
    file = files.as_path(places[f"{split}_list"])
    root = files.as_path(places["root"]) if places.get("root") else file.parent
    if kind == "csv":
        paths, found = lists.read_csv(file)
        labels = _places(found, class_names, f"{file}")
    else:
        paths, numbers = lists.read_list(file)
        labels = _numbered(file, paths, numbers, class_names, chosen)
    return _files(root, paths, labels, split, class_names, f"{file}", fit)


def _places(names, class_names, where):
    """Returns the place of each name among the run's classes."""
    index = {name: place for place, name in enumerate(class_names)}
    if unknown := sorted(set(names) - set(index)):
        raise DataError(
            f"{where}: classes {quote(unknown)} are not among those of the run, {quote(class_names)}: rename them, or "
            "leave out their images"
        )
    return np.array([index[name] for name in names], np.int32)


def _numbered(file, paths, numbers, class_names, chosen):
    """Returns the labels of a list's numbers; refuses one that a class's name or an image's folder contradicts."""
    by_name = "write a CSV with the columns path and label, where labels are names"
    known, decimal = set(class_names), all(name.isdecimal() for name in class_names)
    if chosen:
        if not decimal:
            raise DataError(
                f"{file}: the run was trained on only some classes of its data, so a number does not tell the class: "
                f"{by_name}"
            )
        for path, number in zip(paths, numbers, strict=True):
            # The number of a class among all classes may be another than its name.
            if (folder := lists.folder_of(path)) != str(number) and folder in known:
                raise DataError(lists.other_number(file, path, number, str(number)))
        return _places([str(number) for number in numbers], class_names, file)
    # Names that are the numbers 0 to C - 1 say nothing about folders, which may have numbers for another reason.
    same = tuple(class_names) == tuple(map(str, range(len(class_names))))
    for path, number in zip(paths, numbers, strict=True):
        if number >= len(class_names):
            raise DataError(f"{file}: label {number} is not among those of the run, 0 to {len(class_names) - 1}")
        name, folder = class_names[number], lists.folder_of(path)
        if not same and folder != name and folder in known:
            raise DataError(lists.other_number(file, path, number, name))
        if decimal and name not in (str(number), folder) and str(number) in known:
            raise DataError(
                f"{file}: the label {number} of {path} may be the run's class '{name}', which is number {number} of "
                f"its classes, or the one that is named '{number}': {by_name}"
            )
    return np.asarray(numbers, np.int32)


def _tree(root, split, class_names, medium):
    """Returns the paths of a tree's images, relative to its root, their labels, and notes about files left out."""
    files.require_reach(root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    wanted = files.VALIDATION_FOLDERS if split == "validation" else ("test", "testing")
    level = levels.read(root, medium.endings)
    present = level.folders
    below = [name for name in wanted if name in present and name not in class_names]
    if not below and (others := [name for name in present if name in files.SPLIT_FOLDERS and name not in class_names]):
        raise DataError(
            f"data.root: {root} has {quote(sorted(others))} but no folder {wanted[0]}: give one of these as data.root"
        )
    if below:
        level = levels.read(root / below[0], medium.endings)
    found = files.class_folders(root, level, below[0] if below else "", medium)
    notes = level.beside(f"{root / below[0] if below else root}", medium.noun)
    notes += listing.describe({name: one.left_out for name, one in found.items()})
    found = {name: one.paths for name, one in found.items() if one.paths}
    labels = _places(sorted(found), class_names, f"{root}")
    paths = [path for name in sorted(found) for path in found[name]]
    if not paths:
        why = "".join(f"; {line}" for line in notes)
        raise DataError(f"data.root: {root} has no {medium.noun} in a folder for each class{why}")
    return paths, np.repeat(labels, [len(found[name]) for name in sorted(found)]), notes


def _files(root, paths, labels, split, class_names, place, fit: Fit | ClipFit, notes=()) -> Labelled:
    medium = fit.medium
    store = medium.store(root, paths)
    if not store.are_there():
        raise DataError(
            f"{place}: its {medium.noun}s, such as {store.name(0)}, are not there: set data.root to the folder "
            "that the paths are relative to"
        )
    names = [store.name(position) for position in range(len(labels))]
    repeated, found = overlaps.judge(lists.pairs(names), names, {split: labels}, class_names, place, medium.noun)
    kept = np.setdiff1d(np.arange(len(labels)), repeated[split])
    names, labels, notes = [names[position] for position in kept], labels[kept], (*notes, *found)
    if fit.transform is not None:
        return Labelled(Split(Encoded(store, kept, fit.shape[-2], medium.num_frames), labels), names, place, notes)
    with concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool:
        return Labelled(Split(np.stack(list(pool.map(fit.file, names))), labels), names, place, notes)


def _arrays(file, split, class_names, fit: Fit, chosen: bool) -> Labelled:
    found = arrays.read(file)
    prefix = f"{split}_" if f"{split}_images" in found else ""
    missing = [key for key in (f"{prefix}images", f"{prefix}labels") if key not in found]
    if missing:
        raise DataError(
            f"{file}: there is no {quote(missing)} among its keys {quote(sorted(found))}; new data have images and "
            f"labels, or {split}_images and {split}_labels"
        )
    images, labels = found[f"{prefix}images"], found[f"{prefix}labels"]
    count = len(images) if images.ndim else 0
    if labels.ndim == 0 or count != len(labels) or not count:
        raise DataError(f"{file}: there are {count} images and {np.size(labels)} labels: each image needs one")
    try:
        pixels = np.stack(list(fit.all(images)))
        labels = _array_labels(labels, found.get("class_names"), class_names, split, chosen)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return Labelled(Split(pixels, labels), [str(i) for i in range(len(labels))], f"{file}")


def _array_labels(labels, own_names, class_names, split, chosen):
    kind = arrays.label_kind(labels, split)
    if kind == "string":
        return _places(arrays.decode_text(labels, "labels").tolist(), class_names, "labels")
    if own_names is not None:
        own_names = arrays.read_class_names(own_names)
    if kind == "integer":
        present = np.unique(labels)
        if present[0] < 0 or (own_names and present[-1] >= len(own_names)):
            most = f"to {len(own_names) - 1}" if own_names else "and above"
            raise DataError(f"labels must be 0 {most}; got {present[0]} to {present[-1]}")
    else:
        present = np.arange(labels.shape[1])
        if not np.isin(labels, (0, 1)).all() or len(present) != len(own_names or present):
            raise DataError(
                f"labels [N, C] must be zeros and ones of {len(own_names or present)} classes, got {labels.shape}"
            )
    names = [own_names[label] if own_names else str(label) for label in present]
    if not own_names:
        # A number is the place of a class or its name. Where these differ, and both may be meant, nobody can tell.
        same = all(not name.isdecimal() or name == str(place) for place, name in enumerate(class_names))
        ambiguous = not same and not chosen and present[-1] < len(class_names)
        if ambiguous or set(names) - set(class_names):
            raise DataError(
                f"labels are the numbers {quote(present)}, but the run's classes have names, {quote(class_names)}: add "
                "class_names in the order of these numbers, or use names as labels"
            )
    places = _places(names, class_names, "labels")
    if kind == "integer":
        return places[np.searchsorted(present, labels)]
    moved = np.zeros((len(labels), len(class_names)), np.float32)
    moved[:, places] = labels
    return moved
