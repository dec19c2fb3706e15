"""Lists keys: `cbjax config` with their values and what they do, a dry run as they would be given."""

import argparse
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from cbjax import config as configs
from cbjax.config.methods import KEY, METHODS
from cbjax.config.reading import Config, complete
from cbjax.config.rules import has_effect
from cbjax.config.schema import KEYS, OPTIONS
from cbjax.host.output import say

INDENT = 4  # spaces before what a key does, at a terminal
METHOD = (
    f"sets the keys of a method, which cbjax train --config=digits_lt --config.{KEY}=NAME --dry-run lists; one of "
    f"{', '.join(METHODS)}"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    command.add_argument(
        "words", nargs="*", metavar="WORD", help="only keys with this at the beginning of a part: loss, data.im, tau"
    )
    command.add_argument("--config", metavar="FILE", help="show the values of this config (else the defaults)")
    command.epilog = "--config.KEY=VALUE shows what it would change, such as --config.method=ldam_drw"


def read(file: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns dotted key -> value of a config's file with changes, or of the defaults; raises ConfigError."""
    values = configs.load(file, overrides) if file else configs.default()
    found = complete(values)
    return found if file else found | configs.read_overrides(overrides)


def run(values: dict[str, Any], words: Sequence[str]) -> int:
    """Prints the keys: one a line, or wrapped at a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    found = [(f"{KEY}=NAME", METHOD)] if KEY in words else []
    keys = [word for word in words if word != KEY]
    found += configs.describe_keys(values, keys) if keys or not words else []
    for start, doc in found:
        if width is None:
            say(f"{start:<38} {doc}")
        else:
            say(start)
            say(textwrap.fill(doc, max(width, 40), initial_indent=" " * INDENT, subsequent_indent=" " * INDENT))
    return 0


def as_given(config: Config, overrides: Sequence[str]) -> None:
    """Lists the keys that are not at their defaults, as they would be given: first those of this command."""
    values, here = complete(config), configs.read_overrides(overrides)
    # A recipe may keep keys that do nothing here; given for one run they would be refused.
    other = {
        key: value
        for key, value in values.items()
        if key not in here and value != KEYS[key].default and has_effect(key, values)
    }
    for key in OPTIONS:  # each option of one's own code is given by itself
        given = {f"{key}.{name}": value for name, value in other.pop(key, ())}
        other |= {name: value for name, value in given.items() if name not in here}
    for about, shown in (("this command", {key: values.get(key, here[key]) for key in here}), ("the config", other)):
        say(f"# {about}")
        for key, value in shown.items():
            say(f"--config.{key}={shlex.quote(str(value))}")
    for line in configs.cautions(config):
        say(f"# note: {line}")
