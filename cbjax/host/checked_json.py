"""JSON files that are checked when they are read: `checksums.json` beside them has the SHA-256 of what was written."""

import contextlib
import fcntl
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from cbjax.host.writers import plain, read_regular, replace

SUMS = "checksums.json"
KEPT = 4  # of a file's last contents: a kill, or a bucket, may leave an earlier one


class RecordError(ValueError):
    """A file that is missing, is no JSON object, or is not the one that cbjax wrote."""


def write(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; numbers that are not finite become null."""
    content = _content(value)
    # Before the file: a kill in between leaves one that is known.
    _note(path.parent, {path.name: _digest(content)})
    replace(path, content)


def vouch(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Notes the checksums of files that are complete and were not written by `write`."""
    _note(folder, {name: _digest((folder / name).read_bytes()) for name in names})


def _note(folder: pathlib.Path, digests: Mapping[str, str]) -> None:
    with open(folder / f".{SUMS}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known: dict[str, list[str]] = {}
        with contextlib.suppress(RecordError):  # damaged: whatever reads it says so
            known = _all_known(folder)
        new = {name: digest for name, digest in digests.items() if known.get(name, ())[-1:] != [digest]}
        for name, digest in new.items():
            known[name] = [*(one for one in known.get(name, ()) if one != digest), digest][-KEPT:]
        if new:
            replace(folder / SUMS, (json.dumps(known, indent=1) + "\n").encode())


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; one written by an older version, without checksums, as it is.

    Raises:
      RecordError: if it is missing, no JSON object, or not what was written.
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
    """Raises RecordError if a file is not what was written."""
    _check(path, read_regular(path))


def is_unchanged(path: pathlib.Path) -> bool:
    """Says whether a file is there and what was written."""
    try:
        check(path)
    except (OSError, RecordError):
        return False
    return True


def is_sound(path: pathlib.Path) -> bool:
    """Says whether `read` would read a file."""
    try:
        read(path)
    except RecordError:
        return False
    return True


def was_written(path: pathlib.Path, value: Any) -> bool:
    """Says whether a file was written with this value, whatever became of it since."""
    try:
        return _digest(_content(value)) in _all_known(path.parent).get(path.name, ())
    except RecordError:
        return False


def _check(path: pathlib.Path, content: bytes) -> None:
    known = _all_known(path.parent).get(path.name)
    if known and _digest(content) not in known:
        raise RecordError(
            f"{path} is not as cbjax wrote it: it was edited or damaged, for {SUMS} beside it has another checksum; "
            f"bring the former file back, or, if you mean what it says, remove {path.parent / SUMS}"
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
    raise RecordError(f"{path} is damaged ({problem}): bring it back, or remove it to go on without its checks")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
