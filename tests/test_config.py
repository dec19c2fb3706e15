"""Tests of reading, checking and comparing configurations."""

import json
from pathlib import Path
import subprocess
import sys

from hypothesis import given, strategies
from ml_collections import ConfigDict
import numpy as np
import pytest

from cbjax import config, config_rules, config_schema
from cbjax.config import ConfigError

FILES = ("digits_lt", "cifar_lt:cui", "cifar_lt:cdb", "mnist_binary")

# One override of a key with a value that breaks the key's own rule: (override, rule, value as the message has it).
WRONG_VALUES = [
    ("num_epochs=0", "a whole number of at least 1", "'0'"),
    ("num_epochs=-3", "a whole number of at least 1", "'-3'"),
    ("num_epochs=1.5", "a whole number of at least 1", "'1.5'"),
    ("num_epochs=1e3", "a whole number of at least 1", "'1e3'"),
    ("num_epochs=none", "a whole number of at least 1", "'none'"),
    ("num_epochs=", "a whole number of at least 1", "''"),
    ("batch_size=0", "a whole number of at least 1", "'0'"),
    ("batch_size=many", "a whole number of at least 1", "'many'"),
    ("seed=-1", "a whole number from 0 to 4294967295", "'-1'"),
    ("seed=4294967296", "a whole number from 0 to 4294967295", "'4294967296'"),
    ("devices=0", "a whole number of at least 1, or none", "'0'"),
    ("devices=all", "a whole number of at least 1, or none", "'all'"),
    ("parallel=jit", "shard_map or pmap", "'jit'"),
    ("parallel=shardmap", "did you mean shard_map?", "'shardmap'"),
    ("deterministic=1", "true or false", "'1'"),
    ("deterministic=yes", "true or false", "'yes'"),
    ("data.name=cifar", "did you mean cifar10", "'cifar'"),
    ("data.longtail=exp", "one of natural, exponential, step, counts, majority", "'exp'"),
    ("data.imbalance=0.5", "a finite number of at least 1", "'0.5'"),
    ("data.imbalance=nan", "a finite number of at least 1", "'nan'"),
    ("data.imbalance=inf", "a finite number of at least 1", "'inf'"),
    ("data.imbalance=20,50", "a finite number of at least 1", "'20,50'"),
    ("data.counts=5,x", "each a whole number of at least 0", "'5,x'"),
    ("data.counts=5,,4", "each a whole number of at least 0", "'5,,4'"),
    ("data.majority_ratio=1", "a finite number of at least 0.5 and below 1, or none", "'1'"),
    ("data.validation=1.5", "a whole number of at least 0 or a finite number above 0 and below 1", "'1.5'"),
    ("data.validation=-1", "a whole number of at least 0 or a finite number above 0 and below 1", "'-1'"),
    ("data.test=none", "a whole number of at least 0 or a finite number above 0 and below 1", "'none'"),
    ("data.normalization=imagnet", "did you mean imagenet?", "'imagnet'"),
    ("model.name=resnet31", "did you mean resnet32?", "'resnet31'"),
    ("model.shortcut=b", "one of average, subsample, projection", "'b'"),
    ("loss.name=Softmax", "did you mean softmax?", "'Softmax'"),
    ("loss.gamma=-1", "a finite number of at least 0", "'-1'"),
    ("loss.mean=sum", "batch or weight_sum", "'sum'"),
    ("weights.name=cdb", "one of uniform, inverse_frequency", "'cdb'"),
    ("weights.beta=1.01", "a finite number of at least 0 and of at most 1", "'1.01'"),
    ("weights.zero_count=skip", "error or ignore", "'skip'"),
    ("weights.start=1", "a finite number of at least 0 and below 1", "'1'"),
    ("difficulty.tau=dynamik", "did you mean dynamic?", "'dynamik'"),
    ("difficulty.tau=-0.5", "dynamic or a finite number of at least 0", "'-0.5'"),
    ("difficulty.formula=author_code", "did you mean authors_code?", "'author_code'"),
    ("difficulty.floor=1", "a finite number of at least 0 and below 1", "'1'"),
    ("optim.learning_rate=0", "a finite number above 0", "'0'"),
    ("optim.learning_rate=1e-3x", "a finite number above 0", "'1e-3x'"),
    ("optim.momentum=1", "a finite number of at least 0 and below 1", "'1'"),
    ("optim.weight_decay=-1e-4", "a finite number of at least 0", "'-1e-4'"),
    ("optim.decay_at=0.9,0.8", "strictly increasing", "'0.9,0.8'"),
    ("optim.decay_at=0.8,0.8", "strictly increasing", "'0.8,0.8'"),
    ("optim.decay_at=160,180", "each a finite number above 0 and of at most 1", "'160,180'"),
    ("optim.decay_at=()", "strictly increasing", "'()'"),
    ("optim.warmup=5", "a finite number of at least 0 and below 1", "'5'"),
    ("optim.warmup_steps=2.5", "a whole number of at least 0, or none", "'2.5'"),
    ("checkpoint.every_minutes=0", "a finite number above 0", "'0'"),
    ("log.progress=true", "one of auto, on, off", "'true'"),
]

