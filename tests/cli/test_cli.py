"""The command as a user meets it: what it prints, where it stops, and its exit status."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from cbjax.cli import main
from cbjax.host import machine
from tests import processes

SHORT_SWEEP = ("sweep", "--mode=loop", "--config.model.name=linear", "--config.num_epochs=1", "--config.devices=1")
QUICK = (
    "--config=digits_lt",
    "--config.model.name=linear",
    "--config.num_epochs=2",
    "--config.devices=1",
    "--config.log.report=false",
)


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    """The command sets flags for the process that it runs in; here that is the test's."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


def call(*arguments):
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """Runs a command that must be refused: exit status 2, one message, no traceback, nothing on standard output."""
    try:
        status = call(*arguments)
    except SystemExit as stop:  # from argparse
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in shown.err
    assert shown.out == ""
    return shown.err


def test_train_prints_the_table_and_where_the_report_is(tmp_path, capsys):
    assert call("train", *QUICK[:-1], f"--workdir={tmp_path}", "--config.data.test=20") == 0
    shown = capsys.readouterr().out
    assert re.search(r"overall +balanced +many +medium +few +worst", shown)
    assert f"report: {tmp_path / 'report.md'}" in shown
    assert call("eval", f"--workdir={tmp_path}") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    shown = capsys.readouterr()
    assert f"test/accuracy {results['last']['test']['accuracy']:.6g}" in shown.out
    assert "not finished" not in shown.err
    (tmp_path / "results.json").rename(tmp_path / "kept")
    assert call("eval", f"--workdir={tmp_path}", "--split=validation", "--checkpoint=best") == 0
    shown = capsys.readouterr()
    assert "validation/balanced_accuracy" in shown.out
    assert shown.err.startswith(f"{tmp_path}: this run is not finished, ")
    (tmp_path / "kept").rename(tmp_path / "results.json")
    assert call("report", tmp_path, f"--out={tmp_path / 'elsewhere'}") == 0
    assert (tmp_path / "elsewhere" / "report.md").exists()


def test_a_sweep_skips_what_is_finished(tmp_path, capsys):
    sweep = tmp_path / "sweep.py"
    sweep.write_text(
        "from cbjax.variants import *\n"
        "METHODS = {'ce': {}, 'cdb': {'weights.name': 'difficulty'}}\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', product(choices('method', METHODS), seeds(2)))\n"
    )
    arguments = (*SHORT_SWEEP, f"--config={sweep}", f"--workdir={tmp_path / 'runs'}")
    assert call(*arguments) == 0
    first = capsys.readouterr().out
    assert "4 of 4, cdb/seed_1:" in first and "finished before" not in first
    report = (tmp_path / "runs" / "report.md").read_text()
    assert "cdb" in report and "±" in report
    assert call(*arguments) == 0
    second = capsys.readouterr().out
    assert "4 of 4 runs: finished before" in second and "training in" not in second
    assert (tmp_path / "runs" / "report.md").read_text() == report


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, capsys):
    sweep = tmp_path / "sweep.py"
    sweep.write_text(
        "from cbjax.variants import *\n"
        "def get_sweep():\n"
        "    return Sweep('digits_lt', choices('rate', {'bad': {'optim.learning_rate': 1e25}, 'good': {}}))\n"
    )
    arguments = (*SHORT_SWEEP, f"--config={sweep}", f"--workdir={tmp_path / 'runs'}")
    assert call(*arguments) == 1
    shown = capsys.readouterr().out
    assert re.search(r"run bad failed: step \d+: loss", shown)
    assert "good" in (tmp_path / "runs" / "report.md").read_text()


def test_divergence_has_its_own_exit_status(tmp_path, capsys):
    assert call("train", *QUICK, f"--workdir={tmp_path}", "--config.optim.learning_rate=1e25") == 1
    error = capsys.readouterr().err
    assert re.search(r"cbjax train: step \d+: loss .*, learning rate .*; no checkpoint was saved before it", error)


