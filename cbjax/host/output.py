"""Prints lines safely: a closed pipe, a full disk or a narrow encoding does not end a command."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from cbjax.host.text import encodable, visible


def say(line: object, error: bool = False) -> None:
    """Prints a line and flushes, since people read a job's log while it grows. Control codes are made visible.

    Args:
      line: any text.
      error: True for stderr.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is not None:  # None if it was closed from the start
        print(visible(line), file=Stream(stream), flush=True)


class Stream:
    """A stream that never fails: it replaces characters that its encoding lacks, and after an error it is silent.

    Attributes:
      error: the first error of writing, or None.
    """

    def __init__(self, stream: Any):
        self._stream, self.error = stream, getattr(stream, "error", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, or drops it after an error."""
        self._try(lambda: self._stream.write(encodable(text, getattr(self._stream, "encoding", None))))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each of the texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes."""
        self._try(self._stream.flush)

    def drop(self) -> None:
        """Discards what could not be written, so that Python does not try again when it ends."""
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def _try(self, action):
        if self.error is None:
            try:
                action()
            except (OSError, ValueError) as error:  # ValueError if it was closed
                self.error = error


def as_text(stream: Any) -> IO[str]:
    """Returns a `Stream` under a type that type checkers know."""
    return cast(IO[str], Stream(stream))


@contextlib.contextmanager
def guarded() -> Iterator[Stream]:
    """Turns stdout and stderr into a `Stream` while a command runs; yields stdout's."""
    _open_closed()
    before = sys.stdout, sys.stderr
    streams = out, _ = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.flush()
            if stream.error is not None:
                stream.drop()


def _open_closed():
    """Opens closed standard streams, as after `>&-`: else the next file gets their number, and C++ logs into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (open to the end)
