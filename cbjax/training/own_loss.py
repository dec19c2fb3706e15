"""A user's own loss: what follows from it, and checks that find its mistakes before anything compiles."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.host import code
from cbjax.losses import LossFacts
from cbjax.types import Array

ARGUMENTS = ("logits", "labels", "class_weights")
EXAMPLES = (2, 3)  # in the batches of shapes that a loss is tried with


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

    def told(*arguments):
        with code.reported(path):
            return function(*arguments, **options)

    with code.reported(path):
        one_vs_rest = bool(getattr(function, "one_vs_rest", False))
    return LossFacts(told, one_vs_rest=one_vs_rest)


def check(
    name: str, loss: Callable[..., Array], num_classes: int, multi_label: bool, forward_mode: bool = False
) -> None:
    """Tries a loss of `facts` with and without class weights, by its shapes alone.

    Args:
      name: of the loss, for messages.
      loss: the function.
      num_classes: C.
      multi_label: whether labels are [B, C].
      forward_mode: whether its method also takes forward-mode derivatives, as those with meta images do.

    Raises:
      CodeError: if it fails, has no gradient, or does not return a floating-point loss for each example.
    """

    def tried(logits, labels, weights):
        def checked(logits):
            losses = loss(logits, labels, weights)
            _check_losses(name, losses, len(logits))
            return losses

        def total(logits):  # as L2RW takes it
            losses, slopes = jax.jvp(checked, (logits,), (logits,))
            return jnp.sum(losses * jax.lax.stop_gradient(slopes))

        jax.grad(lambda logits: jnp.sum(checked(logits)))(logits)
        if forward_mode:
            try:
                jax.grad(total)(logits)
            except code.CodeError as error:
                raise code.CodeError(
                    f"{name} needs forward-mode derivatives when meta.name is not none; jax.custom_vjp gives none"
                ) from error

    with code.reported(code.find(name).path):
        for count in EXAMPLES:
            logits = jax.ShapeDtypeStruct((count, num_classes), jnp.float32)
            labels = logits if multi_label else jax.ShapeDtypeStruct((count,), jnp.int32)
            for weights in (jax.ShapeDtypeStruct((num_classes,), jnp.float32), None):
                try:
                    jax.eval_shape(tried, logits, labels, weights)
                except code.CodeError as error:
                    if weights is not None:
                        raise
                    raise code.CodeError(
                        f"{error}; evaluations give class_weights=None: do not use them then, as in "
                        "`return losses if class_weights is None else class_weights[labels] * losses`"
                    ) from error


def _check_losses(name: str, losses: Any, count: int) -> None:
    """Checks while JAX traces: it could not say in our words that a result is no array."""
    if not isinstance(losses, (jax.Array, np.ndarray)) or losses.shape != (count,):
        got = f"shape {losses.shape}" if isinstance(losses, (jax.Array, np.ndarray)) else type(losses).__name__
        if inspect.iscoroutine(losses):
            losses.close()  # Python would warn that nobody waited for it
        raise code.CodeError(
            f"{name} must return [B], one loss for each example, not reduced; got {got} for {count} examples"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise code.CodeError(f"{name} must return floating-point losses; got {losses.dtype}")