def test_datasets_are_listed_with_what_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert call("datasets", f"--data_dir={tmp_path}") == 0
    shown = capsys.readouterr().out
    for name in ("digits", "arrays", "mnist", "fashion_mnist", "cifar10", "cifar20", "cifar100"):
        assert name in shown
    assert "cbjax[prepare]" in shown
    # Whole, in a pipe and at a narrow terminal: it is there to be copied.
    (line,) = (line for line in shown.splitlines() if line.startswith("mnist "))
    command = "pip install 'cbjax[prepare]' && python -c \"import tensorflow_datasets as tfds; tfds.builder('mnist', "
    assert f"{command}data_dir='{tmp_path}', file_format='array_record').download_and_prepare()\"" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--workdir=x"), "--config"),
        (("train", "--config=digits_lt"), "--workdir"),
        (("train", *QUICK, "--workdir=x", "--profile=0"), "must be a whole number from 1 to 100000; got '0'"),
        (
            ("train", *QUICK, "--workdir=x", "--profile=1000000000"),
            "--profile: must be a whole number from 1",
        ),
        (
            ("predict", "y", "--workdir=x", "--out=z.csv", "--top=1" + "0" * 5000),
            "--top: must be a whole number",
        ),
        (("sweep", *QUICK, "--workdir=x", "--shard=1000000000000/1000000000000"), "--shard: must be I/N"),
        (("sweep", *QUICK, "--workdir=x", "--group-size=1000000000"), "--group-size: must be a whole number from 1 to"),
        (("compile", "--config=digits_lt", "--topology=v5e:2x2", "--classes=1000000000"), "--classes: must be a whole"),
        (("train", *QUICK, "--workdir=x", "--coordinator=h:99999", "--processes=2", "--process=0"), "from 1 to 65535"),
        (
            ("train", *QUICK, "--workdir=x", "--config.num_epochs=1000000000000"),
            "num_epochs must be a whole number",
        ),
        (
            ("sweep", "--config=digits_lt", "--workdir=x", "--config.devices=1000000000"),
            "devices must be a whole number",
        ),
        (("eval", "--workdir=x", "--config.devices=1000000000"), "devices must be a whole number from 1 to"),
        (("train", "--config=" + "x" * 10**5, "--workdir=x"), "the path or the name of its file"),
        (("train", "--config=digits_lt", "--workdir="), "needs a directory; got nothing"),
        (("train", "--config=digits_lt", "--workdir=~nobody_here/runs"), "there is no home folder for its ~"),
        (
            ("compile", "--config=digits_lt", "--topology=v5e:2x2", "--save=gs://b/f.json"),
            "--save: must be a local file",
        ),
        (
            ("predict", "y", "--workdir=x", "--out=z.csv", "--calibration="),
            "--calibration: must be a local file; got no",
        ),
        (("report", "a\0b"), "has a NUL character"),
        (
            ("train", "--config=https://example.org/a.py", "--workdir=x"),
            "there is no configuration file https://example.org/a.py",
        ),
        (("train", "--config=digts_lt", "--workdir=x"), "digits_lt"),
        (("train", "--config=cifar_lt", "--workdir=x"), ":cui, :cdb"),
        (("train", *QUICK, "--workdir=x", "--config.optim.learnin_rate=1"), "optim.learning_rate"),
        (("train", *QUICK, "--workdir=x", "--config.loss.name=focl"), "focal"),
        (("train", *QUICK, "--workdir=x", "--config.seed"), "--config.seed=VALUE"),
        (("train", *QUICK, "--workdir=x", "--learning_rate=1"), "--config.; did you mean optim.learning_rate?"),
        (("train", *QUICK, "--workdir=x", "--lr", "1"), "unrecognized argument: --lr; keys of the config begin with"),
        (("train", *QUICK, "--workdir=x", "--extnd"), "unrecognized argument: --extnd\n"),
        (("train", *QUICK, "--workdir=x", "--config.batch_size=60", "--config.devices=8"), "use 56 or 64"),
        (
            ("train", *QUICK, "--workdir=x", "--method=ce"),
            "keys of the config begin with --config.: --config.method=ce",
        ),
        (("eval", "--workdir=x", "--split=train"), "invalid choice"),
        (("eval", "--workdir=x", "--config.seed=1"), "seed cannot change for an evaluation; these keys can: "),
        (("eval", "--workdir=x", "--config.data.resiz=1"), "did you mean data.resize?"),
        (("predict", "y", "--workdir=x", "--out=z.csv", "--config.seed=1"), "unrecognized argument"),
        (
            ("sweep", "--config=digits_lt", "--mode=loop", "--group-size=4"),
            "--group-size is the number of runs at a time",
        ),
        (("eval", "--workdir=x"), "holds no run"),
        (("report", "a", "b"), "--out=DIR"),
        (("report", "nowhere"), "nowhere"),
        (("sweep", "--config=digits", "--workdir=x"), "digits_lt"),
        (("training",), "invalid choice"),
        ((), "required"),
    ],
)
def test_mistakes_are_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert not list(tmp_path.rglob("*")), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("command", "config", "name"),
    [("train", "mnist_binary", "mnist"), ("train", "cifar_lt:cdb", "cifar100"), ("sweep", "cdb_table1:short", "mnist")],
)
def test_a_missing_data_set_says_how_to_get_it(tmp_path, capsys, command, config, name):
    folder = tmp_path / "data"
    folder.mkdir()
    error = refused(
        capsys,
        command,
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={folder}",
        "--config.devices=1",
    )
    assert str(folder) in error and name in error and "pip install 'cbjax[prepare]'" in error
    assert not (tmp_path / "run").exists()


