"""The `cbjax` command: its arguments, what it sets before JAX starts, what it says, and the files that it writes.

What a command does is in other rooms; here is how it is asked and answered. Begin with `entry.py`, then
`commands.py`.
"""

from cbjax.cli.entry import main

__all__ = ["main"]
