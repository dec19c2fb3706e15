"""Turns Linen modules into `Model`, the record of pure functions that the rest of cbjax uses."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from cbjax.types import Array, Model

HEADS = ("linear", "normalized")


class Cosines(nn.Module):
    """A classifier without bias: the cosine between features [B, D] and the kernel of each class, [B, C]."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        shape = (features.shape[-1], self.num_classes)
        kernel = self.param("kernel", _unit_columns, shape)
        return unit(features.astype(kernel.dtype), axis=1) @ unit(kernel, axis=0)


def _unit_columns(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    # As in the LDAM authors' code: drawn uniformly, then scaled to length 1.
    return unit(jax.random.uniform(key, shape, dtype, -1.0, 1.0), axis=0)


def unit(vectors: Array, axis: int) -> Array:
    """Scales vectors to length 1. A vector of length 0 stays 0, and its gradient is finite."""
    squared = jnp.sum(vectors * vectors, axis=axis, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def model(
    backbone: nn.Module,
    num_classes: int,
    kernel_init: Callable[..., Any],
    final_bias: float,
    head: str = "linear",
    clips: bool = False,
) -> Model:
    """Joins a backbone and a classifier with parameters params["head"]["kernel"] and, if linear, ["bias"].

    Args:
      backbone: module (images [B, H, W, channels], train, attend=None) -> features [B, D]; a ValueError for images it
        cannot take. `attend` changes the activations [B, H, W, E] before they are pooled or flattened.
      num_classes: C, at least 2.
      kernel_init: initialiser of the head's kernel [D, C].
      final_bias: the value at which all biases of a linear head start.
      head: "linear", or "normalized": cosines between features and kernels, without bias (Cao et al. 2019, LDAM).
      clips: whether the network takes clips [B, T, H, W, channels] in place of images.

    Returns:
      The model. Its `init` reads only the images' shape, so a `jax.ShapeDtypeStruct` will do.

    Raises:
      ValueError: if num_classes is not an integer of at least 2, final_bias is not finite, or head is neither.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be an integer of at least 2, not {num_classes!r}")
    if not math.isfinite(final_bias):
        raise ValueError(f"final_bias must be a finite number, not {final_bias!r}")
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, not {head!r}")
    classifier = (
        nn.Dense(num_classes, kernel_init=kernel_init, bias_init=nn.initializers.constant(final_bias))
        if head == "linear"
        else Cosines(num_classes)
    )

    def init(key, images):
        backbone_key, head_key = jax.random.split(key)
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        _check_rank(shape, clips)
        # lazy_init draws the parameters without running the network.
        variables = backbone.lazy_init(backbone_key, shape, train=False)
        outputs = jax.eval_shape(lambda: backbone.apply(variables, jnp.zeros(shape.shape), train=False))
        head_params = classifier.lazy_init(head_key, outputs)["params"]
        return {**variables.get("params", {}), "head": head_params}, variables.get("batch_stats", {})

    def features(params, batch_stats, images, train, attend=None):
        _check_rank(images, clips)
        options = {} if attend is None else {"attend": attend}
        variables = {"params": {name: value for name, value in params.items() if name != "head"}}
        if batch_stats:
            variables["batch_stats"] = batch_stats
        try:
            mutable = ["batch_stats"] if train else []
            outputs, updates = backbone.apply(variables, images, train=train, mutable=mutable, **options)
        except errors.ScopeParamShapeError as error:
            raise ValueError(f"images of shape {images.shape} do not fit the parameters: {error}") from error
        return outputs, updates.get("batch_stats", batch_stats)

    def classify(params, outputs):
        return classifier.apply({"params": params["head"]}, outputs)

    def apply(params, batch_stats, images, train, key=None):
        outputs, batch_stats = features(params, batch_stats, images, train)
        return classify(params, outputs), batch_stats

    return Model(init, features, classify, apply)


def _check_rank(images, clips):
    if len(images.shape) != 4 + clips:
        what = "clips must have shape [B, T, H, W, channels]" if clips else "images must have shape [B, H, W, channels]"
        raise ValueError(f"{what}, not {list(images.shape)}")
