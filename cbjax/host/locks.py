"""Keeps other processes out of a folder or a file for a while."""

import contextlib
import fcntl
import os
from collections.abc import Iterator


@contextlib.contextmanager
def locked(path: str | os.PathLike, wait: bool = True) -> Iterator[None]:
    """Lets one process at a time into this context: those of this machine, and of others that share the disk's locks.

    The lock ends with the process, however it ends. Some network disks have no locks; there it keeps nobody out.

    Args:
      path: a file for the lock alone; it is made, and it stays. Whoever is inside may remove it.
      wait: whether to wait until the others have left.

    Raises:
      BlockingIOError: if another process is in it, and `wait` is False.
      OSError: if the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(path, "w"))  # network disks share locks of files, but not of folders
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                break  # a disk without locks
            if _is_still_at(file, path):
                break
        yield


def _is_still_at(file, path):
    """Returns False if the former holder removed the file after we opened it: then others would lock another one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