# Overrides of a file that do not go together: (file, overrides, key, rule, value).
WRONG_COMBINATIONS = [
    ("digits_lt", ["data.name=none"], "data.name", "must be set: one of digits", "None"),
    ("digits_lt", ["optim.warmup_epochs=5"], "optim.warmup_epochs", "at most one of", "optim.warmup_epochs=5.0"),
    ("digits_lt", ["optim.warmup=0.8"], "optim.warmup", "must end by the first of optim.decay_at, 0.75", "got 0.8"),
    (
        "digits_lt",
        ["optim.warmup=0", "optim.warmup_epochs=41", "optim.schedule=cosine"],
        "optim.warmup_epochs",
        "must end by the end of training, 1.0 of num_epochs=40",
        "got 41.0",
    ),
    ("digits_lt", ["optim.warmup_from=0.1"], "optim.warmup_from", "at most optim.learning_rate, 0.05", "got 0.1"),
    ("mnist_binary", ["optim.warmup_from=1e-4"], "optim.warmup_from", "without a warm-up", "got 0.0001"),
    ("digits_lt", ["optim.nesterov=true", "optim.momentum=0"], "optim.nesterov", "where optim.momentum is 0", "True"),
    ("digits_lt", ["optim.schedule=constant", "optim.decay_factor=0.5"], "optim.decay_factor", "is step", "got 0.5"),
    ("cifar_lt:cui", ["weights.name=difficulty"], "data.validation", "measured on held-out images", "got 0"),
    ("digits_lt", ["weights.name=difficulty", "data.validation=0"], "data.validation", "must be above 0", "got 0"),
    ("digits_lt", ["data.test=0"], "data.test", "brings no test images", "got 0"),
    ("digits_lt", ["data.longtail=natural"], "data.imbalance", "no effect where data.longtail is natural", "got 20.0"),
    ("digits_lt", ["data.counts=5,4"], "data.counts", "unless data.longtail is counts", "got (5, 4)"),
    ("digits_lt", ["data.longtail=counts", "data.imbalance=1"], "data.counts", "each of the 10 classes", "got 0 of"),
    (
        "digits_lt",
        ["data.longtail=counts", "data.imbalance=1", "data.counts=9,8,7"],
        "data.counts",
        "each of the 10 classes",
        "got 3 of",
    ),
    (
        "digits_lt",
        [
            "data.longtail=counts",
            "data.imbalance=1",
            "data.counts=9,0",
            "data.classes=1,2",
            "weights.name=class_balanced",
        ],
        "data.counts",
        "must be above 0 for class_balanced weights",
        "got 0 for class 1",
    ),
    (
        "mnist_binary",
        ["data.train_size=none"],
        "data.train_size",
        "must be set where data.longtail is majority",
        "None",
    ),
    ("mnist_binary", ["data.majority_ratio=none"], "data.majority_ratio", "must be set", "None"),
    ("mnist_binary", ["data.classes=()"], "data.classes", "must be two", "got 10 classes"),
    ("mnist_binary", ["data.classes=9,4,1"], "data.classes", "must be two", "got 3 classes"),
    ("mnist_binary", ["data.classes=9,9"], "data.classes", "at least two different classes", "got (9, 9)"),
    ("mnist_binary", ["data.classes=9,10"], "data.classes", "must be below 10", "got 10"),
    ("digits_lt", ["data.name=arrays"], "data.file", "the .npz file to read", "None"),
    ("digits_lt", ["data.file=mine.npz"], "data.file", "unless data.name is arrays", "got mine.npz"),
    ("digits_lt", ["model.name=lenet5"], "model.name", "a network for 8x8 images where data.name is digits", "lenet5"),
    ("cifar_lt:cdb", ["model.name=digits_cnn"], "model.name", "(resnet20, resnet32", "got digits_cnn, which needs 8x8"),
    ("digits_lt", ["model.shortcut=projection"], "model.shortcut", "unless model.name is resnet20", "got projection"),
    ("digits_lt", ["model.synchronized_batch_norm=true"], "model.synchronized_batch_norm", "no effect", "got True"),
    ("digits_lt", ["loss.gamma=2"], "loss.gamma", "unless loss.name is focal", "got 2.0"),
    ("digits_lt", ["weights.beta=0.9"], "weights.beta", "unless weights.name is class_balanced", "got 0.9"),
    ("digits_lt", ["weights.start=0.8"], "weights.start", "no effect where weights.name is uniform", "got 0.8"),
    ("cifar_lt:cdb", ["weights.zero_count=ignore"], "weights.zero_count", "where weights.name is difficulty", "ignore"),
    ("cifar_lt:cui", ["difficulty.tau=1"], "difficulty.tau", "unless weights.name is difficulty", "got 1.0"),
    (
        "cifar_lt:cdb",
        ["difficulty.tau=1", "difficulty.formula=authors_code"],
        "difficulty.formula",
        "unless difficulty.tau is dynamic",
        "got authors_code",
    ),
    ("digits_lt", ["devices=3"], "batch_size", "a multiple of the number of devices, 3", "got 64: use 63 or 66"),
    ("digits_lt", ["devices=4", "evaluation.batch_size=50"], "evaluation.batch_size", "of devices, 4", "got 50"),
]

