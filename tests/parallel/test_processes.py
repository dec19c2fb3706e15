"""Two real processes with two devices each: equal to one with four, one writer, one step to stop at."""

import json
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.host.writers import read_rows
from cbjax.parallel.processes import HEARTBEAT_SECONDS, Agreement, from_first
from tests import own_nets, processes
from tests.photos import write_tree

# Without BatchNorm, so that the number of devices changes rounding only.
RUN = (
    "--config=digits_lt",
    "--config.model.name=linear",
    "--config.data.test=20",
    "--config.weights.name=difficulty",
    "--config.loss.mean=weight_sum",
    "--config.log.tensorboard=false",
    "--config.log.report=false",
    "--config.checkpoint.every_epochs=1",
)
EPOCHS = "--config.num_epochs=5"
PMAP = "--config.parallel=pmap"
REPORT = "--config.log.report=true"


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_two(workdir, *arguments):
    """Starts both processes of a training run."""
    meet = (f"--coordinator=localhost:{free_port()}", "--processes=2")
    command = ("train", f"--workdir={workdir}", *RUN, *meet, *arguments)
    return [processes.start(*command, f"--process={index}", devices=2) for index in range(2)]


def end(started, timeout=240):
    """Waits for both; returns each one's exit status and output."""
    outputs = [process.communicate(timeout=timeout) for process in started]
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def parameters(workdir):
    return [np.asarray(leaf) for leaf in cbjax.load(workdir).state.params["head"].values()]


