"""Which functions of a stranger's work directory run without trust: those of packages that the user installed."""

import hashlib
import json
import site

import pytest

from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.host import checked_json
from cbjax.workdir import own_code

NETS = "import os\nfrom os import remove\n\n\ndef wide(num_classes):\n    return None\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installer's folder, on Python's path."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder)])
    monkeypatch.syspath_prepend(folder)
    return folder


def write(folder, name, *, package=True, text=NETS):
    """Writes the module NAME.nets into a folder; returns its path."""
    (folder / name).mkdir(parents=True)
    if package:
        (folder / name / "__init__.py").touch()
    (folder / name / "nets.py").write_text(text)
    return folder / name / "nets.py"


def record(folder, name, *, requires="flax>=0.8", direct_url=None):
    """Writes what an installer writes about a distribution."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}/nets.py,,\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))


def is_run_without_trust(workdir, name, text=NETS):
    config = configs.default()
    config.model.name, config.model.code = name, hashlib.sha256(text.encode()).hexdigest()
    try:
        return own_code.allow(workdir, config, trust_code=False).model.name == name
    except ConfigError:
        return False


def test_an_installed_package_counts_while_it_is_the_same(tmp_path, installed):
    path = write(installed, "nets_of_mine_a")
    record(installed, "nets_of_mine_a")
    assert is_run_without_trust(tmp_path / "run", "nets_of_mine_a.nets:wide")
    assert not is_run_without_trust(tmp_path / "run", "nets_of_mine_a.nets:remove")  # not its own function
    path.write_text(NETS + "\n")
    assert not is_run_without_trust(tmp_path / "run", "nets_of_mine_a.nets:wide")


@pytest.mark.parametrize("package", [True, False])
def test_the_current_folder_and_the_work_directory_never_count(tmp_path, installed, monkeypatch, package):
    workdir = tmp_path / "run"
    name = f"stranger_{package}".lower()
    write(workdir, name, package=package)
    record(workdir, name)  # a stranger can write such records, too
    monkeypatch.chdir(workdir)
    monkeypatch.syspath_prepend("")
    assert not is_run_without_trust(workdir, f"{name}.nets:wide")
    assert not is_run_without_trust(tmp_path / "other", f"{name}.nets:wide")


def test_a_namespace_package_does_not_count(tmp_path, installed):
    write(installed, "nets_of_mine_b", package=False)
    record(installed, "nets_of_mine_b")
    assert not is_run_without_trust(tmp_path / "run", "nets_of_mine_b.nets:wide")


@pytest.mark.parametrize("requires", ["", "numpy"])
def test_a_package_without_networks_does_not_count(tmp_path, installed, requires):
    name = f"tools_of_mine_{requires}"
    write(installed, name)
    record(installed, name, requires=requires)
    assert not is_run_without_trust(tmp_path / "run", f"{name}.nets:wide")


def test_a_module_that_no_distribution_lists_does_not_count(tmp_path, installed):
    write(installed, "stray_nets")
    assert not is_run_without_trust(tmp_path / "run", "stray_nets.nets:wide")


def test_what_cbjax_itself_needs_does_not_count(tmp_path, installed):
    write(installed, "deep_library")
    record(installed, "deep_library")
    assert is_run_without_trust(tmp_path / "run", "deep_library.nets:wide")
    record(installed, "cbjax", requires="between")
    record(installed, "between", requires="deep-library>=1")
    assert not is_run_without_trust(tmp_path / "run", "deep_library.nets:wide")


@pytest.mark.parametrize("source", ["", "src"])
def test_an_editable_install_counts_but_not_a_work_directory_in_its_folder(tmp_path, installed, monkeypatch, source):
    project, name = tmp_path / "project", f"edited_{source or 'flat'}"
    write(project / source, name)
    url = {"url": project.as_uri(), "dir_info": {"editable": True}}
    record(installed, name, requires="", direct_url=url)
    monkeypatch.syspath_prepend(project / source)
    assert is_run_without_trust(project / "runs" / "a", f"{name}.nets:wide")
    write(project / "downloaded", f"{name}_evil")
    monkeypatch.chdir(project / "downloaded")
    monkeypatch.syspath_prepend("")
    assert not is_run_without_trust(project / "runs" / "a", f"{name}_evil.nets:wide")


def test_a_trusted_module_that_is_found_runs_in_its_package_and_not_as_a_copy(tmp_path, monkeypatch):
    path = write(tmp_path / "here", "found_nets")
    monkeypatch.syspath_prepend(tmp_path / "here")
    config = configs.default()
    config.model.name, config.model.code = "found_nets.nets:wide", hashlib.sha256(NETS.encode()).hexdigest()
    assert not is_run_without_trust(tmp_path / "run", config.model.name)
    assert own_code.allow(tmp_path / "run", config, True).model.name == config.model.name
    path.write_text(NETS + "\n")
    copy = tmp_path / "run" / "own" / "nets.py"
    assert own_code.allow(tmp_path / "run", config, True).model.name == f"{copy}:wide"


def test_a_second_stage_runs_a_users_network_only_with_trust_or_where_the_user_names_it(tmp_path, capsys):
    mine, source = tmp_path / "nets.py", tmp_path / "run"
    mine.write_text(NETS)
    (tmp_path / "losses.py").touch()
    names = [f"model.name={mine}:wide", f"loss.name={tmp_path}/losses.py:plain"]
    config = configs.load("digits_lt", [*names, "data.validation=10"])
    (source / "own").mkdir(parents=True)
    checked_json.write(source / "config.json", json.loads(configs.to_json(config)))
    checked_json.write(source / "results.json", {"step": 1})
    (source / "own" / "nets.py").write_text(NETS)
    crt = ["stage2", f"--from={source}", "--method=crt", f"--workdir={tmp_path / 'crt'}", "--dry-run"]
    assert main(crt) == 2  # its loss is softmax, so the other file is not asked for
    assert f"model.name={mine}:wide: to load it, its copy of that file" in capsys.readouterr().err
    assert main([*crt, f"--config.model.name={mine}:wide"]) == 0
    mine.unlink()
    assert main([*crt, "--trust-code"]) == 0
    assert f"--config.model.name={source}/own/nets.py:wide\n" in capsys.readouterr().out
    assert main([*crt[:2], "--method=tau", *crt[3:], f"--config.model.name={source}/own/nets.py:wide"]) == 2
    assert f"loss.name={tmp_path}/losses.py:plain: to load it" in capsys.readouterr().err
