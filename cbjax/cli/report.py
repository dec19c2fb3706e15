"""`cbjax report`: its arguments, and the pages that it writes."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from cbjax.config.schema import ConfigError
from cbjax.host.output import say


def add_arguments(parser: argparse.ArgumentParser, directory: Callable[[str], Any]) -> None:
    """Adds the command's arguments; `directory` reads a local folder."""

    def named(text: str) -> Any:
        """Returns a folder, or (name, folder) of NAME=DIR; a folder that has "=" in its own name is found too."""
        name, equals, rest = text.partition("=")
        if not equals or "/" in name or os.path.lexists(os.path.expanduser(text)):
            return directory(text)
        if not name.strip() or not rest:
            raise argparse.ArgumentTypeError(f"must be DIR or NAME=DIR, such as CE=runs/ce; got {text}")
        return name.strip(), directory(rest)

    parser.add_argument(
        "directories",
        nargs="+",
        metavar="[NAME=]DIR",
        type=named,
        help="work directories, or folders of them; NAME is the name of their method in the report",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=directory, help="where report.md goes (default: the DIR, if there is one)"
    )
    parser.add_argument(
        "--html", action="store_true", help="also write report.html, one page that needs no other file and no network"
    )
    parser.add_argument("--svg", action="store_true", help="also write each picture as SVG, for print")


def run(options: argparse.Namespace, show: Callable[[Any, Any], None]) -> int:
    """Writes the report and shows its table; returns the exit status."""
    from cbjax.report import has_table, report, report_sweep

    directories, forms = options.directories, {"html": options.html, "svg": options.svg}
    if options.out is None and len(directories) > 1:
        raise ConfigError("there are several directories, so --out=DIR must say where the report goes")
    first, named = directories[0], isinstance(directories[0], tuple)
    out = options.out or (first[1] if named else first)
    if len(directories) == 1 and not named and has_table(first):
        path = report_sweep(first, out, **forms)
    else:
        path = report(directories, out, **forms)
    show(directories, path)
    if options.html:
        say(f"page: {path.with_suffix('.html')}")
    return 0
