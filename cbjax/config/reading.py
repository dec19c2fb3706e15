"""From a file, a dictionary and overrides to a configuration that has every key and obeys every rule."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from cbjax.config import files, rules
from cbjax.config.schema import KEYS, REQUIRED, ConfigError, accept, did_you_mean, refuse, rule, show

Config: TypeAlias = ConfigDict | Mapping[str, Any]
T = TypeVar("T")


def default() -> ConfigDict:
    """Returns every key with its default; `data.name` and `model.name` are None and must be set."""
    return _nested({key: entry.default for key, entry in KEYS.items()})


def describe() -> str:
    """Lists every key with its default, what it is for and the values that it takes, a line each."""
    lines = []
    for key, (value, _, doc) in KEYS.items():
        start = "(required)" if key in REQUIRED else show(value)
        lines.append(f"{key + '=' + start:<38} {doc}; {rule(key)}")
    return "\n".join(lines)


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a configuration file, applies overrides, fills in defaults and checks the whole.

    Args:
      name_or_path: "digits_lt" (a file of the package), "configs/digits_lt.py" (a path), either with a recipe of the
        file behind a colon: "cifar_lt:cdb".
      overrides: "data.imbalance=50", read by the type of the key; "none" where a key may be not given. A whole number
        must be written as one (1000, not 1e3). Of two for the same key the last counts.

    Returns:
      The resolved configuration.

    Raises:
      ConfigError: if the file cannot be found or run, or a key or a combination is wrong.
    """
    values, given = read(name_or_path), read_overrides(overrides)
    return _resolve(values | given, given)


def combine(base: Mapping[str, Any], changes: Mapping[str, Any], for_all: Mapping[str, Any]) -> ConfigDict:
    """Resolves a run of a sweep.

    Args:
      base: what `read` gave.
      changes: dotted key -> value as from `accept`, of this run; each must have an effect in it.
      for_all: what `read_overrides` gave for every run, which comes last.

    Raises:
      ConfigError: if a combination is wrong.
    """
    return _resolve({**base, **changes, **for_all}, changes)


def change(config: Config, overrides: Sequence[str]) -> ConfigDict:
    """Applies overrides, as of `load`, to a configuration and checks the whole; raises ConfigError."""
    given = read_overrides(overrides)
    return _resolve(complete(config) | given, given)


def resolve(config: Config) -> ConfigDict:
    """Fills in defaults, brings values to their types and checks the whole; raises ConfigError."""
    return _resolve(complete(config))


def check(config: Config) -> None:
    """Raises ConfigError, with every problem found, unless the configuration can be used."""
    resolve(config)


def check_devices(batch_size: int, num_devices: int, key: str = "batch_size") -> None:
    """Raises ConfigError, with the nearest sizes that fit, unless the devices divide the batch."""
    refuse(rules.divisible(key, batch_size, num_devices))


def check_shares(config: Config, num_devices: int) -> None:
    """Raises ConfigError unless each device's share of a training batch can be cut as the configuration says."""
    refuse(rules.shares(complete(config), num_devices))


def learning_rates(config: Config) -> tuple[float, float]:
    """Returns the learning rate after the warm-up, scaled to the batch, and that of step 0 where there is a warm-up."""
    return rules.scaled_learning_rate(complete(config))


def choose_recipe(name: str | None, recipes: Mapping[str, T]) -> T:
    """Returns the named recipe of a configuration file; raises ConfigError with the known names."""
    if name is None or name not in recipes:
        known = ", ".join(f":{recipe}" for recipe in recipes)
        raise ConfigError(
            f"the configuration's name must be followed by a recipe, one of {known}; "
            f"got {name or 'none'}{did_you_mean(name, recipes)}"
        )
    return recipes[name]


def to_json(config: Config) -> str:
    """Writes the configuration as nested JSON, every key in the order of the schema."""
    return json.dumps(_nested(complete(config)).to_dict(), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote; a key that came after it was written has its default."""
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the configuration is not valid JSON: {error}") from error
    return _nested(complete(tree))


def _resolve(values: dict[str, Any], given: Collection[str] = ()) -> ConfigDict:
    refuse(rules.problems(values, given))
    return _nested(values)


def _nested(values: Mapping[str, Any]) -> ConfigDict:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    # The schema checks types, and knows better than the default's type: difficulty.tau is a name or a number.
    return ConfigDict(tree, type_safe=False)


def _flat(tree: Config) -> Iterator[tuple[str, Any]]:
    for name, value in _items(tree, ""):
        if isinstance(value, ConfigDict | Mapping) and name not in KEYS:
            yield from _items(value, f"{name}.")
        else:
            yield name, value


def _items(tree: Config, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields the keys of one level and their values, also of placeholders."""
    if not isinstance(tree, ConfigDict):
        yield from ((f"{prefix}{name}", value) for name, value in tree.items())
        return
    for name in tree:
        try:
            yield f"{prefix}{name}", tree[name]
        except RequiredValueError:
            raise ConfigError(f"{prefix}{name} must be set: it is a placeholder without a value") from None


def complete(config: Config) -> dict[str, Any]:
    """Returns dotted key -> value of every key, each value in its own type."""
    if not isinstance(config, ConfigDict | Mapping):
        raise ConfigError(f"a configuration must be a ConfigDict, as from cbjax.config.load; got {show(config)}")
    return {key: entry.default for key, entry in KEYS.items()} | accept(dict(_flat(config)))


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Reads "key=value" texts; returns dotted key -> value in the key's own type. Raises ConfigError."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of key=value; got {overrides!r}")
    pairs = [override.partition("=") for override in overrides]
    refuse(f"an override must be key=value; got {key!r}" for key, equals, _ in pairs if not equals)
    return accept({key.strip(): text.strip() for key, _, text in pairs}, as_text=True)


def read(spec: str | Path, beside: Path | None = None) -> dict[str, Any]:
    """Reads a configuration file, named as for `load`; returns dotted key -> value, combinations unchecked.

    Args:
      spec: its path or name.
      beside: the file that names it, in whose folder a relative path is looked for first.
    """
    path, result = files.call(spec, "get_config", beside=beside)
    try:
        return complete(result)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
