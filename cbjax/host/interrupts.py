"""Notes SIGINT and SIGTERM during training, so that the loop can save before it stops."""

import signal
import threading
from types import FrameType
from typing import Self


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after its state was saved.

    Attributes:
      signum: the signal's number.
      step: the step of the checkpoint to go on from.
    """

    def __init__(self, signum: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; step {step} is saved, the same command goes on from there"
        )
        self.signum, self.step = signum, step


class Interrupts:
    """A context that notes the first SIGINT or SIGTERM in `signum` and does no more; a second one acts as usual.

    Python delivers signals only to the main thread, so in other threads nothing is noted.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)  # type: ignore[arg-type]