UNKNOWN_KEYS = [
    ("optim.learnin_rate=0.1", "did you mean optim.learning_rate?"),
    ("learning_rate=0.1", "did you mean optim.learning_rate?"),
    ("optimizer.learning_rate=0.1", "did you mean optim.learning_rate?"),
    ("data.imbalence=0.1", "did you mean data.imbalance?"),
    ("epochs=0.1", "did you mean num_epochs?"),
    ("batchsize=0.1", "did you mean batch_size?"),
    ("model.nam=0.1", "did you mean model.name?"),
    ("optim.lr=0.1", "optim has optim.learning_rate, "),
    ("data=0.1", "data is a group of keys, data.name, "),
    ("x=0.1", "without a group: seed, num_epochs, "),
    ("data.name.first=0.1", "the groups of keys are data, model, "),
]

GOOD = [
    ("digits_lt", ["data.longtail=natural", "data.imbalance=1"], {"data.imbalance": 1.0}),
    ("digits_lt", ["seed=7", "num_epochs=1", "devices=none", "data.seed=NULL"], {"seed": 7, "devices": None}),
    ("digits_lt", ["deterministic=True", "log.tensorboard=false"], {"deterministic": True, "log.tensorboard": False}),
    ("digits_lt", ["weights.name=difficulty", "difficulty.tau=1.5"], {"difficulty.tau": 1.5}),
    ("cifar_lt:cdb", ["difficulty.tau=dynamic"], {"difficulty.tau": "dynamic"}),
    ("digits_lt", ["optim.decay_at=(0.5, 0.9)"], {"optim.decay_at": (0.5, 0.9)}),
    ("digits_lt", ["optim.decay_at=0.5,0.9"], {"optim.decay_at": (0.5, 0.9)}),
    ("digits_lt", ["optim.decay_at=[0.5,]"], {"optim.decay_at": (0.5,)}),
    ("digits_lt", ["data.validation=0.1", "data.test=0.25"], {"data.validation": 0.1, "data.test": 0.25}),
    ("digits_lt", ["data.validation=15"], {"data.validation": 15}),
    ("digits_lt", ["optim.learning_rate=1e-2"], {"optim.learning_rate": 0.01}),
    ("digits_lt", ["optim.warmup=0", "optim.warmup_epochs=1.5"], {"optim.warmup_epochs": 1.5}),
    ("digits_lt", ["optim.warmup_steps=0"], {"optim.warmup": 0.05}),
    ("mnist_binary", ["data.classes='9','4'"], {"data.classes": ("9", "4")}),
    ("mnist_binary", ["data.classes=3,8"], {"data.classes": (3, 8)}),
    ("mnist_binary", ["data.data_dir=~/a=b"], {"data.data_dir": "~/a=b"}),
    ("mnist_binary", ["model.name=resnet20", "model.shortcut=projection"], {"model.shortcut": "projection"}),
    # A recipe's beta and gamma stay, unused: only a key that is itself given must have an effect.
    ("cifar_lt:cui", ["loss.name=softmax", "weights.name=uniform"], {"weights.beta": 0.9, "loss.gamma": 1.0}),
    ("cifar_lt:cui", ["data.name=cifar20", "data.imbalance=1"], {"data.name": "cifar20"}),
    ("cifar_lt:cdb", ["weights.name=class_balanced", "weights.start=0.8"], {"weights.start": 0.8}),
    ("cifar_lt:cdb", ["devices=8", "evaluation.batch_size=1000"], {"batch_size": 128}),
    ("digits_lt", ["data.imbalance=50", "data.imbalance=10"], {"data.imbalance": 10.0}),
]


