"""Any image classification set that TensorFlow Datasets prepared as ArrayRecord, read image by image."""

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
_BLOCK = 64  # records read at a time for their labels; of photographs some megabytes


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
        """Returns a record, its image still encoded."""
        return self.source()[position]

    def source(self) -> Any:
        """Returns TFDS's random access source, opened at the first use in each process."""
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
        """Returns where the record is, with the name that the image's file had if the set keeps it."""
        place = f"{self.folder}, {self.split} record {position}"
        try:
            file_name = self.record(position).get("file_name")
        except Exception:  # of a record that cannot be read, nothing more can be said
            file_name = None
        return f"{place} ({file_name.decode(errors='replace')})" if isinstance(file_name, bytes) else place

    def fingerprint(self, positions: np.ndarray) -> bytes:
        """Returns the positions with what tells the set from others; its files do not change once written."""
        return self.key().encode() + np.asarray(positions, np.int64).tobytes()

    def sizes(self, positions: np.ndarray) -> bytes:
        """Returns nothing: the fingerprint has the sizes of the files that hold the records."""
        return b""

    def key(self) -> str:
        """Returns a digest of the set's description and of the names and sizes of the split's files."""
        folder = LiteralPath(self.folder)
        files = sorted((path.name, path.stat().length) for path in folder.glob(f"*-{self.split}.array_record-*"))
        content = (folder / "dataset_info.json").read_bytes() + repr(files).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def load(name: str, data_dir: str | os.PathLike | None, image_size: int) -> Source:
    """Opens a prepared set by TFDS's name; labels are read once and kept.

    The splits train, validation and test are used where the set has them with labels. What would be validated on is
    tested on where there is no labelled test split.

    Args:
      name: "imagenet2012", or "tfds:" before any other NAME or NAME/CONFIG.
      data_dir: the TFDS folder, None for the default.
      image_size: side of the images to make.

    Raises:
      DataError: as `tfds.find`, or if the records cannot be read or are no images with one label.
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
            # Test splits whose labels are secret have -1 in their place; the first record says it of all.
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
        raise DataError(f"the data set '{name}' in {folder} must have the features image and label, it has {kinds}")
    return with_test(splits, tuple(features["label"].names))


def _labels(store, name, size):
    """Returns the labels of a split [N = size]; read from the records once, then from a file that keeps them."""
    file_name = f"cbjax-labels-{store.split}-{store.key()}.npy"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = f"{name.replace('/', '-')}-{file_name}"
    places = [as_path(store.folder) / f".{file_name}", as_path(cache) / "cbjax" / own]
    kept = next((labels for labels in map(_kept, places) if labels is not None and len(labels) == size), None)
    if kept is not None:
        return kept
    source = store.source()
    say(f"reading the labels of {len(source)} {store.split} images of {name}, this once")
    blocks = [list(range(start, min(start + _BLOCK, len(source)))) for start in range(0, len(source), _BLOCK)]
    with concurrent.futures.ThreadPoolExecutor(min(32, 4 * machine.cores())) as pool:
        rows = pool.map(lambda block: [source[position]["label"] for position in block], blocks)
        labels = np.array([label for row in rows for label in row], np.int32)
    for place in places:
        try:
            _write(place, labels)
            break
        except OSError:  # a folder of read-only data
            continue
    return labels


def _kept(place):
    try:
        with place.open("rb") as file:
            return np.load(file)
    except (OSError, ValueError, EOFError):  # not there, or cut while it was written
        return None


def _write(place, labels):
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, labels)
    temporary.replace(place)
