"""Keys that name users' own functions: their file, its SHA-256, and the options of the function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbjax.config.schema import OPTIONS, ConfigError, accept, is_option
from cbjax.host import code

# A key that may name a user's function -> the key of the SHA-256 of its file.
CODE_KEYS = {"model.name": "model.code", "loss.name": "loss.code"}


def fold_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Moves options with keys of their own, such as "model.options.width", into "model.options"."""
    folded = {key: value for key, value in values.items() if not is_option(key)}
    for options in OPTIONS:
        own = {key.rpartition(".")[2]: value for key, value in values.items() if key.rpartition(".")[0] == options}
        if own:
            folded |= accept({options: {**dict(folded.get(options, ())), **own}})
    return folded


def look_beside(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Makes paths of users' files absolute. The folder of the file that names them is looked in first."""
    names = {key: values[key] for key in CODE_KEYS if code.is_own(values.get(key))}
    return {**values, **{key: code.absolute(name, beside=path) for key, name in names.items()}}


def find_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """Makes paths of users' files absolute and fills in their SHA-256. Runs nothing.

    Raises:
      ConfigError: if there is no such file, or the given SHA-256 is another file's.
    """
    found = dict(values)
    for key, code_key in CODE_KEYS.items():
        name, known = values[key], values[code_key]
        found[code_key] = None
        if not code.is_own(name):
            continue
        found[key] = code.absolute(name)
        try:
            found[code_key] = code.sha256(name)
        except code.CodeError as error:
            raise ConfigError(f"{key}: {error}") from error
        if known not in (None, found[code_key]):
            raise ConfigError(
                f"{code_key} is filled in by cbjax; got {known}, which is not the SHA-256 of the file of {name}: "
                "the file has changed, or is another one; set the key to none to take it as it is"
            )
    _check_names(found)
    return found


def identities(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves the folder out of the names of users' functions: the SHA-256 is enough."""
    own = {key: code.identity(values[key]) for key in CODE_KEYS if code.is_own(values[key])}
    return {**values, **own}


def _check_names(values: Mapping[str, Any]) -> None:
    """Refuses two different files with the same name, because a work directory keeps them side by side."""
    files = {values[code_key]: code.file_name(values[key]) for key, code_key in CODE_KEYS.items() if values[code_key]}
    if len({*files.values()}) < len(files):
        listed = " and ".join(f"{key}={values[key]}" for key in CODE_KEYS)
        raise ConfigError(f"two different files of your own must have different names; got {listed}")
