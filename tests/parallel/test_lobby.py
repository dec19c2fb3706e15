"""Processes that gather: who is missing is named, and wrong numbers are told to all."""

import socket
import threading
import time

import pytest

from cbjax.parallel import lobby
from cbjax.parallel.lobby import LobbyError, gather


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lobby, "FIRST_NOTE_SECONDS", 0.2)
    monkeypatch.setattr(lobby, "NEXT_NOTE_SECONDS", 0.5)


@pytest.fixture
def coordinator():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


class Member(threading.Thread):
    """One process of a lobby."""

    def __init__(self, coordinator, count, index, seconds=20.0):
        super().__init__()
        self.arguments, self.lines, self.error = (coordinator, count, index, seconds), [], None
        self.start()

    def run(self):
        try:
            gather(*self.arguments, self.lines.append)
        except LobbyError as error:
            self.error = str(error)

    def end(self):
        self.join(timeout=30)
        return self.error


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_wait_for_the_last_one_and_name_the_missing_one(coordinator):
    members = [Member(coordinator, 3, index) for index in (2, 0)]
    for member in members:
        wait_until(lambda lines=member.lines: any("waiting for process 1 of 3" in line for line in lines))
    members.append(Member(coordinator, 3, 1))
    assert [member.end() for member in members] == [None] * 3


def test_a_process_that_does_not_come_is_named_and_the_others_end(coordinator):
    members = [Member(coordinator, 4, index, seconds=1.0) for index in (0, 2)]
    for member in members:
        assert member.end().startswith("processes 1, 3 of 4 did not come in 1 s: start all of them")


def test_the_first_one_is_named_where_it_is_missing(coordinator):
    member = Member(coordinator, 2, 1, seconds=1.0)
    assert member.end().startswith(f"process 0 of 2 could not be reached at {coordinator} in 1 s")
    assert member.lines[0].startswith(f"waiting for process 0 of 2 at {coordinator} (")


@pytest.mark.parametrize("index", [1, 2])
def test_other_numbers_of_processes_are_told_to_all(coordinator, index):
    members = [Member(coordinator, 3, 0), Member(coordinator, 3, 1 if index == 2 else 2)]
    time.sleep(0.5)
    members.append(Member(coordinator, 4, index))
    for member in members:
        assert f"process 0 was started as one of 3 processes, process {index} as one of 4" in member.end()


def test_two_with_one_index_are_told(coordinator):
    members = [Member(coordinator, 3, index) for index in (0, 1, 1)]
    for member in members:
        assert "two processes were started as process 1" in member.end()


def test_a_process_that_ends_is_named_and_may_come_again_and_strangers_do_not_count(coordinator):
    first = Member(coordinator, 2, 0)
    host, port = coordinator.split(":")
    wait_until(lambda: len(first.lines) > 1)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\n")
        with socket.create_connection((host, int(port))) as second:
            second.sendall(b'{"index": 1, "count": 3')
    with socket.create_connection((host, int(port))) as second:
        second.sendall(b'{"index": 1, "count": 2}\n')
        assert b'"go"' in second.recv(1000)
    assert first.end() is None


def test_a_process_that_ends_before_all_are_there_is_named(coordinator):
    first = Member(coordinator, 3, 0, seconds=3.0)
    host, port = coordinator.split(":")
    wait_until(lambda: len(first.lines) > 1)
    with socket.create_connection((host, int(port))) as second:
        second.sendall(b'{"index": 1, "count": 3}\n')
    wait_until(lambda: any("process 1 of 3 ended before all were there" in line for line in first.lines))
    assert "processes 1, 2 of 3 did not come" in first.end()


def test_a_taken_port_is_named(coordinator):
    said = pytest.raises(LobbyError, match=r"cannot listen at port \d+ of this machine .*choose another port")
    with socket.create_server(("", int(coordinator.split(":")[1]))), said:
        gather(coordinator, 2, 0, 1.0, print)
