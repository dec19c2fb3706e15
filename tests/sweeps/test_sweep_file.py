"""Sweep files: how their runs are read, named and checked."""

import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax import config
from cbjax.cli import arguments
from cbjax.config import ConfigError
from cbjax.sweeps import file

SWEEPS = Path(__file__).parents[2] / "configs" / "sweeps"


def test_the_sweep_of_the_default():
    _, runs = file.load("digits_lt", ["num_epochs=2"])
    assert runs == file.load(SWEEPS / "digits_lt.py", ["num_epochs=2"])[1]
    names = [f"{method}/seed_{seed}" for method in ("ce", "cb_focal", "cdb", "cdb_smoothed") for seed in range(3)]
    assert [run.name for run in runs] == names
    by_name = {run.name: run.config for run in runs}
    assert {one.num_epochs for one in by_name.values()} == {2}
    assert by_name["cb_focal/seed_1"].loss.name == "focal"
    assert by_name["cb_focal/seed_1"].weights.name == "class_balanced"
    assert by_name["cdb/seed_2"].weights.name == "difficulty"
    assert config.difference(by_name["ce/seed_2"], by_name["cdb/seed_2"]) == ([], ["weights.name"])
    smoothed = by_name["cdb_smoothed/seed_2"]
    assert config.difference(by_name["cdb/seed_2"], smoothed) == ([], ["difficulty.smoothing"])
    # What is meant for every run need not have an effect in each of them.
    assert len(file.load("digits_lt", ["loss.gamma=2"])[1]) == 12


