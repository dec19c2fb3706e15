"""What a person at a terminal sees while training runs."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class Silent:
    """Takes what a bar takes and shows nothing."""

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Ignores the step."""


class Bar(Silent):
    """A line with the epoch, the steps, the last loss, images a second and the time left."""

    def __init__(self, progress: Progress, total_steps: int, step: int):
        self._progress = progress
        self._task = progress.add_task("", total=total_steps, completed=step, epoch=0, loss=float("nan"), rate=0.0)

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Shows the step that was last read from the device."""
        self._progress.update(self._task, completed=step, epoch=epoch, loss=loss, rate=images_per_second)


@contextlib.contextmanager
def progress_bar(total_steps: int, step: int, mode: str = "auto") -> Iterator[Silent]:
    """Yields a bar for training from `step` on; a silent one for "off", and for "auto" where there is no terminal."""
    console = Console(stderr=True, force_terminal=True if mode == "on" else None)
    if mode == "off" or not (console.is_terminal or console.is_jupyter):
        yield Silent()
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} images/s  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, total_steps, step)


class Board(Silent):
    """What a sweep shows: its runs by what became of them, and the one that is being trained."""

    def __init__(self, total: int, done: int, failed: int, tell: Callable[[str], None] | None):
        self.total, self.done, self.failed = total, done, failed
        self.running: list[str] = []
        self.bar: Silent = self
        self._tell, self._begun = tell, time.perf_counter()
        self._trained, self._num_epochs, self._first, self._epoch = 0.0, 0, 0, 0

    def line(self, text: str) -> None:
        """Shows a line of the run that is being trained."""
        if self._tell is not None:
            self._tell(text)

    def warn(self, text: str) -> None:
        """Shows what went wrong."""
        self.line(text)

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Takes note of the epoch that the runs are in."""
        self._first = self._first or epoch  # a run that is resumed does not begin with its first
        self._epoch = epoch

    def begin(self, names: Sequence[str], num_epochs: int) -> None:
        """Says which runs are being trained from now on, and for how many epochs each."""
        self.running = list(names)
        self._num_epochs, self._first, self._epoch = num_epochs, 0, 0
        what = self.running[0] if len(names) == 1 else f"{self.running[0]} and {len(names) - 1} more"
        self.line(f"{self.done + self.failed + 1} of {self.total}, {what}:")

    def end(self, name: str, error: str | None) -> None:
        """Says that a run is over, and its error if it failed."""
        if name in self.running:
            self._trained += self._share(self._num_epochs + 1)
        self.running = [other for other in self.running if other != name]
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            self.warn(f"run {name} failed: {error}")

    def seconds_left(self) -> float | None:
        """Estimates the time that the other runs will take, from the epochs trained since the start; None before."""
        trained = self._trained + len(self.running) * self._share(self._epoch)
        if not trained:
            return None
        left = self.total - self.done - self.failed - len(self.running) * max(0, self._epoch - 1) / self._num_epochs
        return (time.perf_counter() - self._begun) / trained * left

    def _share(self, epoch: int) -> float:
        """The part of a run that was trained since it began here, when it is in this epoch."""
        return (epoch - (self._first or 1)) / self._num_epochs if epoch else 0.0


class LiveBoard(Board):
    """A board as a table at a terminal, with lines above it."""

    def __init__(self, total: int, done: int, failed: int, live: Live):
        super().__init__(total, done, failed, None)
        self._live, self._now = live, ""
        self._show()

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Shows the step that was last read from the device."""
        super().update(step, epoch, loss, images_per_second)
        self._now = f"epoch {epoch}  loss {loss:.4f}  {images_per_second:,.0f} images/s"
        self._show()

    def warn(self, text: str) -> None:
        """Shows what went wrong above the table, which says the rest."""
        self._live.console.print(Text(text), soft_wrap=True)

    def begin(self, names: Sequence[str], num_epochs: int) -> None:
        """Says which runs are being trained from now on, and for how many epochs each."""
        super().begin(names, num_epochs)
        self._now = ""
        self._show()

    def end(self, name: str, error: str | None) -> None:
        """Says that a run is over, and its error if it failed."""
        super().end(name, error)
        self._show()

    def _show(self) -> None:
        table = Table("done", "running", "failed", "to do", "time left", box=box.SIMPLE_HEAD)
        left, running = self.seconds_left(), len(self.running)
        clock = "" if left is None else str(datetime.timedelta(seconds=round(left)))
        waiting = self.total - self.done - self.failed - running
        table.add_row(*(str(count) for count in (self.done, running, self.failed, waiting)), clock)
        now = f"{self.running[0]}  {self._now}" if self.running else ""
        self._live.update(Group(table, Text(now, no_wrap=True, overflow="ellipsis")))


@contextlib.contextmanager
def board(total: int, done: int, failed: int, tell: Callable[[str], None] | None) -> Iterator[Board]:
    """Yields the board of a sweep: a live table at a terminal; else lines to `tell`, or to nobody.

    Args:
      total: runs.
      done, failed: of them, before.
      tell: called with a line; None to show nothing.
    """
    console = Console(stderr=True)
    if tell is None or not (console.is_terminal or console.is_jupyter):
        shown = Board(total, done, failed, tell)
        if done:
            shown.line(f"{done} of {total} runs: finished before")
        yield shown
        return
    with Live(console=console, auto_refresh=True, refresh_per_second=4) as live:
        yield LiveBoard(total, done, failed, live)
