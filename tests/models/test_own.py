"""Users' own networks: what their functions may return, and what is said of a mistake before anything is compiled."""

import importlib
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import models
from cbjax.host import code

NETS = pathlib.Path(__file__).parents[1] / "own_nets.py"
IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)


def build(name, **options):
    return models.build(f"{NETS}:{name}", 10, **options)


def started(name, **options):
    """Returns a network with compiled functions, its first parameters and statistics, and three images."""
    model = build(name, **options)
    apply = jax.jit(model.apply, static_argnames="train")
    params, batch_stats = jax.jit(lambda key: model.init(key, IMAGES))(jax.random.key(0))
    images = np.asarray(draw((3, 8, 8, 1), seed=1), np.float32)
    return model._replace(apply=apply), params, batch_stats, images


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("name", ["vit", "wide", "normalised", "perceptron", "linear"])
def test_a_network_trains_and_answers_whatever_kind_of_module_it_is(name):
    model, params, batch_stats, images = started(name)
    key = jax.random.key(2)

    def loss(params):
        logits, after = model.apply(params, batch_stats, images, train=True, key=key)
        return jnp.mean(logits**2), after

    (_, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert jax.tree.structure(after) == jax.tree.structure(batch_stats)
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (after, batch_stats)), strict=True))
    logits, same = model.apply(params, batch_stats, images, train=False)
    assert logits.shape == (3, 10)
    again, _ = model.apply(params, batch_stats, images[:1], train=False)
    np.testing.assert_allclose(again, logits[:1], rtol=1e-5, atol=1e-6)
    assert all(np.all(a == b) for a, b in zip(*map(jax.tree.leaves, (same, batch_stats)), strict=True))


@pytest.mark.parametrize("name", ["vit", "perceptron"])
def test_dropout_follows_the_key_and_rests_in_evaluation(name):
    model, params, batch_stats, images = started(name, **({"dropout": 0.5} if name == "vit" else {}))
    first, second, same = (
        model.apply(params, batch_stats, images, train=True, key=jax.random.key(seed))[0] for seed in (1, 2, 1)
    )
    assert np.any(first != second) and np.all(first == same)
    evaluated = [model.apply(params, batch_stats, images, train=False, key=key)[0] for key in (None, jax.random.key(3))]
    assert np.all(evaluated[0] == evaluated[1])
    with pytest.raises(ValueError, match=r"needs a random key in training: apply\(…, key=…\)"):
        model.apply(params, batch_stats, images, train=True)


def test_a_model_record_and_an_nnx_module_are_what_numpy_says():
    model, params, _, images = started("linear", scale=0.3)
    flat = np.asarray(images, np.float64).reshape(3, -1)
    expected = flat @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"])
    np.testing.assert_allclose(model.apply(params, {}, images, train=False)[0], expected, rtol=1e-5, atol=1e-5)

    model, params, stats, images = started("perceptron", width=5)
    params, stats = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf + draw(leaf.shape) / 5), one) for one in (params, stats)
    )
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), {**params, "stats": stats["norm"]})
    hidden = flat
    for number in ("0", "1"):  # modules of a list
        layer = given["layers"][number]
        hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
    scale = given["norm"]["scale"] / np.sqrt(np.abs(given["stats"]["var"]) + 1e-5)
    hidden = (hidden - given["stats"]["mean"]) * scale + given["norm"]["bias"]
    expected = hidden @ given["head"]["kernel"] + given["head"]["bias"]
    stats = {"norm": {**stats["norm"], "var": jnp.abs(stats["norm"]["var"])}}
    np.testing.assert_allclose(model.apply(params, stats, images, train=False)[0], expected, rtol=1e-4, atol=1e-5)


def test_options_and_the_seed_reach_the_network():
    for name in ("wide", "perceptron"):
        model = build(name, width=7)
        init = jax.jit(lambda key, model=model: model.init(key, IMAGES)[0])
        first, second = (init(jax.random.key(seed)) for seed in (0, 1))
        shapes = {leaf.shape for leaf in jax.tree.leaves(first)}
        assert (64, 7) in shapes and (7, 10) in shapes
        kernels = [[leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2] for params in (first, second)]
        assert all(np.any(a != b) for a, b in zip(*kernels, strict=True))


