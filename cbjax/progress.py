"""What a person at a terminal sees while training runs."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
