"""Second stages from a finished run: what trains, what stays to the bit, and what is refused."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cbjax
from cbjax import config as configs
from cbjax import data, models, optim
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.config.parts import FITTED
from cbjax.data import augment, sources
from cbjax.host.writers import read_rows
from cbjax.models import two_stages
from cbjax.report import report
from cbjax.sweeps.file import load
from cbjax.sweeps.sweep import sweep
from cbjax.training import components, second_stage
from cbjax.training.restore import evaluate
from cbjax.training.run import Shared
from tests import own_nets, processes

FEW = ("num_epochs=2", "data.validation=10", "data.test=20", "devices=1", "log.report=false")
OWN = f"model.name={own_nets.__file__}:"


def first_stage(workdir, *overrides):
    return cbjax.train(configs.load("digits_lt", [*FEW, *overrides]), workdir)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(run, work directory) of a first stage on digits."""
    workdir = tmp_path_factory.mktemp("first")
    return first_stage(workdir), workdir


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    """The same of a network with BatchNorm, which gives only logits."""
    workdir = tmp_path_factory.mktemp("normalised")
    return first_stage(workdir, f"{OWN}normalised"), workdir


def second(source, workdir, method, *overrides):
    read = configs.from_json((source / "config.json").read_text())
    epochs = [] if method in FITTED else ["num_epochs=2"]
    return cbjax.train(configs.second_stage(read, method, str(source), [*epochs, *overrides]), workdir)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_crt_trains_a_new_head_and_keeps_the_rest_to_the_bit(first, tmp_path):
    before, source = first
    after = second(source, tmp_path / "crt", "crt", "optim.weight_decay=0.1")
    ours, theirs = dict(after.state.params), dict(before.state.params)
    head, old = ours.pop("head"), theirs.pop("head")
    assert bits(ours) == bits(theirs)
    fresh = second(source, tmp_path / "still", "crt", "optim.learning_rate=1e-30").state.params["head"]
    assert np.abs(fresh["kernel"] - old["kernel"]).max() > 0.1  # drawn again
    assert np.abs(fresh["bias"]).max() < 1e-20
    assert np.abs(head["kernel"] - fresh["kernel"]).max() > 0.01  # and trained
    assert [leaf.shape for leaf in jax.tree.leaves(after.state.opt_state) if leaf.ndim] == [(10,), (64, 10)]
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(cbjax.load(tmp_path / "crt").predict(images), after.predict(images))


def test_lws_trains_a_scale_for_each_class_alone(first, tmp_path):
    before, source = first
    after = second(source, tmp_path, "lws")
    params = dict(after.state.params)
    scales = np.asarray(params.pop("class_scales"), np.float64)
    assert bits(params) == bits(before.state.params)
    assert 0.001 < np.abs(scales - 1).max() < 0.5
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    model, state = before.model, before.state
    inputs = augment.normalize(images, state.settings.mean, state.settings.std)
    logits, _ = model.apply(state.params, state.batch_stats, inputs, train=False)
    scaled = scales * np.asarray(logits, np.float64)
    expected = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after.predict(images), expected, rtol=1e-4, atol=1e-6)


def test_a_scale_multiplies_the_bias_too():
    model = models.build("linear", 3)
    params, stats = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    params["head"]["bias"] = jnp.array([1.0, 2.0, 3.0])
    scaled = two_stages.class_scaled(model, 3)
    begun, _ = scaled.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert bits(begun.pop("class_scales")) == bits(jnp.ones(3))
    given = {**params, "class_scales": jnp.array([0.5, 1.0, -2.0])}
    images = jnp.zeros((2, 8, 8, 1))
    logits = np.asarray(model.apply(params, stats, images, train=False)[0], np.float64)
    np.testing.assert_allclose(scaled.apply(given, stats, images, train=False)[0], logits * [0.5, 1.0, -2.0], rtol=1e-6)
    features, _ = scaled.features(given, stats, images, train=False)
    np.testing.assert_allclose(scaled.head(given, features), logits * [0.5, 1.0, -2.0], rtol=1e-6)