def test_a_run_may_name_a_method(tmp_path):
    """`method` stands for the same keys as on the command line; the run's other keys win over them."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from cbjax.variants import Sweep, choices\n\n\ndef get_sweep():\n"
        "    changed = {'loss.gamma': 2.0, 'weights.name': 'uniform', 'method': 'cb_focal'}\n"
        "    return Sweep('digits_lt', choices('m', {'whole': {'method': 'cb_focal'}, 'changed': changed}))\n"
    )
    whole, changed = (run.config for run in file.load(path)[1])
    assert whole == config.load("digits_lt", ["method=cb_focal"])
    assert changed == config.load("digits_lt", ["method=cb_focal", "loss.gamma=2", "weights.name=uniform"])
    path.write_text(path.read_text().replace("'cb_focal'}\n", "'cb_focl'}\n"))
    with pytest.raises(ConfigError, match=r"run changed of .*method must be one of .*did you mean cb_focal"):
        file.load(path)


@pytest.mark.parametrize(
    ("spec", "overrides", "name"),
    [
        ("digits_lt", (), "digits_lt"),
        ("cdb_table1:short", ("data.imbalance=3",), "cdb_table1:short --config.data.imbalance=3"),
        (SWEEPS / "digits_lt.py", ("seed=1", "num_epochs=2"), "digits_lt --config.seed=1 --config.num_epochs=2"),
        (f"{SWEEPS / 'cdb_table1.py'}:short", (), "cdb_table1:short"),
        ("digits_lt", ("evaluation.groups=a=1; b=2",), "digits_lt '--config.evaluation.groups=a=1; b=2'"),
    ],
)
def test_a_sweep_s_name_is_what_the_command_takes(spec, overrides, name):
    assert file.sweep_name(spec, overrides) == name
    options, read = arguments.parse(["sweep", *shlex.split(f"--config={name}")])
    assert options.config == name.split(" ")[0] and read == list(overrides)


def test_a_sweep_of_one_s_own_is_named_with_its_ending(tmp_path):
    """Without it the command would look for a sweep that comes with cbjax."""
    for name in ("mine", "digits_lt"):
        path = shutil.copy(SWEEPS / "digits_lt.py", tmp_path / f"{name}.py")
        assert file.sweep_name(path, ["seed=1"]) == f"{name}.py --config.seed=1"
        assert file.sweep_name(f"{path}:a") == f"{name}.py:a"


CELLS = "product(choices('a', {'x': {}}), values('b', 'seed', (1, 2)))"


def paper(figures):
    return f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'b', paper={figures}))"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("Sweep('digits_lt', choices('a', {'x': {'seed': -1}}))", "run x of .*mine.py: seed must be a whole number"),
        ("Sweep('digits_lt', choices('a', {'x': {'loss.gamma': 2.0}}))", "run x of .*loss.gamma must stay at 1.0"),
        ("Sweep('digit_lt', seeds(1))", "did you mean digits_lt"),
        ("Sweep('digits_lt', chain(seeds(1), seeds(1)))", "needs its own folder.* has 'seed_0'; so has"),
        (
            "Sweep('digits_lt', values('a', 'seed', (1, 2), '<{}') + values('a', 'loss.gamma', (1,), '>1'))",
            "so has .*<1",
        ),
        ("Sweep('digits_lt', choices('a', {'x': {}, 'y': {'seed': 0}}))", "in what they compute; x and y do not"),
        ("Sweep('digits_lt', seeds(1), Table('T', (), 'a'))", r"the table has no rows; got \(\)"),
        ("Sweep('digits_lt', seeds(1), Table('T', ('a',), 'seed'))", "none of them the seed"),
        (
            "Sweep('digits_lt', product(choices('a', {'x': {}}), choices('b', {'y': {}}), "
            "values('rate', 'optim.learning_rate', (0.1, 0.2))), Table('T', ('a',), 'b'))",
            "different cells of the table; .*'rate': '0.1'.* and .*'rate': '0.2'.* do not: name the axis",
        ),
        ("Sweep('digits_lt', [])", "a sweep needs at least one run; got none"),
        (
            "Sweep('digits_lt', product([], seeds(2)), Table('T', ('a',), 'b', paper={('x',): {'1': (5.0, None)}}))",
            "one run",
        ),
        (
            "Sweep('digits_lt', choices('a', {'CE': {}, 'ce': {'seed': 1}}))",
            "lower case are the same.*has 'ce'; so .*'CE'",
        ),
        ("[('a', 'digits_lt', {})]", "get_sweep.. must return a cbjax.variants.Sweep; got list"),
        ("Sweep('digits_lt', seeds(1), Table('T', ('method',), 'cell'))", "has none on method, cell"),
        (
            "Sweep('digits_lt', seeds(1), Table('T', ('a',), 'b', metric='loss'))",
            "metric must be one of .*; got 'loss'",
        ),
        (f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'f', {{}}))", "metric must be one of .*; got {}"),
        (f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'f', {{'1': 3}}))", "metric must be .*; got {'1': 3}"),
        (f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'f', {{1: 'error'}}))", "need texts as columns, .*; got"),
        (
            f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'f', {{'1': 'error', '2': 'error'}}))",
            "one column each; got",
        ),
        (
            f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'b', {{'1': 'error'}}))",
            "no run may have a name on the axis 'b'",
        ),
        (
            f"Sweep('digits_lt', {CELLS}, Table('T', ('a', 'b'), 'f', {{'1': 'rare_accuracy'}}))",
            "metric rare_accuracy needs a group rare in evaluation.groups of each run; x/1 has none",
        ),
        ("Sweep('digits_lt', seeds(1), Table('T', 'method', 'a'))", "rows must be a tuple of texts.*; got 'method'"),
        ("Sweep('digits_lt', seeds(1), Table('T', ('a',), ('b',)))", "columns must be the name of one axis; got"),
        (f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'b', notes='A note.'))", "notes must be a tuple of texts"),
        (
            f"Sweep('digits_lt', {CELLS}, Table('T', ('a',), 'b', notes=None))",
            "notes must be a tuple of texts.*; got None",
        ),
        (f"Sweep('digits_lt', {CELLS}, Table('T', None, 'b'))", "rows must be a tuple of texts.*; got None"),
        (f"Sweep('digits_lt', {CELLS}, Table(None, ('a',), 'b'))", "title must be a text; got None"),
        (
            "Sweep('digits_lt', [Variant({'m': 'M', 'a': 'x', 'b': '', 'c': '5'}, {}), Variant({'m': 'M', 'a': '', "
            "'b': 'x', 'c': '5'}, {'seed': 1})], Table('T', ('m', 'a', 'b'), 'c'))",
            "no two rows .* may read the same; .'M', 'x', ''. and .'M', '', 'x'. are both 'M x'",
        ),
        (
            "Sweep('digits_lt', [Variant({'m': 'M', 'a': 'x', 'c': '5'}, {}), Variant({'m': 'M x', 'a': '', 'c': '7'}, "
            "{'seed': 1})], Table('T', ('m', 'a'), 'c'))",
            "are both 'M x': give one of them another name",
        ),
        (f"Sweep('digits_lt', {CELLS} + {CELLS}, Table('T', ('a',), 'b'))", "a run is there twice: {'a': 'x'"),
        (paper("[1, 2]"), "paper's figures must be {row: {column: figure}}, with {} for none; got .1, 2."),
        (paper("None"), "paper's figures must be .*; got None"),
        (paper("{('x',): [1.0, 2.0]}"), "figures of a row must be {column: .mean.*; got .1.0, 2.0. in the row"),
        (paper("{('x',): 5.0}"), "figures of a row must be {column: .*; got 5.0 in the row"),
        (paper("{'x': {'1': (5.0, None)}}"), "must be a tuple of 1 texts, its names on a; got 'x'"),
        (paper("{('x', 'y'): {'1': (5.0, None)}}"), "must be a tuple of 1 texts"),
        (paper("{('x',): {1: (5.0, None)}}"), "must be texts, such as '1'; got 1 in the row"),
        (
            paper("{('x',): {'1': 5.0}}"),
            "must be .mean, standard deviation or None.*; got 5.0 in the row .* column 1",
        ),
        (paper("{('x',): {'1': (None, 5.0)}}"), "must be .mean, standard deviation or None.*; got .None, 5.0"),
        (
            paper("{('x',): {'1': (float('nan'), None)}}"),
            "got .nan, None. .*: leave out columns that the paper lacks",
        ),
        (paper("{('x',): {'1.0': (5.0, None)}}"), "the runs have '1', '2'; got '1.0'"),
        ("Sweep(seeds(1), 'digits_lt')", "a Sweep takes a config's name, .* in this order; its config is list"),
        (
            "Sweep('digits_lt', Variant({'a': 'x'}, {}))",
            r"second argument of a Sweep must be a list of variants.*; got Variant",
        ),
        ("Sweep('digits_lt', [Variant({'a': 1}, {})])", "names on them must be texts; got {'a': 1}"),
        ("Sweep('digits_lt', [Variant({'a': 'x'}, {1: 2})])", "keys that a run changes must be texts; got {1: 2}"),
        (
            "Sweep('digits_lt', choices('a', {'x': {'config': ['y']}}))",
            "config of a run must be a config's name; got .'y'. in",
        ),
        (
            "Sweep('digits_lt', seeds(1), sizes={'classes': 3})",
            "sizes .* are num_classes, num_images, image_size, whole",
        ),
        (
            "Sweep('digits_lt', seeds(1), sizes={'num_classes': 'ten'})",
            "whole numbers from 1 to .*; got {'num_classes'",
        ),
        ("Sweep('digits_lt', seeds(1), sizes={'image_size': 0})", "whole numbers from 1 to .*; got {'image_size': 0}"),
        (
            "Sweep('digits_lt', values('a', 'seed', (1,), 'imb {x}'))",
            "label of seed must be .*'beta {}'; got 'imb {x}'",
        ),
        ("Sweep('digits_lt', values('a', 'seed', (1,), '{} {}'))", "label of seed must be a text with {} where"),
        ("Sweep('digits_lt', values('a', 'seed', (1,), label=3))", "label of seed must be .*; got 3"),
        ("Sweep('digits_lt', choices('a', ['x', 'y']))", "line 3: .*choices must be {name: {key: value}}.*; got"),
        ("Sweep('digits_lt', values('a', 'seed', 3))", "values of seed must be a list, such as .*; got 3"),
        ("Sweep('digits_lt', seeds(1), sizes={'image_size': 10**5000})", "whole numbers from 1 to .*; got a value of"),
        ("Sweep('digits_lt', seeds(10**12))", "at most 100000 runs"),
        ("Sweep('digits_lt', values('a', 'seed', range(10**9)))", "at most 100000 runs"),
        ("Sweep('digits_lt', product(seeds(1000), values('a', 'num_epochs', range(1000))))", "at most 100000 runs"),
        (
            "Sweep('digits_lt', choices('a', {'x' * 300: {}}))",
            "on an axis names a folder, so it can have at most 200 bytes",
        ),
        (
            "Sweep('digits_lt', values('a', 'num_epochs', (10**12,)))",
            "run 1000000000000 of .*: num_epochs must",
        ),
        ("Sweep('digits_lt', seeds(1), Table('T', rows=('seeds',)))", "the table has no columns; got ''"),
        (paper("{('x',): {'1': (10**400, None)}}"), "must be .mean, standard deviation or None., in per cent"),
        ("Sweep('digits_lt', seeds(0))", "number of seeds must be a whole number of at least 1; got 0"),
        ("Sweep('digits_lt', product(choices('a', {'x': {}}), 3))", "must be a list of variants.*; got 3"),
        (
            "Sweep('digits_lt', product(choices('a', {'': {}, 'x': {'loss.name': 'focal'}}), choices('b', {'c': {}}))"
            " + [Variant({'b': 'c', 'd': 'e'}, {'seed': 2})])",
            "must not lie in another run's; the folder of {'b': 'c', 'd': 'e'} would lie in that of {'a': '', ",
        ),
    ],
)
def test_a_wrong_sweep_is_refused(tmp_path, sweep, message):
    path = tmp_path / "mine.py"
    path.write_text(f"from cbjax.variants import *\ndef get_sweep():\n    return {sweep}\n")
    with pytest.raises(ConfigError, match=message):
        file.load(path)


def test_what_runs_differ_in_cannot_be_changed_for_all_of_them():
    with pytest.raises(ConfigError, match=r"seed cannot be changed for every run.*: it is 0 in .*seed_0 and 1 in "):
        file.load("digits_lt", ["seed=3"])
    with pytest.raises(
        ConfigError, match=r"weights.name cannot .*: it is 'uniform' in ce/.* and 'class_balanced' in cb"
    ):
        file.load("digits_lt", ["weights.name=inverse_frequency"])
    # A key can be changed if all runs have one value, or if only one run changes it, or if it has no effect in the
    # others.
    assert file.load("cdb_table3:short", ["num_epochs=2"])[1][0].config.num_epochs == 2
    assert file.load("digits_lt", ["difficulty.tau=2"])[1][-1].config.difficulty.tau == 2


def test_what_has_no_effect_in_any_run_cannot_be_changed_for_all_of_them(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from cbjax.variants import *\ndef get_sweep():\n    return Sweep('digits_lt', seeds(2))\n")
    with pytest.raises(ConfigError, match=r"mine.py: loss.gamma must stay at 1.0 .*; got 3.0; the same holds in every"):
        file.load(path, ["loss.gamma=3"])
    assert len(file.load(path, ["loss.gamma=3", "loss.name=focal"])[1]) == 2
    assert len(file.load("digits_lt", ["weights.beta=0.9"])[1]) == 12


def test_a_config_named_by_a_sweep_is_looked_for_beside_the_sweep_s_file(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for folder, epochs in ((tmp_path, 3), (tmp_path / "elsewhere", 4)):
        (folder / "mine.py").write_text(
            "from cbjax import config\n"
            f"def get_config():\n    return config.load('digits_lt', ['num_epochs={epochs}'])\n"
        )
    sweep = tmp_path / "sweeps" / "many.py"
    sweep.write_text("from cbjax.variants import *\ndef get_sweep():\n    return Sweep('../mine.py', seeds(1))\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert file.load(sweep)[1][0].config.num_epochs == 3
    (tmp_path / "mine.py").unlink()  # else from the current folder
    monkeypatch.chdir(tmp_path / "elsewhere" / ".." / "sweeps")
    (tmp_path / "elsewhere" / "mine.py").rename(tmp_path / "sweeps" / "other.py")
    sweep.write_text("from cbjax.variants import *\ndef get_sweep():\n    return Sweep('other.py', seeds(1))\n")
    assert file.load("many.py")[1][0].config.num_epochs == 4
    monkeypatch.chdir(tmp_path)
    assert file.load("sweeps/many.py")[1][0].config.num_epochs == 4


@given(st.dictionaries(st.sampled_from(["method", "setting", "seed"]), st.text(max_size=12), min_size=1))
def test_folders_stay_below_the_sweep_s(labels):
    named = {axis: name for axis, name in labels.items() if name or axis == "seed"}
    parts = [part for part in file.folder(labels).split("/") if part]
    assert len(parts) == len([name for name in named.values() if name]) and not {".", ".."} & set(parts)


@given(st.integers(1, 20), st.integers(1, 6))
def test_shards_are_all_runs_each_once(num_runs, count):
    runs = [file.PlannedRun(str(i), {}, None) for i in range(num_runs)]
    with pytest.raises(ConfigError, match=f"none of the {num_runs} runs; use I/N with N at most {num_runs}"):
        file.shard(runs, num_runs + 1, num_runs + count)
    count = min(count, num_runs)
    shards = [file.shard(runs, i + 1, count) for i in range(count)]
    assert all(shards) and sorted(int(run.name) for part in shards for run in part) == list(range(num_runs))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
