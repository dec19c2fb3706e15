"""Shows a person how far a sweep is: a live table at a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cbjax.host.notebook import clock
from cbjax.host.output import as_text
from cbjax.host.progress import BETWEEN_LINES, Silent, epoch_line
from cbjax.host.text import one_line, visible


class Board(Silent):
    """Shows a sweep in lines: how many runs are done or failed, and which are being trained.

    With `epochs`, the last epoch of runs has a line, and so has any epoch that ends at least `BETWEEN_LINES` after the
    last line.
    """

    def __init__(self, total: int, done: int, failed: int, tell: Callable[[str], None] | None, epochs: bool = True):
        self.total, self.done, self.failed, self.epochs = total, done, failed, epochs
        self._said = -float("inf")
        self.running: list[str] = []
        self.bar: Silent = self
        self._tell, self._begun = tell, time.perf_counter()
        self._trained, self._num_epochs, self._first, self._epoch = 0.0, 0, 0, 0

    def line(self, text: str) -> None:
        """Shows a line about the run that is being trained."""
        if self._tell is not None:
            self._tell(text)

    def warn(self, text: str) -> None:
        """Shows what went wrong."""
        self.line(text)

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Notes the epoch that the runs are in."""
        self._first = self._first or epoch  # a resumed run begins with a later epoch
        self._epoch = epoch

    def end_epoch(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a line with the epoch's figures, if it is time."""
        if self.epochs and (epoch == self._num_epochs or time.perf_counter() - self._said >= BETWEEN_LINES):
            left, after = self.seconds_left(), self.total - self.done - self.failed - len(self.running)
            over = not after and epoch == self._num_epochs
            rest = "" if left is None or over else f"  all runs: {clock(left)} left"
            self._said = time.perf_counter()
            self.line(epoch_line(epoch, self._num_epochs, rows) + rest)

    def begin(self, names: Sequence[str], num_epochs: int, noun: str = "image") -> None:
        """Shows which runs are trained next, with `num_epochs` epochs each, on images or clips (`noun`)."""
        self.running = list(names)
        self._num_epochs, self._first, self._epoch = num_epochs, 0, 0
        what = self.running[0] if len(names) == 1 else f"{self.running[0]} and {len(names) - 1} more"
        self.line(f"{self.done + self.failed + 1} of {self.total}, {what}:")

    def end(self, name: str, error: str | None) -> None:
        """Notes that a run is over; shows its error if it failed."""
        if name in self.running:
            self._trained += self._share(self._num_epochs + 1)
        self.running = [other for other in self.running if other != name]
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            self.warn(f"run {name} failed: {error}")

    def seconds_left(self) -> float | None:
        """Estimates the time that is left from the epochs trained so far; None before the first."""
        trained = self._trained + len(self.running) * self._share(self._epoch)
        if not trained:
            return None
        left = self.total - self.done - self.failed - len(self.running) * max(0, self._epoch - 1) / self._num_epochs
        return (time.perf_counter() - self._begun) / trained * left

    def _share(self, epoch: int) -> float:
        """Returns the part of a run that was trained here, if the run is in this epoch."""
        return (epoch - (self._first or 1)) / self._num_epochs if epoch else 0.0


class LiveBoard(Board):
    """A board as a table at a terminal, with lines above it."""

    def __init__(self, total: int, done: int, failed: int, live: Live):
        super().__init__(total, done, failed, None)
        self._live, self._now, self._noun = live, "", "image"
        self._show()

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Shows the step that was last read from the device."""
        super().update(step, epoch, loss, images_per_second)
        self._now = f"epoch {epoch}  loss {loss:.4f}  {images_per_second:,.0f} {self._noun}s/s"
        self._show()

    def end_epoch(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Does nothing: the table is updated at each step."""

    def warn(self, text: str) -> None:
        """Shows what went wrong, above the table."""
        self._live.console.print(Text(visible(text)), soft_wrap=True)

    def begin(self, names: Sequence[str], num_epochs: int, noun: str = "image") -> None:
        """Shows which runs are trained next."""
        super().begin(names, num_epochs, noun)
        self._now, self._noun = "", noun
        self._show()

    def end(self, name: str, error: str | None) -> None:
        """Notes that a run is over; shows its error if it failed."""
        super().end(name, error)
        self._show()

    def _show(self) -> None:
        table = Table("done", "running", "failed", "to do", "time left", box=box.SIMPLE_HEAD)
        left, running = self.seconds_left(), len(self.running)
        rest = "" if left is None else clock(left)
        waiting = self.total - self.done - self.failed - running
        table.add_row(*(str(count) for count in (self.done, running, self.failed, waiting)), rest)
        now = f"{one_line(self.running[0])}  {self._now}" if self.running else ""
        self._live.update(Group(table, Text(now, no_wrap=True, overflow="ellipsis")))


@contextlib.contextmanager
def board(
    total: int, done: int, failed: int, tell: Callable[[str], None] | None, epochs: bool = True
) -> Iterator[Board]:
    """Yields the board of a sweep: a live table at a terminal, else (in a notebook too) lines that go to `tell`.

    Args:
      total: number of runs.
      done, failed: how many of them are done, or failed, already.
      tell: called with a line; None to show nothing.
      epochs: whether epochs have lines too.
    """
    console = Console(file=as_text(sys.stderr))
    if tell is None or console.is_jupyter or not console.is_terminal:
        plain = Board(total, done, failed, tell, epochs)
        if done:
            plain.line(f"{done} of {total} runs: finished before")
        yield plain
        return
    with Live(console=console, auto_refresh=True, refresh_per_second=4) as live:
        yield LiveBoard(total, done, failed, live)
