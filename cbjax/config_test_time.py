"""What of a run's config may change when its checkpoint is evaluated again."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config_schema import did_you_mean, refuse, show

# What the papers change at test time, and where and how the images are read. Anything else belongs to the training.
KEYS = (
    "data.image_size",
    "data.resize",
    "evaluation.batch_size",
    "evaluation.groups",
    "parallel",
    "devices",
    *configs.READING_KEYS,
)


def check_keys(overrides: Sequence[str]) -> None:
    """Refuses overrides ("data.image_size=320") of any other key; raises ConfigError."""
    keys = [override.partition("=")[0].strip() for override in overrides]
    refuse(
        f"{key} cannot be changed for an evaluation; {', '.join(KEYS)} can{did_you_mean(key, KEYS)}"
        for key in keys
        if key not in KEYS
    )


def change(config: ConfigDict, overrides: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Changes a run's config for an evaluation.

    Args:
      config: of the training.
      overrides: as of `config.load`.

    Returns:
      The config to evaluate by, and a line for each key whose value is another.

    Raises:
      ConfigError: if a key belongs to the training, or a value or a combination is wrong.
    """
    check_keys(overrides)
    changed = configs.change(config, overrides)
    how, what = configs.difference(config, changed)
    differing = (*what, *how)
    return changed, [f"{key}={show(_value(changed, key))} instead of {show(_value(config, key))}" for key in differing]


def _value(config, key):
    section, _, name = key.rpartition(".")
    return (config[section] if section else config)[name]