def value_of(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree


def refusal(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)
    return str(caught.value)


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("override", "rule", "value"), WRONG_VALUES, ids=[row[0] for row in WRONG_VALUES])
def test_a_wrong_value_is_refused_with_key_rule_and_value(override, rule, value):
    message = refusal("cifar_lt:cdb", [override])
    assert message.startswith(f"{override.partition('=')[0]} must be ")
    assert rule in message
    assert f"got {value}" in message
    assert "\n" not in message


@pytest.mark.parametrize(("file", "overrides", "key", "rule", "value"), WRONG_COMBINATIONS)
def test_a_wrong_combination_is_refused_with_key_rule_and_value(file, overrides, key, rule, value):
    message = refusal(file, overrides)
    assert key in message
    assert rule in message
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(("override", "hint"), UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_with_the_nearest(override, hint):
    message = refusal("digits_lt", [override])
    assert message.startswith(override.partition("=")[0])
    assert "got '0.1'" in message
    assert hint in message


@pytest.mark.parametrize(("file", "overrides", "expected"), GOOD)
def test_good_overrides_are_applied_with_their_types(file, overrides, expected):
    loaded = config.load(file, overrides)
    for key, value in expected.items():
        assert value_of(loaded, key) == value
        assert type(value_of(loaded, key)) is type(value)
    config.check(loaded)


def test_all_problems_are_reported_at_once():
    lines = refusal("digits_lt", ["num_epochs=0", "loss.nam=focal", "data.imbalance=x"]).splitlines()
    assert [line.split()[0] for line in lines] == ["num_epochs", "loss.nam", "data.imbalance"]
    assert len(refusal("digits_lt", ["loss.gamma=2", "devices=3"]).splitlines()) == 2


def test_an_override_without_a_value_is_refused():
    assert "must be key=value; got 'num_epochs'" in refusal("digits_lt", ["num_epochs"])
    assert "must be a list of key=value; got 'num_epochs=3'" in refusal("digits_lt", "num_epochs=3")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("num_epochs", 1.5, "a whole number of at least 1"),
        ("num_epochs", True, "a whole number of at least 1"),
        ("num_epochs", "40", "a whole number of at least 1"),
        ("num_epochs", None, "a whole number of at least 1"),
        ("deterministic", 1, "true or false"),
        ("data.imbalance", float("inf"), "a finite number of at least 1"),
        ("data.imbalance", 10**400, "a finite number of at least 1"),
        ("data.imbalance", "20", "a finite number of at least 1"),
        ("difficulty.tau", 10**400, "dynamic or a finite number of at least 0"),
        ("optim.decay_at", 0.8, "strictly increasing"),
        ("optim.decay_at", "0.8", "strictly increasing"),
        ("data.file", "", "a .npz file, or none"),
        ("log.progress", True, "one of auto, on, off"),
        ("data.counts", range(1000), "values like 1,2"),
    ],
)
def test_a_wrong_value_from_python_is_refused(key, value, rule):
    mine = config.load("digits_lt")
    mine.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as caught:
        config.check(mine)
    assert f"{key} must be {rule}" in str(caught.value)
    assert f"got {repr(value)[:77]}" in str(caught.value)


