"""What a second stage makes of a network: its head found, the rest frozen, scales, normalised kernels, class means.

Source: Kang et al. 2020 (decoupling), and the authors' code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.models.linen import unit
from cbjax.types import Array, Model

SCALES = "class_scales"  # the name of the parameter that `class_scaled` adds
MEANS = "class_means"  # that of the parameters that `nearest_mean` adds


def head_of(model: Model, params: Any, batch_stats: Any, image_shape: Sequence[int]) -> Any:
    """Returns which parameters the head reads, as a pytree of bools in the shape of `params`. Nothing is computed.

    Args:
      model: the network.
      params, batch_stats: its parameters and statistics, or their shapes.
      image_shape: [H, W, channels].

    Raises:
      ValueError: if the network gives no features, or a layer belongs to both parts.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def features(params, batch_stats, images):
        return model.features(params, batch_stats, images, train=False)[0]

    outputs = jax.eval_shape(features, params, batch_stats, images)
    head = _read(model.head, params, outputs)
    both = [one and other for one, other in zip(head, _read(features, params, batch_stats, images), strict=True)]
    if not any(head) or any(both):
        raise ValueError(
            "the network's head must have parameters, which its features do not use; here "
            f"{sum(head)} arrays belong to the head, {sum(both)} of them to the features too"
        )
    return jax.tree.unflatten(jax.tree.structure(params), head)


def _read(function: Callable[..., Any], params: Any, *inputs: Any) -> list[bool]:
    """Returns for each leaf of params whether the function uses it."""
    traced = jax.make_jaxpr(function)(params, *inputs).jaxpr
    used = {id(variable) for equation in traced.eqns for variable in equation.invars}
    return [id(variable) in used for variable in traced.invars[: len(jax.tree.leaves(params))]]


def frozen(model: Model, trained: Any, batch_norm: str) -> Model:
    """Returns the network with a gradient for some of its parameters alone. Its answers stay the same.

    Args:
      model: the network.
      trained: pytree of bools in the shape of its parameters, true for those with a gradient.
      batch_norm: "eval" keeps the network as it is in evaluation: BatchNorm normalises by its running statistics, which
        stay, and nothing is dropped. "train" is what the authors' code does: BatchNorm normalises by the batch, and the
        running statistics move towards those of the images that are drawn; dropout drops.
    """

    def part_of(params):
        return jax.tree.map(lambda leaf, on: leaf if on else jax.lax.stop_gradient(leaf), params, trained)

    def features(params, batch_stats, images, train):
        return model.features(part_of(params), batch_stats, images, train=train and batch_norm == "train")

    def apply(params, batch_stats, images, train, key=None):
        return model.apply(part_of(params), batch_stats, images, train=train and batch_norm == "train", key=key)

    return model._replace(features=features, apply=apply)


def class_scaled(model: Model, num_classes: int) -> Model:
    """Returns the network with its logits [B, C] times a scale for each class, at first 1: LWS.

    Source: Kang et al. 2020, eq. 4; as in the authors' code the bias is scaled too.
    """

    def init(key: Array, images: Array) -> tuple[Any, Any]:
        params, batch_stats = model.init(key, images)
        return {**params, SCALES: jnp.ones(num_classes)}, batch_stats

    def features(params, *args, **options):
        return model.features(_without(params), *args, **options)

    def head(params, outputs):
        return params[SCALES][None, :] * model.head(_without(params), outputs)

    def apply(params, batch_stats, images, train, key=None):
        logits, batch_stats = model.apply(_without(params), batch_stats, images, train=train, key=key)
        return params[SCALES][None, :] * logits, batch_stats

    return Model(init, features, head, apply)


def require_linear(params: Any, head: Any) -> None:
    """Raises ValueError if the head is not one linear layer; arguments as in `tau_normalized`, of params the shapes."""
    shapes = sorted(np.shape(leaf) for leaf, on in zip(*map(jax.tree.leaves, (params, head)), strict=True) if on)
    kernels = [shape for shape in shapes if len(shape) == 2]
    if len(kernels) != 1 or [shape for shape in shapes if shape not in (kernels[0], kernels[0][1:])]:
        raise ValueError(f"the head must be one linear layer, a kernel [D, C] and a bias [C]; its arrays are {shapes}")


def tau_normalized(params: Any, head: Any, tau: float) -> Any:
    """Returns the parameters with the kernel of each class divided by its length to the power of tau, and no bias.

    A kernel of length 0 stays 0. A tau of 0 leaves out the bias alone.

    Args:
      params: on the host.
      head: pytree of bools, which of them are the head's: one linear layer, [D, C] and perhaps [C].
      tau: at least 0.

    Raises:
      ValueError: if the head is not one linear layer.

    Source: Kang et al. 2020, eq. 3; the bias is left out as in the authors' code.
    """
    require_linear(params, head)

    def normalized(leaf, on):
        if not on:
            return leaf
        kernel = np.asarray(leaf, np.float64)
        if kernel.ndim == 1:
            return np.zeros_like(leaf)
        length = np.linalg.norm(kernel, axis=0, keepdims=True)
        return (kernel / np.where(length > 0, length, 1.0) ** tau).astype(leaf.dtype)

    return jax.tree.map(normalized, params, head)


def nearest_mean(model: Model, num_classes: int, similarity: str) -> Model:
    """Returns the network with another head, whose answer is the class with the nearest mean of features: NCM.

    Its parameters have two arrays more, at first 0: params["class_means"]["means"] [C, D] and ["center"] [D]. The
    network's own head stays among them, and is not used.

    Args:
      model: the network; its features must be [B, D].
      num_classes: C.
      similarity: "cosine", logits are the cosines of an image's features and each mean. "euclidean", features minus the
        center are scaled to length 1, and logits are minus their squared distances to each mean. Both are flat: the
        probabilities that follow are near 1 / C, and a temperature that is fitted on validation makes them sharper.

    Source: Kang et al. 2020, section 4.2, which names both; "euclidean" is the default of the authors' code.
    """

    def init(key: Array, images: Array) -> tuple[Any, Any]:
        params, batch_stats = model.init(key, images)
        some = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
        outputs = jax.eval_shape(lambda *args: model.features(*args, train=False)[0], params, batch_stats, some)
        if len(outputs.shape) != 2:
            raise ValueError(f"class means need features [B, D] before the last layer; got {list(outputs.shape)}")
        size = outputs.shape[1]
        return {**params, MEANS: {"means": jnp.zeros((num_classes, size)), "center": jnp.zeros(size)}}, batch_stats

    def features(params, *args, **options):
        return model.features(_without(params), *args, **options)

    def head(params, outputs):
        means, center = params[MEANS]["means"], params[MEANS]["center"]
        outputs = unit(outputs.astype(means.dtype) - center[None, :], axis=1)
        means = unit(means, axis=1) if similarity == "cosine" else means
        # At a TPU's default precision classes whose cosines are close would change places.
        products = jnp.matmul(outputs, means.T, precision=jax.lax.Precision.HIGHEST)
        if similarity == "cosine":
            return products
        squares = jnp.sum(outputs**2, axis=1)[:, None] + jnp.sum(means**2, axis=1)[None, :]
        return 2 * products - squares

    def apply(params, batch_stats, images, train, key=None):
        outputs, batch_stats = features(params, batch_stats, images, train=train)
        return head(params, outputs), batch_stats

    return Model(init, features, head, apply)


def _without(params):
    return {name: value for name, value in params.items() if name not in (SCALES, MEANS)}
