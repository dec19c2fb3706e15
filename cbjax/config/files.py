"""Finds and runs the Python files that hold configurations and sweeps: by name if cbjax brings them, else by path."""

import inspect
from pathlib import Path
from typing import Any

from cbjax.config.kinds import LONGEST_TEXT
from cbjax.config.schema import ConfigError, did_you_mean, show
from cbjax.host.code import existing, reported


def call(spec: str | Path, function_name: str, folder: str = "", beside: Path | None = None) -> tuple[Path, Any]:
    """Runs a function of a configuration file, found as for `read`; returns the file's path and what it returns."""
    path, recipe = find(str(spec), folder, beside)
    with reported(path, ConfigError):
        # Not imported: that would leave a __pycache__ beside the user's file.
        namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
        exec(compile(path.read_bytes(), str(path), "exec"), namespace)
        function = namespace.get(function_name)
        if not callable(function):
            raise ConfigError(f"{path} has no function {function_name}()")
        if recipe is None:
            return path, function()
        if not inspect.signature(function).parameters:
            raise ConfigError(f"{path} has no recipes, so no name may follow the colon; got {recipe!r}")
        return path, function(recipe)


def find(spec: str, folder: str, beside: Path | None = None) -> tuple[Path, str | None]:
    """Returns the path of a configuration file, given by path or name, and the recipe after the colon, if any.

    Raises:
      ConfigError: if there is no such file.
    """
    if not spec or "\0" in spec or len(spec) > LONGEST_TEXT:
        raise ConfigError(f"a configuration must be given by the path or the name of its file; got {show(spec)}")
    name, colon, recipe = (spec, "", "") if existing(spec, beside) else spec.partition(":")
    path = existing(name, beside)
    if path is None:
        files = named(folder)
        if name not in files:
            hint = did_you_mean(Path(name).stem, files)
            name = spec if "://" in spec else name
            raise ConfigError(f"there is no configuration file {name}; cbjax brings {', '.join(files)}{hint}")
        path = files[name]
    return path, recipe if colon else None


def named(folder: str) -> dict[str, Path]:
    """Returns name -> path of the configuration files that come with cbjax."""
    # The wheel carries them inside the package; a clone has them beside it.
    package = Path(__file__).parents[1]
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {file.stem: file for file in sorted((configs / folder).glob("*.py"))}
