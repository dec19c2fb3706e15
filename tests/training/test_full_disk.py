"""A disk that takes no more: one message, a status of its own, and nothing lost."""

import os
import re
import resource

import jax
import numpy as np
import pytest

import cbjax
from cbjax.cli import main
from cbjax.host.writers import read_rows
from cbjax.workdir.memory import timeless

RUN = ("train", "--config=digits_lt", "--config.model.name=linear", "--config.data.test=20")
RUN = (*RUN, "--config.num_epochs=6", "--config.checkpoint.every_epochs=2")


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    """The command sets flags for the process that it runs in; here that is the test's."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The work directory of a run that met no full disk."""
    workdir = tmp_path_factory.mktemp("whole")
    assert main([*RUN, f"--workdir={workdir}"]) == 0
    return workdir


def state_of(workdir):
    state = cbjax.load(workdir).state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, state.opt_state))]


@pytest.mark.parametrize("limit", [300, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (5_000, 40_000))])
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(whole, tmp_path, capfd, limit):
    """A limit on the size of files stands for the disk; with each, another file is the first to be refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        status = main([*RUN, f"--workdir={tmp_path}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert status == 73 and "Traceback" not in error
    (line,) = re.findall("cbjax train: .*", error)
    assert re.match(rf"cbjax train: could not write {tmp_path}/\S+: File too large; raise the limit", line)
    assert line.endswith("then the same command goes on from the last checkpoint")
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name or "-tmp" in path.name]
    assert main([*RUN, f"--workdir={tmp_path}"]) == 0
    for log in ("metrics", "per_class", "class_weights"):
        rows = [read_rows(place / f"{log}.jsonl") for place in (tmp_path, whole)]
        assert [timeless(row) for row in rows[0]] == [timeless(row) for row in rows[1]]
    assert state_of(tmp_path) == state_of(whole)
