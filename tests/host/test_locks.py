import concurrent.futures
import contextlib
import errno
import fcntl
import os

import pytest

from cbjax.host import checked_json
from cbjax.host.locks import locked
from cbjax.workdir import files


def count_up(path, times):
    for _ in range(times):
        with locked(path.with_name("lock")):
            path.write_text(str(int(path.read_text()) + 1))
            if int(path.read_text()) % 3 == 0:
                os.unlink(path.with_name("lock"))


def test_one_at_a_time_is_inside_even_if_it_removes_the_file(tmp_path):
    (tmp_path / "count").write_text("0")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # each opens the file, so locks are as between processes
        list(pool.map(count_up, [tmp_path / "count"] * 3, [200] * 3))
    assert (tmp_path / "count").read_text() == "600"


def test_who_does_not_wait_is_told(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    busy = pytest.raises(files.BusyError, match="another process is training here")
    with files.lock(tmp_path / "run"), busy, files.lock(tmp_path / "run"):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_keeps_no_one_from_working(code, tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)  # Lustre, or NFS without its lock service
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(files.lock(tmp_path))
    checked_json.write(tmp_path / "facts.json", {"a": 1})
    assert checked_json.read(tmp_path / "facts.json") == {"a": 1}
