"""OLTR's network: modulated attention before the pooling, a memory of class centroids, and a cosine classifier.

Source: Liu et al. 2019 (Large-Scale Long-Tailed Recognition in an Open World), section 3, and the authors' code.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cbjax.models.layers import INITIALIZATIONS, relu
from cbjax.models.linen import unit
from cbjax.types import Array, Model

# What the network has besides the backbone, by the names of its parameters. The hallucinator is the head of the run
# that a second stage begins from.
ATTENTION, LAYER, MEMORY, SELECTOR, HEAD, HALLUCINATOR = (
    *("attention", "added_layer", "memory", "selector", "head", "hallucinator"),
)
NEW = (ATTENTION, LAYER, MEMORY, SELECTOR, HEAD)
FORMS = ("authors_code", "paper")
SCALE = 16.0  # of the cosines
REACH = 10.0  # in the authors' code, which divides it by the distance to the nearest centroid
LEAST_DISTANCE = 1e-6  # an image that is a centroid would have an infinite embedding


def with_memory(model: Model, num_classes: int, form: str = "authors_code") -> Model:
    """Returns OLTR's network around the backbone of another one.

    Its features [B, D] are the direct feature v. Its head makes of them, with the centroids M [C, D]:

      o = softmax(hallucinator(v))      [B, C], which classes the image resembles
      e = tanh(selector(v))             [B, D], how much of their centroids to take
      g = min over c of |v - M_c|       [B], how far the known classes are
      z = (r / g) (v + e * (o M))       [B, D], the meta-embedding
      logits = 16 |z| / (1 + |z|) cosine(z, kernel of the class)

    No gradient flows into M from the logits.

    Args:
      model: a network of cbjax with a linear head, whose `features` takes `attend`.
      num_classes: C.
      form: "authors_code": r is 10, and v is ReLU of one more linear layer [D, D] after the pooling. "paper": r is 1,
        there is no such layer, and the length is |z|^2 / (1 + |z|^2).

    Returns:
      The model. Its parameters have the backbone's names and those of NEW and HALLUCINATOR: "memory" is M, and "head"
      has the kernel [D, C] of the cosines. It takes images of one size.

    Raises:
      ValueError: if the form is unknown, or the network has no activations before a pooling that it hands out.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if "attend" not in inspect.signature(model.features).parameters:
        raise ValueError("OLTR needs the activations before the pooling, which this network does not hand out")

    def init(key, images):
        keys = jax.random.split(key, 5)
        params, batch_stats = model.init(keys[0], images)
        shape, depth = _shapes(model, params, batch_stats, images)
        hallucinator = params["head"]
        params = {name: part for name, part in params.items() if name != "head"}
        params[ATTENTION] = first_attention(keys[1], shape, zero=form == "paper")
        if form == "authors_code":
            params[LAYER] = _linear(keys[2], depth, depth)
        params[SELECTOR] = _linear(keys[3], depth, depth)
        params[HALLUCINATOR] = hallucinator
        params[HEAD] = {"kernel": _uniform(keys[4], (depth, num_classes), depth)}
        params[MEMORY] = jnp.zeros((num_classes, depth))
        return params, batch_stats

    def features(params, batch_stats, images, train):
        def attend(maps):
            return modulated_attention(params[ATTENTION], maps)

        outputs, batch_stats = model.features(_backbone(params), batch_stats, images, train, attend=attend)
        return (relu(_apply(params[LAYER], outputs)) if LAYER in params else outputs), batch_stats

    def head(params, outputs):
        return meta_embedding_logits(params, outputs, form)

    def apply(params, batch_stats, images, train, key=None):
        outputs, batch_stats = features(params, batch_stats, images, train)
        return head(params, outputs), batch_stats

    return Model(init, features, head, apply)


def modulated_attention(params: Any, maps: Array) -> Array:
    """Computes x + s * m(x): what places have in common, taken in at the places that matter.

    m is an embedded Gaussian (Wang et al. 2018, without a scale) of D/2 channels and a 1x1 convolution back to D. s is
    one number for each place, a softmax over the places of a linear layer of all activations.

    Args:
      params: as `first_attention` makes them.
      maps: [B, H, W, D], or [B, T, H, W, D] of clips.

    Returns:
      The same shape, float32 at least.

    Raises:
      ValueError: if the linear layer is for another size.

    Source: Liu et al. 2019, section 3, and ModulatedAttLayer.py.
    """
    batch, depth = maps.shape[0], maps.shape[-1]
    inputs = maps.reshape(batch, -1, depth).astype(jnp.promote_types(maps.dtype, jnp.float32))
    flat = inputs.reshape(batch, -1)
    if flat.shape[1] != params["spatial"]["kernel"].shape[0]:
        raise ValueError(
            f"OLTR's attention was made for {params['spatial']['kernel'].shape[0]} activations before the pooling, and "
            f"got {flat.shape[1]}: it takes images of one size alone"
        )
    theta, phi, values = (_apply(params[name], inputs) for name in ("theta", "phi", "g"))
    weights = jax.nn.softmax(theta @ phi.transpose(0, 2, 1), axis=-1)
    mask = weights @ values @ params["mask"]["kernel"]
    spatial = jax.nn.softmax(_apply(params["spatial"], flat), axis=-1)
    return (inputs + spatial[:, :, None] * mask).reshape(maps.shape)


