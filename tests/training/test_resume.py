"""Nothing is lost: real processes, killed and started again, end where an uninterrupted one ends, to the bit."""

import json
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

import cbjax
from cbjax.config import ConfigError
from cbjax.host.writers import read_rows
from cbjax.workdir.files import WorkdirError
from cbjax.workdir.memory import timeless
from tests import processes

# CDB with augmentation: the random crops, the difficulties, the class weights and the data position must all come back.
SETTINGS = (
    "--config=digits_lt",
    "--config.model.name=linear",
    "--config.num_epochs=20",
    "--config.weights.name=difficulty",
    "--config.difficulty.smoothing=0.9",
    "--config.data.crop_padding=1",
    "--config.log.report=false",
    "--config.log.tensorboard=false",
    "--config.checkpoint.every_epochs=1",
)
LOGS = ("metrics.jsonl", "per_class.jsonl", "class_weights.jsonl")


def train(workdir, *more):
    return ("train", *SETTINGS, f"--workdir={workdir}", *more)


def leaves(workdir):
    state = cbjax.load(workdir).state
    leaves, _ = jax.tree.flatten((state.step, state.params, state.opt_state, state.class_weights))
    return [np.asarray(leaf) for leaf in leaves] + [np.asarray(jax.random.key_data(state.key))]


def assert_equal_runs(workdir, reference):
    for found, expected in zip(leaves(workdir), leaves(reference), strict=True):
        assert found.tobytes() == expected.tobytes()
    for log in LOGS:
        rows, expected = read_rows(workdir / log), read_rows(reference / log)
        assert [timeless(row) for row in rows] == [timeless(row) for row in expected]
    results = [json.loads((place / "results.json").read_text()) for place in (workdir, reference)]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    done = processes.run(*train(workdir))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize("attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_killed_at_random_moments_it_ends_the_same(uninterrupted, tmp_path, attempt):
    chance = random.Random(attempt)
    kills = 0
    while kills < (2 if attempt else 1):
        before = processes.checkpoints(tmp_path)
        process = processes.start(*train(tmp_path))
        # After some more checkpoints, wherever it is then: in a step, in an evaluation, or in the middle of saving.
        goal = (before[-1] if before else 0) + chance.randint(5, 40)
        reached = processes.wait_for_checkpoint(process, tmp_path, goal)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        output = process.communicate()[0]
        assert reached, "the run was over before it could be killed"
        if kills:
            resumed = re.search(r"resumed at step (\d+) of", output)
            assert resumed and int(resumed[1]) == before[-1]
        assert processes.checkpoints(tmp_path)
        kills += 1
    last = processes.checkpoints(tmp_path)[-1]
    done = processes.run(*train(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {last} of" in done.stdout
    assert_equal_runs(tmp_path, uninterrupted)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_first(uninterrupted, tmp_path, signum):
    process = processes.start(*train(tmp_path, "--config.checkpoint.every_epochs=1000"))
    rows = tmp_path / "metrics.jsonl"
    assert processes.wait_for(process, lambda: rows.exists() and rows.read_bytes().count(b"\n") >= 8)
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    saved = re.search(rf"stopped by {signum.name}; step (\d+) is saved, the same command goes on from there", error)
    assert saved and int(saved[1]) == processes.checkpoints(tmp_path)[-1]
    assert "Traceback" not in error
    done = processes.run(*train(tmp_path, "--config.checkpoint.every_epochs=7"))
    assert f"resumed at step {saved[1]} of" in done.stdout
    assert "noted: checkpoint.every_epochs: 1000 there, 7 here" in done.stdout
    assert_equal_runs(tmp_path, uninterrupted)


def again(workdir, *overrides, **options):
    """Trains in this process, with the devices that the command had."""
    settings = [one.removeprefix("--config.") for one in SETTINGS[1:]]
    return cbjax.train(cbjax.config.load("digits_lt", [*settings, "devices=1", *overrides]), workdir, **options)


def test_a_finished_run_says_so_and_is_left_as_it_is(uninterrupted, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    again(workdir)
    last = processes.checkpoints(workdir)[-1]
    assert f"restored step {last}: finished" in capsys.readouterr().out
    assert_equal_runs(workdir, uninterrupted)


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_nothing_else(uninterrupted, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    newest = processes.checkpoints(workdir)[-1]
    before = processes.checkpoints(workdir)[-2]
    victim = next((workdir / "checkpoints" / str(newest) / "state").rglob("d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    done = processes.run(*train(workdir))  # a process with one device, as the other was: else last bits differ
    assert f"checkpoint {newest} is damaged" in done.stdout and f"resumed at step {before} of" in done.stdout
    assert_equal_runs(workdir, uninterrupted)


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    long = train(tmp_path, "--config.num_epochs=1000")
    process = processes.start(*long)
    try:
        assert processes.wait_for_checkpoint(process, tmp_path)
        with pytest.raises(WorkdirError, match="another process is training here"):
            again(tmp_path, "num_epochs=1000")
    finally:
        process.kill()
        process.communicate()


def test_other_settings_are_refused_and_extending_is_asked_for(uninterrupted, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    with pytest.raises(ConfigError, match=r"seed: 0 there, 3 here\n.*optim.learning_rate: 0.02 there, 0.01 here"):
        again(workdir, "optim.learning_rate=0.01", "seed=3")
    with pytest.raises(ConfigError, match="add --extend to train for longer"):
        again(workdir, "num_epochs=22")
    last = processes.checkpoints(workdir)[-1]
    again(workdir, "num_epochs=22", extend=True)
    assert f"resumed at step {last} of" in capsys.readouterr().out
    assert json.loads((workdir / "results.json").read_text())["epoch"] == 22
    assert [row["epoch"] for row in read_rows(workdir / "metrics.jsonl")] == [*range(1, 23), 22]


@pytest.mark.slow
def test_on_other_devices_a_resumed_run_agrees_to_rounding(tmp_path):
    short = ("num_epochs=3", "weights.name=class_balanced", "difficulty.smoothing=0", "checkpoint.every_epochs=1")
    again(tmp_path / "same", *short, "devices=2")
    for name, changes in {"pmap": ("devices=2", "parallel=pmap"), "more": ("devices=4",)}.items():
        workdir = shutil.copytree(tmp_path / "same", tmp_path / name)
        shutil.rmtree(workdir / "checkpoints" / str(processes.checkpoints(workdir)[-1]))
        (workdir / "results.json").unlink()
        again(workdir, *short, *changes)
        for found, expected in zip(leaves(workdir), leaves(tmp_path / "same"), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