def test_frozen_parameters_get_no_update_and_have_no_momentum():
    params = {"one": jnp.array([0.0, -2.0, 3.0]), "two": jnp.ones(2)}
    trained = {"one": False, "two": True}
    tx = optim.of_part(optim.sgd(0.1, momentum=0.9, weight_decay=0.5, decay_mask=optim.decay_mask(params)), trained)
    state = tx.init(params)
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim] == [(2,)]
    grads = {"one": jnp.full(3, 7.0), "two": jnp.array([1.0, 2.0])}
    updates, _ = tx.update(grads, state, params)
    after = optax.apply_updates(params, updates)
    assert bits(after["one"]) == bits(params["one"])
    np.testing.assert_allclose(after["two"], [1 - 0.1 * 1.5, 1 - 0.1 * 2.5], rtol=1e-6)


def test_batch_norm_is_frozen_or_follows_the_balanced_images(normalised, tmp_path):
    before, source = normalised
    still = second(source, tmp_path / "eval", "lws")
    assert bits(still.state.batch_stats) == bits(before.state.batch_stats)
    moved = second(source, tmp_path / "train", "lws", "stage.batch_norm=train")
    assert bits(moved.state.batch_stats) != bits(before.state.batch_stats)
    for run in (still, moved):
        params = dict(run.state.params)
        del params["class_scales"]
        assert bits(params) == bits(before.state.params)


def test_the_head_of_a_users_network_is_found_or_its_lack_is_said(normalised, tmp_path):
    model = models.own.build(f"{own_nets.__file__}:vit", 10, {})
    params, stats = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    found = two_stages.head_of(model, params, stats, (8, 8, 1))
    assert {name for name, part in found.items() if any(jax.tree.leaves(part))} == {"classifier"}
    assert all(jax.tree.leaves(found["classifier"]))
    with pytest.raises(ValueError, match="gives only logits, but this needs the features before its last") as refused:
        second(normalised[1], tmp_path, "crt")
    assert "does not fit the images" not in str(refused.value)
    shared = model._replace(
        features=lambda params, stats, images, train: (images[:, 0, :, 0] @ params["kernel"], stats),
        head=lambda params, features: features @ params["kernel"],
    )
    with pytest.raises(ValueError, match="which its features do not use"):
        two_stages.head_of(shared, {"kernel": jnp.ones((8, 8))}, {}, (8, 8, 1))


def test_a_second_stage_goes_on_to_the_bit_wherever_the_first_lies_then(first, tmp_path):
    _, source = first
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    whole = second(moved, tmp_path / "run", "crt")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(max(processes.checkpoints(tmp_path / "run"))))
    (tmp_path / "run" / "results.json").unlink()
    shutil.rmtree(moved)
    again = second(source, tmp_path / "run", "crt")
    assert bits(again.state.params) == bits(whole.state.params)
    assert bits(again.state.opt_state) == bits(whole.state.opt_state)
    results = json.loads((source / "results.json").read_text())
    shutil.copytree(source, moved)
    results["last"]["test"]["loss"] += 1e-6
    (moved / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match=r"the results of the run in stage\.source are others"):
        second(moved, tmp_path / "run", "crt")


