"""Reads EGTEA Gaze+ as its authors publish it: the index of verbs, the three splits, and clips or their frames."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cbjax.data import files, lists, overlaps
from cbjax.data.clips.finding import ClipFiles
from cbjax.data.files import as_path, make_split
from cbjax.data.records import DataError, Source, check_names, quote

VALIDATION = ("P20", "P21", "P22", "P23", "P24", "P25", "P26")  # subjects held out of the training split
_LINE = re.compile(r"(\S+)((?:\s+\d{1,6}){3,5})\s*")  # clip, action, verb and 1 to 3 nouns
_NAME = re.compile(r"(.*\S)\s+(\d{1,6})\s*")
_TIMES = re.compile(r"(.+)-\d+-\d+-F\d+-F\d+")  # session, milliseconds and frames of a clip's name


class Listed(NamedTuple):
    """The clips of a split file.

    Attributes:
      clips: [N] names.
      verbs: [N] int32, from 0.
    """

    clips: list[str]
    verbs: np.ndarray


def load(root: str | os.PathLike | None, image_size: int, num_frames: int, split: int = 1) -> Source:
    """Reads EGTEA: the verb is the class, and subjects P20 to P26 of the training split are the validation.

    Args:
      root: folder with action_annotation (verb_idx.txt, train_split1.txt, test_split1.txt …) and either
        extracted_frames/SESSION/CLIP/000000.jpg … or cropped_clips/SESSION/CLIP.mp4; frames are used if both are there.
      image_size: side of the frames to make.
      num_frames: frames to take from each clip.
      split: 1, 2 or 3.

    Raises:
      DataError: if a file or folder is missing, a line is malformed, none of a split's clips is there, a clip has two
        verbs, or all clips of a split are also trained on.

    Source: Li et al. 2018; the validation is that of Sinha et al. 2020.
    """
    if not root:
        raise DataError("data.name='egtea' needs data.root, the folder with action_annotation and the clips")
    place = as_path(root)
    files.require_reach(place)
    annotation = place / "action_annotation"
    if not place.is_dir():
        raise DataError(
            f"data.root: there is no folder {place}; it must be that of EGTEA, with action_annotation in it"
        )
    if not annotation.is_dir():
        raise DataError(f"data.root: {place} must be the folder of EGTEA, but has no folder action_annotation")
    names = read_names(annotation / "verb_idx.txt")
    folder, ending = _clips(place)
    listed = {name: read_split(annotation / f"{name}_split{split}.txt", len(names)) for name in ("train", "test")}
    held_out = np.array([clip.split("-")[0] in VALIDATION for clip in listed["train"].clips])
    if held_out.all():
        raise DataError(f"{annotation}: every training clip is of the subjects {quote(VALIDATION)}, the validation")
    parts = {"train": _chosen(listed["train"], ~held_out), "test": listed["test"]}
    if held_out.any():
        parts["validation"] = _chosen(listed["train"], held_out)
    clips = [clip for part in parts.values() for clip in part.clips]
    labels = {name: part.verbs for name, part in parts.items()}
    repeated, notes = overlaps.judge(overlaps.of_paths(clips), clips, labels, names, f"{annotation}", "clip")
    splits = {}
    for name, part in parts.items():
        store = ClipFiles(place / folder, [f"{session_of(clip)}/{clip}{ending}" for clip in part.clips])
        if not store.are_there():
            raise DataError(
                f"data.root: the {name} clips of split {split}, such as {store.name(0)}, are not there{_advice(place)}"
            )
        splits[name] = make_split(store, part.verbs, image_size, num_frames, repeated[name])
    if _both(place):
        notes.append("clips are read from extracted_frames; cropped_clips is there too, and is not read")
    return Source(splits["train"], splits.get("validation"), splits["test"], names, tuple(notes))


def session_of(clip: str) -> str:
    """Returns the session of a clip, "P01-R01-PastaSalad" of "P01-R01-PastaSalad-66680-68130-F001597-F001639"."""
    match = _TIMES.fullmatch(clip)
    return match[1] if match else clip


def read_names(file) -> tuple[str, ...]:
    """Reads an index, a line `Name N` each, N from 1; names may hold spaces. Returns the names in order."""
    names: dict[int, str] = {}
    for number, line in _lines(file, "the index of verbs"):
        match = _NAME.fullmatch(line)
        if not match or int(match[2]) in names or match[1] in names.values():
            raise DataError(f"{file}, line {number}: must be a name and a number of their own, got {line[:80]!r}")
        names[int(match[2])] = match[1]
    if len(names) < 2 or sorted(names) != list(range(1, len(names) + 1)):
        raise DataError(f"{file}: must number 2 names or more from 1 without gaps, got {quote(sorted(names))}")
    check_names(names.values(), f"{file}")
    return tuple(names[number] for number in sorted(names))


def read_split(file, num_verbs: int) -> Listed:
    """Reads a split, a line `clip action verb noun [noun [noun]]` each, counted from 1."""
    clips: list[str] = []
    verbs: list[int] = []
    for number, line in _lines(file, "a split"):
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(
                f"{file}, line {number}: must be a clip and 3 to 5 numbers (action, verb, 1 to 3 nouns), got "
                f"{line[:80]!r}"
            )
        verb = int(match[2].split()[1])
        if not 1 <= verb <= num_verbs:
            raise DataError(f"{file}, line {number}: the verb must be 1 to {num_verbs}, got {verb}")
        if "/" in match[1] or match[1].startswith("."):
            raise DataError(f"{file}, line {number}: a clip's name must hold no path, got {match[1][:80]!r}")
        clips.append(match[1])
        verbs.append(verb - 1)
    if not clips:
        raise DataError(f"{file}: the split is empty")
    return Listed(clips, np.asarray(verbs, np.int32))


def _lines(file, what) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line) for each line that is not blank."""
    return ((number, line.strip()) for number, line in enumerate(lists.lines_of(file, what), 1) if line.strip())


def _clips(place):
    for folder, ending in (("extracted_frames", ""), ("cropped_clips", ".mp4")):
        if (place / folder).is_dir():
            return folder, ending
    raise DataError(f"data.root: {place} must have a folder extracted_frames or cropped_clips with EGTEA's clips")


def _both(place):
    return all((place / name).is_dir() for name in ("cropped_clips", "extracted_frames"))


def _advice(place):
    if not _both(place):
        return ""
    command = f"cbjax datasets frames {place / 'cropped_clips'} {place / 'extracted_frames'}"
    return f": `{command}` makes all frames; or move extracted_frames away"


def _chosen(listed, mask):
    return Listed([clip for clip, kept in zip(listed.clips, mask, strict=True) if kept], listed.verbs[mask])
