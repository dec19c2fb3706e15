"""Ends a process when another process of the run fails or is lost, and prints why as the last line.

Processes talk through the key-value store of JAX's coordination service, which process 0 keeps. In each, a thread waits
for bad news and shows by a beat that its process lives. JAX may abort a process from C++, where Python cannot print
anything. For this case a small second process, the witness, prints the last line.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import jax

from cbjax.host.output import say
from cbjax.host.text import visible

BEAT_SECONDS = 0.5  # longer if there are many processes, as all ask process 0
# If JAX ends this process, the last line names the processes that were silent for so many beats.
SILENT_BEATS = 10
# Wait so long before ending: often all processes meet the same mistake, and each prints it itself.
GRACE_SECONDS = 1.5
LOST, FAILED = 74, 2  # exit statuses

WITNESS = """
import signal, sys
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_IGN)
words, crash = "", ""
for line in sys.stdin:
    if crash or line.startswith("Fatal Python error"):
        crash += line
    else:
        words = line.strip()
if crash and (words or "Aborted" not in crash):
    sys.stderr.write((words or crash.strip()) + "\\n")
"""


class Witness:
    """A second process that prints a last line if this process crashes; after any other end it prints nothing."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WITNESS], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        self._words = ""
        faulthandler.enable(self._pipe)  # a crash writes "Fatal Python error" there, a kill does not

    def remember(self, words: str) -> None:
        """Sets the line to print after a crash."""
        if words != self._words:
            self._words = words
            with contextlib.suppress(OSError):  # somebody may have ended the witness
                self._pipe.write(" ".join(visible(words).split()).encode(errors="replace") + b"\n")
                self._pipe.flush()

    def close(self) -> None:
        """Ends the witness."""
        faulthandler.disable()
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()


class Watch:
    """Watches whether the other processes live, and shows them that this one does.

    Args:
      client: JAX's connection to the store.
      index: index of this process.
      count: number of processes.
      witness: the witness of this process.
    """

    def __init__(self, client: Any, index: int, count: int, witness: Witness):
        self._client, self._index, self._count, self._witness = client, index, count, witness
        self._leaving = threading.Event()
        self._lives: dict[int, tuple[str, float]] = {}
        self._beats = 0
        self._pause = max(BEAT_SECONDS, count / 50)
        # JAX aborts the others at once only if process 0 is lost.
        witness.remember(self.lost_line([0]) if index else "cbjax: another process was lost; start all of them again")
        self._beat()
        self._thread = threading.Thread(target=self._listen, name="cbjax-watch", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def lost_line(self, lost: Sequence[int]) -> str:
        """Returns a line that names the lost processes and says what to do."""
        return f"cbjax: {lost_text(lost, self._count)}"

    def tell(self, line: str, status: int, lost: Sequence[int] = ()) -> None:
        """Makes all others end with a line and a status. Process 0 waits until they know, since it keeps the store."""
        if self._leaving.is_set():
            return
        self._leaving.set()
        others = [i for i in range(self._count) if i != self._index]
        for other in others:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process told it, or the store is gone
                self._client.key_value_set(f"cbjax/end/{other}", json.dumps({"line": line, "status": status}))
        self._depart()
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        while (
            self._index == 0 and time.monotonic() < deadline and len(self._read("cbjax/gone")) < self._count - len(lost)
        ):
            time.sleep(0.05)

    def silent(self) -> list[int] | None:
        """Listens for a while; returns the processes that show no life, or None if all live or left in order."""
        begun = time.monotonic()
        heard = {self._index}
        first: dict[int, str] | None = None
        while time.monotonic() - begun < SILENT_BEATS * self._pause and len(heard) < self._count:
            try:
                beats = self._read("cbjax/alive")
            except jax.errors.JaxRuntimeError:
                return [0]
            first = beats if first is None else first
            heard |= {i for i, beat in beats.items() if beat != first.get(i)}
            heard |= set(self._read("cbjax/gone"))
            time.sleep(self._pause / 2)
        return sorted(set(range(self._count)) - heard) or None

    def close(self) -> None:
        """Stops listening; must come before JAX closes the store."""
        if not self._leaving.is_set():
            self._leaving.set()
            self._depart()
        self._thread.join(timeout=GRACE_SECONDS)
        self._witness.close()

    def _depart(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"cbjax/gone/{self._index}", "1", allow_overwrite=True)

    def _listen(self) -> None:
        while not self._leaving.is_set():
            try:
                text = self._client.blocking_key_value_get(f"cbjax/end/{self._index}", int(1000 * self._pause))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    self._look()
                elif self._index and not self._leaving.is_set():
                    self._end(self.lost_line([0]), LOST)
                continue
            said = json.loads(text)
            if not self._leaving.wait(GRACE_SECONDS):
                self._depart()
                self._end(said["line"], said["status"])

    def _look(self) -> None:
        """Shows that this process lives, and notes which others have been silent for a while."""
        try:
            self._beat()
            beats = self._read("cbjax/alive")
            gone = self._read("cbjax/gone")
        except jax.errors.JaxRuntimeError:
            return  # the next call says more
        now = time.monotonic()
        for i in range(self._count):
            if i not in self._lives or self._lives[i][0] != beats.get(i, ""):
                self._lives[i] = (beats.get(i, ""), now)
        silent = [
            i for i, (_, since) in self._lives.items() if now - since > SILENT_BEATS * self._pause and i not in gone
        ]
        if silent:
            self._witness.remember(self.lost_line(silent))

    def _beat(self) -> None:
        self._beats += 1
        self._client.key_value_set(f"cbjax/alive/{self._index}", str(self._beats), allow_overwrite=True)

    def _read(self, folder: str) -> dict[int, str]:
        return {int(key.rsplit("/", 1)[1]): value for key, value in self._client.key_value_dir_get(folder)}

    def _end(self, line: str, status: int) -> NoReturn:
        self._witness.remember(line)
        say_and_exit(line, status)


def lost_text(lost: Sequence[int], count: int) -> str:
    """Returns which of `count` processes were lost, and what to do."""
    names = " and ".join(map(str, lost))
    which = f"process {names} of {count} was" if len(lost) == 1 else f"processes {names} of {count} were"
    return (
        f"{which} lost (killed, out of memory, or its machine is gone; its own output may say why): start all {count} "
        "again with the same commands, and they go on from the last checkpoint"
    )


def say_and_exit(line: str, status: int) -> NoReturn:
    """Prints the last line and ends the process at once."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe or stream
        sys.stdout.flush()
    say(line, error=True)
    os._exit(status)
