"""The `cbjax` command: its arguments, what it sets before JAX starts, what it prints, and some files that it writes.

Begin with `entry.py`, then `commands.py`. The work of each command is done in other rooms.
"""

import os
import sys
from collections.abc import Sequence

from cbjax import __version__
from cbjax.host import installed
from cbjax.host.output import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, as `entry.main`; 2 if packages are missing that it needs."""
    words = sys.argv[1:] if arguments is None else arguments
    if list(words) == ["--version"]:  # any installation can say it
        say(f"cbjax {__version__}")
        return 0
    try:
        installed.check(f"cbjax {words[0]}" if words and not words[0].startswith("-") else "cbjax")
    except ImportError as error:
        say(error, error=True)
        return 2
    # Its modules import those packages.
    if "_ARGCOMPLETE" in os.environ:
        from cbjax.cli import completion

        completion.answer()
    from cbjax.cli import entry

    return entry.main(words)
