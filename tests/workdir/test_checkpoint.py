import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import PathError, Place
from cbjax.parallel import sharding
from cbjax.types import TrainState
from cbjax.workdir import memory
from cbjax.workdir.checkpoint import CheckpointError, Checkpoints
from cbjax.workdir.checkpoint_folder import CheckpointFolder


def make_state(seed=0, count=1):
    rng = np.random.default_rng(seed)
    params = {"head": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}}
    state = TrainState(
        step=jnp.int32(seed),
        params=params,
        batch_stats={},
        opt_state=(jax.tree.map(jnp.ones_like, params), ()),
        class_weights=jnp.asarray([0.5, 1.5]),
        key=jax.random.key(seed),
    )
    return sharding.replicate(state, sharding.make_mesh(count))


def remember(step):
    return {**memory.to_json(memory.start(2)), "step": step, "accuracy": [0.1 + 0.2, 1 / 3]}


def bits(state):
    state = jax.tree.map(lambda leaf: leaf, state)
    leaves = jax.tree.leaves((state.params, state.opt_state, state.class_weights, jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


@contextlib.contextmanager
def opened(workdir, told=None, reading=False):
    with contextlib.closing(Checkpoints(workdir, [].append if told is None else told.append, reading)) as checkpoints:
        yield checkpoints


def fill(workdir, steps=(1, 2, 3), best=None):
    with opened(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), remember(step), best)


def test_state_and_memory_come_back_to_the_bit(tmp_path):
    fill(tmp_path)
    with opened(tmp_path) as checkpoints:
        step, state, remembered = checkpoints.restore(make_state())
    assert step == 3
    assert bits(state) == bits(make_state(3))
    assert remembered == remember(3)


# What people name their work directories, and what any part of a program may take for a pattern, a URL or a format.
NAMES = [
    "lr[0.1]",
    "a*",
    "what?",
    "two words",
    "#1",
    "50%41",
    "{0}",
    "two\nlines",
    "~me",
    "-x",
    "$HOME",
    "naïve",
    "a:b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_whose_name_looks_like_a_pattern_is_as_any_other(tmp_path, name):
    (tmp_path / "lr0").mkdir()  # what the first would mean as a pattern
    fill(tmp_path / name, steps=(1, 2, 3, 4))
    told = []
    with opened(tmp_path / name, told) as checkpoints:
        assert checkpoints.steps() == [3, 4]
        assert bits(checkpoints.restore(make_state())[1]) == bits(make_state(4))
    assert told == [] and not (tmp_path / name / "damaged").exists()
    assert sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize(
    ("workdir", "why"),
    [
        ("a\\b", r"folder with '\\\\' in its name"),  # TensorStore writes to a/b
        ("caf\udce9", r"'.*caf\\udce9': checkpoints need a folder whose name is UTF-8"),
        ("/gs/a/b", "/gs, which stands for gs://"),
        ("gs://bucket/50%41", "URL with '%'"),  # would be 50A
        ("gs://bucket/a?", r"URL with '\?'"),
        ("gs://bucket/two\nlines", r"URL with '\\n'"),
        ("other://bucket/a", "must begin with one of gs://"),
    ],
)
def test_a_place_whose_name_would_become_another_is_refused_before_anything_is_written(tmp_path, workdir, why):
    with pytest.raises(PathError, match=why):
        Checkpoints(workdir if "/" in workdir else tmp_path / workdir)
    with pytest.raises(PathError, match=why):
        Place(workdir if "/" in workdir else tmp_path / workdir)
    assert list(tmp_path.iterdir()) == []


def test_a_locale_without_utf_8_is_named():
    program = r"from cbjax.host.storage import place_of; place_of('caf\udcc3\udca9')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert b"need a folder whose name is UTF-8; set PYTHONUTF8=1, as the locale is not UTF-8" in done.stderr


def test_the_last_two_and_the_best_are_kept(tmp_path):
    fill(tmp_path, steps=(1, 2, 3, 4, 5), best=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert bits(checkpoints.restore_step(make_state(), 2)[0]) == bits(make_state(2))


def test_a_saved_state_does_not_change_when_its_memory_is_taken_over(tmp_path):
    advance = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2, state), donate_argnums=0)
    state = make_state(1)
    expected = bits(state)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, remember(1))
        advance(state.params)
    with opened(tmp_path) as checkpoints:
        assert bits(checkpoints.restore(make_state())[1]) == expected


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, cut_short, change_a_byte])
@pytest.mark.parametrize("which", ["data", "memory", "_CHECKPOINT_METADATA"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, damage, which):
    fill(tmp_path)
    newest = tmp_path / "checkpoints" / "3"
    files = [path for path in newest.rglob("*") if path.is_file()]
    if which == "data":
        victim = max((path for path in files if path.parent.name == "d"), key=lambda path: path.stat().st_size)
    else:
        victim = next(path for path in files if which in str(path.relative_to(newest)))
    damage(victim)
    told = []
    with opened(tmp_path, told) as checkpoints:
        step, state, _ = checkpoints.restore(make_state())
        assert step == 2 and bits(state) == bits(make_state(2))
        (line,) = told
        assert line.startswith("checkpoint 3 is damaged") and victim.name in line and "moved to" in line
        checkpoints.save(3, make_state(3), remember(3))
    assert (tmp_path / "damaged" / "3").is_dir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 3


def remains(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir() if not path.name.isdigit())


KILLED = """
import os, signal, sys
import jax.numpy as jnp
import orbax.checkpoint as ocp
from cbjax.workdir.checkpoint import Checkpoints
from tests.workdir.test_checkpoint import make_state, remember

commit = ocp.path.atomicity.AtomicRenameTemporaryPath.finalize


async def finalize(self):
    await commit(self)
    if self.get_final().name == "3":
        os.kill(os.getpid(), signal.SIGKILL)


ocp.path.atomicity.AtomicRenameTemporaryPath.finalize = finalize
checkpoints = Checkpoints(sys.argv[1])
for step in (1, 2, 3):
    checkpoints.save(step, make_state(step), remember(step))
checkpoints.finish()
"""


def test_a_checkpoint_is_good_from_the_moment_it_is_committed(tmp_path):
    """Killed just after Orbax gives a checkpoint its name, a process loses nothing that it has."""
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    told = []
    with opened(tmp_path, told) as checkpoints:
        step, state, _ = checkpoints.restore(make_state())
    assert step == 3 and bits(state) == bits(make_state(3))
    assert told == [] and not (tmp_path / "damaged").exists() and not remains(tmp_path)


def test_checksums_are_written_without_another_save(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), remember(1))
        deadline = time.monotonic() + 60
        while not (tmp_path / "checksums" / "1.json").exists():
            assert time.monotonic() < deadline
        assert (tmp_path / "checkpoints" / "1").is_dir()


