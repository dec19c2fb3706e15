"""Tests of reading and comparing configurations, and of the files that come with the package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from cbjax import config
from cbjax.config import ConfigError, compare, files, methods, reading, schema

STREAMED = (
    "imagenet:goyal",
    "imagenet:resnet50_softmax",
    "imagenet:resnet101_cb_focal",
    "imagenet:resnet152_cb_focal_320",
    "inaturalist:2017_resnet50_cb_focal",
    "inaturalist:2018_resnet152_softmax",
    "inaturalist:2018_resnet101_cb_focal_320",
    "imagenet_lt",
    "egtea",
    "egtea:authors_code",
)
# Their keys come with the sources of streamed images.
has_streamed = "data.image_size" in schema.KEYS
FILES = ("digits_lt", "cifar_lt:cui", "cifar_lt:cdb", "mnist_binary", *(STREAMED if has_streamed else ()))


def refusal(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)
    return str(caught.value)


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_default_has_every_key_and_lacks_only_what_must_be_set():
    assert set(config.default().to_dict()) == {key.split(".")[0] for key in schema.KEYS}
    assert reading.complete(config.default()) == {key: default for key, (default, _, _) in schema.KEYS.items()}
    with pytest.raises(ConfigError, match=r"data\.name must be set: .*\nmodel\.name must be set"):
        config.check(config.default())
    complete = config.default()
    complete.data.name, complete.model.name = "cifar10", "resnet32"
    config.check(complete)


def test_describe_has_a_line_for_every_key():
    lines = config.describe().splitlines()
    assert [line.split("=")[0] for line in lines] == list(schema.KEYS)
    assert max(map(len, lines)) < 320


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("num_epochs", [1, 2, 7, 1000])
def test_every_file_is_valid_for_any_number_of_epochs(name, num_epochs):
    loaded = config.load(name, [f"num_epochs={num_epochs}"])
    assert isinstance(loaded, ConfigDict)
    assert loaded.num_epochs == num_epochs


def test_every_file_is_headed_by_what_a_reader_looks_for():
    for path in (Path(__file__).parents[2] / "configs").rglob("*.py"):
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


@pytest.mark.skipif(not has_streamed, reason="needs the sources of streamed images")
def test_recipes_of_the_papers_at_scale():
    rows = {
        "imagenet:resnet50_softmax": ("imagenet2012", "resnet50", "softmax", 0.1, 224, 256),
        "imagenet:resnet101_cb_focal": ("imagenet2012", "resnet101", "focal", 0.2, 224, 256),
        "imagenet:resnet152_cb_focal_320": ("imagenet2012", "resnet152", "focal", 0.2, 320, 366),
        "imagenet:goyal": ("imagenet2012", "resnet50", "softmax", 0.1, 224, 256),
        "inaturalist:2017_resnet50_cb_focal": ("i_naturalist2017", "resnet50", "focal", 0.4, 224, 256),
        "inaturalist:2018_resnet152_softmax": ("i_naturalist2018", "resnet152", "softmax", 0.1, 224, 256),
        "inaturalist:2018_resnet101_cb_focal_320": ("i_naturalist2018", "resnet101", "focal", 0.4, 320, 366),
    }
    for name, expected in rows.items():
        loaded = config.load(name)
        data, optim = loaded.data, loaded.optim
        found = (data.name, loaded.model.name, loaded.loss.name, optim.learning_rate, data.image_size, data.resize)
        assert found == expected
        assert config.learning_rates(loaded)[0] == pytest.approx(4 * optim.learning_rate)
        assert (loaded.batch_size, optim.weight_decay, optim.decay_rule, optim.nesterov) == (
            1024,
            1e-4,
            "kernels",
            True,
        )
        assert [round(at * loaded.num_epochs, 9) for at in (optim.warmup, *optim.decay_at)] == [5, 30, 60, 80]
        assert (loaded.weights.name == "class_balanced") == (loaded.loss.name == "focal")
        if loaded.loss.name == "focal":
            assert (loaded.loss.gamma, loaded.weights.beta) == (0.5, 0.999)
        goyal = name == "imagenet:goyal"
        assert (optim.warmup_from, loaded.model.batch_norm_size) == (("base", 32) if goyal else (0.0, None))
    longtailed = config.load("imagenet_lt")
    assert (longtailed.model.name, longtailed.weights.name, longtailed.difficulty.tau) == (
        "resnet10",
        "difficulty",
        "dynamic",
    )
    assert (longtailed.batch_size, config.learning_rates(longtailed)[0]) == (512, 0.2)


def test_the_recipe_for_clips():
    paper, authors = config.load("egtea"), config.load("egtea:authors_code")
    optim, data = paper.optim, paper.data
    assert (paper.num_epochs, paper.batch_size, optim.learning_rate, optim.momentum) == (100, 32, 1e-3, 0.9)
    assert (optim.decay_at, optim.decay_factor, optim.weight_decay) == ((0.6,), 0.1, 5e-4)
    assert (data.frames, data.image_size, data.rotation, data.flip, data.crop) == (10, 224, 10.0, True, "square")
    assert (paper.model.name, paper.weights.name, data.normalization) == ("resnext3d101", "difficulty", "kinetics")
    # Split 1 without the validation, as the authors' code counts it.
    counts = (429, 779, 1421, 822, 129, 1335, 130, 308, 223, 249, 54, 54, 139, 42, 78, 117, 26, 15, 22)
    for recipe, least in ((paper, 400), (authors, 600)):
        groups = dict(recipe.evaluation.groups)
        assert groups["majority"] == tuple(verb for verb, count in enumerate(counts) if count > least)
        assert sorted(groups["majority"] + groups["minority"]) == list(range(19))
    head = (Path(__file__).parents[2] / "configs" / "egtea.py").read_text().split('"""')[1]
    assert sum(counts) == 8299 - 1927 == 6372 and "8,299" in head and "1,927" in head and "6,372" in head
    assert f"{100 * sum(counts):,}" in head and f"{-(-100 * sum(counts) // 32):,} steps" in head
    differing = {key for same in config.difference(paper, authors) for key in same}
    assert differing == {
        *("data.normalization", "data.evaluation_frames", "model.channels", "difficulty.formula", "optim.momentum"),
        "evaluation.groups",
    }


