"""Tests of what a single configuration key takes, and of what is said about one that is wrong."""

import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from cbjax import config
from cbjax.config import ConfigError, image_sources, parts, schema
from cbjax.config.schema import show

# One override of a key with a value that breaks the key's own rule: (override, rule, value as the message has it).
WRONG_VALUES = [
    ("num_epochs=0", "a whole number from 1 to 1000000", "'0'"),
    ("num_epochs=-3", "a whole number from 1 to 1000000", "'-3'"),
    ("num_epochs=1.5", "a whole number from 1 to 1000000", "'1.5'"),
    ("num_epochs=1e3", "a whole number from 1 to 1000000", "'1e3'"),
    ("num_epochs=none", "a whole number from 1 to 1000000", "'none'"),
    ("num_epochs=", "a whole number from 1 to 1000000", "''"),
    ("batch_size=0", "a whole number from 1 to 1000000", "'0'"),
    ("batch_size=many", "a whole number from 1 to 1000000", "'many'"),
    ("seed=-1", "a whole number from 0 to 4294967295", "'-1'"),
    ("seed=4294967296", "a whole number from 0 to 4294967295", "'4294967296'"),
    ("devices=0", "a whole number from 1 to 1000000, or none", "'0'"),
    ("devices=all", "a whole number from 1 to 1000000, or none", "'all'"),
    ("parallel=jit", "shard_map or pmap", "'jit'"),
    ("parallel=shardmap", "did you mean shard_map?", "'shardmap'"),
    ("deterministic=1", "true or false", "'1'"),
    ("deterministic=yes", "true or false", "'yes'"),
    ("data.name=cifar", "did you mean cifar", "'cifar'"),
    ("data.name=tfds:", "or tfds:NAME", "'tfds:'"),
    ("data.image_size=0", "a whole number from 1 to 4096", "'0'"),
    ("data.crop_area=0", "a finite number above 0 and of at most 1", "'0'"),
    ("data.color_jitter=2", "a finite number of at least 0 and of at most 1", "'2'"),
    ("data.on_bad_image=ignore", "error or skip", "'ignore'"),
    ("data.threads=0", "a whole number from 1 to 256, or none", "'0'"),
    ("data.sampler=class-aware", "did you mean class_aware?", "'class-aware'"),
    ("data.longtail=exp", "one of natural, exponential, step, counts, majority", "'exp'"),
    ("data.imbalance=0.5", "a finite number of at least 1", "'0.5'"),
    ("data.imbalance=nan", "a finite number of at least 1", "'nan'"),
    ("data.imbalance=inf", "a finite number of at least 1", "'inf'"),
    ("data.imbalance=20,50", "a finite number of at least 1", "'20,50'"),
    ("data.counts=5,x", "each a whole number from 0 to 2147483647", "'5,x'"),
    ("data.counts=5,,4", "each a whole number from 0 to 2147483647", "'5,,4'"),
    ("data.majority_ratio=1", "a finite number of at least 0.5 and below 1, or none", "'1'"),
    ("data.validation=1.5", "a whole number from 0 to 2147483647 or a finite number above 0 and below 1", "'1.5'"),
    ("data.validation=-1", "a whole number from 0 to 2147483647 or a finite number above 0 and below 1", "'-1'"),
    ("data.test=none", "a whole number from 0 to 2147483647 or a finite number above 0 and below 1", "'none'"),
    ("data.normalization=imagnet", "did you mean imagenet?", "'imagnet'"),
    ("model.name=resnet33", "did you mean resnet34?", "'resnet33'"),
    ("model.shortcut=b", "one of average, subsample, projection", "'b'"),
    ("loss.name=Softmax", "did you mean softmax?", "'Softmax'"),
    ("loss.gamma=-1", "a finite number of at least 0", "'-1'"),
    ("model.batch_norm_size=0", "all or a whole number from 1 to 1000000, or none", "'0'"),
    ("model.dtype=float16", "float32 or bfloat16", "'float16'"),
    ("optim.accumulation=0", "a whole number from 1 to 1000000", "'0'"),
    ("optim.reference_batch_size=0", "a whole number from 1 to 1000000, or none", "'0'"),
    ("optim.warmup_from=bass", "did you mean base?", "'bass'"),
    ("loss.label_smoothing=1", "a finite number of at least 0 and below 1", "'1'"),
    ("difficulty.smoothing=0.99999999", "float32, where this is 1", "'0.99999999'"),
    ("loss.mean=sum", "batch or weight_sum", "'sum'"),
    ("weights.name=cdb", "one of uniform, inverse_frequency", "'cdb'"),
    ("weights.beta=1.01", "a finite number of at least 0 and of at most 1", "'1.01'"),
    ("weights.zero_count=skip", "error or ignore", "'skip'"),
    ("weights.start=1", "a finite number of at least 0 and below 1", "'1'"),
    ("difficulty.tau=dynamik", "did you mean dynamic?", "'dynamik'"),
    ("difficulty.tau=-0.5", "dynamic or a finite number of at least 0", "'-0.5'"),
    ("difficulty.formula=author_code", "did you mean authors_code?", "'author_code'"),
    ("difficulty.floor=1", "a finite number of at least 0 and below 1", "'1'"),
    ("optim.learning_rate=0", "a finite number of at least 1e-30 and of at most 1e+30", "'0'"),
    ("optim.learning_rate=1e-3x", "a finite number of at least 1e-30 and of at most 1e+30", "'1e-3x'"),
    ("optim.momentum=1", "a finite number of at least 0 and below 1", "'1'"),
    ("optim.weight_decay=-1e-4", "a finite number of at least 0", "'-1e-4'"),
    ("optim.decay_at=0.9,0.8", "strictly increasing", "'0.9,0.8'"),
    ("optim.decay_at=0.8,0.8", "strictly increasing", "'0.8,0.8'"),
    ("optim.decay_at=160,180", "each a finite number above 0 and of at most 1", "'160,180'"),
    ("optim.decay_at=()", "strictly increasing", "'()'"),
    ("optim.warmup=5", "a finite number of at least 0 and below 1", "'5'"),
    ("optim.warmup_steps=2.5", "a whole number from 0 to 2147483647, or none", "'2.5'"),
    ("evaluation.groups=majority", "groups like 'majority=9; minority=4,7'", "'majority'"),
    ("checkpoint.every_minutes=0", "a finite number above 0", "'0'"),
    ("log.progress=true", "one of auto, on, lines, off", "'true'"),
]