def test_a_checkpoint_without_checksums_is_used_and_that_is_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "checksums" / "3.json").unlink()
    told = []
    for reading in (True, False, False):
        with opened(tmp_path, told, reading) as checkpoints:
            step, state, _ = checkpoints.restore(make_state())
            assert step == 3 and bits(state) == bits(make_state(3))
    line = f"checkpoint 3 has no checksums ({tmp_path / 'checksums' / '3.json'} is missing), so it is used without a"
    assert [one[: len(line)] for one in told] == [line, line]  # the third time it has


def test_a_checkpoint_without_checksums_that_does_not_restore_is_set_aside(tmp_path):
    fill(tmp_path)
    (tmp_path / "checksums" / "3.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "state")
    told = []
    with opened(tmp_path, told) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
    assert "checkpoint 3 is damaged" in told[1] and (tmp_path / "damaged" / "3").is_dir()


def test_strange_files_beside_checkpoints_are_left_alone(tmp_path):
    fill(tmp_path)
    folder, sums = tmp_path / "checkpoints", tmp_path / "checksums"
    for name in ("3 copy", "3 (1)", "3~", "03", "+4", "٤"):
        shutil.copytree(folder / "3", folder / name)
        shutil.copy(sums / "3.json", sums / f"{name}.json")
    for name in (".DS_Store", "Thumbs.db", "9", "desktop.ini"):
        (folder / name).write_text("x")
    strange = remains(tmp_path)
    for reading in (True, False):
        with opened(tmp_path, reading=reading) as checkpoints:
            assert checkpoints.restore(make_state())[0] == 3
            assert checkpoints.steps() == [2, 3]
    fill(tmp_path, steps=(4, 5))
    assert remains(tmp_path) == strange


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"files": [1]}', b"[" * 100_000, b"\xff\xfe"])
def test_a_list_of_checksums_of_another_kind_costs_its_checkpoint_only(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "checksums" / "3.json").write_bytes(content)
    told = []
    with opened(tmp_path, told) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
        checkpoints.save(4, make_state(4), remember(4))
    assert told == [f"checkpoint 3 is damaged (3.json is not readable): moved to {tmp_path / 'damaged' / '3'}"]


