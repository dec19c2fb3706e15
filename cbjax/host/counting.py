"""Shows a person how many points of a landscape, or parts of other work, are done."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cbjax.host.notebook import Display, clock
from cbjax.host.output import as_text

BETWEEN_LINES = 5.0  # least seconds between lines


@contextlib.contextmanager
def counted(
    total: int, done: int, what: str, mode: str, tell: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many are done.

    Args:
      total: how many parts the work has.
      done: how many were done before; they do not count for the time that is left.
      what: the name of the parts in the plural.
      mode: "on" for a bar; "lines"; "off"; "auto" for a bar at a terminal or in a notebook, and lines elsewhere.
      tell: takes a line.
    """
    console = Console(file=as_text(sys.stderr), force_terminal=True if mode == "on" else None)
    if mode == "off":
        yield lambda count: None
        return
    if mode == "lines" or not (console.is_terminal or console.is_jupyter):
        yield _lines(total, done, what, tell)
        return
    if console.is_jupyter:
        below_the_cell = _NotebookCount(total, done, what)
        try:
            yield below_the_cell
        finally:
            below_the_cell.end()
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}  left"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.update(task, completed=count)


class _NotebookCount:
    def __init__(self, total, done, what):
        self._total, self._first, self._done, self._what = total, done, done, what
        self._display, self._begun = Display(), time.perf_counter()

    def __call__(self, count):
        self._done = count
        left = ""
        if count > self._first:
            seconds = (time.perf_counter() - self._begun) / (count - self._first) * (self._total - count)
            left = f"  {clock(seconds)} left"
        self._display.update(count, self._total, f"{self._what}{left}")

    def end(self):
        after = clock(time.perf_counter() - self._begun)
        self._display.end(f"{self._done} of {self._total} {self._what} after {after}")


def _lines(total, done, what, tell):
    begun = said = time.perf_counter()

    def update(count):
        nonlocal said
        now = time.perf_counter()
        if count > done and count < total and now - said >= BETWEEN_LINES:
            said = now
            left = clock((now - begun) / (count - done) * (total - count))
            tell(f"{count} of {total} {what}  {left} left")

    return update
