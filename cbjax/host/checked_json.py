"""Writes JSON files and checks them when they are read: `checksums.json` next to them holds their SHA-256."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from cbjax.host.locks import locked
from cbjax.host.writers import plain, read_regular, replace

SUMS = "checksums.json"
KEPT = 4  # checksums of a file's last contents: after a kill, or in a bucket, an earlier content may be there


class RecordError(ValueError):
    """A file is missing, is not a JSON object, or is not as cbjax wrote it."""


def write(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; numbers that are not finite become null."""
    content = _content(value)
    # The checksum comes first: after a kill in between, the old file is still known.
    _note(path.parent, {path.name: _digest(content)})
    replace(path, content)


def vouch(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Notes the checksums of files that are complete and were not written by `write`."""
    _note(folder, {name: _digest((folder / name).read_bytes()) for name in names})


def _note(folder: pathlib.Path, digests: Mapping[str, str]) -> None:
    with locked(folder / f".{SUMS}.lock"):
        known: dict[str, list[str]] = {}
        with contextlib.suppress(RecordError):  # it is damaged: the next reader says so
            known = _all_known(folder)
        new = {name: digest for name, digest in digests.items() if known.get(name, ())[-1:] != [digest]}
        for name, digest in new.items():
            known[name] = [*(one for one in known.get(name, ()) if one != digest), digest][-KEPT:]
        if new:
            replace(folder / SUMS, (json.dumps(known, indent=1) + "\n").encode())


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object. A file without checksums, written by an older version, is not checked.

    Raises:
      RecordError: if it is missing, not a JSON object, or not as it was written.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing or damaged: there is no such file") from None
    except OSError as error:
        raise RecordError(f"{path} is missing or damaged: {error.strerror}") from error
    try:
        value = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is missing or damaged: it must hold a JSON object; got {type(value).__name__}")
    _check(path, content)
    return value


def check(path: pathlib.Path) -> None:
    """Raises RecordError if a file is not as it was written."""
    _check(path, read_regular(path))


def is_unchanged(path: pathlib.Path) -> bool:
    """Returns whether a file is there and is as it was written."""
    try:
        check(path)
    except (OSError, RecordError):
        return False
    return True


def is_sound(path: pathlib.Path) -> bool:
    """Returns whether `read` can read a file."""
    try:
        read(path)
    except RecordError:
        return False
    return True


def was_written(path: pathlib.Path, value: Any) -> bool:
    """Returns whether a file was once written with this value; it may have changed since."""
    try:
        return _digest(_content(value)) in _all_known(path.parent).get(path.name, ())
    except RecordError:
        return False


def _check(path: pathlib.Path, content: bytes) -> None:
    known = _all_known(path.parent).get(path.name)
    if known and _digest(content) not in known:
        raise RecordError(
            f"{path} was edited or damaged: its checksum is not the one in {SUMS}, which cbjax wrote; "
            f"restore the file, or, if the edit is meant, remove {path.parent / SUMS}"
        )


def _content(value: Any) -> bytes:
    return (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _all_known(folder: pathlib.Path) -> dict[str, list[str]]:
    path = folder / SUMS
    try:
        known = json.loads(read_regular(path))
        if isinstance(known, dict) and all(isinstance(one, list) for one in known.values()):
            return known
        problem = "it must hold lists of checksums"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise RecordError(f"{path} is damaged ({problem}): restore it, or remove it to go on without its checks")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