def test_unusable_arrays_are_one_message(tmp_path, capsys):
    np.savez(tmp_path / "own.npz", pictures=np.zeros((3, 8, 8)))
    error = refused(
        capsys,
        "train",
        *QUICK,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=arrays",
        f"--config.data.file={tmp_path / 'own.npz'}",
        "--config.data.longtail=natural",
        "--config.data.imbalance=1",
    )
    assert "own.npz" in error and "images" in error and "pictures" in error


def test_a_damaged_best_checkpoint_is_one_message(tmp_path, capsys):
    # Without learning, all epochs are equally good, and the best is the first.
    settings = ("--config.optim.learning_rate=1e-30", "--config.num_epochs=4", "--config.data.test=20")
    assert call("train", *QUICK, f"--workdir={tmp_path}", *settings) == 0
    best = json.loads((tmp_path / "results.json").read_text())["best"]["step"]
    (damaged,) = (tmp_path / "checkpoints" / str(best)).rglob("memory/metadata")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    capsys.readouterr()
    status = call("eval", f"--workdir={tmp_path}", "--checkpoint=best")
    shown = capsys.readouterr()
    assert status == 2 and "Traceback" not in shown.err
    assert f"checkpoint {best} is damaged (memory/metadata has changed)" in shown.out
    assert f"no sound checkpoint of step {best}; there are steps [29]" in shown.err


def test_what_the_disk_refuses_is_one_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    error = refused(capsys, "train", *QUICK, f"--workdir={tmp_path / 'file'}")
    assert error == f"cbjax train: {tmp_path / 'file'}: File exists\n"


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory of 9 GiB\nAllocator"),
            2,
            "smaller (batch_size, ",
        ),
        (MemoryError(), 2, "this machine ran out of memory"),
        (ConnectionResetError(104, "Connection reset by peer"), 74, "Connection reset by peer"),
    ],
)
def test_what_the_machine_refuses_is_one_message(tmp_path, monkeypatch, capsys, failure, status, message):
    def train(*args, **options):
        try:
            raise failure
        finally:
            if not isinstance(failure, OSError | MemoryError):
                raise ValueError("what was being closed")

    monkeypatch.setattr("cbjax.training.run.train", train)
    assert call("train", *QUICK, f"--workdir={tmp_path}") == status
    assert message in capsys.readouterr().err


def test_another_failure_keeps_its_traceback(tmp_path, monkeypatch):
    def train(*args, **options):
        raise KeyError("a bug")

    monkeypatch.setattr("cbjax.training.run.train", train)
    with pytest.raises(KeyError, match="a bug"):
        call("train", *QUICK, f"--workdir={tmp_path}")


def test_the_tilde_is_the_users_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("train", *QUICK, "--workdir=~/run", "--config.data.test=20") == 0
    assert call("report", "~/run", "--out=~/again") == 0
    assert (tmp_path / "again" / "report.md").exists()