@pytest.mark.slow
def test_four_devices_give_what_one_gives(first, tmp_path):
    one, four = (second(first[1], tmp_path / str(count), "crt", f"devices={count}") for count in (1, 4))
    for ours, theirs in zip(jax.tree.leaves(four.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("override", ["seed=1", "data.validation=15"])
def test_images_that_the_first_stage_was_trained_on_are_not_held_out(first, tmp_path, override):
    """Else figures on them would be too good, and tau-normalisation would choose its power by them."""
    _, source = first
    same = r"hold out the same ones, with data.seed=0, data.test=20 and data.validation=10$"
    with pytest.raises(ConfigError, match=f"got [1-9][0-9]* of [0-9]* (test|validation) images: {same}"):
        second(source, tmp_path, "crt", override)


def test_data_that_moved_bring_a_note_of_images_that_the_first_stage_may_have_seen(tmp_path):
    digits = sources.load_digits().train
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=digits.images, labels=digits.labels)
    keys = ["data.name=arrays", "model.name=linear", "data.longtail=natural", "data.imbalance=1", "num_epochs=1"]
    config = configs.load("digits_lt", [*keys, "data.validation=0", f"data.file={tmp_path / 'a.npz'}"])
    cbjax.train(config, tmp_path / "first")
    told, source = [], str(tmp_path / "first")
    moved = configs.second_stage(config, "tau", source, ["data.validation=20", f"data.file={tmp_path / 'b.npz'}"])
    cbjax.train(moved, tmp_path / "moved", shared=Shared(tell=told.append))
    (note,) = (line for line in told if "data.file differs from stage.source" in line)
    assert "its run was trained on 200 of 200 validation images: hold out the same ones, with data.seed=0" in note
    with pytest.raises(ConfigError, match="got 200 of 200 validation images"):
        cbjax.train(configs.second_stage(config, "tau", source, ["data.validation=20"]), tmp_path / "here")


@pytest.mark.slow
def test_runs_as_one_program_give_what_a_run_alone_gives(first, tmp_path):
    _, source = first
    one = second(source, tmp_path / "one", "crt")
    keys = {"stage.name": "crt", "stage.source": str(source), "data.sampler": "class_aware", "data.seed": 0}
    (tmp_path / "seeds.py").write_text(
        "from cbjax.variants import Sweep, choices, product, seeds\n\n"
        f"def get_sweep():\n    return Sweep('digits_lt', product(choices('method', {{'crt': {keys!r}}}), seeds(2)))\n"
    )
    described, runs = load(tmp_path / "seeds.py", [*FEW, "optim.schedule=cosine", "optim.warmup=0"])
    _, failed = sweep("seeds", described, runs, tmp_path / "runs", mode="vmap", group_size=2)
    assert failed == {}
    backbones = [dict(cbjax.load(tmp_path / "runs" / "crt" / f"seed_{seed}").state.params) for seed in (0, 1)]
    heads = [backbone.pop("head") for backbone in backbones]
    kept = {name: part for name, part in one.state.params.items() if name != "head"}
    assert bits(backbones[0]) == bits(backbones[1]) == bits(kept)
    assert bits(heads[0]) != bits(heads[1])
    np.testing.assert_allclose(heads[0]["kernel"], one.state.params["head"]["kernel"], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("stage.name=crt",), "stage.source must be the work directory of a finished run when stage.name is crt"),
        (("stage.source=x",), "stage.source must stay at None unless stage.name is crt or lws or tau"),
        (("stage.batch_norm=train",), "stage.batch_norm must stay at eval unless stage.name is crt or lws"),
        (("stage.tau=1",), "stage.tau must stay at None unless stage.name is tau"),
        (("stage.name=tau", "stage.source=x", "loss.name=ldam"), "stage.name must not be tau when loss.name is ldam"),
        (("stage.name=tau", "stage.source=x", "weights.name=difficulty"), "weights.name must be uniform when stage"),
        (("stage.name=tau", "stage.source=x", "data.validation=0"), "data.validation must be above 0 when stage.name"),
        (
            ("stage.name=tau", "stage.source=x", "num_epochs=3"),
            "num_epochs has no effect when stage.name is tau, which",
        ),
        (("stage.name=ncm", "stage.source=x", "optim.momentum=0"), "optim.momentum has no effect when stage.name is n"),
        (("stage.name=lws", "stage.source=/none"), "with its results.json; got /none: `cbjax train` with that"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load("digits_lt", overrides)


def test_tau_is_chosen_on_held_out_images_and_nothing_else_changes(first, tmp_path):
    before, source = first
    after = second(source, tmp_path, "tau")
    ours, theirs = dict(after.state.params), dict(before.state.params)
    head, old = ours.pop("head"), theirs.pop("head")
    assert bits(ours) == bits(theirs)
    dataset = data.of_config(after.config)
    held = dataset.validation
    inputs = augment.normalize(held.images, before.state.settings.mean, before.state.settings.std)
    features, _ = before.model.features(before.state.params, {}, inputs, train=False)
    kernel, features = np.asarray(old["kernel"], np.float64), np.asarray(features, np.float64)
    balanced = []
    for tau in np.linspace(0, 2, 21):
        right = np.argmax(features @ (kernel / np.linalg.norm(kernel, axis=0) ** tau), axis=1) == held.labels
        balanced.append(np.mean([right[held.labels == label].mean() for label in range(10)]))
    best = int(np.argmax(balanced))
    (row, *_) = read_rows(tmp_path / "metrics.jsonl")
    assert row["stage/tau"] == pytest.approx(np.linspace(0, 2, 21)[best])
    assert after.metrics["validation/last/balanced_accuracy"] == pytest.approx(balanced[best])
    assert not head["bias"].any()
    expected = kernel / np.linalg.norm(kernel, axis=0) ** row["stage/tau"]
    np.testing.assert_allclose(head["kernel"], expected, rtol=1e-6)
    figures = evaluate(tmp_path)
    assert figures == {key: after.metrics[f"test/last/{key}"] for key in figures}
    (tmp_path / "results.json").unlink()
    again = second(source, tmp_path, "tau")
    assert again.metrics == after.metrics
    assert bits(again.state.params) == bits(after.state.params)
    assert second(source, tmp_path, "tau").metrics == after.metrics
    assert report([tmp_path], tmp_path).exists()


def test_a_signal_stops_a_stage_that_trains_nothing_at_once(first, tmp_path):
    _, source = first
    config = configs.second_stage(configs.from_json((source / "config.json").read_text()), "tau", str(source), [])
    told = []

    def interrupting(line):
        told.append(line)
        if line.startswith("tau "):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            cbjax.train(config, tmp_path, shared=Shared(tell=interrupting))
    finally:
        signal.signal(signal.SIGINT, before)
    assert told[-1].startswith("tau ") and not (tmp_path / "results.json").exists()
    cbjax.train(config, tmp_path)
    assert (tmp_path / "results.json").exists()


def test_tau_has_its_limits():
    kernel = jnp.array([[3.0, 0.0, 1.0], [4.0, 0.0, 1.0]])
    params = {"body": jnp.ones(3), "head": {"kernel": kernel, "bias": jnp.ones(3)}}
    head = {"body": False, "head": {"kernel": True, "bias": True}}
    for tau, expected in ((0.0, kernel), (1.0, [[0.6, 0, 0.5**0.5], [0.8, 0, 0.5**0.5]]), (2.0, None)):
        made = two_stages.tau_normalized(params, head, tau)
        assert made["body"] is params["body"] and not made["head"]["bias"].any()
        if expected is not None:
            np.testing.assert_allclose(made["head"]["kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(made["head"]["kernel"][:, 0], [3 / 25, 4 / 25], rtol=1e-6)
    with pytest.raises(ValueError, match=r"must be one linear layer, .* its arrays are \[\(3,\), \(3,\)"):
        two_stages.tau_normalized(
            {**params, "body": jnp.ones(3)}, {**head, "body": True, "head": {"kernel": False, "bias": True}}, 1.0
        )


@pytest.mark.parametrize(("name", "what"), [("crt", "trains the head alone"), ("tau", "normalises the head")])
def test_a_network_without_a_head_is_refused_before_anything_is_made(name, what):
    config = configs.load("digits_lt", [f"{OWN}linear"])
    config.stage.name = name
    model = components.build_model(config, 10)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ConfigError, match=f"stage.name={name} {what}"):
        second_stage.trained(config, model, params, batch_stats, (8, 8, 1))


def test_another_network_or_other_classes_are_refused(first, tmp_path):
    _, source = first
    with pytest.raises(ConfigError, match="the run must have the same classes in the same order"):
        second(source, tmp_path / "few", "crt", "data.classes=0,1,2")
    with pytest.raises(
        ConfigError, match=r"has another network: blocks_0/Dense_0/bias missing there, \[32\] here; .* more"
    ):
        second(source, tmp_path / "vit", "lws", f"{OWN}vit", "model.initialization=glorot")


def test_the_command_fills_in_the_keys_of_the_method(first, tmp_path, capsys):
    _, source = first
    options = ["--config.optim.learning_rate=0.05", "--config.num_epochs=1"]
    assert main(["stage2", f"--from={source}", "--method=lws", f"--workdir={tmp_path}", *options]) == 0
    printed = capsys.readouterr().out
    assert "data.sampler='class_aware'" in printed and "optim.learning_rate=0.05" in printed
    assert f"begins with 8 arrays of step 16 of {source}" in printed
    kept = configs.from_json((tmp_path / "config.json").read_text())
    assert (kept.stage.name, kept.stage.source, kept.num_epochs) == ("lws", str(source), 1)
    assert len(kept.stage.checksum) == 64
    assert kept.optim.weight_decay == 5e-4
    plain = configs.from_json((source / "config.json").read_text())
    assert configs.second_stage(plain, "lws", str(source)).num_epochs == 5
    assert configs.fingerprint(configs.change(kept, ["num_epochs=2"])) != configs.fingerprint(plain)
