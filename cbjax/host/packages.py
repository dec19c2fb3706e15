"""Finds the installed Python package (distribution) that a module's file belongs to, without running anything."""

import contextlib
import functools
import json
import os
import re
import site
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Owner(NamedTuple):
    """A distribution.

    Attributes:
      name: in lower case, with hyphens.
      requires: the names of the distributions that it needs.
      editable: whether it was installed from its author's folder, to be worked on (pip install -e).
    """

    name: str
    requires: frozenset[str]
    editable: bool


def owner(module: str, path: Path) -> Owner | None:
    """Returns the distribution that provides a module, or None if none does.

    The current folder is often on Python's path, and so are folders that a user adds: a module from there is not
    installed, however it is found. A package must have an __init__.py.

    Args:
      module: dotted name.
      path: the file that Python finds for it.
    """
    parts, file = module.split("."), Path(os.path.realpath(path))
    depth = len(parts) if file.name == "__init__.py" else len(parts) - 1
    if len(file.parents) <= depth:
        return None
    place = file.parents[depth]
    packages = [place.joinpath(*parts[: count + 1]) for count in range(depth)]
    if file.with_suffix("") != place.joinpath(*parts) and file != place.joinpath(*parts, "__init__.py"):
        return None
    if not all((package / "__init__.py").is_file() for package in packages):
        return None
    installed = place in _folders()
    for one in _distributions():
        root = _editable_root(one)
        if root is None:
            # It was copied here, with a list of its files.
            found = installed and any(
                Path(os.path.realpath(str(one.locate_file(name)))) == file for name in _files(one)
            )
        else:
            found = place in (root, root / "src") and parts[0] in _top_level(one, parts[0])
        if found:
            return Owner(_normal(one.metadata["Name"]), _requires(one), root is not None)
    return None


def needed_by(name: str) -> frozenset[str]:
    """Returns a distribution's name and those of all that it needs, with its extras, as far as they are installed."""
    found: set[str] = set()
    known: dict[str, list[metadata.Distribution]] = {}
    for one in _distributions():
        known.setdefault(_normal(one.metadata["Name"]), []).append(one)
    left = [_normal(name)]
    while left:
        current = left.pop()
        if current not in found:
            found.add(current)
            for one in known.get(current, []):
                left += _requires(one, extras=current == _normal(name))
    return frozenset(found)


def _folders() -> set[Path]:
    """Returns the folders that installers write to."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return {Path(os.path.realpath(folder)) for folder in folders}


def _distributions() -> Iterator[metadata.Distribution]:
    # Not those on sys.path: a stranger's folder could hold the record of a distribution.
    for one in metadata.distributions(path=[str(folder) for folder in sorted(_folders())]):
        if one.metadata["Name"]:
            yield one


def _files(one: metadata.Distribution) -> list[str]:
    return [str(file) for file in one.files or () if str(file).endswith(".py")]


def _editable_root(one: metadata.Distribution) -> Path | None:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        record = json.loads(one.read_text("direct_url.json") or "{}")
        if record.get("dir_info", {}).get("editable"):
            return Path(os.path.realpath(unquote(urlsplit(record["url"]).path)))
    return None


def _top_level(one: metadata.Distribution, name: str) -> list[str]:
    """Returns the names of an editable distribution's packages; if it does not list them, its own name's."""
    listed = (one.read_text("top_level.txt") or "").split()
    return listed or ([name] if _normal(name) == _normal(one.metadata["Name"]) else [])


def _requires(one: metadata.Distribution, extras: bool = False) -> frozenset[str]:
    needed = (line for line in one.requires or () if extras or "extra ==" not in line)
    return frozenset(_normal(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]) for line in needed)


@functools.cache
def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