def test_a_profile_is_written(tmp_path, capsys):
    run = ("train", *QUICK, "--config.data.test=20", "--profile=2")
    assert call(*run, f"--workdir={tmp_path / 'whole'}") == 0
    assert "no trace: training ended within 2 dispatches" in capsys.readouterr().out
    assert call(*run, f"--workdir={tmp_path / 'steps'}", "--config.steps_per_dispatch=1") == 0
    assert f"trace of 2 steps: {tmp_path / 'steps' / 'profile'}" in capsys.readouterr().out
    assert list((tmp_path / "steps" / "profile").rglob("*.xplane.pb"))


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("train", "sweep", "eval", "report", "datasets"))


def test_a_broken_config_file_is_named_with_its_line(tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text("from cbjax.config import default\n\ndef get_config():\n    return defalt()\n")
    error = refused(capsys, "train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert f"{path}, line 4" in error and "defalt" in error


def test_an_interrupt_while_the_configuration_is_read_is_one_line(tmp_path, capsys):
    path = tmp_path / "slow.py"
    path.write_text("def get_config():\n    raise KeyboardInterrupt\n")
    assert call("train", f"--config={path}", f"--workdir={tmp_path / 'run'}") == 130
    assert capsys.readouterr().err == "cbjax train: stopped\n"


def test_the_flag_for_convolutions_is_added_to_the_users_own(monkeypatch):
    from cbjax.cli import startup

    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    monkeypatch.setattr(startup, "CPU_FLAG_TESTED_WITH", (startup.importlib.metadata.version("jaxlib"),))
    startup.set_flags(deterministic=True)
    flags = os.environ["XLA_FLAGS"].split()
    assert flags == ["--xla_dump_to=/nowhere", startup.CPU_FLAG, *startup.DETERMINISTIC_FLAGS]
    startup.set_flags(deterministic=True)
    assert os.environ["XLA_FLAGS"].split() == flags
    monkeypatch.setattr(startup, "CPU_FLAG_TESTED_WITH", ())
    monkeypatch.setenv("XLA_FLAGS", "")
    startup.set_flags(deterministic=False)
    assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, machine.cores()),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
    ],
)
def test_cores_become_devices_unless_the_user_says_how_many(variables, expected):
    program = "from cbjax.cli import startup; startup.make_cores_devices(); import jax; print(jax.device_count())"
    environment = {**os.environ, "XLA_FLAGS": "", **variables}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), True),
        (("--mode=devices",), True),
        (("--mode=loop",), False),
        (("--mode=vmap",), False),
        (("--coordinator=localhost:1", "--processes=2", "--process=0"), False),
    ],
)
def test_a_sweep_spreads_its_runs_over_cores_if_it_may_choose(monkeypatch, tmp_path, options, expected):
    called = []
    monkeypatch.setattr("cbjax.cli.startup.make_cores_devices", lambda: called.append(True))
    monkeypatch.setattr("cbjax.parallel.processes.start", lambda *args: None)
    monkeypatch.setattr("cbjax.sweeps.sweep.sweep", lambda *args, **options: (None, {}))
    assert main(["sweep", "--config=digits_lt", f"--workdir={tmp_path}", *options]) == 0
    assert bool(called) == expected


def test_a_sweep_goes_on_over_the_devices_that_it_was_begun_with(monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.setattr("cbjax.cli.startup.make_cores_devices", lambda: called.append(True))
    monkeypatch.setattr("cbjax.sweeps.sweep.sweep", lambda *args, **options: (None, {}))
    (tmp_path / "plan_1_of_2.json").write_text('{"asked": {"mode": "loop", "group_size": null}}')
    for shard in ("1/2", "2/2"):
        assert main(["sweep", "--config=digits_lt", f"--workdir={tmp_path}", f"--shard={shard}"]) == 0
    assert len(called) == 1, "the second part has no plan yet"
    (tmp_path / "plan_1_of_2.json").write_text("")
    assert main(["sweep", "--config=digits_lt", f"--workdir={tmp_path}", "--shard=1/2"]) == 2
    assert "plan_1_of_2.json is missing or damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    done = processes.run(
        "train",
        *QUICK,
        f"--workdir={tmp_path / 'run'}",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        JAX_COMPILATION_CACHE_DIR="",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list((tmp_path / "cache" / "cbjax").rglob("*-cache"))
