"""Users' own functions, named "FILE.py:function" or "package.module:function": found, known by their SHA-256, run.

Finding a function and taking its checksum runs nothing and imports no package. A file runs only if it is as it was when
its checksum was taken.
"""

import contextlib
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORM = "FILE.py:function or package.module:function"


class CodeError(ValueError):
    """A function that is not there or cannot be run; the message says in which file and line, and why."""


class Code(NamedTuple):
    """Where a function stands.

    Attributes:
      path: the file; absolute.
      module: the dotted name of an installed module; None for a file by its path.
      function: its name in there.
    """

    path: Path
    module: str | None
    function: str


def is_own(name: Any) -> bool:
    """Says whether a name has the form of a user's own function. The function need not exist."""
    place, colon, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    dotted = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and function.isidentifier() and (is_file(name) or dotted)


def is_file(name: str) -> bool:
    """Says whether the name of a user's own function gives a file by its path."""
    return name.rpartition(":")[0].endswith(".py")


def identity(name: str) -> str:
    """Returns what a name says besides the checksum: for a file only the function, because a file may lie anywhere."""
    return name.rpartition(":")[2] if is_file(name) else name


def absolute(name: str, beside: Path | None = None) -> str:
    """Returns the name with the absolute path of its file, found as in `existing`.

    The name of a module, or of a file that is not there, stays as it is.
    """
    place, _, function = name.rpartition(":")
    path = existing(place, beside) if is_file(name) else None
    return f"{path.absolute()}:{function}" if path else name


def existing(name: str, beside: Path | None = None) -> Path | None:
    """Returns the file of a path, or None: in the folder of the file `beside` first, then in the current folder."""
    try:
        path = Path(name).expanduser()
        for one in (beside.parent / path, path) if beside else (path,):
            if one.is_file():
                return one
    except (OSError, RuntimeError, ValueError):  # a name too long for the disk, ~ without a home, a NUL
        pass
    return None


def find(name: str) -> Code:
    """Finds the file of a function without running anything of it; raises CodeError if there is none."""
    if not is_own(name):
        raise CodeError(f"a function of your own is named {FORM}; got {name!r}")
    place, _, function = name.rpartition(":")
    if is_file(name):
        path = existing(place)
        if path is None:
            raise CodeError(f"there is no file {place}, looked for in {os.getcwd()}")
        return Code(path.absolute(), None, function)
    origin = _module_file(place)
    if origin is None:
        raise CodeError(f"no module {place} with a .py file is installed; a file is named {place}.py:{function}")
    return Code(origin, place, function)


def sha256(name: str) -> str:
    """Returns the SHA-256 of a function's file, as hexadecimal digits; raises CodeError if there is no such file."""
    return hashlib.sha256(_read(find(name).path)).hexdigest()


def file_name(name: str) -> str:
    """Returns the name of a function's file, without folders."""
    place = name.rpartition(":")[0]
    return Path(place).name if is_file(name) else f"{place.rpartition('.')[2]}.py"


def source(name: str, expected: str) -> bytes:
    """Returns the content of a function's file with the SHA-256 `expected`; raises CodeError if it is another."""
    return _SOURCES[expected] if expected in _SOURCES else _checked(find(name), expected)


