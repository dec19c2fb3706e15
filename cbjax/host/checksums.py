"""Computes SHA-256 sums of files and folders, on a disk or in a bucket."""

import hashlib
import json

from cbjax.host.literal_path import LiteralPath


def of_folder(directory: LiteralPath, deep: bool = True) -> dict[str, str]:
    """Returns name -> SHA-256 for the files in a folder; with `deep`, also for files in folders below it."""
    sums: dict[str, str] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if not path.is_dir():
            sums[path.name] = of_file(path)
        elif deep:
            sums |= {f"{path.name}/{name}": checksum for name, checksum in of_folder(path).items()}
    return sums


def of_file(path: LiteralPath) -> str:
    """Returns the SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem(directory: LiteralPath, listed: LiteralPath) -> str | None:
    """Returns how a checkpoint differs from its checksums, or None if it does not."""
    try:
        expected = dict(json.loads(listed.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        expected = {}
    if not expected:
        return f"{listed.name} is not readable"
    try:
        found = of_folder(directory)
    except OSError as error:
        return str(error)
    for name, checksum in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} has changed"
    return None
