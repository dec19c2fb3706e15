"""A user's own network: turns what their function returns into a `Model`, and finds mistakes before it is compiled.

The function takes (num_classes, **options) and returns a Linen module, a `Model`, or, if it also takes `rngs`, an NNX
module.
"""

import functools
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cbjax.host import code
from cbjax.models import own_linen
from cbjax.types import Array, Model

IMAGES = {False: 3, True: 2}  # in the batches of shapes that a network is tried with, in training and not


def options_of(name: str, expected: str | None = None) -> dict[str, Any]:
    """Returns option -> default of the function called `name`; `inspect.Parameter.empty` for no default.

    Args:
      name: "FILE.py:function" or "package.module:function".
      expected: SHA-256 of its file; None for any.
    """
    known = code.options_of(name, code.load(name, expected))
    return {option: value for option, value in known.items() if option != "rngs"}


def build(name: str, num_classes: int, options: Mapping[str, Any], expected: str | None = None) -> Model:
    """Runs the file of a user's function, calls it, and returns the network.

    Args:
      name: "FILE.py:function" or "package.module:function".
      num_classes: C.
      options: keyword arguments of the function.
      expected: SHA-256 of its file; None for any.

    Returns:
      The model. Its `init` raises a ValueError if the network does not fit the images or breaks a rule.

    Raises:
      ValueError: if the file or the function is wrong, has no such option, or returns something else.
    """
    function = code.load(name, expected)
    code.check_arguments(name, function, ("num_classes",), options)
    path = code.find(name).path
    make = functools.partial(function, num_classes, **options)
    with code.reported(path):
        if "rngs" in [one.name for one in code.parameters_of(name, function)]:
            from cbjax.models import own_nnx  # only where it is needed: its import takes a while

            made: Any = own_nnx.model(make, name)
        else:
            made = make()
        if isinstance(made, nn.Module):
            made = own_linen.model(made, name)
        if not isinstance(made, Model):
            raise code.CodeError(_about_type(made, name))
        complete = _complete(made, name)
    return _checked(complete, num_classes, path)


def _about_type(made, name):
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(made, nnx.Module):
        return (
            f"{name} returns an NNX module, so it must take rngs and hand it to the module, {name.rpartition(':')[2]}"
            "(num_classes, *, rngs): the run's seed decides its first parameters"
        )
    return (
        f"{name} must return a flax.linen.Module, a flax.nnx.Module or a cbjax.types.Model; got {type(made).__name__}"
    )


def _complete(model: Model, name: str) -> Model:
    """Adds what a user's record may leave out: features, head, and the key of `apply`."""

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise code.CodeError(
            f"{name} gives only logits, but this needs the features before its last layer: a Linen module can "
            "have methods features(images, train) and head(features), a Model functions of these names"
        )

    apply, features, head = model.apply, model.features, model.head
    if "key" not in inspect.signature(apply).parameters:

        def apply(params, batch_stats, images, train, key=None):
            return model.apply(params, batch_stats, images, train)

    return Model(model.init, refuse if features is None else features, refuse if head is None else head, apply)


def _checked(model: Model, num_classes: int, path: Path) -> Model:
    """Returns the model with an `init` that tries it by shapes alone first. Its errors name the user's file."""

    def told(function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            with code.reported(path):
                return function(*args, **kwargs)

        return run

    def init(key: Array, images: Array) -> tuple[Any, Any]:
        with code.reported(path):
            made = model.init(key, jnp.zeros(images.shape, jnp.float32))  # a record may read more than the shape
            if not isinstance(made, tuple) or len(made) != 2:
                raise code.CodeError(f"init must return (params, batch_stats); got {type(made).__name__}")
            params, batch_stats = made
            if not jax.tree.leaves(params):
                raise code.CodeError("the network has no parameters to train")
            for train, count in IMAGES.items():

                def tried(params, batch_stats, images, train=train):
                    made = model.apply(params, batch_stats, images, train=train, key=key if train else None)
                    _check_outputs(made, batch_stats, num_classes, len(images))

                few = jax.ShapeDtypeStruct((count, *images.shape[1:]), jnp.float32)
                jax.eval_shape(tried, params, batch_stats, few)
            return params, batch_stats

    return Model(init, told(model.features), told(model.head), told(model.apply))


def _check_outputs(made, batch_stats, num_classes, count):
    """Checks while JAX traces: it could not say in our words that an output is no array."""
    if not isinstance(made, tuple) or len(made) != 2:
        raise code.CodeError(f"apply must return (logits, batch_stats); got {type(made).__name__}")
    logits, after = made
    is_array = isinstance(logits, (jax.Array, np.ndarray))
    if not is_array or logits.shape != (count, num_classes) or not jnp.issubdtype(logits.dtype, jnp.floating):
        got = f"{logits.dtype} {list(logits.shape)} for {count} images" if is_array else type(logits).__name__
        raise code.CodeError(f"the network must return logits [B, {num_classes}], floating point; got {got}")
    shapes = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), one) for one in (batch_stats, after)]
    if shapes[0] != shapes[1]:
        raise code.CodeError(f"batch_stats must keep its shape in training: {shapes[0]} before, {shapes[1]} after")
