"""Says which keys of a run's config may change when its checkpoint is evaluated again, and changes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config.compare import SOURCE_KEYS
from cbjax.config.schema import did_you_mean, refuse, show

# What papers change at test time, and where and how images are read. All other keys belong to the training.
KEYS = (
    "data.image_size",
    "data.resize",
    "data.evaluation_frames",
    "data.name",  # for new data only
    "evaluation.batch_size",
    "evaluation.groups",
    "evaluation.tau",
    "parallel",
    "devices",
    *configs.READING_KEYS,
)


def check_keys(overrides: Sequence[str]) -> None:
    """Checks overrides ("data.image_size=320"); raises ConfigError for other keys and for values that no run takes."""
    keys = [override.partition("=")[0].strip() for override in overrides]
    refuse(
        f"{key} cannot change for an evaluation; these keys can: {', '.join(KEYS)}{did_you_mean(key, KEYS)}"
        for key in keys
        if key not in KEYS
    )
    configs.read_overrides(overrides)


class Place(NamedTuple):
    """Where new labelled data are.

    Attributes:
      kind: "arrays", "folder", "list" or "csv".
      places: key without its "data." -> its value.
      overrides: all other overrides.
    """

    kind: str
    places: dict[str, Any]
    overrides: list[str]


def new_data(config: ConfigDict, overrides: Sequence[str], split: str) -> Place | None:
    """Returns where the new labelled data are; None if the overrides name none.

    The key tells the kind of the data. data.file names arrays. data.root names a folder; for a run on a list or a CSV
    this needs data.name=folder too. data.test_list and data.validation_list name a CSV if the file's name ends in .csv
    or the run is on a CSV, else a list. `data.name`, if given, decides instead.

    Raises:
      ConfigError: if `data.name` is given without the key that says where the data are, or a key is wrong.
    """
    check_keys(overrides)
    given = {key: value for key, value in configs.read_overrides(overrides).items() if value is not None}
    file = given.get(f"data.{split}_list")
    own, kind = config.data.name, given.get("data.name")
    if kind is None:
        if "data.file" in given:
            kind = "arrays"
        elif file is not None:
            kind = "csv" if own == "csv" or file.removesuffix(".gz").endswith(".csv") else "list"
        elif "data.root" in given and own not in ("list", "csv"):
            kind = "folder"
        else:
            return None
    keys = {"arrays": "data.file", "folder": "data.root", "list": f"data.{split}_list", "csv": f"data.{split}_list"}
    if kind not in keys:
        refuse([f"data.name of new data must be one of {', '.join(keys)}; got {kind}"])
    if keys[kind] not in given:
        refuse([f"data.name={kind} needs --config.{keys[kind]}=… to say where the new data are"])
    places = {key.removeprefix("data."): value for key, value in given.items() if key in ("data.root", keys[kind])}
    return Place(kind, places, without_sources(overrides))


def without_sources(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that do not say where images are."""
    names = ("data.name", *SOURCE_KEYS)
    return [one for one in overrides if one.partition("=")[0].strip() not in names]


def change(config: ConfigDict, overrides: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Changes a run's config for an evaluation.

    Args:
      config: the config of the training.
      overrides: as for `config.load`.

    Returns:
      The changed config, and a line for each key whose value changed.

    Raises:
      ConfigError: if a key belongs to the training, or a value or a combination is wrong.
    """
    check_keys(overrides)
    changed = configs.change(config, overrides)
    size = config.data.image_size
    if config.stage.name == "oltr" and changed.data.image_size != size:
        refuse(
            [
                f"data.image_size must stay at {size} when stage.name is oltr, whose attention takes images of one "
                f"size; got {changed.data.image_size}"
            ]
        )
    how, what = configs.difference(config, changed)
    differing = (*what, *how)
    return changed, [
        f"{key}={show(value_of(changed, key))} instead of {show(value_of(config, key))}" for key in differing
    ]


def value_of(config: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key."""
    section, _, name = key.rpartition(".")
    return (config[section] if section else config)[name]
