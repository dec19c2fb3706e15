"""Finds and reads image data sets that TensorFlow Datasets prepared as ArrayRecord, without TensorFlow."""

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbjax.data.decode import open_image
from cbjax.data.records import DataError, Source, Split
from cbjax.host.text import encodable

_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk: the folder of its version, and the number of images in each split."""

    folder: Any
    sizes: dict[str, int]


def data_folder(data_dir: str | os.PathLike | None) -> Any:
    """Returns the TFDS folder: data_dir, else $CBJAX_DATA_DIR, else TFDS's own default."""
    from cbjax.host.literal_path import LiteralPath

    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return LiteralPath(data_dir or os.environ.get("CBJAX_DATA_DIR") or default).expanduser()


def prepare_command(name: str, data_dir: str | os.PathLike | None) -> str:
    """Returns the shell command that downloads and prepares a data set; TFDS needs TensorFlow for it."""
    # Not the `tfds` program: in TFDS 4.9.10 it does not start without Apache Beam and mlcroissant.
    builder = f"tfds.builder({name!r}, data_dir={os.fspath(data_folder(data_dir))!r}, file_format='array_record')"
    program = f"import tensorflow_datasets as tfds; {builder}.download_and_prepare()"
    if any(sign in program for sign in '"$`\\!'):  # signs that a shell interprets within double quotes
        return f"pip install 'cbjax[prepare]' && python -c {shlex.quote(program)}"
    return f"pip install 'cbjax[prepare]' && python -c \"{program}\""


def prepare_again(folder: Any, name: str, data_dir: str | os.PathLike | None) -> str:
    """Returns the shell command that removes what is there and prepares it again."""
    return f"rm -r {shlex.quote(os.fspath(folder))} && {prepare_command(name, data_dir)}"


def find(name: str, data_dir: str | os.PathLike | None, splits: Sequence[str] = _SPLITS) -> Prepared:
    """Finds the newest version of a data set; reads only its description.

    Args:
      name: TFDS's name of the data set, NAME or NAME/CONFIG.
      data_dir: the TFDS folder, None for the default.
      splits: splits that it must have, with all their files.

    Raises:
      DataError: if it is not there, not complete, or in a format without random access.
    """
    root = data_folder(data_dir) / name
    if encodable(os.fspath(root), "utf-8") != os.fspath(root):
        raise DataError(f"{os.fspath(root)}: the folder of prepared data must have a name in UTF-8; rename or link it")
    command = prepare_command(name, data_dir)
    # A folder with any other name was left half done by TFDS.
    versions = [p for p in root.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)] if root.is_dir() else []
    versions = [p for p in versions if (p / "dataset_info.json").is_file()]
    if not versions:
        raise DataError(
            f"the data set '{name}' is not prepared: looked for {root}/VERSION/dataset_info.json. Set data.data_dir or "
            "CBJAX_DATA_DIR to the folder that has it, or prepare it there",
            command,
        )
    folder = max(versions, key=lambda p: tuple(int(part) for part in p.name.split(".")))
    again = prepare_again(folder, name, data_dir)
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        shards = {split["name"]: [int(length) for length in split["shardLengths"]] for split in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}/dataset_info.json is not readable ({error!r}); prepare it again", again) from error
    if unknown := [split for split in splits if split not in shards]:
        raise DataError(
            f"the data set '{name}' in {folder} has no split {unknown[0]}; it has {', '.join(shards)}. cbjax trains on "
            "the split train: put the images into folders (data.name=folder) or a list (data.name=list)"
        )
    wanted = dict.fromkeys((*splits, *shards))
    prefix = name.partition("/")[0]  # without its configuration
    absent = [s for s in wanted if len(list(folder.glob(f"{prefix}-{s}.array_record-*"))) != len(shards[s])]
    if not absent:
        return Prepared(folder, {split: sum(shards[split]) for split in wanted})
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise DataError(
            f"the data set '{name}' in {folder} is prepared as {file_format}, but only array_record can be read in any "
            "order. Set data.data_dir to another folder and prepare it there, or convert it in its place",
            "pip install 'cbjax[prepare]' apache-beam mlcroissant && "
            f"tfds convert_format --dataset_dir={shlex.quote(os.fspath(root))} --out_file_format=array_record",
        )
    raise DataError(
        f"the data set '{name}' in {folder} lacks files of {' and '.join(absent)}; prepare it again",
        again,
    )


def load(name: str, label: str = "label", *, data_dir: str | os.PathLike | None = None) -> Source:
    """Reads the training and test split of a prepared data set into memory.

    Args:
      name: TFDS's name of the data set.
      label: the feature to use as label.
      data_dir: the TFDS folder, None for the default.

    Raises:
      DataError: as `find`, or if the records cannot be read.
    """
    prepared = find(name, data_dir)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(prepared.folder)
        train, test = (_read(builder, split, label) for split in _SPLITS)
    except Exception as error:  # the record reader, protocol buffers and the image decoder raise errors of their own
        raise DataError(
            f"the data set '{name}' in {prepared.folder} cannot be read ({error!r}); prepare it again",
            prepare_again(prepared.folder, name, data_dir),
        ) from error
    return Source(train, None, test, tuple(builder.info.features[label].names))


def _read(builder: Any, split: str, label: str, block: int = 1000) -> Split:
    import tensorflow_datasets as tfds

    # Decoded here, because TFDS's own decoder logs advice to install OpenCV at every start. The speed is the same.
    records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    images = np.empty((len(records), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), block):
        positions = range(start, min(start + block, len(records)))
        for i, record in zip(positions, records.__getitems__(list(positions)), strict=True):
            with open_image(record["image"]) as image:
                images[i] = np.asarray(image).reshape(images.shape[1:])
            labels[i] = record[label]
    return Split(images, labels)