UNKNOWN_KEYS = [
    ("optim.learnin_rate=0.1", "did you mean optim.learning_rate?"),
    ("learning_rate=0.1", "did you mean optim.learning_rate?"),
    ("optimizer.learning_rate=0.1", "did you mean optim.learning_rate?"),
    ("data.imbalence=0.1", "did you mean data.imbalance?"),
    ("epochs=0.1", "did you mean num_epochs?"),
    ("batchsize=0.1", "did you mean batch_size?"),
    ("model.nam=0.1", "did you mean model.name?"),
    ("optim.lr=0.1", "did you mean optim.learning_rate?"),
    ("lr=0.1", "did you mean optim.learning_rate?"),
    ("optim.name=0.1", "optim has optim.learning_rate, "),
    ("optimizer=0.1", "optim has optim.learning_rate, "),
    ("name=0.1", "did you mean data.name or model.name or loss.name or weights.name or meta.name"),
    ("wd=0.1", "did you mean optim.weight_decay?"),
    ("gpus=0.1", "did you mean devices?"),
    ("metod=0.1", "did you mean the override method=NAME"),
    ("foo=0.1", "without a group: seed, num_epochs, "),
    ("data=0.1", "data is a group of keys, data.name, "),
    ("x=0.1", "without a group: seed, num_epochs, "),
    ("data.name.first=0.1", "the groups of keys are data, model, "),
]