def test_the_heads_of_large_recipes_count_their_steps():
    for name, batch_size, images in [
        ("imagenet", 1024, (1_281_167,)),
        ("inaturalist", 1024, (579_184, 437_513)),
        ("imagenet_lt", 512, (115_846,)),
    ]:
        head = (Path(__file__).parents[2] / "configs" / f"{name}.py").read_text().split('"""')[1]
        for count in images:
            assert f"{count:,}" in head and f"{90 * count:,}" in head and f"{-(-90 * count // batch_size):,}" in head


def test_an_unknown_recipe_or_name_is_refused_with_the_known_ones():
    assert "one of :cui, :cdb; got cbd; did you mean cdb?" in refusal("cifar_lt:cbd")
    assert "one of :cui, :cdb; got none" in refusal("cifar_lt")
    assert "digits_lt.py has no recipes, so no name may follow the colon; got 'cdb'" in refusal("digits_lt:cdb")
    message = refusal("digit_lt")
    assert "no configuration file digit_lt" in message
    assert "imagenet, imagenet_lt, inaturalist, mnist_binary, own_images; did you mean digits_lt?" in message
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
    monkeypatch.setattr(files, "__file__", str(package / "config" / "files.py"))
    assert config.load("installed").model.name == "lenet5"
    assert "cbjax brings installed" in refusal("digits_lt")


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
        (b"x = 1\x00", "mine.py"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
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


ARRAYS = ("data.name=arrays", "data.longtail=natural", "data.imbalance=1")


def test_fingerprint():
    loaded = config.load("digits_lt")
    fingerprint = config.fingerprint(loaded)
    assert len(fingerprint) == 64
    reversed_tree = {key: loaded[key] for key in reversed(list(loaded))}
    assert config.fingerprint(reversed_tree) == fingerprint
    assert config.fingerprint(json.loads(config.to_json(loaded))) == fingerprint
    assert config.fingerprint(config.load("digits_lt", ["parallel=pmap", "data.data_dir=x"])) == fingerprint
    assert config.fingerprint(config.load("digits_lt", ["seed=1"])) != fingerprint
    files = [config.fingerprint(config.load("digits_lt", [f"data.file={name}.npz", *ARRAYS])) for name in "ab"]
    assert files[0] != files[1]
    # The same in another process, whose strings have other hashes.
    small = {"data": {"name": "mnist"}, "model": {"name": "lenet5"}}
    program = f"from cbjax import config; print(config.fingerprint({small!r}))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == config.fingerprint(small)


def test_figures_that_were_published_under_a_fingerprint_keep_it(monkeypatch):
    # A new key disowns the rows in configs/sweeps/results: name it in LATER_KEYS, with a default that changes nothing.
    assert config.fingerprint(config.load("digits_lt"))[:16] == "ad1838ec9ea0aa71"
    changed = ["weights.name=difficulty", "difficulty.smoothing=0.9"]
    assert config.fingerprint(config.load("digits_lt", changed)) != config.fingerprint(
        config.load("digits_lt", changed[:1])
    )
    before = config.fingerprint(config.load("digits_lt", ["loss.label_smoothing=0.1"]))
    monkeypatch.setattr(compare, "LATER_KEYS", (*compare.LATER_KEYS, "loss.label_smoothing"))
    assert config.fingerprint(config.load("digits_lt", ["loss.label_smoothing=0.1"])) == before
    assert config.fingerprint(config.load("digits_lt"))[:16] != "ad1838ec9ea0aa71"


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
    old, longer = config.load("digits_lt"), config.load("digits_lt", ["num_epochs=200"])
    with pytest.raises(ConfigError, match=r"add --extend to train for longer:\n  num_epochs: 100 there, 200 here"):
        config.check_resume(old, longer)
    assert config.check_resume(old, longer, extend=True) == ["num_epochs: 100 there, 200 here"]
    with pytest.raises(ConfigError, match="num_epochs may only grow"):
        config.check_resume(longer, old, extend=True)
    with pytest.raises(ConfigError, match="use another work directory"):
        config.check_resume(old, config.load("digits_lt", ["num_epochs=200", "seed=1"]), extend=True)


def test_config_imports_nothing_heavy():
    program = (
        "import sys; from cbjax import config; config.load('digits_lt');"
        "heavy = {'jax', 'flax', 'optax', 'numpy', 'cbjax.models', 'cbjax.data', 'cbjax.training.loop'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_is_nothing_but_ordinary_keys(name):
    chosen = config.load("digits_lt", [f"method={name}", "seed=3"])
    given = [f"{key}={value}" for key, value in methods.keys_of(name).items()]
    assert chosen == config.load("digits_lt", [*given, "seed=3"])
    # Whatever the config's file has, it is the same method.
    other = config.load("digits_lt", ["weights.name=difficulty", "loss.name=focal"])
    assert config.fingerprint(chosen) == config.fingerprint(config.change(other, [f"method={name}", "seed=3"]))


def test_a_key_after_a_method_wins_and_an_unknown_method_is_refused():
    chosen = config.load("digits_lt", ["loss.gamma=0.5", "method=cb_focal", "weights.name=uniform"])
    assert (chosen.loss.name, chosen.loss.gamma, chosen.weights.name) == ("focal", 0.5, "uniform")
    assert "method" not in chosen
    with pytest.raises(ConfigError, match=r"method must be one of ce, .*; got 'cbfocal'; did you mean cb_focal\?"):
        config.load("digits_lt", ["method=cbfocal"])


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("CB_focal", "did you mean cb_focal"),
        ("CB-Focal", "did you mean cb_focal"),
        ("CDB-focal", "did you mean cdb_focal"),
        ("Focal", "did you mean focal"),
        ("CB", "CB is method=cb_focal, cb_softmax or cb_sigmoid"),
        ("class-balanced", "class-balanced is method=cb_focal, cb_softmax or cb_sigmoid"),
        ("cross_entropy", "cross_entropy is method=ce"),
    ],
)
def test_a_method_as_papers_write_it_is_pointed_to(asked, meant):
    with pytest.raises(ConfigError, match=f"got '{asked}'; {meant}"):
        config.load("digits_lt", [f"method={asked}"])


def test_a_method_with_a_page_and_no_name_is_pointed_to():
    pages = {page.stem: page for page in (Path(__file__).parents[2] / "docs/methods").glob("*.md")}
    apart = pages.keys() - methods.METHODS.keys() - {"README"}
    assert {"smote", "crt", "tau", "thresholds"} <= apart
    for name in apart:
        # The page's own command has the same word: --method=crt, --calibrate=thresholds.
        (asked,) = re.findall(rf"[\w.]+={name}", methods.ELSEWHERE[name])
        assert asked in pages[name].read_text()
        with pytest.raises(ConfigError, match=rf"got '{name}'; {name} is .*{re.escape(asked)}"):
            config.load("digits_lt", [f"method={name}"])
