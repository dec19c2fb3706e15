"""Reads an .npz of unknown origin: the header of every array is checked before memory is taken for it."""

import collections
import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from cbjax.host import machine

_OBJECTS = (
    "holds an array of Python objects, which may run code when read: convert it before saving "
    "(strings: np.array(labels, dtype=str); images of one size: np.stack)"
)
_LONGEST_REASON = 200  # characters of an error to show: numpy quotes a damaged header whole


class NpzError(ValueError):
    """A file is not a usable .npz. The message goes after the file's name, and names the member."""


def read(stream: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz by name.

    Arrays may be in Fortran order, in either byte order, compressed or not.

    Args:
      stream: a file that can be read at any position.

    Raises:
      NpzError: if it is not a zip archive, is damaged or encrypted, or does not fit into memory; if a member is not an
        array, holds Python objects, or has another size than its header says.
    """
    try:
        start = stream.read(len(np.lib.format.MAGIC_PREFIX))
        if start == np.lib.format.MAGIC_PREFIX:
            raise NpzError("holds a single array: write images and labels with numpy.savez")
        stream.seek(0)
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, NpzError):
            raise
        reason = f"{error}" if start[:2] == b"PK" else "it is not a zip archive"
        raise NpzError(f"cannot be read as .npz ({reason}): write it again with numpy.savez") from None
    with archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
            raise NpzError(f"holds {twice[0]!a} twice: write it again with numpy.savez")
        sizes = [_size(archive, member) for member in members]
        _require_memory(sum(sizes))
        return {name: _array(archive, member) for name, member in zip(names, members, strict=True)}


def read_npy(stream: IO[bytes]) -> np.ndarray:
    """Reads an .npy, the file of a single array; arguments and errors as in `read`."""
    total = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        size = _header_size(stream, total)
        _require_memory(size)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except NpzError:
        raise
    except Exception as error:  # numpy raises many kinds
        raise NpzError(f"cannot be read as .npy ({str(error)[:_LONGEST_REASON]}): write it with numpy.save") from None


def _size(archive, member) -> int:
    """Returns the number of bytes of a member's array, from its header; raises NpzError if it is not an array."""
    if member.flag_bits & 1:
        raise NpzError(f"cannot be read as .npz: its member {member.filename!a} is encrypted: write it unencrypted")
    if not member.filename.endswith(".npy"):
        raise NpzError(f"holds the member {member.filename!a}, which is not an array: write arrays with numpy.savez")
    with _naming(member), archive.open(member) as file:
        return _header_size(file, member.file_size)


def _header_size(file, total) -> int:
    """Returns the number of bytes of an array, from its header; ValueError if the file does not hold as many."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise NpzError(_OBJECTS)
    if not dtype.itemsize:  # a file of a few bytes could hold billions of such numbers
        raise ValueError(f"its numbers or strings, {dtype}, have no bytes")
    size, there = math.prod(shape) * dtype.itemsize, total - file.tell()
    if min(shape, default=0) < 0 or size != there:
        raise ValueError(f"it has {there} bytes, but its header, {dtype} of shape {shape}, needs {size}")
    return size


def _require_memory(size) -> None:
    if size > (free := machine.free_bytes()):
        raise NpzError(
            f"holds arrays of {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of memory are free: use a machine "
            "with more, or image files (data.name=folder, list or csv), which are read as they are needed"
        )


def _array(archive, member) -> np.ndarray:
    with _naming(member), archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _naming(member) -> Iterator[None]:
    """Adds the member's name to every error inside."""
    try:
        yield
    except NpzError as error:
        raise NpzError(f"{error}; it is the member {member.filename!a}") from None
    except Exception as error:  # zipfile, the decompressors and numpy raise many kinds
        reason = str(error)[:_LONGEST_REASON] or type(error).__name__
        raise NpzError(
            f"cannot be read as .npz (its member {member.filename!a}: {reason}): write it again with numpy.savez"
        ) from None
