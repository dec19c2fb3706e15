"""Paths, and work directories in a bucket (gs://…): checkpoints go there, small files by way of a local copy.

Objects cannot be appended to or renamed at once, so logs, results and reports are written in a local folder, which a
run also reads, and each file that changed is sent whole.
"""

import os
import pathlib
import tempfile
from typing import Any

from ml_collections import ConfigDict

# Config keys whose values are paths; in a work directory they are absolute.
PATHS = {
    "data": ("data_dir", "file", "root", "train_list", "validation_list", "test_list"),
    "model": ("pretrained",),
}
# Written by Orbax, or beside its files; everything else of a work directory is small.
CHECKPOINTS = ("checkpoints", "checksums", "damaged")
# A run is known by its config and finished by its results, so these come when the rest is there.
LAST = ("config.json", "results.json")


def is_remote(path: str | os.PathLike) -> bool:
    """Says whether a path is a URL such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Any:
    """Returns an absolute `pathlib.Path`, its tilde resolved, or for a URL an `epath.Path`."""
    if not is_remote(path):
        return pathlib.Path(path).expanduser().absolute()
    from etils import epath

    return epath.Path(path)


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
    """Returns the config with paths that hold in any folder: relative ones start at this process's; URLs stay."""
    config = config.copy_and_resolve_references()
    for section, names in PATHS.items():
        for name in names:
            path = config[section][name]
            if path is not None and not is_remote(path):
                config[section][name] = os.path.abspath(os.path.expanduser(path))
    return config


class Place:
    """Where a run lives.

    Attributes:
      root: what the user named, local or remote; checkpoints lie below it.
      files: a local folder with all the other files: the root itself, or a copy of them.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Makes the local copy of a remote directory; of a local one nothing."""
        self.root = as_path(workdir)
        self._sent: dict[str, tuple[int, int]] = {}
        if not is_remote(self.root):
            self.files = self.root
            return
        # Kept while this object lives; its path ends as the remote one, for messages.
        self._temporary = tempfile.TemporaryDirectory(prefix="cbjax-", ignore_cleanup_errors=True)
        self.files = pathlib.Path(self._temporary.name, *os.fspath(self.root).split("://")[1].strip("/").split("/"))
        self.files.mkdir(parents=True)
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if path.name and path.name not in CHECKPOINTS and path.is_file():
                (self.files / path.name).write_bytes(path.read_bytes())
        self._sent = self._state()

    def send(self) -> None:
        """Sends the files that are new or changed, and removes those that are gone."""
        if self.files is self.root:
            return
        now = self._state()
        for name in sorted(now, key=lambda name: (name in LAST, name)):
            if now[name] != self._sent.get(name):
                if "/" in name:
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).write_bytes((self.files / name).read_bytes())
        for name in self._sent.keys() - now.keys():
            (self.root / name).unlink(missing_ok=True)
        self._sent = now

    def _state(self):
        files = {path.relative_to(self.files): path.stat() for path in self.files.rglob("*") if path.is_file()}
        sent = {path: about for path, about in files.items() if path.parts[0] not in CHECKPOINTS}
        return {
            path.as_posix(): (about.st_mtime_ns, about.st_size)
            for path, about in sent.items()
            if not path.name.startswith(".")
        }