def first_attention(key: Array, shape: Sequence[int], zero: bool = False) -> dict[str, Any]:
    """Draws the parameters of `modulated_attention` for maps [H, W, D] or [T, H, W, D].

    Args:
      key: random key.
      shape: (H, W, D) or (T, H, W, D).
      zero: whether the last convolution starts at 0, so that attention changes nothing at first. The authors' layer
        says so, but their ResNet draws all convolutions again after it, from a normal of deviation sqrt(2 / outputs).
    """
    *sizes, depth = shape
    inner, places = max(depth // 2, 1), math.prod(sizes)
    keys = dict(zip(("theta", "phi", "g", "mask", "spatial"), jax.random.split(key, 5), strict=True))
    fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    draw = INITIALIZATIONS["he"] if zero else fan_out
    params = {
        name: {"kernel": draw(keys[name], (depth, inner), jnp.float32), "bias": jnp.zeros(inner)}
        for name in ("theta", "phi", "g")
    }
    params["mask"] = {"kernel": jnp.zeros((inner, depth)) if zero else draw(keys["mask"], (inner, depth), jnp.float32)}
    params["spatial"] = _linear(keys["spatial"], places * depth, places)
    return params


def meta_embedding_logits(params: Any, features: Array, form: str = "authors_code") -> Array:
    """Computes the logits [B, C] of direct features [B, D]; formulas and parameters as for `with_memory`.

    Source: Liu et al. 2019, section 3, and MetaEmbeddingClassifier.py, CosNormClassifier.py.
    """
    memory = jax.lax.stop_gradient(params[MEMORY])
    recalled = jax.nn.softmax(_apply(params[HALLUCINATOR], features), axis=-1) @ memory
    selected = jnp.tanh(_apply(params[SELECTOR], features))
    # The nearest by the product form, which needs no [B, C, D]; its distance by the difference, which loses no digits.
    nearest = jnp.argmin(jax.lax.stop_gradient(squared_distances(features, memory)), axis=1)
    squared = jnp.sum(jnp.square(features - memory[nearest]), axis=1, keepdims=True)
    distance = jnp.sqrt(jnp.maximum(squared, LEAST_DISTANCE**2))
    embedding = (REACH if form == "authors_code" else 1.0) / distance * (features + selected * recalled)
    squared = jnp.sum(jnp.square(embedding), axis=1, keepdims=True)
    if form == "authors_code":
        length = jnp.sqrt(jnp.maximum(squared, 1e-24))
        length = length / (1 + length)
    else:
        length = squared / (1 + squared)
    return SCALE * length * (unit(embedding, axis=1) @ unit(params[HEAD]["kernel"], axis=0))


def squared_distances(features: Array, memory: Array) -> Array:
    """Returns |v - M_c|^2 for each image and class, [B, C], at least 0, from [B, D] and [C, D]."""
    products = jnp.matmul(features, memory.T, precision="highest")
    lengths = jnp.sum(jnp.square(features), axis=1)[:, None] + jnp.sum(jnp.square(memory), axis=1)[None, :]
    return jnp.maximum(lengths - 2 * products, 0.0)


def _backbone(params):
    """Returns the parameters of the network that it is built around, whose head is the hallucinator now."""
    own = {name: part for name, part in params.items() if name not in (*NEW, HALLUCINATOR)}
    return {**own, "head": params[HALLUCINATOR]}


def _shapes(model, params, batch_stats, images):
    """Returns the shape of the activations before the pooling (H, W, D) or (T, H, W, D), and the number of features."""
    seen: list[tuple[int, ...]] = []

    def look(params, batch_stats, images):
        def attend(maps):
            seen.append(maps.shape[1:])
            return maps

        return model.features(params, batch_stats, images, False, attend=attend)[0]

    outputs = jax.eval_shape(look, params, batch_stats, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    return seen[0], outputs.shape[1]


def _apply(params, inputs):
    outputs = inputs @ params["kernel"]
    return outputs + params["bias"].reshape((1,) * (outputs.ndim - 1) + (-1,))


def _linear(key, inputs, outputs):
    """Draws a linear layer as PyTorch does: kernel and bias uniform in 1 / sqrt(inputs)."""
    kernel_key, bias_key = jax.random.split(key)
    return {"kernel": _uniform(kernel_key, (inputs, outputs), inputs), "bias": _uniform(bias_key, (outputs,), inputs)}


def _uniform(key, shape, inputs):
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) / math.sqrt(inputs)
