"""Keys that name users' own functions: files found, content hashed, options read, and nothing of it run."""

import hashlib
import json

import pytest

from cbjax import config
from cbjax.config import ConfigError
from cbjax.sweeps import file as sweep_file

NET = "raise SystemExit('it was run')\n"


def load(*overrides, name="digits_lt"):
    return config.load(name, overrides)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets.py"
    path.write_text(NET)
    return path


def test_the_file_is_found_and_hashed_and_not_run(nets):
    resolved = load("model.name=nets.py:wide")
    assert resolved.model.name == f"{nets}:wide"
    assert resolved.model.code == hashlib.sha256(NET.encode()).hexdigest()
    assert config.resolve(resolved) == resolved == config.from_json(config.to_json(resolved))
    assert load("model.name=digits_cnn").model.code is None
    nets.write_text(NET + "\n")
    with pytest.raises(ConfigError, match=r"model\.code is filled in by cbjax; got .* the file has changed"):
        config.resolve(resolved)
    assert config.change(resolved, ["evaluation.batch_size=8"]).model.code == resolved.model.code


def test_a_file_lies_beside_the_one_that_names_it_or_in_the_current_folder(nets, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    text = "import cbjax\n\n\ndef get_config():\n    config = cbjax.config.load('digits_lt')\n    config.model.name"
    (folder / "mine.py").write_text(f"{text} = 'nets.py:wide'\n    return config\n")
    assert load(name="configs/mine.py").model.name == f"{nets}:wide"
    (folder / "nets.py").write_text(NET)
    assert load(name="configs/mine.py").model.name == f"{folder}/nets.py:wide"
    assert load("model.name=nets.py:wide", name="configs/mine.py").model.name == f"{nets}:wide"
    (folder / "sweep.py").write_text(
        "from cbjax.variants import Sweep, values\n\n\ndef get_sweep():\n"
        "    return Sweep('digits_lt', values('net', 'model.name', ('nets.py:wide', 'nets.py:deep')))\n"
    )
    _, runs = sweep_file.load("configs/sweep.py")
    assert [run.config.model.name for run in runs] == [f"{folder}/nets.py:wide", f"{folder}/nets.py:deep"]


def test_options_are_read_by_their_form(nets):
    given = ("width=2", "rate=1e-3", "bias=false", "kind=big", "sizes=(2, 3)", "none=none", "text='2'")
    resolved = load("model.name=nets.py:wide", *(f"model.options.{one}" for one in given))
    expected = dict(width=2, rate=1e-3, bias=False, kind="big", sizes=(2, 3), none=None, text="2")
    assert dict(resolved.model.options) == expected
    assert [name for name, _ in resolved.model.options] == sorted(expected)
    assert [*map(type, dict(resolved.model.options).values())] == [type(expected[name]) for name in sorted(expected)]
    assert config.from_json(config.to_json(resolved)) == resolved
    same = config.default()
    same.update(load())
    same.model.name, same.model.options = "nets.py:wide", expected
    assert config.resolve(same) == resolved
    assert dict(config.change(resolved, ["model.options.width=3"]).model.options) == {**expected, "width": 3}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=net.py:wide"], r"model\.name: there is no file net\.py, looked for in "),
        (["model.name=missing.nets:wide"], r"model\.name: no module missing\.nets .* missing\.nets\.py:wide"),
        (["model.name=nets.py"], r"model\.name must be one of .* or FILE\.py:function or package\.module:function"),
        (["model.name=nets.py:wide", "model.options.width=nan"], r"model\.options\.width must be none, true or false"),
        (["model.name=nets.py:wide", "model.options=3"], r"give each by itself: model\.options\.width=2"),
        (["model.options.width=2"], r"model\.options must stay at \(\) unless model\.name is FILE\.py:function"),
        (["model.name=nets.py:wide", "model.shortcut=projection"], r"model\.shortcut must stay at average unless"),
        (["model.name=nets.py:wide", "model.initialization=he"], r"model\.initialization must stay at glorot unless"),
        (["model.name=nets.py:wide", f"model.code={'0' * 64}"], r"model\.code is filled in by cbjax; got 000"),
    ],
)
def test_what_cannot_be_is_refused(nets, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


def test_a_run_is_known_by_what_the_file_holds_and_not_by_where_it_lies(nets, tmp_path):
    def known(*overrides):
        return config.fingerprint(load(*overrides))

    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "others.py").write_text(NET)
    first = known("model.name=nets.py:wide")
    assert known("model.name=moved/others.py:wide") == first
    one, other = load("model.name=nets.py:wide"), load("model.name=moved/others.py:wide")
    assert config.check_resume(one, other) == [] and config.of_all_processes(one) == config.of_all_processes(other)
    nets.write_text(NET + "\n")
    different = [
        known(),
        known("model.name=nets.py:wide"),
        known("model.name=moved/others.py:deep"),
        known("model.name=moved/others.py:wide", "model.options.width=2"),
        known("model.name=moved/others.py:wide", "model.options.width=3"),
    ]
    assert len({first, *different}) == 6
    with pytest.raises(
        ConfigError, match=r"model\.code: .*: the file of model\.name=.*nets\.py:wide has changed; .* folder own"
    ):
        config.check_resume(one, load("model.name=nets.py:wide"))


def test_published_fingerprints_stay(nets):
    assert json.loads(config.to_json(load()))["model"]["options"] == []
    assert config.fingerprint(load())[:16] == "ad1838ec9ea0aa71"


def test_runs_of_a_sweep_differ_in_an_option(nets, tmp_path):
    (tmp_path / "sweep.py").write_text(
        "from cbjax.variants import Sweep, product, seeds, values\n\n\ndef get_sweep():\n"
        "    nets = values('net', 'model.name', ('nets.py:wide',))\n"
        "    return Sweep('digits_lt', product(nets, values('width', 'model.options.width', (2, 3))))\n"
    )
    _, runs = sweep_file.load("sweep.py", ["model.options.depth=4"])
    assert [dict(run.config.model.options) for run in runs] == [{"depth": 4, "width": 2}, {"depth": 4, "width": 3}]
    with pytest.raises(ConfigError, match=r"model\.options\.width cannot be changed for every run"):
        sweep_file.load("sweep.py", ["model.options.width=5"])
