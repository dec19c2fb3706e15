"""Reads any image classification set that TensorFlow Datasets prepared as ArrayRecord, image by image."""

import concurrent.futures
import hashlib
import os
import threading
from typing import Any

import numpy as np

from cbjax.data import tfds
from cbjax.data.files import as_path, make_split, with_test
from cbjax.data.records import DataError, Source
from cbjax.host import machine
from cbjax.host.literal_path import LiteralPath
from cbjax.host.output import say

PREFIX = "tfds:"
_BLOCK = 64  # records read at a time for their labels; with photographs some megabytes


class Records:
    """A `records.Store` of the encoded images of one split."""

    def __init__(self, folder: str, split: str):
        self.folder, self.split = folder, split
        self._lock = threading.Lock()
        self._opened: Any = None

    def __getstate__(self) -> dict[str, str]:
        return {"folder": self.folder, "split": self.split}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def record(self, position: int) -> dict[str, Any]:
        """Returns a record; its image is still encoded."""
        return self.source()[position]

    def source(self) -> Any:
        """Returns TFDS's random access source; each process opens it at its first use."""
        with self._lock:
            if self._opened is None:
                import tensorflow_datasets

                builder = tensorflow_datasets.builder_from_directory(LiteralPath(self.folder))
                decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
                self._opened = builder.as_data_source(split=self.split, decoders=decoders)
            return self._opened

    def read(self, position: int) -> bytes:
        """Returns the image's bytes."""
        return self.record(position)["image"]

    def name(self, position: int) -> str:
        """Returns where the record is, and the name of the image's file if the set keeps it."""
        place = f"{self.folder}, {self.split} record {position}"
        try:
            file_name = self.record(position).get("file_name")
        except Exception:  # the record cannot be read, so its place must do
            file_name = None
        return f"{place} ({file_name.decode(errors='replace')})" if isinstance(file_name, bytes) else place

    def fingerprint(self, positions: np.ndarray) -> bytes:
        """Returns the set's key and the positions; the files of a set do not change once written."""
        return self.key().encode() + np.asarray(positions, np.int64).tobytes()

    def sizes(self, positions: np.ndarray) -> bytes:
        """Returns nothing: the sizes of the files that hold the records are in the fingerprint."""
        return b""

    def missing(self, positions: np.ndarray) -> list[int]:
        """Returns nothing: a set has the records that its description counts."""
        return []

    def key(self) -> str:
        """Returns a digest of the set's description and the names and sizes of the split's files."""
        folder = LiteralPath(self.folder)
        files = sorted((path.name, path.stat().length) for path in folder.glob(f"*-{self.split}.array_record-*"))
        content = (folder / "dataset_info.json").read_bytes() + repr(files).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def load(name: str, data_dir: str | os.PathLike | None, image_size: int) -> Source:
    """Opens a prepared set by TFDS's name; labels are read once and kept.

    The splits train, validation and test are used if the set has them with labels. Without a labelled test split the
    validation split becomes the test split.

    Args:
      name: "imagenet2012" and the like, or "tfds:NAME" or "tfds:NAME/CONFIG" for any other set.
      data_dir: the TFDS folder, None for the default.
      image_size: side of the images to make.

    Raises:
      DataError: as `tfds.find`; also if the records cannot be read or are not images with one label.
    """
    name = name.removeprefix(PREFIX)
    prepared = tfds.find(name, data_dir, splits=("train",))
    import tensorflow_datasets

    folder = os.fspath(prepared.folder)
    try:
        features = tensorflow_datasets.builder_from_directory(prepared.folder).info.features
        kinds = {key: type(feature).__name__ for key, feature in features.items()}
        fits = kinds.get("image") == "Image" and kinds.get("label") == "ClassLabel"
        splits = {}
        for split in ("train", "validation", "test"):
            if not fits or not prepared.sizes.get(split):
                continue
            store = Records(folder, split)
            # Test splits with secret labels have -1 instead, in every record; so the first record is enough.
            if split == "train" or store.record(0)["label"] >= 0:
                splits[split] = make_split(store, _labels(store, name, prepared.sizes[split]), image_size)
    except DataError:
        raise
    except Exception as error:  # the record reader and protocol buffers each raise their own
        raise DataError(
            f"the data set '{name}' in {folder} cannot be read ({error!r}); prepare it again",
            tfds.prepare_again(prepared.folder, name, data_dir),
        ) from error
    if not fits:
        raise DataError(f"the data set '{name}' in {folder} must have the features image and label; it has {kinds}")
    return with_test(splits, tuple(features["label"].names))


def _labels(store, name, size):
    """Returns the labels of a split [N = size]; they are read from the records once, then from a file."""
    file_name = f"cbjax-labels-{store.split}-{store.key()}.npy"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = f"{name.replace('/', '-')}-{file_name}"
    places = [as_path(store.folder) / f".{file_name}", as_path(cache) / "cbjax" / own]
    kept = next((labels for labels in map(_kept, places) if labels is not None and len(labels) == size), None)
    if kept is not None:
        return kept
    source = store.source()
    say(f"reading the labels of {len(source)} {store.split} images of {name}; this happens only once")
    blocks = [list(range(start, min(start + _BLOCK, len(source)))) for start in range(0, len(source), _BLOCK)]
    with concurrent.futures.ThreadPoolExecutor(min(32, 4 * machine.cores())) as pool:
        rows = pool.map(lambda block: [source[position]["label"] for position in block], blocks)
        labels = np.array([label for row in rows for label in row], np.int32)
    for place in places:
        try:
            _write(place, labels)
            break
        except OSError:  # for example a read-only folder
            continue
    return labels


def _kept(place):
    try:
        with place.open("rb") as file:
            return np.load(file)
    except (OSError, ValueError, EOFError):  # not there, or cut off while it was written
        return None


def _write(place, labels):
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, labels)
    temporary.replace(place)