def test_values_from_python_are_brought_to_the_schemas_types():
    mine = config.load("digits_lt")
    mine.num_epochs = np.int64(3)
    mine.optim.learning_rate = 1
    mine.optim.decay_at = [0.5]
    mine.data.data_dir = Path("folder")
    resolved = config.resolve(mine)
    assert (resolved.optim.learning_rate, type(resolved.optim.learning_rate)) == (1.0, float)
    assert type(resolved.num_epochs) is int
    assert resolved.optim.decay_at == (0.5,)
    assert resolved.data.data_dir == "folder"
    assert config.resolve({"data": {"name": "mnist"}, "model": {"name": "lenet5"}}).num_epochs == 100


def test_a_misspelt_key_from_python_is_refused():
    mine = config.load("digits_lt")
    mine.data.imbalence = 50
    with pytest.raises(ConfigError, match=r"data\.imbalence is not a key; got 50; did you mean data\.imbalance\?"):
        config.check(mine)
    with pytest.raises(ConfigError, match="must be a ConfigDict, as from cbjax.config.load; got 'digits_lt'"):
        config.check("digits_lt")


def test_the_default_has_every_key_and_lacks_only_what_must_be_set():
    keys = {key for key, _ in config._flat(config.default())}
    assert keys == set(config_schema.KEYS)
    with pytest.raises(ConfigError, match=r"data\.name must be set: .*\nmodel\.name must be set"):
        config.check(config.default())
    complete = config.default()
    complete.data.name, complete.model.name = "cifar10", "resnet32"
    config.check(complete)


def test_every_default_is_in_its_own_type():
    for key, (default, kind, _) in config_schema.KEYS.items():
        if default is not None:
            assert kind.accept(default) == default, key
            assert type(kind.accept(default)) is type(default), key


def test_rules_speak_of_keys_that_exist():
    keys = {key for key, on, _ in config_rules.EFFECTS} | {on for _, on, _ in config_rules.EFFECTS}
    for key in (*keys, *config_rules.STATEMENTS, *config_rules.WARMUPS, *config.HOW_KEYS, *config_schema.REQUIRED):
        assert key in config_schema.KEYS
    for _, on, where in config_rules.EFFECTS:
        assert set(where) <= set(config_schema.KEYS[on].kind.names)