def load(name: str, expected: str | None = None) -> Callable[..., Any]:
    """Runs the file of a function and returns the function. An unchanged file runs only once in a process.

    An installed module that something else imported counts as unchanged until the first call here.

    Args:
      name: of the function.
      expected: SHA-256 that the file must have; None for any.

    Raises:
      CodeError: if the file is missing, has another SHA-256, cannot be run, or has no such function; or if an installed
        module is of another file than the one that was imported.
    """
    code = find(name)
    content = _checked(code, expected)
    digest = hashlib.sha256(content).hexdigest()
    with reported(code.path):
        if code.module is not None:
            module: Any = _imported(code.path, code.module, digest)
        else:
            key = f"{code.path.stem}_{digest[:16]}_of_cbjax"
            module = sys.modules.get(key) or _run(code.path, content, key)
        function = getattr(module, code.function, None)  # a module may have a __getattr__ of its own
    _SOURCES[digest] = content
    if not callable(function):
        names = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        nearest = difflib.get_close_matches(code.function, names, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise CodeError(f"{code.path} has no function {code.function}(){hint}")
    return function


def options_of(name: str, function: Callable[..., Any], skip: int = 1) -> dict[str, Any]:
    """Returns the named parameters of a function after its first ones, and their defaults (or `Parameter.empty`).

    Raises CodeError if Python cannot tell them; `name` is for its message.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name: one.default for one in parameters_of(name, function)[skip:] if one.kind in named}


def parameters_of(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the parameters of a function. Raises CodeError, with `name` in it, if Python cannot tell them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except Exception as error:  # also what a __signature__ of the user's raises
        raise CodeError(
            f"{name} must be a function written with def: Python cannot tell the arguments of this one "
            f"({type(error).__name__}: {_said(error)})"
        ) from error


def check_arguments(name: str, function: Callable[..., Any], first: Sequence[str], options: Mapping[str, Any]) -> None:
    """Checks that a function can be called with its first arguments by place and options by name.

    Args:
      name: of the function, for messages.
      function: what `load` gave.
      first: names of the first arguments, for messages.
      options: names with values.

    Raises:
      CodeError: if it takes fewer arguments, has no such option, or needs another one.
    """
    parameters = parameters_of(name, function)
    known = {option: value for option, value in options_of(name, function, len(first)).items() if option != "rngs"}
    listed = ", ".join(known) or "none"
    by_place = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(by_place) < len(first) and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        takes = ", ".join(one.name for one in parameters)
        raise CodeError(f"{name} must take ({', '.join(first)}) before its options; it takes ({takes})")
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    for option in options:
        if option not in known and not takes_any:
            nearest = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise CodeError(f"{name} has no option {option}; its options: {listed}{hint}")
    lacking = [option for option, value in known.items() if value is inspect.Parameter.empty and option not in options]
    if lacking:
        raise CodeError(f"{name} needs a value for {', '.join(lacking)}; its options: {listed}")


@contextlib.contextmanager
def reported(path: str | os.PathLike, kind: type[ValueError] = CodeError) -> Iterator[None]:
    """Turns whatever a user's file raises into one kind of error, a line that begins with the file and line number."""
    try:
        yield
    except kind:
        raise
    except SyntaxError as error:
        raise kind(f"{error.filename or path}, line {error.lineno or 1}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise kind(f"{where}: {type(error).__name__}: {_said(error)}{_about_import(error, Path(path))}") from error


def _about_import(error: BaseException, path: Path) -> str:
    """Says what to do about a file that imports what lies beside it."""
    top = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    beside = bool(top) and any((path.parent / one).exists() for one in (top, f"{top}.py"))
    if not beside and RELATIVE not in _said(error):
        return ""
    return (
        "; a file is run and kept by itself, without what lies beside it: put all into one file, or into a package "
        "that you install, and name package.module:function"
    )


def _said(error: BaseException) -> str:
    """Returns what an error says, in one line."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & TRACER_ERRORS:  # JAX explains each in many lines, with links
        return "JAX traces this code without values: choose with jnp.where, not with if; use jnp functions, not NumPy's"
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # its __str__ fails
        return "(it cannot be shown as text)"
    return lines[0] if lines else ""


# What JAX raises where code needs the value of an array that has none yet. By name: here JAX need not be there.
TRACER_ERRORS = {
    *("ConcretizationTypeError", "NonConcreteBooleanIndexError", "TracerArrayConversionError"),
    *("TracerBoolConversionError", "TracerIntegerConversionError", "UnexpectedTracerError"),
}
RELATIVE = "attempted relative import with no known parent package"  # Python's words
# SHA-256 -> content of each file that was run. A work directory gets this content, even if the file changed since.
_SOURCES: dict[str, bytes] = {}
# Installed module -> the SHA-256 of its file, and its spec, of which Python makes another when it is loaded again.
_IMPORTED: dict[str, tuple[str, Any]] = {}


def _imported(path: Path, name: str, digest: str) -> types.ModuleType:
    """Imports an installed module. Python would give the former code of a file that changed, without a word."""
    module = importlib.import_module(name)
    known, spec = _IMPORTED.get(name, (digest, None))
    if spec is module.__spec__ and known != digest:
        raise CodeError(
            f"{path} changed after {name} was imported, so what would run is not what it says: restart Python, or "
            "load the module again with importlib.reload"
        )
    _IMPORTED[name] = digest, module.__spec__
    return module


def _run(path: Path, content: bytes, key: str) -> types.ModuleType:
    module = types.ModuleType(key)
    module.__file__, module.__package__ = str(path), ""
    # Not imported: that would leave a __pycache__ beside the user's file. Dataclasses look their module up by its name.
    sys.modules[key] = module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _checked(code: Code, expected: str | None) -> bytes:
    content = _read(code.path)
    found = hashlib.sha256(content).hexdigest()
    if expected not in (None, found):
        raise CodeError(f"{code.path} is not the file that was meant: its SHA-256 is {found}, not {expected}")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CodeError(f"{path} could not be read: {error.strerror}") from error


def _module_file(name: str) -> Path | None:
    """Returns the file of an installed module. Its packages are not imported: that would run them."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth in range(len(rest)):
            folders = spec.submodule_search_locations if spec else None
            if folders is None:
                return None
            spec = importlib.machinery.PathFinder.find_spec(".".join((top, *rest[: depth + 1])), [*folders])
    except (ImportError, ValueError):  # "__main__" has no spec
        return None
    origin = spec.origin if spec else None
    return Path(origin).absolute() if origin and origin.endswith(".py") else None
