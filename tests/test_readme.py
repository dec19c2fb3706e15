import pathlib
import re

import jax.numpy as jnp

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_losses_alone_train_as_shown():
    code = re.search(r"```python\n(import jax, .*?)```", README, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    before = names["loss"](jnp.zeros_like(names["params"]))
    assert names["loss"](names["params"]) < before
    assert len([line for line in code.splitlines() if line.strip()]) == 10


def test_the_map_names_what_is_there():
    root = pathlib.Path(__file__).parent.parent
    for row in re.search(r"## Map\n(.*?)\n\n", README + "\n\n", re.DOTALL)[0].splitlines():
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row.split("|")[1] if "|" in row else ""):
            assert (root / name).exists() or (root / "cbjax" / name).exists(), name
