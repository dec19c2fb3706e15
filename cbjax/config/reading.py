"""Turns a file, a dictionary or overrides into a configuration that has every key and obeys every rule."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from cbjax.config import batch_rules, files, method_rules, methods, own_code, rules, stages
from cbjax.config.schema import KEYS, REQUIRED, SECTIONS, ConfigError, accept, did_you_mean, refuse, rule, show

Config: TypeAlias = ConfigDict | Mapping[str, Any]
T = TypeVar("T")


def default() -> ConfigDict:
    """Returns every key with its default; `data.name` and `model.name` are None and must be set."""
    return _nested({key: entry.default for key, entry in KEYS.items()})


def describe() -> str:
    """Lists every key, one a line: its default, what it is for and which values it takes."""
    return "\n".join(f"{start:<38} {doc}" for start, doc in describe_keys({}))


def describe_keys(values: Mapping[str, Any], words: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Yields for each key "KEY=VALUE", and what it is for, which values it takes, and its default if it has another.

    Args:
      values: dotted key -> value; others are at their defaults.
      words: beginnings of keys or of their parts, "loss" or "data.im" or "tau"; only such keys. None for all.

    Raises:
      ConfigError: if no key begins with one of the words.
    """
    refuse(
        f"no key has a part that begins with {show(word)}{did_you_mean(word, [*SECTIONS, *KEYS])}"
        for word in words
        if not any(_begins(key, word) for key in KEYS)
    )
    for key, (default_value, _, doc) in KEYS.items():
        if words and not any(_begins(key, word) for word in words):
            continue
        value = values.get(key, default_value)
        start = "(required)" if key in REQUIRED and value is None else show(value)
        other = (
            "" if value == default_value else f"; default {'none' if default_value is None else show(default_value)}"
        )
        yield f"{key}={start}", f"{doc}; {rule(key)}{other}"


def _begins(key: str, word: str) -> bool:
    return key.startswith(word) or key.rpartition(".")[2].startswith(word)


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a configuration file, applies overrides, fills in defaults and checks the whole.

    Args:
      name_or_path: "digits_lt" (a file of the package) or "configs/digits_lt.py" (a path). A recipe of the file may
        follow a colon: "cifar_lt:cdb".
      overrides: texts such as "data.imbalance=50". The key's type says how the value is read; "none" means not given.
        A whole number must be written as one (1000, not 1e3). The last override of a key counts.

    Returns:
      The resolved configuration. Arrays may still lack their data.file, because `train` also takes them from memory.

    Raises:
      ConfigError: if the file cannot be found or run, or a key or a combination is wrong.
    """
    values, given = read(name_or_path), read_overrides(overrides)
    return _of_arrays(values | given, given)


def combine(base: Mapping[str, Any], changes: Mapping[str, Any], for_all: Mapping[str, Any]) -> ConfigDict:
    """Resolves the configuration of one run of a sweep.

    Args:
      base: result of `read`.
      changes: dotted key -> value as from `accept`, for this run; each key must have an effect in it.
      for_all: result of `read_overrides` for all runs of the sweep; it wins over the others.

    Raises:
      ConfigError: if a combination is wrong.
    """
    return _resolve({**base, **changes, **for_all}, changes)


def change(config: Config, overrides: Sequence[str]) -> ConfigDict:
    """Applies overrides to a configuration, as `load` does, and checks the whole; raises ConfigError."""
    given = read_overrides(overrides)
    values = complete(config) | given
    # Files of a finished run may be gone; those of its config are kept in its work directory.
    return _of_arrays(values, given, find=not given.keys().isdisjoint(own_code.CODE_KEYS))


def second_stage(first: Config, method: str, source: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the configuration of a second stage.

    Args:
      first: that of a finished run.
      method: a `stage.name`.
      source: the work directory of the finished run.
      overrides: as for `load`; they win over the keys that the method fills in.

    Raises:
      ConfigError: if there is no finished run, or a key or a combination is wrong.
    """
    values, given = stages.second_stage(complete(first), method, source), read_overrides(overrides)
    return _resolve(values | given, given)


def resolve(config: Config) -> ConfigDict:
    """Fills in defaults, gives each value its key's type and checks the whole; raises ConfigError."""
    return _resolve(complete(config))


def check(config: Config) -> None:
    """Raises ConfigError, with every problem found, unless the configuration can be used."""
    resolve(config)


def cautions(config: Config, counts: Sequence[int] = ()) -> list[str]:
    """Lists what a configuration may hold and is seldom meant, a line each; they are shown, and training goes on.

    Args:
      config: the configuration.
      counts: training images of each class; () if they are not known.
    """
    return method_rules.cautions(complete(config), counts)


