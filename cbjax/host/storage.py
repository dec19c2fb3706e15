"""Paths, and work directories in a bucket (gs://…): checkpoints go there directly, small files by a local copy.

Objects in a bucket cannot be appended to, or renamed in one go. So a run writes and reads its logs, results and reports
in a local folder, and sends each changed file whole.
"""

import contextlib
import os
import pathlib
import socket
import tempfile
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

READABLE = ("gs", "s3", "az", "hf")  # kinds of URL that etils.epath opens
# Config keys whose values are paths; the config in a work directory holds absolute ones.
PATHS = {
    "data": ("data_dir", "file", "root", "train_list", "validation_list", "test_list"),
    "model": ("pretrained",),
    "stage": ("source",),
}
# Folders that Orbax writes or that go with its files; everything else in a work directory is small.
CHECKPOINTS = ("checkpoints", "checksums", "damaged")
CODE = "own"  # the folder of users' functions
# Sent last: a config tells others that there is a run, and results tell that it is finished.
LAST = ("config.json", "results.json")
_GOOGLE = "storage.googleapis.com"  # the host of gs://
_NOT_IN_URLS = "?#%|"  # signs with another meaning in a URL


class PathError(ValueError):
    """Nothing can be kept at this path."""


def why_no_path(path: str) -> str:
    """Returns why a path cannot belong to any file; "" if it can."""
    if "\0" in path:
        return "has a NUL character, which no path can have: write the file's path again"
    scheme, found, _ = path.partition("://")
    if found and scheme not in READABLE:
        known = ", ".join(f"{name}://" for name in READABLE)
        return f"begins with {scheme}://, but cbjax reads only local paths and {known}: copy the files here first"
    return ""


def why_out_of_reach(path: str | os.PathLike) -> str:
    """Returns why a file in a bucket cannot be reached, if that is known at once; else "".

    Without a network gcsfs would try six times within a minute, and print a traceback.
    """
    scheme = os.fspath(path).partition("://")[0]
    # With an emulator or a proxy, buckets are reached without the host's address.
    if scheme != "gs" or os.environ.get("STORAGE_EMULATOR_HOST") or urllib.request.getproxies():
        return ""
    try:
        socket.getaddrinfo(_GOOGLE, 443)
    except OSError as error:
        return f"this machine cannot find {_GOOGLE}, {error.strerror}: connect it, or copy the files here"
    return ""


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Any:
    """Returns an absolute `pathlib.Path` with its tilde resolved; for a URL a `LiteralPath`.

    Raises:
      PathError: if URLs of its kind cannot be opened, or it cannot belong to any file.
    """
    given = os.fspath(path)
    if is_remote(path) and given.partition("://")[0] not in READABLE:
        known = ", ".join(f"{scheme}://" for scheme in READABLE)
        raise PathError(f"{given!r}: a URL must begin with one of {known}")
    if problem := why_no_path(given):
        raise PathError(f"{given!r} {problem}")
    if not is_remote(path):
        try:
            return pathlib.Path(path).expanduser().absolute()
        except RuntimeError:
            raise PathError(f"{given!r}: there is no home folder for its ~; write the whole path") from None
    from cbjax.host.literal_path import LiteralPath

    return LiteralPath(path)


def place_of(workdir: str | os.PathLike) -> Any:
    """Returns `as_path` of a folder for checkpoints.

    Raises:
      PathError: if TensorStore, which writes checkpoints, would change a character of its name: the files would then
        lie in another folder.
    """
    place = as_path(workdir)
    name, shown = os.fspath(place), ascii(os.fspath(place))
    if any("\ud800" <= character <= "\udfff" for character in name):
        why = "set PYTHONUTF8=1, as the locale is not UTF-8" if _is_utf_8(name) else "choose another work directory"
        raise PathError(f"{shown}: checkpoints need a folder whose name is UTF-8; {why}")
    wrong = [character for character in (_NOT_IN_URLS if is_remote(place) else "\\") if character in name]
    if is_remote(place):
        wrong += [character for character in name if not character.isprintable()]
    if wrong:
        raise PathError(
            f"{shown}: checkpoints cannot be written to a {'URL' if is_remote(place) else 'folder'} with "
            f"{wrong[0]!a} in its name; choose another work directory"
        )
    if (parts := pathlib.PurePath(name).parts) and parts[0] == "/" and parts[1:2] and parts[1] in READABLE:
        raise PathError(f"{shown}: checkpoints cannot be written below /{parts[1]}, which stands for {parts[1]}://")
    return place


def _is_utf_8(name):
    try:
        return bool(os.fsencode(name).decode())
    except ValueError:
        return False


def with_absolute_paths(config: "ConfigDict") -> "ConfigDict":
    """Returns the config with absolute paths. Relative ones start at this process's folder; URLs stay as they are."""
    config = config.copy_and_resolve_references()
    for section, names in PATHS.items():
        for name in names:
            path = config[section][name]
            if path is not None and not is_remote(path):
                config[section][name] = os.path.abspath(os.path.expanduser(path))
    return config


class Place:
    """The work directory of a run, local or in a bucket.

    Attributes:
      root: the folder that the user named; it holds the checkpoints.
      files: a local folder with all other files: the root itself, or a copy of them.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Copies the small files of a remote directory to a local folder; a local directory is used as it is."""
        self.root = place_of(workdir)
        self._sent: dict[str, tuple[int, int]] = {}
        if not is_remote(self.root):
            self.files = self.root
            return
        # Kept while this object lives. Its path ends like the remote one, for messages.
        self._temporary = tempfile.TemporaryDirectory(prefix="cbjax-", ignore_cleanup_errors=True)
        self.files = pathlib.Path(self._temporary.name, *os.fspath(self.root).split("://")[1].strip("/").split("/"))
        self.files.mkdir(parents=True)
        for folder, copy in ((self.root, self.files), (self.root / CODE, self.files / CODE)):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name and path.name not in CHECKPOINTS and path.is_file():
                    copy.mkdir(exist_ok=True)
                    with contextlib.suppress(FileNotFoundError):  # a running command may remove it just now
                        (copy / path.name).write_bytes(path.read_bytes())
        self._sent = self._state()

    def send(self) -> None:
        """Sends new and changed files, and removes deleted ones."""
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
