"""Settings of the environment that a person can correct: one message and exit status 2, or no effect."""

import os
import re
import resource
import subprocess
import sys
import warnings

import jax
import pytest

from cbjax.cli import startup
from cbjax.config import ConfigError


def train_with(folder, limit="", **settings):
    """Runs `cbjax train` in another environment; returns what is said on standard error."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    program = "import sys; from cbjax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "train", "--config=digits_lt", f"--workdir={folder / 'run'}"]
    done = subprocess.run(
        ["bash", "-c", f'{limit}\nexec "$@"', "bash", *command],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert not (folder / "run").exists()
    return done.stderr


@pytest.mark.parametrize(
    ("settings", "message", "end"),
    [
        (
            {"JAX_PLATFORMS": "cuda"},
            "JAX finds no device: there is no device of platform 'cuda'",
            "pip install 'cbjax[train,cuda]'",
        ),
        ({"JAX_PLATFORMS": "cdua"}, "JAX finds no device: ", "Unset JAX_PLATFORMS to use the devices that there are"),
        ({"JAX_ENABLE_X64": "maybe"}, "JAX does not start: invalid truth value 'maybe'", ""),
    ],
)
def test_settings_with_which_jax_cannot_start_are_one_message(tmp_path, settings, message, end):
    said = train_with(tmp_path, **settings)
    assert said.startswith(f"cbjax train: {message}") and len(said.splitlines()) == 1
    assert "the environment has " in said and said.rstrip().endswith(end)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("ulimit -n 20", "may open only 20 files here, .* `ulimit -n 1024` raises the limit"),
        ("ulimit -v 2097152", "only 2.0 GiB of addresses here, .* `ulimit -v unlimited` removes it"),
    ],
)
def test_limits_that_are_too_low_are_one_message(tmp_path, limit, message):
    said = train_with(tmp_path, limit)
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


def test_the_limit_of_open_files_is_lifted_as_far_as_it_goes():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        startup.check_environment()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_flags_that_xla_does_not_know_are_told_before_they_end_the_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --nonsense")
    with pytest.raises(ConfigError, match="XLA does not know the flag --nonsense of XLA_FLAGS="):
        startup.check_environment()


def test_more_devices_of_a_cpu_than_anybody_means_are_refused_at_once(monkeypatch):
    for name, value in (("JAX_NUM_CPU_DEVICES", "1" + "0" * 8), ("XLA_FLAGS", f"{startup.COUNT_FLAG}=5000")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            with pytest.raises(ConfigError, match="a CPU can be at most 1024 devices"):
                startup.check_environment()


def test_a_backend_of_matplotlib_for_windows_does_not_matter(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "bogus")
    startup.check_environment()
    assert os.environ["MPLBACKEND"] == "agg"


def test_a_cache_folder_that_cannot_be_written_is_said_once_and_not_used(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    try:
        startup.keep_compiled_programs()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert capsys.readouterr().err.startswith(
        f"compiled programs are not kept, since {tmp_path / 'file' / 'cache'} can"
    )


def test_a_compiled_program_that_jax_cannot_read_is_removed_and_other_warnings_are_shown(monkeypatch, tmp_path):
    """JAX would keep one that a full disk cut, and warn of it at each start."""
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *more: shown.append(str(message)))
    startup.remove_unreadable_programs(tmp_path)
    for name in ("jit_step-0a-cache", "jit_step_of_group-0a-cache", "jit_f-0a-cache"):
        (tmp_path / name).write_bytes(b"")
    damaged = "Error reading persistent compilation cache entry for 'jit_step': ZstdError: cut"
    for text in (damaged, "Error writing persistent compilation cache entry for 'jit_f': no room"):
        warnings.showwarning(UserWarning(text), UserWarning, "compiler.py", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jit_f-0a-cache", "jit_step_of_group-0a-cache"]
    assert len(shown) == 1 and shown[0].startswith("Error writing")
