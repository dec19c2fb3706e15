"""Paths in which every character means itself; paths of etils read the brackets in a name like `lr[0.1]` as a pattern.

Orbax and TFDS keep the class of a given path, so their paths below it are literal too.
"""

import contextlib
import fnmatch
import glob
import os
from collections.abc import Iterator
from typing import Any, Self

from etils import epath


class LiteralPath(type(epath.Path("/"))):  # type: ignore[misc]
    """An `epath.Path` that never reads its own characters as a pattern.

    In a bucket, fsspec expands the path that it deletes or moves, and so could hit another run's files. Here it gets
    each file's name instead.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yields the files and folders that match, in no particular order; there is no `**`."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir() if self.is_dir() else ():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yields all files below this folder whose names match, but no folders; etils' own paths cannot do this."""
        top = ""
        for folder, _, names in self.walk():
            top = top or os.fspath(folder)  # in a bucket this lacks the gs://
            for name in fnmatch.filter(names, pattern):
                yield self / os.path.relpath(folder, top) / name

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file."""
        bucket = self._bucket()
        if bucket is None:
            super().unlink(missing_ok)
        elif bucket.exists(os.fspath(self)):
            bucket.rm_file(os.fspath(self))
        elif not missing_ok:
            raise FileNotFoundError(os.fspath(self))

    def rmtree(self, missing_ok: bool = False) -> None:
        """Deletes the folder and everything in it."""
        bucket = self._bucket()
        if bucket is None:
            super().rmtree(missing_ok)
            return
        files = bucket.find(os.fspath(self))
        if not files and not missing_ok:
            raise FileNotFoundError(os.fspath(self))
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process may delete it too
                bucket.rm_file(file)

    def rename(self, target: str | os.PathLike) -> Self:
        """Moves the file or folder to a new place; raises FileExistsError if something is there."""
        bucket = self._bucket()
        if bucket is None:
            return super().rename(target)
        place = self._new(target)
        if place.exists():
            raise FileExistsError(os.fspath(place))
        start = len(bucket._strip_protocol(os.fspath(self)))
        for file in bucket.find(os.fspath(self)):
            bucket.cp_file(file, os.fspath(place) + file[start:])
            bucket.rm_file(file)
        return place

    def _bucket(self) -> Any:
        """Returns the bucket's file system if it would expand this path, else None."""
        file_system = getattr(self._backend, "fs", None)
        return file_system(self) if file_system and glob.has_magic(os.fspath(self)) else None