def test_describe_has_a_line_for_every_key():
    lines = config.describe().splitlines()
    assert [line.split("=")[0] for line in lines] == list(config_schema.KEYS)
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("num_epochs", [1, 2, 7, 1000])
def test_every_file_is_valid_for_any_number_of_epochs(name, num_epochs):
    loaded = config.load(name, [f"num_epochs={num_epochs}"])
    assert isinstance(loaded, ConfigDict)
    assert loaded.num_epochs == num_epochs


def test_every_file_is_headed_by_what_a_reader_looks_for():
    for path in (Path(__file__).parents[1] / "configs").rglob("*.py"):
        header = path.read_text().split('"""')[1]
        for word in ("Command: cbjax ", "Time: ", "Source: ", "Expected "):
            assert word in header, f"{path.name} lacks {word}"


def test_recipes_of_the_papers():
    cui, cdb = config.load("cifar_lt:cui"), config.load("cifar_lt:cdb")
    assert (cui.data.validation, cui.weights.name, cui.loss.name) == (0, "class_balanced", "focal")
    assert cui.optim.warmup * cui.num_epochs == 5
    assert (cui.optim.weight_decay, cui.model.shortcut, cui.data.normalization) == (2e-4, "average", "symmetric")
    assert (cdb.data.validation, cdb.weights.name, cdb.loss.name) == (50, "difficulty", "softmax")
    assert (cdb.optim.weight_decay, cdb.model.shortcut, cdb.optim.warmup) == (5e-4, "subsample", 0)
    for recipe in (cui, cdb):
        assert [at * recipe.num_epochs for at in recipe.optim.decay_at] == [160, 180]
    mnist = config.load("mnist_binary")
    assert mnist.data.train_size == 50 * mnist.batch_size
    assert config.load("digits_lt").batch_size % 8 == 0


def test_an_unknown_recipe_or_name_is_refused_with_the_known_ones():
    assert "one of :cui, :cdb; got cbd; did you mean cdb?" in refusal("cifar_lt:cbd")
    assert "one of :cui, :cdb; got none" in refusal("cifar_lt")
    assert "digits_lt.py has no recipes; got 'cdb'" in refusal("digits_lt:cdb")
    message = refusal("digit_lt")
    assert "no configuration file digit_lt" in message
    assert "the names are cifar_lt, digits_lt, mnist_binary; did you mean digits_lt?" in message
    assert "did you mean digits_lt?" in refusal("nowhere/digits_lt.py")


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def get_config(recipe=None):\n    return {'data': {'name': 'mnist'}, 'model': {'name': recipe}}\n")
    assert config.load("mine.py:lenet5").model.name == "lenet5"
    assert config.load(tmp_path / "mine.py", ["model.name=resnet20"]).model.name == "resnet20"
    write(
        tmp_path,
        "def get_config():\n    return {'data': {'name': 'mnist'}, 'model': {'name': 'lenet5'}}\n",
        "digits_lt",
    )
    assert config.load("digits_lt").data.name == "mnist"
    assert not list(tmp_path.glob("__pycache__"))


