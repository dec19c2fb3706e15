"""OLTR as a second stage in whole runs: what it begins with, what trains, and that it goes on to the bit."""

import shutil

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import data
from cbjax.cli import main
from cbjax.config import ConfigError, evaluation
from cbjax.data import augment
from cbjax.training.restore import evaluate
from tests import own_nets, processes

FEW = ("num_epochs=2", "data.validation=10", "data.test=20", "devices=1", "log.report=false")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(run, work directory) of a first stage on digits."""
    workdir = tmp_path_factory.mktemp("first")
    return cbjax.train(configs.load("digits_lt", FEW), workdir), workdir


def second(source, workdir, *overrides):
    read = configs.from_json((source / "config.json").read_text())
    return cbjax.train(configs.second_stage(read, "oltr", str(source), ["num_epochs=2", *overrides]), workdir)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_it_begins_with_the_first_stage_and_its_class_means_and_all_of_it_trains(first, tmp_path):
    before, source = first
    still = second(source, tmp_path / "still", "optim.learning_rate=1e-30")  # as long as the next: its programs
    params, old = dict(still.state.params), dict(before.state.params)
    old["hallucinator"] = old.pop("head")
    for name, part in old.items():  # not to the bit: + 0 changes the smallest numbers
        jax.tree.map(lambda one, new: np.testing.assert_allclose(new, one, rtol=0, atol=1e-20), part, params[name])
    train = data.of_config(still.config).train
    inputs = augment.normalize(train.images, still.state.settings.mean, still.state.settings.std)
    features = np.asarray(still.model.features(params, {}, inputs, train=False)[0], np.float64)
    means = [features[train.labels == label].mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(params["memory"], means, rtol=1e-5, atol=1e-6)
    after = second(source, tmp_path / "run")
    for name, part in after.state.params.items():
        pairs = zip(*map(jax.tree.leaves, (part, params[name])), strict=True)
        assert max(np.abs(new - one).max() for new, one in pairs) > 1e-6, name
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    chances = after.predict(images)
    np.testing.assert_array_equal(cbjax.load(tmp_path / "run").predict(images), chances)
    figures = evaluate(tmp_path / "run")
    assert figures == {key: after.metrics[f"test/last/{key}"] for key in figures}
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(max(processes.checkpoints(tmp_path / "run"))))
    (tmp_path / "run" / "results.json").unlink()
    again = second(source, tmp_path / "run")
    assert bits(again.state.params) == bits(after.state.params)
    assert bits(again.state.opt_state) == bits(after.state.opt_state)


@pytest.mark.slow
def test_a_frozen_backbone_stays_to_the_bit_and_cdb_weighs_the_classes(first, tmp_path, capsys):
    before, source = first
    keys = ("oltr.backbone=frozen", "weights.name=difficulty", "oltr.form=paper", "num_epochs=2")
    options = [f"--from={source}", "--method=oltr", f"--workdir={tmp_path}", *(f"--config.{key}" for key in keys)]
    assert main(["stage2", *options]) == 0
    assert f"begins with 8 arrays of step 16 of {source}\n" in capsys.readouterr().out
    after = cbjax.load(tmp_path)
    params, old = dict(after.state.params), dict(before.state.params)
    del old["head"]
    assert bits({name: params[name] for name in old}) == bits(old)
    assert "added_layer" not in params and np.abs(params["attention"]["mask"]["kernel"]).max() > 0  # it began at 0
    assert np.ptp(after.state.class_weights) > 0.1
    config = after.config
    assert (config.data.sampler, config.optim.schedule, config.stage.batch_norm) == ("class_aware", "step", "train")
    assert config.optim.decay_at == (1 / 3, 2 / 3)
    assert len(jax.tree.leaves(after.state.opt_state)) < 2 * len(jax.tree.leaves(params))  # no momentum of the frozen


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("devices=4",), ("devices=4", "parallel=pmap")])
def test_four_devices_give_what_one_gives(first, tmp_path, keys):
    one, four = second(first[1], tmp_path / "one"), second(first[1], tmp_path / "four", *keys)
    for ours, theirs in zip(jax.tree.leaves(four.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((f"model.name={own_nets.__file__}:vit",), "model.name must be a network of cbjax when stage.name is oltr"),
        (("loss.name=ldam",), "loss.name must be softmax or softmax_focal or poly when stage.name is oltr; got ldam"),
        (("loss.mean=weight_sum",), "loss.mean must be batch when stage.name is oltr"),
        (("mix.name=mixup",), "mix.name must be none when stage.name is oltr"),
        (("stage.name=crt", "oltr.margin=5"), "oltr.margin must stay at 10.0 unless stage.name is oltr"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(first, overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load("digits_lt", ["stage.name=oltr", f"stage.source={first[1]}", *overrides])


def test_a_run_is_evaluated_at_the_size_that_its_attention_was_made_for(first):
    keys = ["stage.name=oltr", f"stage.source={first[1]}", "loss.mean=batch", "data.root=/photos"]
    config = configs.load("imagenet_lt", keys)
    with pytest.raises(ConfigError, match=r"data.image_size must stay at 224 when stage.name is oltr.*; got 288"):
        evaluation.change(config, ["data.image_size=288", "data.resize=288"])
    assert evaluation.change(config, ["data.resize=288"])[0].data.resize == 288