def test_what_ended_processes_left_is_removed_and_few_damaged_ones_are_kept(tmp_path):
    fill(tmp_path, steps=(1, 2))
    for step in (3, 4, 5):
        fill(tmp_path, steps=(step,))
        change_a_byte(next((tmp_path / "checkpoints" / str(step) / "memory").iterdir()))
        with opened(tmp_path) as checkpoints:
            assert checkpoints.restore(make_state())[0] == 2
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["4", "5"]
    left = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "2", left)
    (tmp_path / "checksums" / "9.json").write_text("{}")
    (tmp_path / "checksums" / "8.part").write_text("{")
    with opened(tmp_path, reading=True) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
    assert left.exists()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
    assert sorted(path.name for path in (tmp_path / "checksums").iterdir()) == ["2.json"]
    assert not remains(tmp_path)


def test_a_reader_changes_nothing(tmp_path):
    fill(tmp_path)
    for step in (2, 3):
        change_a_byte(next((tmp_path / "checkpoints" / str(step) / "memory").iterdir()))
    before = sorted(tmp_path.rglob("*"))
    told = []
    with opened(tmp_path, told, reading=True) as checkpoints:
        assert checkpoints.restore(make_state()) is None
    assert sorted(tmp_path.rglob("*")) == before
    assert "checkpoint 3 is damaged" in told[0] and "checkpoint 2 is damaged" in told[1]


def test_a_reader_beside_a_run_that_saves_and_deletes_never_fails(tmp_path):
    """Whatever it meets is whole: the newest checkpoint, or the one that came meanwhile."""
    fill(tmp_path, steps=(1,))
    stop = threading.Event()

    def read():
        counted, newest = 0, 0
        while not stop.is_set() or not counted:
            with opened(tmp_path, told, reading=True) as checkpoints:
                step, state, _ = checkpoints.restore(make_state())
            assert step >= newest and bits(state) == bits(make_state(step))
            counted, newest = counted + 1, step
        return counted

    told = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        with opened(tmp_path) as checkpoints:
            for step in range(2, 12):
                checkpoints.save(step, make_state(step), remember(step))
        stop.set()
        assert all(reader.result() for reader in readers)
    assert told == []


def test_a_reader_meets_every_moment_of_a_commit(tmp_path):
    """A commit gives the list of checksums its last name, a deletion takes it: both may come between two looks."""
    told, writer = [], CheckpointFolder(LiteralPath(tmp_path), print, reading=False)
    writer.make_ready()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            reader = CheckpointFolder(LiteralPath(tmp_path), told.append, reading=True)
            reader.make_ready()
            reader.newest_sound()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for step in range(1, 150):
            written = LiteralPath(tmp_path) / "written"
            (written / "state").mkdir(parents=True)
            (written / "state" / "weights").write_bytes(bytes(step % 7))
            writer.before_commit(step, None, written)
            written.rename(tmp_path / "checkpoints" / str(step))
            writer.after_commit(step, None)
        stop.set()
        for reader in readers:
            reader.result()
    assert told == [] and writer.whole() == [148, 149]


def test_a_checkpoint_of_four_devices_restores_on_one_and_on_eight(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1, count=4), remember(1))
    for count in (1, 8):
        with opened(tmp_path) as checkpoints:
            _, state, _ = checkpoints.restore(make_state(0, count))
            assert bits(state) == bits(make_state(1))
            assert len(state.class_weights.sharding.device_set) == count


def test_a_missing_step_is_named(tmp_path):
    fill(tmp_path)
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"no sound checkpoint of step 9; there are steps \[2, 3\]"),
    ):
        checkpoints.restore_step(make_state(), 9)


def test_an_empty_directory_has_none(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state()) is None


def test_the_best_of_the_one_before_is_kept_too(tmp_path):
    """Should the newest get damaged, the one before it still finds the best that it knows."""
    with opened(tmp_path) as checkpoints:
        for step, best in ((1, 1), (2, 1), (3, 3)):
            checkpoints.save(step, make_state(step), remember(step), best)
    change_a_byte(next((tmp_path / "checkpoints" / "3" / "memory").iterdir()))
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
        assert bits(checkpoints.restore_step(make_state(), 1)[0]) == bits(make_state(1))


def test_checkpoints_without_any_checksums_are_not_touched(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "checksums").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match=r"checksums is missing or empty.*restore it, or move"):
        Checkpoints(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
