"""Copies of users' files in a work directory. `load` runs a copy only if the user says that it may."""

import ast
import hashlib
import os
import pathlib
from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from cbjax.config import ConfigError
from cbjax.config.own_code import CODE_KEYS
from cbjax.host import code, packages
from cbjax.host.storage import CODE as FOLDER
from cbjax.host.writers import replace


def keep(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Copies the file of each function in the config into the work directory, with the content that is run."""
    for _, name, sha256 in _named(config):
        folder = workdir / FOLDER
        folder.mkdir(exist_ok=True)
        replace(folder / code.file_name(name), code.source(name, sha256))


def lacks(workdir: pathlib.Path, config: ConfigDict) -> list[str]:
    """Returns the names of the copies that are missing or were changed."""
    kept = {f"{FOLDER}/{code.file_name(name)}": sha256 for _, name, sha256 in _named(config)}
    return [path for path, sha256 in kept.items() if not _is(workdir / path, sha256)]


def allow(workdir: pathlib.Path, config: ConfigDict, trust_code: bool, given: Collection[str] = ()) -> ConfigDict:
    """Returns the config of a run to be loaded. Its functions are in installed modules or in trusted copies.

    Args:
      workdir: of the run.
      config: of the run.
      trust_code: whether the copies may be run. Trust means that the author of the work directory may do with this
        machine what the user can. The unchanged file of a package that the user installed to train with needs no trust.
      given: keys that have another value than the run's, as the user or a method gives it; they are left alone.

    Raises:
      ConfigError: if a copy would have to run and is not trusted. Nothing has run then.
    """
    changed = config.copy_and_resolve_references()
    for key, name, sha256 in _named(config):
        if key in given or _is_installed(name, sha256, workdir):
            continue
        copy = workdir / FOLDER / code.file_name(name)
        if not trust_code:
            raise ConfigError(
                f"{workdir} holds a run with {key}={name}: to load it, its copy of that file, {copy}, would be run, "
                "which can do anything that you can. Read it; if you trust it, say so with trust_code=True, on the "
                "command line --trust-code"
            )
        if not code.is_file(name) and _is_found(name, sha256):
            continue  # a module may import its neighbours; a copy cannot
        section, _, leaf = key.rpartition(".")
        changed[section][leaf] = f"{copy.absolute()}:{name.rpartition(':')[2]}"
    return changed


def _named(config: ConfigDict) -> Iterator[tuple[str, str, str]]:
    """Yields each key that names a user's function, its value, and the SHA-256 of the file."""
    for key, code_key in CODE_KEYS.items():
        name, sha256 = (config[one.split(".")[0]][one.split(".")[1]] for one in (key, code_key))
        if code.is_own(name):
            yield key, name, sha256


def _is_installed(name: str, sha256: str, workdir: pathlib.Path) -> bool:
    """Says whether a name is that of a network or loss which the user has installed, unchanged.

    Someone else's work directory chooses the function and its options. It could name any function on this machine, such
    as one that removes files. So the module must belong to an installed distribution that uses cbjax, JAX or Flax, or
    that is worked on here (pip install -e). The libraries that cbjax itself needs do not count: everyone has them, and
    they hold functions that write files. The function must be the module's own, not one that it imports.
    """
    if code.is_file(name):
        return False
    module, _, function = name.rpartition(":")
    try:
        path = code.find(name).path
        if code.sha256(name) != sha256:
            return False
        source = code.source(name, sha256)
    except code.CodeError:
        return False
    if pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(workdir)):
        return False
    owner = packages.owner(module, path)
    if owner is None or owner.name in packages.needed_by("cbjax"):
        return False
    return (owner.editable or bool(owner.requires & {"cbjax", "flax", "jax"})) and _defines(source, function)


def _is_found(name: str, sha256: str) -> bool:
    try:
        return code.sha256(name) == sha256
    except code.CodeError:
        return False


def _defines(source: bytes, function: str) -> bool:
    """Says whether a file defines a name at its top level. Runs nothing."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return False
    functions = [one.name for one in statements if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
    return function in functions


def _is(path: pathlib.Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
