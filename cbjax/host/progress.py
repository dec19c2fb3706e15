"""Shows a person the progress of training: a bar at a terminal or in a notebook, lines in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cbjax.host.notebook import Display, clock
from cbjax.host.output import as_text

BETWEEN_LINES = 5.0  # least seconds between lines, as epochs may take milliseconds
WITHIN_EPOCH = 300.0  # seconds without a line, after which a line comes within an epoch
SLOW_START = 15.0  # seconds before the first step, mostly of compilation, after which a line says that it is over


class Silent:
    """Has the methods of a bar and shows nothing."""

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Ignores the step."""

    def end_epoch(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Ignores the epoch's rows of metrics, one for each run that is trained at the same time."""


class Bar(Silent):
    """A bar with the epoch, the steps, the last loss, images a second and the time left; shown after the first loss."""

    def __init__(self, progress: Progress, total_steps: int, step: int):
        self._progress = progress
        self._task = progress.add_task("", total=total_steps, completed=step, visible=False, loss=0.0, rate=0.0)

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Shows the step that was last read from the device."""
        self._progress.update(
            self._task, completed=step, visible=True, description=f"epoch {epoch}", loss=loss, rate=images_per_second
        )


class NotebookBar(Silent):
    """The same as `Bar` below a cell of a notebook; at the end a line stays."""

    def __init__(self, total_steps: int, step: int, noun: str):
        self._total, self._step, self._display, self._noun = total_steps, step, Display(), noun
        self._begun = time.perf_counter()
        # Compilation before the first loss does not count for the time that is left.
        self._from: tuple[int, float] | None = None

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Shows the step that was last read from the device."""
        now = time.perf_counter()
        self._from = self._from or (step, now)
        begun, since = self._from
        left = f"  {clock((now - since) / (step - begun) * (self._total - step))} left" if step > begun else ""
        text = f"epoch {epoch}  loss {loss:.4f}  {images_per_second:,.0f} {self._noun}s/s{left}"
        self._step = step
        self._display.update(step, self._total, text)

    def end(self) -> None:
        """Leaves a line that says how far the training came."""
        self._display.end(f"step {self._step} of {self._total} after {clock(time.perf_counter() - self._begun)}")


class Lines(Silent):
    """A line an epoch, for the log of a job.

    The first and the last epoch have a line. Another epoch has one if it ends at least `BETWEEN_LINES` after the last
    line. A long epoch has a line every `WITHIN_EPOCH`. If the first steps come after `SLOW_START`, a line says so.
    """

    def __init__(self, total_steps: int, step: int, num_epochs: int, tell: Callable[[str], None]):
        self._total, self._num_epochs, self._tell = total_steps, num_epochs, tell
        self._said, self._first = time.perf_counter(), True
        # Two pairs (step, time), to measure the pace between them. Compilation before the first does not count.
        self._from: tuple[int, float] | None = None
        self._read = (step, self._said)

    def update(self, step: int, epoch: int, loss: float, images_per_second: float) -> None:
        """Notes the step; writes a line if the epoch takes long."""
        self._read = (step, time.perf_counter())
        if self._from is None and self._read[1] - self._said >= SLOW_START:
            self._line(f"the first steps are taken, after {clock(self._read[1] - self._said)} of compilation")
        self._from = self._from or self._read
        if self._read[1] - self._said >= WITHIN_EPOCH:
            self._line(f"{_epoch(epoch, self._num_epochs)}  step {step} of {self._total}  loss {loss:.4f}")

    def end_epoch(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a line with the epoch's figures, if it is time."""
        now = time.perf_counter()
        if not self._first:
            self._read = (self._read[0], now)
        if self._first or epoch == self._num_epochs or now - self._said >= BETWEEN_LINES:
            self._line(epoch_line(epoch, self._num_epochs, rows))
        if self._first:
            # Start the clock only here: the first evaluation was compiled just before.
            self._first, self._from = False, (self._read[0], now)

    def _line(self, text):
        step, now = self._read
        begun, since = self._from or self._read
        if begun < step < self._total:
            text += f"  {clock((now - since) / (step - begun) * (self._total - step))} left"
        self._said = time.perf_counter()
        self._tell(text)


def epoch_line(epoch: int, num_epochs: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line with an epoch's figures.

    Args:
      epoch: from 1.
      num_epochs: number of epochs of the run.
      rows: a row of metrics for each run. For several runs the line has their mean loss and range of accuracies.
    """
    if not rows:
        return _epoch(epoch, num_epochs)
    losses = [row["train/loss"] for row in rows]
    text = f"{_epoch(epoch, num_epochs)}  loss {sum(losses) / len(losses):.4f}"
    held_out = [100 * row["validation/balanced_accuracy"] for row in rows if "validation/balanced_accuracy" in row]
    if held_out:
        name = "mean average precision" if "validation/mean_average_precision" in rows[0] else "balanced accuracy"
        low, high = f"{min(held_out):.1f}", f"{max(held_out):.1f}"
        text += f"  validation {name} {low if low == high else f'{low} to {high}'} %"
    return text


def _epoch(epoch, num_epochs):
    return f"epoch {epoch:>{len(str(num_epochs))}} of {num_epochs}"


@contextlib.contextmanager
def shown(
    total_steps: int, step: int, num_epochs: int, mode: str, tell: Callable[[str], None], noun: str = "image"
) -> Iterator[Silent]:
    """Yields a display of the training from `step` on.

    Args:
      total_steps: number of steps of the run.
      step: the step that the run begins or goes on from.
      num_epochs: number of epochs of the run.
      mode: "on" for a bar; "lines" for a line an epoch; "off" for nothing; "auto" for a bar at a terminal or in a
        notebook, and lines elsewhere.
      tell: takes a line.
      noun: what is trained on, "image" or "clip".
    """
    console = Console(file=as_text(sys.stderr), force_terminal=True if mode == "on" else None)
    if mode == "off":
        yield Silent()
        return
    if mode == "lines" or not (console.is_terminal or console.is_jupyter):
        yield Lines(total_steps, step, num_epochs, tell)
        return
    if console.is_jupyter:
        notebook_bar = NotebookBar(total_steps, step, noun)
        try:
            yield notebook_bar
        finally:
            notebook_bar.end()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"loss {{task.fields[loss]:.4f}}  {{task.fields[rate]:,.0f}} {noun}s/s  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, total_steps, step)
