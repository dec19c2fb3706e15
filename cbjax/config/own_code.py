"""Keys that name users' own functions: which file is meant, what it holds, and the options that are handed to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbjax.config.schema import OPTIONS, ConfigError, accept, is_option
from cbjax.host import code

# A key that may name a user's function -> the key of the SHA-256 of its file.
CODE_KEYS = {"model.name": "model.code", "loss.name": "loss.code"}


def fold_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Puts options that are given by themselves, "model.options.width", to the others of "model.options"."""
    folded = {key: value for key, value in values.items() if not is_option(key)}
    for options in OPTIONS:
        own = {key.rpartition(".")[2]: value for key, value in values.items() if key.rpartition(".")[0] == options}
        if own:
            folded |= accept({options: {**dict(folded.get(options, ())), **own}})
    return folded


def look_beside(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Makes the paths of files with functions absolute that lie in the folder of the file that names them."""
    names = {key: values[key] for key in CODE_KEYS if code.is_own(values.get(key))}
    return {**values, **{key: code.absolute(name, beside=path) for key, name in names.items()}}


def find_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the paths of files with functions absolute, and fills in the SHA-256 of their content; runs nothing.

    Raises:
      ConfigError: if there is no such file, or it is not the one whose SHA-256 is given.
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
                f"{code_key} is filled in by cbjax; got {known}, which is not the SHA-256 of the file of {name}: it "
                "has changed since, or it is another; set the key to none to take the file as it is"
            )
    _check_names(found)
    return found


def identities(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces names of functions by what they say beside the SHA-256 of their file: where it lies does not count."""
    own = {key: code.identity(values[key]) for key in CODE_KEYS if code.is_own(values[key])}
    return {**values, **own}


def _check_names(values: Mapping[str, Any]) -> None:
    """Refuses two files of one name: a work directory keeps them side by side."""
    files = {values[code_key]: code.file_name(values[key]) for key, code_key in CODE_KEYS.items() if values[code_key]}
    if len({*files.values()}) < len(files):
        listed = " and ".join(f"{key}={values[key]}" for key in CODE_KEYS)
        raise ConfigError(f"two different files of your own must have different names; got {listed}")
