"""The README's ten lines, and what its pages on one's own network and loss say of their examples."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import losses, models

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NETWORK = (ROOT / "docs" / "howto" / "own_network.md").read_text()
LOSS = (ROOT / "docs" / "howto" / "own_loss.md").read_text()


def test_the_losses_alone_train_as_shown():
    code = re.search(r"```python\n(import jax, .*?)```", README, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    before = names["loss"](jnp.zeros_like(names["params"]))
    assert names["loss"](names["params"]) < before
    assert len([line for line in code.splitlines() if line.strip()]) == 10


@pytest.mark.parametrize("page", [README, NETWORK], ids=["README", "own_network"])
def test_a_network_of_ones_own_is_built_as_shown(tmp_path, page):
    (tmp_path / "nets.py").write_text(re.search(r"```python\n(from flax import .*?)```", page, re.DOTALL)[1])
    model = models.build(f"{tmp_path}/nets.py:wide", 10, width=128)
    params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(64, 128), (128,), (128, 10), (10,)}


def test_a_loss_of_ones_own_is_what_it_says():
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", LOSS, re.DOTALL)[1], names)
    logits, labels = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), jnp.array([0, 2])
    weights = jnp.array([1.0, 1.0, 3.0])
    expected = losses.softmax_cross_entropy(logits, labels, weights, label_smoothing=0.2)
    np.testing.assert_allclose(names["smooth"](logits, labels, weights, share=0.2), expected, rtol=1e-6)
