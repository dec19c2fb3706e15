import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np

from cbjax import config as configs
from cbjax import losses, models
from cbjax.cli.arguments import parse

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_losses_alone_train_as_shown():
    code = re.search(r"```python\n(import jax, .*?)```", README, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    before = names["loss"](jnp.zeros_like(names["params"]))
    assert names["loss"](names["params"]) < before
    assert len([line for line in code.splitlines() if line.strip()]) == 10


def test_a_network_of_ones_own_is_built_as_shown(tmp_path):
    write_network(tmp_path)
    model = models.build(f"{tmp_path}/nets.py:wide", 10, width=128)
    params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(64, 128), (128,), (128, 10), (10,)}


def test_a_loss_of_ones_own_is_what_it_says():
    names: dict = {}
    exec(re.search(r"A loss is a function, too.*?```python\n(.*?)```", README, re.DOTALL)[1], names)
    logits, labels = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), jnp.array([0, 2])
    weights = jnp.array([1.0, 1.0, 3.0])
    expected = losses.softmax_cross_entropy(logits, labels, weights, label_smoothing=0.2)
    np.testing.assert_allclose(names["smooth"](logits, labels, weights, share=0.2), expected, rtol=1e-6)


def write_network(folder):
    (folder / "nets.py").write_text(re.search(r"## Your own network, .*?```python\n(.*?)```", README, re.DOTALL)[1])


def test_the_map_names_what_is_there():
    root = pathlib.Path(__file__).parent.parent
    for row in re.search(r"## Map\n(.*?)\n\n", README + "\n\n", re.DOTALL)[0].splitlines():
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row.split("|")[1] if "|" in row else ""):
            assert (root / name).exists() or (root / "cbjax" / name).exists(), name


def test_the_commands_work_when_pasted_in_order(tmp_path, monkeypatch):
    write_network(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = set()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("cbjax "):
                continue
            options, overrides = parse(shlex.split(line, comments=True)[1:])
            if options.name == "train":
                configs.load(options.config, overrides)
                assert options.workdir not in made, f"{line}: another run is there"
                made.add(options.workdir)
            if options.name == "sweep" and options.workdir is not None:
                made.add(options.workdir)
            used = {"eval": ["workdir"], "predict": ["workdir"], "report": ["directories"]}.get(options.name, [])
            for name in used:
                value = getattr(options, name)
                assert made.issuperset(value if isinstance(value, list) else [value]), f"{line}: no command makes it"
    assert len(made) > 5
