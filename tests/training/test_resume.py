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
from cbjax.host.writers import read_rows
from cbjax.workdir.memory import timeless
from tests import processes

# CDB with augmentation: the random crops, the difficulties, the class weights and the data position must all come back.
SETTINGS = (
    "--config=digits_lt",
    "--config.num_epochs=30",
    "--config.weights.name=difficulty",
    "--config.difficulty.smoothing=0.9",
    "--config.data.crop_padding=1",
    "--config.log.report=false",
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
    while kills < 3:
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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
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


def test_a_finished_run_says_so_and_is_left_as_it_is(uninterrupted, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    done = processes.run(*train(workdir))
    assert done.returncode == 0, done.stderr
    last = processes.checkpoints(workdir)[-1]
    assert f"restored step {last}: finished" in done.stdout
    assert_equal_runs(workdir, uninterrupted)


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_nothing_else(uninterrupted, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    newest = processes.checkpoints(workdir)[-1]
    before = processes.checkpoints(workdir)[-2]
    victim = next((workdir / "checkpoints" / str(newest) / "state").rglob("d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    done = processes.run(*train(workdir))
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {newest} is damaged" in done.stdout
    assert f"resumed at step {before} of" in done.stdout
    assert_equal_runs(workdir, uninterrupted)


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    long = train(tmp_path, "--config.num_epochs=1000")
    process = processes.start(*long)
    try:
        assert processes.wait_for_checkpoint(process, tmp_path)
        second = processes.run(*long)
        assert second.returncode == 2
        assert "another process is training here" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        process.kill()
        process.communicate()


def test_other_settings_are_refused_and_extending_is_asked_for(uninterrupted, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    done = processes.run(*train(workdir, "--config.optim.learning_rate=0.01", "--config.seed=3"))
    assert done.returncode == 2
    assert "optim.learning_rate: 0.02 there, 0.01 here" in done.stderr and "seed: 0 there, 3 here" in done.stderr
    longer = train(workdir, "--config.num_epochs=32")
    done = processes.run(*longer)
    assert done.returncode == 2 and "add --extend to train for longer" in done.stderr
    last = processes.checkpoints(workdir)[-1]
    done = processes.run(*longer, "--extend")
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {last} of" in done.stdout
    assert json.loads((workdir / "results.json").read_text())["epoch"] == 32
    assert [row["epoch"] for row in read_rows(workdir / "metrics.jsonl")] == [*range(1, 33), 32]


def test_on_other_devices_a_resumed_run_agrees_to_rounding(tmp_path):
    short = ("--config.num_epochs=4", "--config.weights.name=class_balanced", "--config.checkpoint.every_epochs=1")
    short += ("--config.difficulty.smoothing=0",)
    process = processes.start(*train(tmp_path / "same", *short, "--config.devices=2"), devices=4)
    assert processes.wait_for_checkpoint(process, tmp_path / "same")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    later = {"same": ("--config.devices=2",), "pmap": ("--config.devices=2", "--config.parallel=pmap")}
    later["more"] = ("--config.devices=4",)
    for name in ("pmap", "more"):
        shutil.copytree(tmp_path / "same", tmp_path / name)
    for name, changes in later.items():
        done = processes.run(*train(tmp_path / name, *short, *changes), devices=4)
        assert done.returncode == 0, done.stderr
    for name in ("pmap", "more"):
        for found, expected in zip(leaves(tmp_path / name), leaves(tmp_path / "same"), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
