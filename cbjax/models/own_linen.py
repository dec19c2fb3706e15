"""Turns a user's Linen module, (images) or (images, train) -> logits, into a record of pure functions."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from cbjax.host.code import CodeError
from cbjax.types import Model

KEPT = ("params", "batch_stats")


def model(module: nn.Module, name: str) -> Model:
    """Makes the record of a module.

    Args:
      module: takes images [B, H, W, channels], and `train` if it behaves differently in training.
      name: of the user's function, for messages.

    Raises:
      CodeError: if the module takes other arguments.
    """
    takes_train = _takes_train(type(module).__call__, "__call__")
    methods = [getattr(type(module), method, None) for method in ("features", "head")]

    def run(params, batch_stats, inputs, train, key, method=None, takes_train=takes_train):
        variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
        rngs = {} if key is None else {"dropout": key}
        given = {"train": train} if takes_train else {}
        mutable = ["batch_stats"] if train and batch_stats else []
        try:
            outputs, updates = module.apply(variables, inputs, **given, rngs=rngs, mutable=mutable, method=method)
        except errors.InvalidRngError as error:
            raise CodeError(_about_key(train, key, error)) from error
        return outputs, updates.get("batch_stats", batch_stats)

    def init(key, images):
        # lazy_init draws the parameters without running the network.
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        given: dict[str, Any] = {"train": False} if takes_train else {}
        made = nn.meta.unbox(module.lazy_init(key, shape, **given))
        others = [collection for collection in made if collection not in KEPT]
        if others:
            raise CodeError(
                f"{name}: training can keep only params and batch_stats of a module; this one also has "
                f"{', '.join(others)}"
            )
        return made.get("params", {}), made.get("batch_stats", {})

    def apply(params, batch_stats, images, train, key=None):
        return run(params, batch_stats, images, train, key)

    def features(params, batch_stats, images, train, key=None):
        takes_train = _takes_train(methods[0], "features")
        return run(params, batch_stats, images, train, key, method="features", takes_train=takes_train)

    def head(params, outputs):
        return run(params, {}, outputs, False, None, method="head", takes_train=False)[0]

    nothing: Any = None
    return Model(init, features, head, apply) if all(methods) else Model(init, nothing, nothing, apply)


def _takes_train(method: Any, called: str) -> bool:
    parameters = list(inspect.signature(method).parameters.values())[1:]  # without self
    needed = [
        one.name
        for one in parameters[1:]
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name != "train"
    ]
    if not parameters or needed:
        got = ", ".join(one.name for one in parameters)
        raise CodeError(f"{called} of the module must take (images) or (images, train); it takes ({got})")
    return any(one.name == "train" for one in parameters)


def _about_key(train: bool, key: Any, error: Exception) -> str:
    said = str(error).splitlines()[0]
    if not train:
        return (
            f"the network asks for a random key in evaluation, which must be deterministic: let __call__ take train, "
            f"and Dropout deterministic=not train ({said})"
        )
    if key is None:
        return f"the network needs a random key in training: apply(…, key=…) ({said})"
    return f"in training there is one random key, called dropout ({said})"