def refusal(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(("override", "rule", "value"), WRONG_VALUES, ids=[row[0] for row in WRONG_VALUES])
def test_a_wrong_value_is_refused_with_key_rule_and_value(override, rule, value):
    message = refusal("cifar_lt:cdb", [override])
    assert message.startswith(f"{override.partition('=')[0]} must be ")
    assert rule in message
    assert f"got {value}" in message
    assert "\n" not in message


@pytest.mark.parametrize(("override", "hint"), UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_with_the_nearest(override, hint):
    message = refusal("digits_lt", [override])
    assert message.startswith(override.partition("=")[0])
    assert "got '0.1'" in message
    assert hint in message


def test_all_problems_are_reported_at_once():
    lines = refusal("digits_lt", ["num_epochs=0", "loss.nam=focal", "data.imbalance=x"]).splitlines()
    assert [line.split()[0] for line in lines] == ["num_epochs", "loss.nam", "data.imbalance"]
    assert len(refusal("digits_lt", ["loss.gamma=2", "devices=3"]).splitlines()) == 2


@pytest.mark.parametrize(
    "groups", [zip("a", [(1,)], strict=True), {"a": range(10**12)}, {"a": ()}, [("a",)], {1: (2,)}]
)
def test_groups_from_a_file_are_names_with_lists(groups):
    given = {"data": {"name": "digits"}, "model": {"name": "digits_cnn"}, "evaluation": {"groups": groups}}
    with pytest.raises(ConfigError, match=r"evaluation\.groups must be groups like"):
        config.resolve(given)


def test_an_override_without_a_value_is_refused():
    assert "must be key=value; got 'num_epochs'" in refusal("digits_lt", ["num_epochs"])
    assert "must be a list of key=value; got 'num_epochs=3'" in refusal("digits_lt", "num_epochs=3")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("num_epochs", 1.5, "a whole number from 1 to 1000000"),
        ("num_epochs", True, "a whole number from 1 to 1000000"),
        ("num_epochs", "40", "a whole number from 1 to 1000000"),
        ("num_epochs", None, "a whole number from 1 to 1000000"),
        ("deterministic", 1, "true or false"),
        ("data.imbalance", float("inf"), "a finite number of at least 1"),
        ("data.imbalance", "20", "a finite number of at least 1"),
        ("difficulty.tau", 10**400, "dynamic or a finite number of at least 0"),
        ("optim.decay_at", 0.8, "strictly increasing"),
        ("optim.decay_at", "0.8", "strictly increasing"),
        ("data.file", "", "a .npz file, or none"),
        ("log.progress", True, "one of auto, on, lines, off"),
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


EXTREMES = (-1, 2**31, 2**63, 10**12, 10**18, 10**400, 10**5000, -(10**5000), 1e308, 1e-320, float("nan"), "", "\0")
EXTREMES += ("x" * 10**6, True, None, [], [[[]]], (10**5000,), {"a": [10**5000]}, object(), b"x", 1j, range(10**9))


def test_numbers_that_nobody_means_are_refused_with_their_key_or_are_taken():
    base = config.load("imagenet_lt").to_dict()
    begin = time.perf_counter()
    for key in schema.KEYS:
        section, _, name = key.rpartition(".")
        for value in EXTREMES:
            # Python reads and writes no whole number of more than 4,300 digits.
            text = f"1{'0' * 5000}" if value is EXTREMES[6] else value if isinstance(value, str) else show(value)
            for read, given in ((schema.accept, {key: value}), (config.read_overrides, [f"{key}={text}"])):
                try:
                    taken = read(given)
                    tree = {**base, section: {**base[section], name: taken[key]}} if section else {**base, **taken}
                    resolved = config.resolve(tree)
                except ConfigError as error:
                    assert key in str(error) and len(str(error)) < 1500  # noqa: PT017
                else:
                    assert config.from_json(config.to_json(resolved)) == resolved
    assert time.perf_counter() - begin < len(schema.KEYS)  # a second a key, for all of its values


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("steps_per_dispatch=1000000000", "from 1 to 100000"),
        ("num_epochs=1000000000000", "from 1 to 1000000;"),
        ("devices=1000000000", "from 1 to 1000000,"),
        ("batch_size=1000000000000", "from 1 to 1000000;"),
        ("data.image_size=1000000", "from 1 to 4096"),
        ("data.workers=1000000", "from 0 to 256"),
        ("optim.learning_rate=1e-320", "at least 1e-30"),
        ("data.root=" + "x" * 5000, "it can have at most 4096 characters"),
        ("data.root=a\0b", "none of them NUL"),
        ("data.name=tfds:" + "x" * 10**6, "it can have at most 4096 characters"),
    ],
)
def test_a_number_or_a_text_that_is_too_large_is_refused(override, rule):
    assert rule in refusal("imagenet_lt", [override])


