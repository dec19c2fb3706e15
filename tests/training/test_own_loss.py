"""A user's own loss in whole runs: what it gives, what follows from it, and what is said of a mistake."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.host.writers import read_rows
from cbjax.sweeps import file as sweep_file
from cbjax.sweeps.sweep import sweep
from cbjax.training import components, restore
from cbjax.types import NonFiniteLoss
from cbjax.workdir.memory import timeless

LOSSES = pathlib.Path(__file__).parents[1] / "own_losses.py"
QUICK = ("model.name=linear", "num_epochs=2", "data.validation=10", "data.test=20", "devices=1")
QUICK += ("log.tensorboard=false", "log.report=false")


def digits(loss, *overrides):
    return configs.load("digits_lt", [*QUICK, f"loss.name={loss}", *overrides])


def own(name, *overrides):
    return digits(f"{LOSSES}:{name}", *overrides)


@pytest.mark.parametrize(
    ("name", "known"), [("plain", "softmax"), pytest.param("yes_or_no", "sigmoid", marks=pytest.mark.slow)]
)
def test_a_loss_that_is_one_of_ours_trains_as_ours_does(tmp_path, name, known):
    overrides = ["weights.name=inverse_frequency"]
    runs = {
        one: cbjax.train(config, tmp_path / one)
        for one, config in (("own", own(name, *overrides)), ("known", digits(known, *overrides)))
    }
    for row, expected in zip(*(read_rows(tmp_path / one / "metrics.jsonl") for one in runs), strict=True):
        for key, value in timeless(expected).items():
            np.testing.assert_allclose(row[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    for found, expected in zip(*(jax.tree.leaves(run.state.params) for run in runs.values()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert (tmp_path / "own" / "own" / "own_losses.py").read_bytes() == LOSSES.read_bytes()


def test_options_reach_the_loss_and_the_copy_is_run_only_when_trusted(tmp_path, capsys):
    logits, labels = np.array([[2.0, 1.5, 0.0], [0.0, 3.0, 1.0]], np.float32), np.array([0, 2])
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    for margin in (1.0, 3.0):
        loss = components.build_loss(own("hinge", f"loss.options.margin={margin}"))
        others = np.maximum(margin + logits - logits[[0, 1], labels][:, None], 0)
        others[[0, 1], labels] = 0
        np.testing.assert_allclose(loss(logits, labels, None, ()), others.sum(axis=1), rtol=1e-6)
        np.testing.assert_allclose(loss(logits, labels, weights, ()), weights[labels] * others.sum(axis=1), rtol=1e-6)

    run = cbjax.train(own("hinge", "loss.options.margin=3"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"loss\.name=.*hinge: .* its copy of that file, .*own/own_losses\.py, would"):
        cbjax.load(tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "predictions.csv"
    for command in (["eval"], ["predict", str(tmp_path / "images.npy"), f"--out={out}"]):
        command += [f"--workdir={tmp_path / 'run'}"]
        assert main(command) == 2 and "--trust-code" in capsys.readouterr().err
        assert main([*command, "--trust-code"]) == 0
        if command[0] == "eval":
            assert f"test/loss {run.metrics['test/last/loss']:.6g}\n" in capsys.readouterr().out
    chosen = [line.split(",")[1] for line in out.read_text().splitlines()[1:]]
    assert chosen == [str(label) for label in run.predict(images).argmax(axis=1)]
    assert restore.evaluate(tmp_path / "run", trust_code=True)["loss"] == run.metrics["test/last/loss"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss"]["options"] == [["margin", 3]]
    with pytest.raises(ConfigError, match=r"loss\.options: \(\('margin', 3\),\) there, \(\('margin', 2\),\) here"):
        cbjax.train(own("hinge", "loss.options.margin=2"), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("reduced", [], r"reduced must return \[B\], one loss for each example, not reduced; got shape \(\)"),
        ("typo", [], r"own_losses\.py, line \d+: NameError: name 'clas_weights' is not defined"),
        ("plane", [], r"own_losses\.py has no function plane\(\); did you mean plain\?"),
        (
            "needs_weights",
            [],
            r"own_losses\.py, line \d+: TypeError: 'NoneType' .*; evaluations give class_weights=None",
        ),
        ("looping", [], r"own_losses\.py.*: ValueError: Reverse-mode differentiation does not work for"),
        ("counted", [], r"counted must return floating-point losses; got int32"),
        (
            "two_arguments",
            [],
            r"two_arguments must take \(logits, labels, class_weights\) before its options; it takes",
        ),
        ("hinge", ["loss.options.margn=2"], r"hinge has no option margn; its options: margin; did you mean margin\?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(tmp_path, name, overrides, message):
    with pytest.raises(ConfigError, match=r"loss\.name: .*" + message):
        cbjax.train(own(name, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


RECORD = r"Record must return \[B\], one loss for each example, not reduced; got Record for 2 examples"
TRACED = "JAX traces this code without values: choose with jnp.where, not with if; use jnp functions, not NumPy's"
MISTAKES = {
    "kind": r"kind must be a function written with def: .*",
    "builtin": r"builtin must be a function written with def: .*",
    "signed": r"signed must be a function written with def: .*",
    "shy": r".*own_losses\.py, line \d+: RuntimeError: ask me later",
    "raising": r".*own_losses\.py, line \d+: KeyError: 'module attribute'",
    "Record": RECORD,
    "one_by_one": r"one_by_one must return \[B\], .*; got generator for 2 examples",
    "awaited": r"awaited must return \[B\], .*; got coroutine for 2 examples",
    "only_pairs": r"only_pairs must return \[B\], .*; got shape \(2,\) for 3 examples",
    "branching": rf".*own_losses\.py, line \d+: TracerBoolConversionError: {TRACED}",
    "numpy_like": rf".*own_losses\.py, line \d+: ConcretizationTypeError: {TRACED}",
    "lengthy": r".*own_losses\.py, line \d+: ValueError: the first line",
    "without_text": r".*own_losses\.py, line \d+: SilentError: \(it cannot be shown as text\)",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_sweep_is_one_line_with_the_name_of_the_run_before_the_first(tmp_path, name):
    (tmp_path / "sweep.py").write_text(
        "from cbjax.variants import Sweep, values\n\n\ndef get_sweep():\n"
        f"    names = [f'{LOSSES}:{{name}}' for name in ('plain', '{name}')]\n"
        "    return Sweep('digits_lt', values('loss', 'loss.name', names))\n"
    )
    described, runs = sweep_file.load(tmp_path / "sweep.py", QUICK)
    with pytest.raises(ConfigError) as raised:
        sweep("own", described, runs, tmp_path / "sweep", mode="loop")
    message = str(raised.value)
    assert re.fullmatch(rf"run .*{name}: loss\.name: (.*own_losses\.py:)?{MISTAKES[name]}", message), message
    assert not (tmp_path / "sweep").exists()


def test_a_loss_that_is_not_a_number_ends_as_any_other_does(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"step 1: loss nan, .*; no checkpoint was saved before it") as raised:
        cbjax.train(own("not_a_number"), tmp_path / "run")
    assert f"; the loss {LOSSES}:not_a_number gave it: look there for" in str(raised.value)
    assert "learning_rate" not in str(raised.value)


def test_a_loss_whose_gradient_is_not_a_number_is_named(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"step 1: loss 0\.0, .*; the loss is finite, and its gradient is nan; the l"
    ):
        cbjax.train(own("root"), tmp_path / "run")


META = ("meta.name=l2rw", "data.meta=4", "meta.batch_size=16")


def test_l2rw_takes_a_loss_of_ones_own_as_it_takes_ours(tmp_path):
    runs = [
        cbjax.train(config, tmp_path / str(place))
        for place, config in enumerate((own("plain", *META), digits("softmax", *META)))
    ]
    for found, expected in zip(*(jax.tree.leaves(run.state.params) for run in runs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["l2rw", "mw_net"])
def test_meta_images_need_forward_derivatives_of_a_loss_of_ones_own(tmp_path, method):
    with pytest.raises(ConfigError, match=r"loss\.name: .*backward_only needs forward-mode derivatives when"):
        cbjax.train(own("backward_only", *META, f"meta.name={method}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "own_losses.py").write_text("def net(num_classes):\n    pass\n")
    with pytest.raises(ConfigError, match="two different files of your own must have different names; got model"):
        own("plain", f"model.name={tmp_path}/own_losses.py:net")
