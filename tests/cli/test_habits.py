"""The command as a tool among tools: its version, its keys, and what a shell completes."""

import os
import shlex
import subprocess
import sys

import pytest

import cbjax
from cbjax.cli import completion, main
from cbjax.cli.arguments import parse
from cbjax.config.schema import KEYS


def lines(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_the_version_by_command_and_by_module(capsys):
    assert lines(capsys, "--version") == [f"cbjax {cbjax.__version__}"]
    done = subprocess.run([sys.executable, "-m", "cbjax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cbjax {cbjax.__version__}\n"


def test_without_a_command_the_list_of_commands_is_named(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.endswith("required: COMMAND; cbjax --help lists the commands\n")


def test_every_key_is_listed_with_what_it_does(capsys):
    listed = lines(capsys, "config")
    assert [line.partition("=")[0] for line in listed] == [*KEYS]
    for line, (_, kind, doc) in zip(listed, KEYS.values(), strict=True):
        assert doc in line
        assert kind.rule in line
    assert listed == cbjax.config.describe().splitlines()


def test_words_choose_keys_by_the_beginning_of_a_part(capsys):
    listed = [line.partition("=")[0] for line in lines(capsys, "config", "difficulty", "data.im", "tau")]
    assert listed == [
        *("data.imbalance", "data.image_size", "data.images_per_class", "loss.tau", "difficulty.tau"),
        *("difficulty.formula", "difficulty.floor", "difficulty.smoothing", "difficulty.scale"),
        *("mix.tau", "stage.tau", "evaluation.tau"),
    ]
    assert main(["config", "losss"]) == 2
    shown = capsys.readouterr()
    assert shown.err == "cbjax config: no key has a part that begins with 'losss'; did you mean loss?\n"
    assert shown.out == ""


def test_a_method_is_found_among_the_keys(capsys):
    method, sampler = lines(capsys, "config", "method", "data.sampler_beta")
    assert method.startswith("method=NAME ") and "--config.method=NAME --dry-run" in method and "ldam_drw" in method
    assert sampler.startswith("data.sampler_beta=")
    assert len(lines(capsys, "config", "method")) == 1


def test_values_are_those_of_the_config_and_the_default_is_told(capsys):
    (floor,) = lines(capsys, "config", "--config=cifar_lt:cdb", "difficulty.floor")
    assert floor.startswith("difficulty.floor=0.0 ")
    assert floor.endswith("; default 0.01")
    (name,) = lines(capsys, "config", "--config=cifar_lt:cdb", "--config.model.name=resnet20", "model.name")
    assert name.startswith("model.name='resnet20' ")
    (loss,) = lines(capsys, "config", "--config.method=ldam_drw", "loss.name")
    assert loss.startswith("loss.name='ldam' ")
    assert main(["config", "--config=digits_lt", "--config.loss.gama=2"]) == 2
    assert "did you mean loss.gamma?" in capsys.readouterr().err


def test_a_dry_run_lists_a_config_as_it_would_be_given(capsys):
    listed = lines(capsys, "train", "--config=egtea:authors_code", "--config.num_epochs=7", "--dry-run")
    assert listed[:2] == ["# this command", "--config.num_epochs=7"] and "# the config" in listed
    given = shlex.split("\n".join(line for line in listed if line.startswith("--")))
    overrides = [line.removeprefix("--config.") for line in given]
    assert cbjax.config.load("digits_lt", overrides).evaluation == cbjax.config.load("egtea:authors_code").evaluation
    assert "--config.data.root=EGTEA" in given
    assert "--config.optim.decay_at=(0.6,)" in given, "a shell reads a line as one argument"


def test_a_dry_run_lists_options_of_ones_own_code_as_they_are_given(capsys, tmp_path):
    (tmp_path / "nets.py").write_text("def wide(num_classes, width=64, depth=2):\n    return None\n")
    own = [f"--config.model.name={tmp_path}/nets.py:wide", "--config.model.options.width=128"]
    listed = lines(capsys, "train", "--config=digits_lt", *own, "--dry-run")
    given = shlex.split("\n".join(line for line in listed if line.startswith("--")))
    assert given.count("--config.model.options.width=128") == 1
    assert not any(line.startswith("--config.model.options=") for line in given)
    overrides = [line.removeprefix("--config.") for line in given]
    assert cbjax.config.load("digits_lt", overrides).model.options == (("width", 128),)


def completed(line):
    """Returns what a shell would offer at the end of a line."""
    shell = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    environment = {**os.environ, **shell, "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout"}
    command = [sys.executable, "-m", "cbjax"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cbjax st", ["stage2"]),
        ("cbjax train --config.loss.na", ["--config.loss.name="]),
        ("cbjax train --config=cifar_lt:cdb --config.loss.name=fo", ["--config.loss.name=focal"]),
        ("cbjax sweep --config=cb_", ["--config=cb_table2", "--config=cb_table3"]),
    ],
)
def test_a_shell_completes_commands_keys_names_and_configs(line, offered):
    assert completed(line) == offered


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_gets_a_script(capsys, shell):
    assert "cbjax" in "\n".join(lines(capsys, "completion", shell))


def test_an_option_of_the_keys_is_only_for_completion():
    _, overrides = parse(["config", "--config.loss.name=focal"])
    assert overrides == ["loss.name=focal"]
