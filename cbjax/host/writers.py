"""Writes metric rows to JSON lines and TensorBoard event files, and replaces whole files safely.

A row is in the file when `write` returns: nothing is queued, and no thread writes later. So a process that is killed
loses at most the row that it was writing.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import platform
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Row = Mapping[str, Any]
TEMPORARY = ".tmp"
EVENTS = "events.out.tfevents.*"  # TensorBoard's files
# Error of a disk that takes no more data -> what helps. When there is room, the same command goes on.
FULL = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make the disk writable",
}


class Writer(Protocol):
    """The methods that the loop calls."""

    def write(self, row: Row) -> None:
        """Writes one row to the file, so that it survives a kill of the process."""

    def flush(self) -> None:
        """Forces written rows onto the disk, so that they survive a power failure."""

    def close(self) -> None:
        """Flushes and closes; a closed writer refuses rows."""


class JsonLinesWriter:
    """Appends rows to a file, each as a line with a standard JSON object.

    Floats keep all their digits. JSON has no NaN or infinity, so non-finite numbers become null. NumPy and JAX scalars
    and arrays become numbers and lists. Opening the file removes a last line that a kill cut short.
    """

    def __init__(self, path: str | os.PathLike):
        # Unbuffered and opened for appending, so each row is one call of the operating system.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (open as long as the writer)
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, row: Row) -> None:
        line = memoryview(_line(row))
        with naming(self._file.name):
            while line:  # a disk that is almost full writes only a part, and then refuses the rest
                line = line[self._file.write(line) :]

    def flush(self) -> None:
        with naming(self._file.name):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()


class TensorBoardWriter:
    """Writes the numbers of rows to a TensorBoard event file, as scalars at the row's "step".

    A new event file that starts with `rows` replaces all event files in `directory`. A resumed run passes its history,
    so each row is there once. Non-finite numbers, lists and text are left out. The format stores values as float32.

    Source: tensorboardX writes the format without TensorFlow. Its `SummaryWriter` hands events to a queue and a thread,
    and its `flush` does not wait for them, so a kill loses rows. `EventsWriter`, which that thread calls, writes at
    once.
    """

    def __init__(self, directory: str | os.PathLike, rows: Iterable[Row] = ()):
        from tensorboardX.event_file_writer import EventsWriter

        for old in pathlib.Path(directory).glob(EVENTS):
            old.unlink()
        self._events = EventsWriter(os.path.join(directory, "events"))
        self._closed = False
        self._directory = directory
        for row in rows:
            self._add(row)
        self.flush()

    def write(self, row: Row) -> None:
        self._add(row)
        self.flush()

    def flush(self) -> None:
        if not self._closed:
            with naming(self._directory):
                self._events.flush()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with naming(self._directory):
                self._events.close()

    def _add(self, row: Row) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if "step" not in row:
            raise ValueError(f'a row for TensorBoard needs a "step"; got the keys {sorted(row)}')
        if self._closed:
            raise ValueError("the TensorBoard writer is closed; make another one to write more rows")
        scalars = {key: value for key, value in plain(row).items() if type(value) in (int, float) and key != "step"}
        values = [Summary.Value(tag=key, simple_value=value) for key, value in scalars.items()]
        self._events.write_event(Event(wall_time=time.time(), step=int(row["step"]), summary=Summary(value=values)))


class MultiWriter:
    """Writes each row to several writers, in their order."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(writers)

    def write(self, row: Row) -> None:
        for writer in self._writers:
            writer.write(row)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        # The stack closes all writers even if one fails, and then raises its error.
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


def read_regular(path: str | os.PathLike, largest: float = math.inf) -> bytes:
    """Returns the content of a regular file.

    Raises:
      OSError: if it cannot be read, is a pipe or a device, or has more than `largest` bytes.
    """
    # O_NONBLOCK: opening a pipe without a writer would wait for one. Python's own buffer would only take time.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if about.st_size > largest:
            raise OSError(errno.EINVAL, f"it has {about.st_size} bytes; at most {largest} can be read", os.fspath(path))
        return file.readall()


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a file of JSON lines. A last line without a newline was cut off by a kill and does not count.

    Raises:
      ValueError: if any other line is not a JSON object; the message names the file and the line.
    """
    rows = []
    for number, line in enumerate(read_regular(path).split(b"\n")[:-1], start=1):
        row = None
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: each line must be one JSON object; got {line[:80]!r}")
        rows.append(row)
    return rows


def rewrite(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Replaces a file of JSON lines, whole or not at all, by the bytes that a `JsonLinesWriter` writes for the rows."""
    replace(pathlib.Path(path), b"".join(_line(row) for row in rows))


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all, even if another process writes the same file.

    Raises:
      OSError: with the file's name; the old file stays.
    """
    temporary = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}{TEMPORARY}")
    try:
        with naming(path), open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_remains(folder: pathlib.Path) -> None:
    """Removes unfinished files of `replace` that killed processes left."""
    for path in folder.iterdir():
        if re.search(rf"\.\d+{re.escape(TEMPORARY)}$", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Adds a file's name to an OSError without one, such as the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


def is_full(error: BaseException) -> bool:
    """Returns whether an error means that the disk takes no more data."""
    return isinstance(error, OSError) and error.errno in FULL


def _line(row: Row) -> bytes:
    return json.dumps(plain(row), allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Turns arrays and array scalars into Python's numbers and lists, and non-finite numbers into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