def timeless(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("one")
    overrides = [one.removeprefix("--config.") for one in (*RUN[1:], EPOCHS, "devices=4")]
    cbjax.train(configs.load("digits_lt", overrides), workdir)
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run of two processes, and how they ended."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, end(start_two(workdir, EPOCHS))


@pytest.mark.parametrize("parallel", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_two_processes_are_one_with_as_many_devices(one, two, tmp_path, parallel):
    workdir, ends = two if parallel == "shard_map" else (tmp_path, end(start_two(tmp_path, EPOCHS, PMAP, REPORT)))
    assert [status for status, _, _ in ends] == [0, 0], ends
    (_, first, _), (_, second, _) = ends
    assert "4 x cpu of 2 processes" in first and ("report: " in first) == (parallel == "pmap")
    # Gloo's threads write into each other's lines.
    said = [line for line in second.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]
    assert not said, "the first process speaks"
    for ours, theirs in zip(parameters(workdir), parameters(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("metrics", "per_class", "class_weights"):
        ours, theirs = (read_rows(folder / f"{name}.jsonl") for folder in (workdir, one))
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    weights = [row["class_weights"] for row in read_rows(workdir / "class_weights.jsonl")]
    np.testing.assert_allclose(
        weights, [row["class_weights"] for row in read_rows(one / "class_weights.jsonl")], rtol=1e-4
    )
    assert json.loads((workdir / "results.json").read_text())["finished"]


@pytest.mark.slow
def test_sigterm_of_one_saves_the_same_step_on_all_and_the_restart_ends_bit_equal(two, tmp_path):
    plain, stopped = two[0], tmp_path / "stopped"
    both = start_two(stopped, EPOCHS)
    assert processes.wait_for_checkpoint(both[0], stopped)
    both[1].send_signal(signal.SIGTERM)
    ends = end(both)
    assert [status for status, _, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    steps = [error.split("stopped by SIGTERM; step ")[1].split()[0] for _, _, error in ends]
    assert steps[0] == steps[1] and int(steps[0]) == processes.checkpoints(stopped)[-1]
    ends = end(start_two(stopped, EPOCHS))
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert f"resumed at step {steps[0]} of" in ends[0][1]
    for ours, theirs in zip(parameters(stopped), parameters(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert timeless(stopped) == timeless(plain)


def test_a_lost_process_ends_the_others_and_one_process_goes_on(tmp_path):
    both = start_two(tmp_path, "--config.num_epochs=1000")
    assert processes.wait_for_checkpoint(both[0], tmp_path)
    both[1].kill()
    lost = time.monotonic()
    status, _, error = end(both)[0]
    assert status not in (0, None)
    assert time.monotonic() - lost < 2 * HEARTBEAT_SECONDS, error
    last = error.splitlines()[-1]
    # A connection may break in the middle of an exchange, before the watch names the process.
    named = "process 1 of 2 was lost" in last and "go on from the last checkpoint" in last
    assert named or "another process was lost; start all of them again" in last, error
    # Another number of processes takes over.
    saved = processes.checkpoints(tmp_path)[-1]
    alone = processes.start("train", f"--workdir={tmp_path}", *RUN, "--config.num_epochs=1000", devices=1)
    assert processes.wait_for_checkpoint(alone, tmp_path, saved + 1)
    alone.send_signal(signal.SIGTERM)
    out, _ = alone.communicate(timeout=60)
    assert f"resumed at step {saved} of" in out


def test_a_mistake_is_said_by_all(one, tmp_path):
    workdir = shutil.copytree(one, tmp_path / "run")
    (status, _, first), (status2, _, second) = end(start_two(workdir, "--config.num_epochs=2"))
    assert (status, status2) == (2, 2)
    assert "num_epochs: 5 there, 2 here" in first and "Traceback" not in first
    assert "the first process says:" in second and "num_epochs: 5 there, 2 here" in second


def test_processes_that_differ_end_at_once_with_the_keys(tmp_path):
    meet = (f"--coordinator=localhost:{free_port()}", "--processes=2")
    own = (["--config.optim.learning_rate=0.5"], ["--config.data.seed=7", "--extend"])
    commands = [("train", f"--workdir={tmp_path / str(index)}", *RUN, *meet, *own[index]) for index in range(2)]
    ends = end([processes.start(*one, f"--process={index}", devices=2) for index, one in enumerate(commands)])
    assert [status for status, _, _ in ends] == [2, 2], ends
    for _, _, error in ends:
        last = error.splitlines()[-1]
        assert "optim.learning_rate: 0.5 in process 0, 0.02 in process 1" in last
        assert "data.seed: null in process 0, 7 in process 1" in last
        assert "--extend: false in process 0, true in process 1" in last and "--workdir" in last
    assert not list(tmp_path.glob("*/config.json"))


@pytest.mark.slow
def test_a_run_of_a_sweep_that_diverges_does_not_stop_the_others_of_two_processes(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', choices('method', {'bad': {'optim.learning_rate': 1e25}, 'ce': {}}))\n"
    )
    command = ("sweep", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'runs'}", "--config.num_epochs=1")
    meet = (f"--coordinator=localhost:{free_port()}", "--processes=2")
    ends = end([processes.start(*command, *meet, f"--process={index}", devices=2) for index in range(2)])
    assert [status for status, _, _ in ends] == [1, 1], ends
    assert json.loads((tmp_path / "runs" / "bad" / "failed.json").read_text())["diverged"]
    assert (tmp_path / "runs" / "ce" / "results.json").exists() and (tmp_path / "runs" / "report.md").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--coordinator=a:1",), "missing: --processes, --process"),
        (
            ("--coordinator=a:1", "--processes=2", "--process=2"),
            "--process must be from 0 to --processes - 1; got 2 of 2",
        ),
        (
            ("--coordinator=a", "--processes=2", "--process=0"),
            "--coordinator must be HOST:PORT with a port from 1 to 65535; got 'a'",
        ),
        (("--coordinator=a:1", "--processes=2", "--process=0", "--distributed=auto"), "give only one"),
    ],
)
def test_flags_that_do_not_fit_are_refused(capsys, tmp_path, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--config=digits_lt", f"--workdir={tmp_path}", *flags])
    assert message in capsys.readouterr().err


def test_alone_everything_is_as_asked():
    agreement = Agreement()
    assert [agreement(3), agreement(0), agreement.now(4)] == [3, 0, 4]
    assert from_first(lambda: {"a": 1}) == {"a": 1}


def photos(tmp_path, bad):
    """Writes images, some of them bad, and returns the command that trains on them and their paths."""
    write_tree(tmp_path / "images", {"train": (16, 16, 16), "test": (2, 2, 2)})
    chosen = [sorted((tmp_path / "images").rglob("*.jpg"))[place] for place in bad]
    for path in chosen:
        path.write_bytes(b"no image")
    settings = {"data.name": "folder", "data.root": tmp_path / "images", "data.image_size": 32, "batch_size": 16}
    settings |= {"data.normalization": "unit", "model.name": f"{own_nets.__file__}:pooled", "log.tensorboard": "false"}
    config = tmp_path / "config.py"
    config.write_text("from cbjax.config import default as get_config\n")
    command = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--coordinator=localhost:{free_port()}"]
    return [*command, *(f"--config.{key}={value}" for key, value in settings.items()), "--processes=2"], chosen


def test_an_image_that_one_process_cannot_read_ends_both_with_its_name(tmp_path):
    command, (bad,) = photos(tmp_path, [6])
    started = [processes.start(*command, f"--process={i}", devices=2) for i in range(2)]
    processes.wait_for(started[0], lambda: started[1].poll() is not None, timeout=240)  # or the first has ended
    first_end = time.monotonic()
    ends = end(started)
    assert time.monotonic() - first_end < 2 * HEARTBEAT_SECONDS
    assert [status for status, _, _ in ends] == [2, 2], ends
    assert all(str(bad) in errors and "Traceback" not in errors for _, _, errors in ends), ends
    assert sum(" failed, so all end: " in errors for _, _, errors in ends) == 1, ends


@pytest.mark.slow
def test_images_that_are_skipped_are_listed_once_by_the_first_process(tmp_path):
    command, bad = photos(tmp_path, [0, 3, 8, 20, 40])  # the first of the test split, which comes before train
    command += ["--config.num_epochs=3", "--config.data.on_bad_image=skip"]
    ends = end([processes.start(*command, f"--process={i}", devices=2) for i in range(2)])
    assert [status for status, _, _ in ends] == [0, 0], ends
    rows = read_rows(tmp_path / "run" / "bad_images.jsonl")
    assert sorted(row["image"] for row in rows) == sorted(map(str, bad))
    assert all("it cannot be decoded" in row["reason"] for row in rows)
    assert [output.count("\nskipped ") for _, output, _ in ends] == [5, 0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [("mix.name=mixup",), ("mix.name=cmo",), ("meta.name=l2rw", "data.meta=2")])
def test_two_processes_mix_and_weigh_the_images_that_one_does(tmp_path, method):
    command, _ = photos(tmp_path, [])
    given = (*method, "num_epochs=2", *(("meta.batch_size=8",) if "l2rw" in method[0] else ()))
    command += [f"--config.{one}" for one in given]
    ends = end([processes.start(*command, f"--process={i}", devices=2) for i in range(2)])
    assert [status for status, _, _ in ends] == [0, 0], ends
    overrides = [one.removeprefix("--config.") for one in command if one.startswith("--config.")]
    one = cbjax.train(configs.load(str(tmp_path / "config.py"), [*overrides, "devices=4"]), tmp_path / "one")
    two = cbjax.load(tmp_path / "run", trust_code=True)
    for ours, theirs in zip(jax.tree.leaves(two.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
