"""`python -m cbjax` is the command `cbjax`."""

import sys

from cbjax.cli import main

if __name__ == "__main__":  # processes that decode images import this file
    sys.exit(main())