def test_many_devices_for_an_odd_batch_are_refused_at_once():
    begin = time.perf_counter()
    assert "use 1000000, or devices=999983" in refusal("digits_lt", ["batch_size=999983", "devices=1000000"])
    assert time.perf_counter() - begin < 1


def test_numbers_of_arrays_are_taken_as_those_of_python():
    tree = config.load("digits_lt").to_dict()
    tree["num_epochs"], tree["deterministic"] = np.int64(3), np.bool_(True)
    tree["optim"]["learning_rate"] = jnp.float32(0.5)
    tree["optim"]["decay_at"] = np.array([0.25, 0.5])
    tree["data"]["longtail"] = np.str_("step")
    resolved = config.resolve(tree)
    assert (resolved.num_epochs, resolved.deterministic, resolved.optim.learning_rate) == (3, True, 0.5)
    assert resolved.optim.decay_at == (0.25, 0.5)
    assert config.from_json(config.to_json(resolved)) == resolved


def test_a_placeholder_without_a_value_is_refused_with_its_key():
    mine = config.load("digits_lt")
    mine.unlock()
    mine.num_epochs = config_dict.placeholder(int)
    with pytest.raises(ConfigError, match="num_epochs must be a whole number"):
        config.resolve(mine)
    mine.num_epochs = config_dict.required_placeholder(int)
    with pytest.raises(ConfigError, match="num_epochs"):
        config.resolve(mine)


def test_a_tree_that_holds_itself_is_refused():
    tree = {"data": {"name": "digits"}}
    tree["data"]["data"] = tree
    with pytest.raises(ConfigError, match=r"data\.data is not a key"):
        config.resolve(tree)


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
    with pytest.raises(ConfigError, match=r"must be a ConfigDict, as from cbjax\.config\.load; got 'digits_lt'"):
        config.check("digits_lt")


def test_every_default_is_in_its_own_type():
    for key, (default, kind, _) in schema.KEYS.items():
        if default is not None:
            assert kind.accept(default) == default, key
            assert type(kind.accept(default)) is type(default), key


def test_names_in_the_schema_are_those_of_the_registries():
    from cbjax import difficulty, losses, models, weights
    from cbjax.data import array_records, longtail, normalization, samplers, sources

    assert set(image_sources.SOURCES) == set(sources.SOURCES)
    assert set(schema.MODELS) == set(models.MODELS)
    assert set(parts.VIDEO_MODELS) == set(models.NETWORKS)
    assert set(schema.LOSSES) == set(losses.LOSSES)
    assert set(parts.ONE_VS_REST) == {name for name, facts in losses.LOSSES.items() if facts.one_vs_rest}
    assert set(schema.WEIGHTS) == {*weights.WEIGHTS, "difficulty"}
    assert set(schema.NORMALIZATIONS) == {*normalization.NORMALIZATIONS, "standardize"}
    assert set(schema.SAMPLERS) == set(samplers.SAMPLERS)
    assert set(image_sources.STREAMED) == {*sources._STREAMED, *image_sources.OF_CLIPS}
    assert image_sources.TFDS_PREFIX == array_records.PREFIX
    assert schema.LONGTAILS == longtail.KINDS
    assert schema.TAU_FORMULAS == difficulty.FORMULAS