def test_names_are_found_in_the_package_first(tmp_path, monkeypatch):
    package = tmp_path / "cbjax"
    (package / "configs").mkdir(parents=True)
    text = "def get_config():\n    return {'data': {'name': 'mnist'}, 'model': {'name': 'lenet5'}}\n"
    write(package / "configs", text, "installed.py")
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    assert config.load("installed").model.name == "lenet5"
    assert "the names are installed" in refusal("digits_lt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return {\n", "mine.py, line 2: '{' was never closed"),
        ("import cbjax_is_not_this\n", "mine.py, line 1: ModuleNotFoundError: No module named"),
        ("def get_config():\n    x = 1\n    return x / 0\n", "mine.py, line 3: ZeroDivisionError: division by zero"),
        ("import json\ndef get_config():\n    json.loads('{')\n", "mine.py, line 3: JSONDecodeError"),
        ("config = {}\n", "mine.py has no function get_config()"),
        ("get_config = 3\n", "mine.py has no function get_config()"),
        ("def get_config(a, b):\n    return a\n", "TypeError: get_config() missing 2 required"),
        ("def get_config():\n    return None\n", "mine.py: a configuration must be a ConfigDict"),
        ("def get_config():\n    return {'seed': -1}\n", "mine.py: seed must be a whole number from 0 to 4294967295"),
        ("def get_config():\n    return {'sed': 1}\n", "mine.py: sed is not a key; got 1; did you mean seed?"),
        (b"\xff\xfe", "mine.py"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused = refusal(path)
    assert message in refused
    assert "Traceback" not in refused


def test_json_and_back():
    for name in FILES:
        loaded = config.load(name)
        text = config.to_json(loaded)
        assert config.from_json(text) == loaded
        assert config.to_json(config.from_json(text)) == text
        assert json.loads(text)["optim"]["decay_at"] == list(loaded.optim.decay_at)
    older = json.loads(config.to_json(config.load("digits_lt")))
    del older["log"], older["weights"]["start"]
    assert config.from_json(json.dumps(older)) == config.load("digits_lt")
    with pytest.raises(ConfigError, match="not valid JSON"):
        config.from_json('{"seed": ')
    with pytest.raises(ConfigError, match="sed is not a key; got 1"):
        config.from_json('{"sed": 1}')


def test_fingerprint():
    loaded = config.load("digits_lt")
    fingerprint = config.fingerprint(loaded)
    assert len(fingerprint) == 64
    reversed_tree = {key: loaded[key] for key in reversed(list(loaded))}
    assert config.fingerprint(reversed_tree) == fingerprint
    assert config.fingerprint(json.loads(config.to_json(loaded))) == fingerprint
    assert config.fingerprint(config.load("digits_lt", ["parallel=pmap", "data.data_dir=x"])) == fingerprint
    assert config.fingerprint(config.load("digits_lt", ["seed=1"])) != fingerprint
    # Pinned: whoever changes the form of the fingerprint breaks the recognition of runs that are on disk.
    small = {"data": {"name": "mnist"}, "model": {"name": "lenet5"}}
    program = f"from cbjax import config; print(config.fingerprint({small!r}))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == config.fingerprint(small)


def test_difference_and_resume():
    old = config.load("digits_lt")
    assert config.difference(old, config.from_json(config.to_json(old))) == ([], [])
    assert config.check_resume(json.loads(config.to_json(old)), old) == []
    moved = config.load("digits_lt", ["parallel=pmap", "devices=2"])
    assert config.difference(old, moved) == (["parallel", "devices"], [])
    assert config.check_resume(old, moved) == [
        "parallel: 'shard_map' there, 'pmap' here",
        "devices: None there, 2 here",
    ]
    other = config.load("digits_lt", ["seed=1", "data.imbalance=50", "parallel=pmap"])
    assert config.difference(old, other) == (["parallel"], ["seed", "data.imbalance"])
    with pytest.raises(ConfigError) as caught:
        config.check_resume(old, other)
    assert str(caught.value).splitlines()[1:] == ["  seed: 0 there, 1 here", "  data.imbalance: 20.0 there, 50.0 here"]


def test_the_number_of_epochs_may_grow_with_extend():
    old, longer = config.load("digits_lt"), config.load("digits_lt", ["num_epochs=80"])
    with pytest.raises(ConfigError, match=r"add --extend to train for longer:\n  num_epochs: 40 there, 80 here"):
        config.check_resume(old, longer)
    assert config.check_resume(old, longer, extend=True) == ["num_epochs: 40 there, 80 here"]
    with pytest.raises(ConfigError, match="num_epochs may only grow"):
        config.check_resume(longer, old, extend=True)
    with pytest.raises(ConfigError, match="use another work directory"):
        config.check_resume(old, config.load("digits_lt", ["num_epochs=80", "seed=1"]), extend=True)


@given(batch_size=strategies.integers(1, 4096), num_devices=strategies.integers(1, 64))
def test_devices_must_divide_the_batch(batch_size, num_devices):
    if batch_size % num_devices == 0:
        config.check_devices(batch_size, num_devices)
        return
    with pytest.raises(ConfigError) as caught:
        config.check_devices(batch_size, num_devices)
    advice = str(caught.value).split(": use ")[1]
    *sizes, fewer = advice.replace(", or devices=", " or ").split(" or ")
    assert all(int(size) % num_devices == 0 and abs(int(size) - batch_size) < num_devices for size in sizes)
    assert 0 < int(fewer) < num_devices
    assert batch_size % int(fewer) == 0


def test_the_sweep_of_the_default():
    runs = config.load_sweep("digits_lt", ["num_epochs=2"])
    assert runs == config.load_sweep(
        Path(__file__).parents[1] / "configs" / "sweeps" / "digits_lt.py", ["num_epochs=2"]
    )
    assert [name for name, _ in runs] == [
        f"{method}/seed_{s}" for method in ("ce", "cb_focal", "cdb") for s in range(3)
    ]
    by_name = dict(runs)
    assert {run.num_epochs for run in by_name.values()} == {2}
    assert by_name["cb_focal/seed_1"].loss.name == "focal"
    assert by_name["cb_focal/seed_1"].weights.name == "class_balanced"
    assert by_name["cdb/seed_2"].weights.name == "difficulty"
    assert config.difference(by_name["ce/seed_2"], by_name["cdb/seed_2"]) == ([], ["weights.name"])
    assert config.fingerprint(by_name["ce/seed_0"]) != config.fingerprint(by_name["ce/seed_1"])
    # What is meant for every run need not have an effect in each of them.
    assert len(config.load_sweep("digits_lt", ["loss.gamma=2"])) == 9


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("[('a', 'digits_lt', {'seed': -1})]", "run a of .*mine.py: seed must be a whole number"),
        ("[('a', 'digits_lt', {'loss.gamma': 2.0})]", "run a of .*loss.gamma must be left at 1.0"),
        ("[('a', 'digit_lt', {})]", "run a of .*did you mean digits_lt"),
        ("[('a', 'digits_lt', {}), ('a', 'digits_lt', {})]", "a folder of its own below the sweep's; got 'a'"),
        ("[('../a', 'digits_lt', {})]", "a folder of its own below the sweep's; got '../a'"),
        ("[('', 'digits_lt', {})]", "a folder of its own"),
        ("[('/a', 'digits_lt', {})]", "a folder of its own"),
        ("[('a', 'digits_lt')]", "must list .name, configuration, overrides. of each run; not enough values"),
        ("3", "must list .name, configuration, overrides. of each run"),
    ],
)
def test_a_wrong_sweep_is_refused(tmp_path, runs, message):
    path = write(tmp_path, f"def get_runs():\n    return {runs}\n")
    with pytest.raises(ConfigError, match=message):
        config.load_sweep(path)
    assert "has no function get_config()" in refusal(path)


def test_names_in_the_schema_are_those_of_the_registries():
    from cbjax import losses, models, weights
    from cbjax.data import augment, sources

    assert set(config_schema.SOURCES) == set(sources.SOURCES)
    assert set(config_schema.MODELS) == set(models.MODELS)
    assert set(config_schema.LOSSES) == set(losses.LOSSES)
    assert set(config_schema.WEIGHTS) == {*weights.WEIGHTS, "difficulty"}
    assert set(config_schema.NORMALIZATIONS) == set(augment.NORMALIZATIONS)


def test_config_imports_nothing_heavy():
    program = (
        "import sys; from cbjax import config; config.load('digits_lt');"
        "print([name for name in ('jax', 'flax', 'optax', 'cbjax.models', 'cbjax.data', 'cbjax.loop') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
