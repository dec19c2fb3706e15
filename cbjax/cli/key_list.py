"""The command `cbjax config`: lists keys with their values and what they do."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from cbjax import config as configs
from cbjax.config.methods import KEY, METHODS
from cbjax.config.reading import complete
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
