"""Configurations: every key, what it takes, which values go together, and how two configurations differ.

A configuration is a `ConfigDict` with the keys of `schema.KEYS`. `default` gives one to change, `load` reads a file by
name or path and applies overrides. Every mistake raises a `ConfigError` that says the key, the rule and the value.
What a key does in a run is not decided here: `training/components.py` turns most keys into objects.
"""

# ruff: noqa: E402

from cbjax.host import installed

installed.check("cbjax.config")  # first, because what follows would only name a module that is missing

from cbjax.config.compare import HOW_KEYS, READING_KEYS, check_resume, difference, fingerprint, of_all_processes
from cbjax.config.reading import (
    cautions,
    change,
    check,
    check_devices,
    check_shares,
    choose_recipe,
    combine,
    default,
    describe,
    describe_keys,
    from_json,
    learning_rates,
    load,
    read,
    read_overrides,
    resolve,
    second_stage,
    to_json,
)
from cbjax.config.schema import ConfigError

__all__ = [
    "HOW_KEYS",
    "READING_KEYS",
    "ConfigError",
    "cautions",
    "change",
    "check",
    "check_devices",
    "check_resume",
    "check_shares",
    "choose_recipe",
    "combine",
    "default",
    "describe",
    "describe_keys",
    "difference",
    "fingerprint",
    "from_json",
    "learning_rates",
    "load",
    "of_all_processes",
    "read",
    "read_overrides",
    "resolve",
    "second_stage",
    "to_json",
]
