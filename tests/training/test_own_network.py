"""A user's own network in whole runs: trained, kept, resumed, loaded only with trust, and swept."""

import json
import pathlib
import shutil
import signal
import site
import threading
import time

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.host.interrupts import Interrupted
from cbjax.host.writers import read_rows
from cbjax.sweeps import file as sweep_file
from cbjax.sweeps.sweep import sweep
from cbjax.training import restore
from cbjax.workdir.memory import timeless
from tests import processes

NETS = pathlib.Path(__file__).parents[1] / "own_nets.py"
QUICK = ("num_epochs=2", "data.validation=10", "data.test=20", "devices=1", "log.tensorboard=false", "log.report=false")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8)).astype(np.uint8)


def digits(name, *overrides, path=NETS):
    return configs.load("digits_lt", [*QUICK, f"model.name={path}:{name}", *overrides])


def bits(state):
    leaves = jax.tree.leaves((state.step, state.params, state.batch_stats, state.opt_state))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def rows(workdir):
    return [timeless(row) for row in read_rows(workdir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a network whose file is gone, the images that it was asked, and its answers."""
    folder = tmp_path_factory.mktemp("own")
    path = shutil.copy(NETS, folder / "mine.py")
    run = cbjax.train(digits("wide", "model.options.width=6", path=path), folder / "run")
    path.unlink()
    return run, folder / "run", IMAGES, run.predict(IMAGES)


def test_the_work_directory_keeps_the_file_and_its_hash(finished):
    run, workdir, *_ = finished
    assert (workdir / "own" / "mine.py").read_bytes() == NETS.read_bytes()
    assert json.loads((workdir / "config.json").read_text())["model"]["code"] == run.config.model.code
    assert run.state.params["layers_1"]["kernel"].shape == (64, 6)
    assert "layers_1/kernel" in (workdir / "parameters.txt").read_text()


def test_nothing_is_run_by_load_unless_the_user_says_so(finished, capsys):
    _, workdir, images, answers = finished
    told = rf"model\.name=.*mine\.py:wide: to load it, its copy of that file, {workdir}/own/mine\.py, would be run"
    for read in (cbjax.load, restore.evaluate):
        with pytest.raises(ConfigError, match=told):
            read(workdir)
    run = cbjax.load(workdir, trust_code=True)
    np.testing.assert_array_equal(run.predict(images), answers)
    assert restore.evaluate(workdir, trust_code=True)["accuracy"] == run.metrics["test/last/accuracy"]

    np.save(workdir.parent / "images.npy", images)
    out = workdir.parent / "predictions.csv"
    predict = ["predict", str(workdir.parent / "images.npy"), f"--workdir={workdir}", f"--out={out}"]
    evaluate = ["eval", f"--workdir={workdir}"]
    for command in (predict, evaluate):
        assert main(command) == 2 and "--trust-code" in capsys.readouterr().err
        assert main([*command, "--trust-code"]) == 0
    assert [line.split(",")[1] for line in out.read_text().splitlines()[1:]] == [
        str(label) for label in answers.argmax(axis=1)
    ]


def test_a_copy_that_was_changed_is_never_run(finished, tmp_path):
    _, workdir, *_ = finished
    copied = shutil.copytree(workdir, tmp_path / "run")
    (copied / "own" / "mine.py").write_text("raise SystemExit('it was run')\n")
    with pytest.raises(ConfigError, match=r"own/mine\.py is not the file that was meant: its SHA-256 is"):
        cbjax.load(copied, trust_code=True)
    (copied / "own" / "mine.py").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*own/mine\.py"):
        cbjax.load(copied, trust_code=True)
    # The run's own command brings the copy back, from wherever the user's file lies now.
    cbjax.train(digits("wide", "model.options.width=6"), copied)
    assert (copied / "own" / "own_nets.py").read_bytes() == NETS.read_bytes()


def test_a_resume_with_another_file_or_option_is_refused(finished, tmp_path):
    _, workdir, *_ = finished
    changed = tmp_path / "mine.py"
    changed.write_text(NETS.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"model\.code: .* the file of model\.name=.*/mine\.py:wide has changed"):
        cbjax.train(digits("wide", "model.options.width=6", path=changed), workdir)
    with pytest.raises(ConfigError, match=r"model\.options: \(\('width', 6\),\) there, \(\('width', 7\),\) here"):
        cbjax.train(digits("wide", "model.options.width=7"), workdir)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("wide", ["model.options.widht=6"], r"own_nets\.py:wide has no option widht; its options: width; did you"),
        ("few_logits", [], r"own_nets\.py:few_logits': the network must return logits \[B, 10\], floating"),
        ("looping", [], r"own_nets\.py:looping': .*: ValueError: Reverse-mode differentiation does not work for"),
        ("vit", ["model.final_bias=prior"], r"model\.final_bias=prior needs a function that takes final_bias"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(tmp_path, name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        cbjax.train(digits(name, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_function_that_takes_it_is_given_the_last_bias(tmp_path):
    model = cbjax.training.components.build_model(digits("linear", "loss.name=focal"), 10)
    params, _ = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    np.testing.assert_allclose(params["bias"], -np.log(9), rtol=1e-6)


def test_an_installed_module_is_loaded_without_trust_while_it_is_the_same(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    installed = tmp_path / "installed_nets.py"
    installed.write_text(NETS.read_text())
    record = tmp_path / "installed_nets-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Name: installed_nets\nVersion: 1.0\nRequires-Dist: flax\n")
    (record / "RECORD").write_text("installed_nets.py,,\n")
    overrides = [*QUICK, "num_epochs=1", "model.name=installed_nets:linear"]
    run = cbjax.train(configs.load("digits_lt", overrides), tmp_path / "run")
    answers = run.predict(IMAGES)
    np.testing.assert_array_equal(cbjax.load(tmp_path / "run").predict(IMAGES), answers)
    installed.write_text(NETS.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"model\.name=installed_nets:linear: .*own/installed_nets\.py, would"):
        cbjax.load(tmp_path / "run")
    np.testing.assert_array_equal(cbjax.load(tmp_path / "run", trust_code=True).predict(IMAGES), answers)


@pytest.mark.parametrize("mode", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
def test_runs_of_a_sweep_are_what_they_are_alone(tmp_path, mode):
    path = shutil.copy(NETS, tmp_path / "mine.py")
    (tmp_path / "sweep.py").write_text(
        "from cbjax.variants import Sweep, product, seeds, values\n\n\ndef get_sweep():\n"
        "    nets = values('net', 'model.name', ('mine.py:normalised',))\n"
        "    return Sweep('digits_lt', product(nets, seeds(2)))\n"
    )
    described, runs = sweep_file.load(tmp_path / "sweep.py", QUICK)
    _, failed = sweep("own", described, runs, tmp_path / "sweep", mode=mode)
    assert failed == {}
    alone = tmp_path / "alone"
    run = cbjax.train(digits("normalised", "seed=1", path=path), alone)
    folder = tmp_path / "sweep" / runs[1].name
    for row, expected in zip(rows(folder), rows(alone), strict=True):
        for key, value in expected.items():
            np.testing.assert_allclose(row[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
    loaded = cbjax.load(folder, trust_code=True).state
    for found, expected in zip(*map(jax.tree.leaves, (loaded.params, run.state.params)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class Stop:
    """Sends this process a signal once a run has logged some epochs."""

    def __init__(self, workdir, epochs):
        self.log, self.epochs = workdir / "metrics.jsonl", epochs

    def __enter__(self):
        self.thread = threading.Thread(target=self.wait)
        self.thread.start()

    def wait(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.log.exists() and self.log.read_bytes().count(b"\n") >= self.epochs:
                signal.raise_signal(signal.SIGTERM)
                return
            time.sleep(0.002)

    def __exit__(self, *exception):
        self.thread.join()


def test_a_mistake_in_one_run_of_a_sweep_is_told_before_the_first(tmp_path):
    (tmp_path / "sweep.py").write_text(
        "from cbjax.variants import Sweep, values\n\n\ndef get_sweep():\n"
        f"    names = [f'{NETS}:{{name}}' for name in ('wide', 'remembering')]\n"
        "    return Sweep('digits_lt', values('net', 'model.name', names))\n"
    )
    described, runs = sweep_file.load(tmp_path / "sweep.py", QUICK)
    with pytest.raises(ConfigError, match=r"run .*remembering: model\.name=.* training can keep only params"):
        sweep("own", described, runs, tmp_path / "sweep", mode="loop")
    assert not (tmp_path / "sweep").exists()


LONG = ("num_epochs=25", "model.options.width=4", "checkpoint.every_epochs=1000", "data.crop_padding=1")


@pytest.mark.parametrize("name", ["dropped", pytest.param("perceptron", marks=pytest.mark.slow)])
def test_with_dropout_a_stopped_run_ends_the_same_to_the_bit(tmp_path, name):
    config = digits(name, *LONG)
    with Stop(tmp_path / "stopped", 3), pytest.raises(Interrupted):
        cbjax.train(config, tmp_path / "stopped")
    assert len(rows(tmp_path / "stopped")) < 25
    stopped, whole = (cbjax.train(config, tmp_path / place) for place in ("stopped", "whole"))
    assert bits(stopped.state) == bits(whole.state)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_with_dropout_a_killed_run_ends_the_same_to_the_bit(tmp_path):
    overrides = [f"--config.{one}" for one in (*QUICK, *LONG, f"model.name={NETS}:vit", "checkpoint.every_epochs=1")]
    commands = {place: ("train", "--config=digits_lt", f"--workdir={tmp_path / place}", *overrides) for place in "ab"}
    process = processes.start(*commands["a"])
    assert processes.wait_for_checkpoint(process, tmp_path / "a", 10)
    process.kill()
    process.communicate()
    for command in commands.values():
        done = processes.run(*command)
        assert done.returncode == 0, done.stderr
    first, second = (cbjax.load(tmp_path / place, trust_code=True).state for place in "ab")
    assert bits(first) == bits(second) and rows(tmp_path / "a") == rows(tmp_path / "b")