def check_devices(batch_size: int, num_devices: int, key: str = "batch_size") -> None:
    """Raises ConfigError, with the nearest sizes that fit, unless the batch divides evenly over the devices."""
    refuse(batch_rules.divisible(key, batch_size, num_devices))


def check_shares(config: Config, num_devices: int) -> None:
    """Raises ConfigError unless each device can cut its share of a training batch as the configuration says."""
    refuse(batch_rules.shares(complete(config), num_devices))


def learning_rates(config: Config) -> tuple[float, float]:
    """Returns two learning rates, both for this batch size: after the warm-up, and at its first step."""
    return rules.scaled_learning_rate(complete(config))


def choose_recipe(name: str | None, recipes: Mapping[str, T]) -> T:
    """Returns the named recipe of a configuration file; raises ConfigError with the known names."""
    if name is None or name not in recipes:
        known = ", ".join(f":{recipe}" for recipe in recipes)
        raise ConfigError(
            f"a recipe must follow the configuration's name, one of {known}; "
            f"got {name or 'none'}{did_you_mean(name, recipes)}"
        )
    return recipes[name]


def to_json(config: Config) -> str:
    """Writes the configuration as nested JSON, every key in the order of the schema."""
    return json.dumps(_nested(complete(config)).to_dict(), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote; keys that are missing, such as later ones, get their defaults."""
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the configuration is not valid JSON: {error}") from error
    return _nested(complete(tree))


def _resolve(values: dict[str, Any], given: Collection[str] = (), find: bool = True) -> ConfigDict:
    values = own_code.fold_options(values)
    refuse(rules.problems(values, given))
    return _nested(stages.find_source(own_code.find_code(values)) if find else values)


def _of_arrays(values: dict[str, Any], given: Collection[str], find: bool = True) -> ConfigDict:
    """Resolves as `_resolve`; arrays without a file pass, since the arrays may be given to `train`."""
    if values.get("data.name") != "arrays" or values.get("data.file") is not None:
        return _resolve(values, given, find)
    config = _resolve(values | {"data.file": "given to train"}, given, find)
    config.data.file = None
    return config


def _nested(values: Mapping[str, Any]) -> ConfigDict:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    # type_safe would allow the default's type only; the schema knows better: difficulty.tau is a name or a number.
    return ConfigDict(tree, type_safe=False)


def _flat(tree: Config) -> Iterator[tuple[str, Any]]:
    for name, value in _items(tree, ""):
        if isinstance(value, ConfigDict | Mapping) and name not in KEYS:
            yield from _items(value, f"{name}.")
        else:
            yield name, value


def _items(tree: Config, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields the keys and values of one level; raises ConfigError for a placeholder that must be filled."""
    if not isinstance(tree, ConfigDict):
        yield from ((f"{prefix}{name}", value) for name, value in tree.items())
        return
    for name in tree:
        try:
            yield f"{prefix}{name}", tree[name]
        except RequiredValueError:
            raise ConfigError(f"{prefix}{name} must be set: it is a placeholder without a value") from None


def complete(config: Config) -> dict[str, Any]:
    """Returns dotted key -> value for every key, each value in its key's type."""
    if not isinstance(config, ConfigDict | Mapping):
        raise ConfigError(f"a configuration must be a ConfigDict, as from cbjax.config.load; got {show(config)}")
    given = own_code.fold_options(accept(dict(_flat(config))))
    return {key: entry.default for key, entry in KEYS.items()} | given


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Reads "key=value" texts; returns dotted key -> value in the key's own type. Raises ConfigError.

    "method=NAME" stands for the keys of that method (`config.methods`), before all others.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of key=value; got {overrides!r}")
    pairs = [override.partition("=") for override in overrides]
    refuse(f"an override must be key=value; got {key!r}" for key, equals, _ in pairs if not equals)
    given = {key.strip(): text.strip() for key, _, text in pairs}
    name = given.pop(methods.KEY, None)
    return dict(methods.keys_of(name) if name is not None else {}) | accept(given, as_text=True)


def read(spec: str | Path, beside: Path | None = None) -> dict[str, Any]:
    """Reads a configuration file, named as for `load`; returns dotted key -> value, combinations unchecked.

    Args:
      spec: path or name of the file.
      beside: the file that names `spec`; a relative path is looked for in its folder first.
    """
    path, result = files.call(spec, "get_config", beside=beside)
    try:
        return own_code.look_beside(complete(result), path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
