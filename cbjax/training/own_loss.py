"""A user's own loss: what follows from it, and checks that find its mistakes before anything compiles."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cbjax.host import code
from cbjax.losses import LossFacts
from cbjax.types import Array

ARGUMENTS = ("logits", "labels", "class_weights")
EXAMPLES = 2  # in the batch of shapes that a loss is tried with


def facts(name: str, options: Mapping[str, Any], expected: str | None = None) -> LossFacts:
    """Returns the loss of a user's function, (logits, labels, class_weights, **options) -> [B].

    It counts as a softmax loss, unless the function has an attribute `one_vs_rest` that is true.

    Args:
      name: "FILE.py:function" or "package.module:function".
      options: keyword arguments of the function.
      expected: SHA-256 of its file; None for any.

    Raises:
      CodeError: if the file or the function is wrong, or has no such option.
    """
    function = code.load(name, expected)
    code.check_arguments(name, function, ARGUMENTS, options)
    path = code.find(name).path

    @functools.wraps(function)
    def told(*arguments):
        with code.reported(path):
            return function(*arguments, **options)

    return LossFacts(told, one_vs_rest=bool(getattr(function, "one_vs_rest", False)))


def check(name: str, loss: Callable[..., Array], num_classes: int, multi_label: bool) -> None:
    """Tries a loss of `facts` with and without class weights, by its shapes alone.

    Raises:
      CodeError: if it fails or does not return a floating-point loss for each example.
    """
    logits = jax.ShapeDtypeStruct((EXAMPLES, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct(
        logits.shape if multi_label else (EXAMPLES,), jnp.float32 if multi_label else jnp.int32
    )
    for weights in (jax.ShapeDtypeStruct((num_classes,), jnp.float32), None):
        losses = jax.eval_shape(loss, logits, labels, weights)
        shape = getattr(losses, "shape", None)
        if shape != (EXAMPLES,):
            got = f"shape {shape}" if shape is not None else type(losses).__name__
            raise code.CodeError(f"{name} must return [B], one loss for each example, not reduced; got {got}")
        if not jnp.issubdtype(losses.dtype, jnp.floating):
            raise code.CodeError(f"{name} must return floating-point losses; got {losses.dtype}")
