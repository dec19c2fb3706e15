"""Gathers the processes of a run before JAX connects them, and names the ones that do not come.

JAX alone waits in silence, and aborts if two processes were given different numbers of processes. Process 0 listens at
the coordinator's port until all are there; then JAX takes over the port.
"""

import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn

FIRST_NOTE_SECONDS = 10
NEXT_NOTE_SECONDS = 60
# Time in which process 0 closes its listener and starts JAX's. A process that comes too early tries again in a second.
HANDOVER_SECONDS = 0.3
LONGEST_LINE = 65536  # bytes
WHAT_TO_DO = (
    "start all of them with the same number of processes, and make sure that each can reach process 0's host and port"
)


class LobbyError(RuntimeError):
    """The processes did not gather; the message says which process is wrong."""


class MissingError(LobbyError):
    """Some processes did not come in time; another attempt may succeed."""


def gather(coordinator: str, count: int, index: int, seconds: float, tell: Callable[[str], None]) -> None:
    """Waits until all processes are there; every process must call it.

    Args:
      coordinator: HOST:PORT of process 0.
      count: number of processes.
      index: index of this process.
      seconds: how long to wait.
      tell: called with a line for the user while processes are missing.

    Raises:
      MissingError: if some processes do not come in time.
      LobbyError: if two processes have the same index or different numbers of processes, or the port is taken.
    """
    host, _, port = coordinator.rpartition(":")
    if index:
        _join(host.strip("[]"), int(port), count, index, seconds, tell)
    elif count > 1:
        port = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator).rpartition(":")[2]
        _Host(int(port), count, seconds, tell).gather()


def missing_text(missing: Collection[int], count: int) -> str:
    """Names the missing processes."""
    names = [str(one) for one in sorted(missing)]
    named = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"process {named} of {count}" if len(names) == 1 else f"processes {named} of {count}"


class _Host:
    """Process 0, where the others report."""

    def __init__(self, port: int, count: int, seconds: float, tell: Callable[[str], None]):
        self._count, self._seconds, self._tell = count, seconds, tell
        self._next_note: float = FIRST_NOTE_SECONDS
        self._selector = selectors.DefaultSelector()
        self._lines: dict[socket.socket, bytes] = {}
        self._present: dict[int, socket.socket] = {}
        both = socket.has_dualstack_ipv6()
        try:
            self._listener = socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=count
            )
        except OSError as error:
            raise LobbyError(
                f"process 0 cannot listen at port {port} of this machine ({error.strerror}): another program, or a run "
                "that has not ended, may use it; choose another port for all processes"
            ) from error

    def gather(self) -> None:
        begun = time.monotonic()
        try:
            with self._listener, self._selector:
                self._selector.register(self._listener, selectors.EVENT_READ)
                while len(self._present) < self._count - 1:
                    passed = time.monotonic() - begun
                    if passed > self._seconds:
                        error = f"{self._missing()} did not come in {self._seconds:.0f} s: {WHAT_TO_DO}"
                        self._send({"missing": error}, *self._present.values())
                        raise MissingError(error)
                    if passed > self._next_note:
                        self._next_note += NEXT_NOTE_SECONDS
                        self._note(f"waiting for {self._missing()} ({passed:.0f} s of {self._seconds:.0f} s)")
                    for key, _ in self._selector.select(timeout=0.5):
                        self._hear(key.fileobj)
            self._send({"go": True}, *self._present.values())
        finally:
            for connection in self._lines:
                connection.close()

    def _missing(self) -> str:
        return missing_text(set(range(1, self._count)) - set(self._present), self._count)

    def _hear(self, source: Any) -> None:
        if source is self._listener:
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._lines[connection] = b""
            self._selector.register(connection, selectors.EVENT_READ)
            return
        try:
            received = source.recv(LONGEST_LINE)
        except OSError:
            received = b""
        self._lines[source] += received
        if not received or len(self._lines[source]) > LONGEST_LINE:
            self._drop(source)
        elif self._lines[source].endswith(b"\n"):
            self._welcome(source)

    def _welcome(self, source: socket.socket) -> None:
        try:
            said = json.loads(self._lines[source])
            index, count = int(said["index"]), int(said["count"])
        except (ValueError, KeyError, TypeError, RecursionError):  # another program, such as a port scanner
            self._drop(source)
            return
        if count != self._count:
            self._refuse(
                f"process 0 was started as one of {self._count} processes, process {index} as one of {count}: start "
                "all with the same number",
                source,
            )
        if index in self._present:
            self._refuse(f"two processes were started as process {index}: give each its own index", source)
        self._present[index] = source
        if self._next_note > FIRST_NOTE_SECONDS and len(self._present) < self._count - 1:
            self._send({"note": f"waiting for {self._missing()}"}, source)

    def _drop(self, source: socket.socket) -> None:
        """Forgets a process that is gone; it counts as missing until it comes again."""
        self._selector.unregister(source)
        del self._lines[source]
        source.close()
        for index in [index for index, connection in self._present.items() if connection is source]:
            del self._present[index]
            self._note(f"process {index} of {self._count} ended before all were there: waiting for it")

    def _note(self, line: str) -> None:
        self._tell(line)
        self._send({"note": line}, *self._present.values())

    def _refuse(self, error: str, newcomer: socket.socket) -> NoReturn:
        self._send({"error": error}, newcomer, *self._present.values())
        raise LobbyError(error)

    def _send(self, message: dict[str, Any], *connections: socket.socket) -> None:
        for connection in connections:
            try:
                connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                continue  # it is gone, which the next read will show


def _join(host: str, port: int, count: int, index: int, seconds: float, tell: Callable[[str], None]) -> None:
    begun = time.monotonic()
    note = FIRST_NOTE_SECONDS
    while True:
        passed = time.monotonic() - begun
        left = seconds - passed
        try:
            with socket.create_connection((host, port), timeout=max(1.0, min(5.0, left))) as connection:
                connection.sendall(json.dumps({"index": index, "count": count}).encode() + b"\n")
                # Process 0 decides when time is up, and counts from its own start.
                connection.settimeout(seconds + FIRST_NOTE_SECONDS)
                if _is_told_to_go(connection, tell):
                    time.sleep(HANDOVER_SECONDS)
                    return
                why = "it ended, or another program uses its port"
        except OSError as error:  # process 0 has not started yet, or its name cannot be resolved yet
            why = error.strerror or str(error)
        if left < 0:
            raise MissingError(
                f"process 0 of {count} could not be reached at {host}:{port} in {seconds:.0f} s: {WHAT_TO_DO}"
            )
        if passed > note:
            note += NEXT_NOTE_SECONDS
            tell(f"waiting for process 0 of {count} at {host}:{port} ({why}; {passed:.0f} s of {seconds:.0f} s)")
        time.sleep(0.3)


def _is_told_to_go(connection: socket.socket, tell: Callable[[str], None]) -> bool:
    """Reads what process 0 says until it says go; returns False if it ended first."""
    with connection.makefile("rb") as lines:
        for line in lines:
            try:
                said = dict(json.loads(line))
            except (ValueError, TypeError):
                return False
            if "error" in said:
                raise LobbyError(said["error"])
            if "missing" in said:
                raise MissingError(said["missing"])
            if "go" in said:
                return True
            tell(str(said.get("note")))
    return False
