"""What a run depends on besides its config: said when it changes, and JAX's 64 bits change nothing."""

import json

import jax
import jax.numpy as jnp

import cbjax
from cbjax.host import checked_json
from cbjax.workdir import environment, files


def test_64_bits_of_jax_change_nothing(tmp_path):
    config = cbjax.config.load(
        "digits_lt",
        [
            "model.name=linear",
            "num_epochs=1",
            "log.progress=off",
            "log.tensorboard=false",
            "log.report=false",
            "devices=1",
        ],
    )
    plain = cbjax.train(config, tmp_path / "plain")
    with jax.enable_x64(True):
        wide = cbjax.train(config, tmp_path / "wide")
        probabilities = wide.predict(jnp.zeros((2, 28, 28, 1), jnp.uint8) + 7)
        assert jnp.arange(3.0).dtype == jnp.float64, "the caller's own setting stays"
    assert probabilities.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.state.params)} == {jnp.dtype("float32")}
    ours, theirs = (
        {key: value for key, value in run.metrics.items() if not key.startswith("time/")} for run in (wide, plain)
    )
    assert ours == theirs


def test_a_damaged_note_of_the_environment_is_said(tmp_path):
    path = tmp_path / "environment.json"
    checked_json.write(path, environment.describe())
    assert files.check_environment(tmp_path, "1 x cpu") == []
    path.write_text(path.read_text().replace('"cores": ', '"cores": 7'))
    (said,) = files.check_environment(tmp_path, "1 x cpu")
    assert str(path) in said and "is damaged" in said


def test_another_environment_is_said_once_and_kept(tmp_path, capsys):
    args = ["num_epochs=1", "log.progress=off", "log.tensorboard=false", "log.report=false", "devices=1"]
    cbjax.train(cbjax.config.load("digits_lt", args), tmp_path)
    path = tmp_path / "environment.json"
    first = json.loads(path.read_text())
    assert first["earlier"] == [] and first["cores"] >= 1 and first["pillow"]
    checked_json.write(path, {**first, "cores": 777, "pillow": "1.0"})
    capsys.readouterr()
    cbjax.train(cbjax.config.load("digits_lt", [*args, "num_epochs=2"]), tmp_path, extend=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "environment differs" in line]
    assert len(said) == 1
    assert f"cores: 777 there, {first['cores']} here" in said[0]
    assert f"pillow: 1.0 there, {first['pillow']} here" in said[0]
    kept = json.loads(path.read_text())
    assert kept["cores"] == first["cores"]
    assert [one["cores"] for one in kept["earlier"]] == [777]


def test_facts_that_were_not_noted_make_no_difference():
    assert environment.note({"jax": "1"}, {"jax": "1", "cores": 2}) == []
    assert environment.note({}, environment.describe()) == []