def test_methods_of_a_module_give_features_and_a_network_without_them_says_so():
    model, params, batch_stats, images = started("vit")
    features, _ = model.features(params, batch_stats, images, train=False)
    assert features.shape == (3, 16)
    logits = model.apply(params, batch_stats, images, train=False)[0]
    np.testing.assert_allclose(model.head(params, features), logits, rtol=1e-5, atol=1e-6)
    model, params, batch_stats, images = started("wide")
    with pytest.raises(ValueError, match=r"own_nets\.py:wide gives only logits, but this needs the features"):
        model.features(params, batch_stats, images, train=False)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wid", {}, r"own_nets\.py has no function wid\(\); did you mean wide\?"),
        ("wide", {"widht": 3}, r"own_nets\.py:wide has no option widht; its options: width; did you mean width\?"),
        ("needs_depth", {}, r"needs a value for depth; its options: depth"),
        ("without_rngs", {}, r"returns an NNX module, so it must take rngs .* without_rngs\(num_classes, \*, rngs\)"),
        ("nothing", {}, r"must return a flax\.linen\.Module, .*; got NoneType"),
        ("vit", {"heads": 3}, r"own_nets\.py, line 20: AssertionError: .*16.*divisible by number of heads \(3\)"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("remembering", "can keep only params and batch_stats of a module; this one also has memory"),
        ("random", "asks for a random key in evaluation, which must be deterministic: let __call__ take train"),
        ("few_logits", r"must return logits \[B, 10\], floating point; got float32 \[3, 9\] for 3 images"),
        ("pairs", r"must return logits \[B, 10\], floating point; got float32 \[2, 15\] for 3 images"),
        ("without_parameters", "has no parameters to train"),
        ("failing", r"own_nets\.py, line \d+: TypeError: .*"),
    ],
)
def test_a_network_that_breaks_a_rule_is_refused_by_its_shapes_alone(name, message):
    model = build(name)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def net(num_classes:\n    pass\n", r"nets\.py, line 1: "),
        ("\nimport nonexistent\n", r"nets\.py, line 2: ModuleNotFoundError: No module named 'nonexistent'"),
        (
            "import beside\n",
            r"nets\.py, line 1: ModuleNotFoundError: .*; a file is run and kept by itself",
        ),
        (
            "from . import beside\n",
            r"nets\.py, line 1: ImportError: .*; a file is run and kept by itself",
        ),
        ("def net(num_classes):\n    return widht\n", r"nets\.py, line 2: NameError: name 'widht' is not defined"),
        ("def net():\n    pass\n", r"nets\.py:net must take \(num_classes\) before its options; it takes \(\)"),
    ],
)
def test_a_typo_is_told_with_its_file_and_line(tmp_path, text, message):
    (tmp_path / "nets.py").write_text(text)
    (tmp_path / "beside.py").touch()
    with pytest.raises(ValueError, match=re.escape(str(tmp_path)) + "/" + message):
        models.build(f"{tmp_path}/nets.py:net", 10)
    assert not [*tmp_path.glob("__pycache__")]


def test_a_file_that_changed_is_run_again_and_an_installed_module_is_found(tmp_path, monkeypatch):
    source = "from __future__ import annotations\n" + NETS.read_text()
    path = tmp_path / "pack" / "nets.py"
    path.parent.mkdir()
    path.write_text(source)
    (path.parent / "__init__.py").touch()
    monkeypatch.chdir(path.parent)
    assert "width" in models.options_of("nets.py:wide")
    path.write_text(source.replace("width=16):\n    flat", "broad=16):\n    flat"))
    assert "broad" in models.options_of("nets.py:wide")
    monkeypatch.syspath_prepend(tmp_path)
    assert models.build("pack.nets:vit", 3, depth=1).init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match=r"no module pack\.net with a \.py file is installed; a file is named pack"):
        models.build("pack.net:vit", 3)
    with pytest.raises(ValueError, match=r"unknown model 'lenet'; known are digits_cnn, .*, and FILE\.py:function"):
        models.build("lenet", 3)


def test_an_installed_module_that_changed_after_its_import_is_refused_until_it_is_loaded_again(tmp_path, monkeypatch):
    text = "def shifted_loss(logits, labels, class_weights):\n    return 0 * logits[:, 0] + {}\n"
    path = tmp_path / "shifted_losses.py"
    path.write_text(text.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    name = "shifted_losses:shifted_loss"

    def value():
        return code.load(name, code.sha256(name))(np.zeros((1, 3)), None, None)

    assert value() == value() == 1
    path.write_text(text.format(22))
    for _ in range(2):
        with pytest.raises(code.CodeError, match=r"shifted_losses\.py changed after shifted_losses was imported.*rest"):
            value()
    path.write_text(text.format(1))
    assert value() == 1
    path.write_text(text.format(22))
    importlib.reload(sys.modules["shifted_losses"])
    assert value() == 22
    monkeypatch.delitem(sys.modules, "shifted_losses")
