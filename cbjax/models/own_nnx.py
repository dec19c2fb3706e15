"""Turns a user's function that makes an NNX module into a record of pure functions."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cbjax.host.code import CodeError
from cbjax.types import Model


def model(make: Callable[..., nnx.Module], name: str) -> Model:
    """Makes the record of an NNX module. Its structure is found without any arithmetic.

    Args:
      make: (rngs) -> module. The module takes images [B, H, W, channels], and may take `train`. NNX's `train()` and
        `eval()` are called too, for Dropout and BatchNorm.
      name: of the user's function, for messages.

    Raises:
      CodeError: if it makes no NNX module, or one that keeps more than parameters, BatchNorm's statistics and keys.
    """
    shapes = nnx.eval_shape(lambda: _made(make, nnx.Rngs(0), name))
    structure, *kinds = nnx.split(shapes, nnx.Param, nnx.BatchStat, nnx.RngState, ...)
    params_like, stats_like, keys_like, others = kinds
    if found := nnx.to_flat_state(others):
        names = ", ".join(sorted({type(variable).__name__ for _, variable in found}))
        raise CodeError(f"{name}: training can keep only Param and BatchStat of a module; this one also has {names}")
    takes_train = "train" in inspect.signature(type(shapes).__call__).parameters

    def init(key, images):
        module = _made(make, nnx.Rngs(key), name)
        return _to_dict(nnx.state(module, nnx.Param)), _to_dict(nnx.state(module, nnx.BatchStat))

    def apply(params, batch_stats, images, train, key=None):
        if train and key is None and nnx.to_flat_state(keys_like):
            raise CodeError("the network needs a random key in training: apply(…, key=…)")
        keys = _keys(keys_like, jax.random.key(0) if key is None else key)
        module = nnx.merge(structure, _to_state(params_like, params), _to_state(stats_like, batch_stats), keys)
        module.train() if train else module.eval()
        logits = module(images, **({"train": train} if takes_train else {}))
        return logits, _to_dict(nnx.state(module, nnx.BatchStat))

    nothing: Any = None
    return Model(init, nothing, nothing, apply)


def _made(make, rngs, name):
    module = make(rngs=rngs)
    if not isinstance(module, nnx.Module):
        raise CodeError(f"{name} takes rngs, so it must return a flax.nnx.Module; got {type(module).__name__}")
    return module


def _to_dict(state: Any) -> dict[str, Any]:
    """Returns nested dicts of arrays. The number of a module in a list becomes text, as in checkpoints."""
    tree: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        node = tree
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = variable.get_value()
    return tree


def _to_state(like: Any, tree: Any) -> Any:
    filled = []
    for path, variable in nnx.to_flat_state(like):
        value = tree
        for part in path:
            value = value[str(part)]
        filled.append((path, variable.replace(value)))
    return nnx.from_flat_state(filled)


def _keys(like: Any, key: Any) -> Any:
    """Sets each random stream of a module to its start, with a key of its own."""
    filled = []
    for number, (path, variable) in enumerate(nnx.to_flat_state(like)):
        new = jax.random.fold_in(key, number) if isinstance(variable, nnx.RngKey) else jnp.uint32(0)
        filled.append((path, variable.replace(new)))
    return nnx.from_flat_state(filled)
