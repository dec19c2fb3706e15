"""Shows progress in a Jupyter notebook by IPython alone, so that no widget has to be installed."""

import datetime
import time
from typing import Any

BETWEEN_UPDATES = 0.25  # least seconds: each is a message to the browser


class Display:
    """A bar and a line below a cell, which change in place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = -float("inf")

    def update(self, done: int, total: int, text: str) -> None:
        """Shows how far the work is, if it is time.

        Args:
          done: how much is done.
          total: how much there is.
          text: stands beside the bar.
        """
        if time.perf_counter() - self._shown >= BETWEEN_UPDATES:
            self._shown = time.perf_counter()
            line = f"{done} of {total}  {text}"
            bar = f'<progress value="{done}" max="{total}" style="width: 20em; vertical-align: middle"></progress>'
            self._show({"text/plain": line, "text/html": f"{bar} <code>{line}</code>"})

    def end(self, text: str) -> None:
        """Leaves one line of text in the bar's place, if a bar was shown."""
        if self._handle is not None:
            self._show({"text/plain": text, "text/html": f"<code>{text}</code>"})

    def _show(self, content: dict[str, str]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def clock(seconds: float) -> str:
    """Returns a time as 0:01:05."""
    return str(datetime.timedelta(seconds=round(seconds)))
