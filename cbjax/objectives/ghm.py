"""GHM-C: weights each one-vs-rest term by how rare its gradient norm is, in a histogram that it remembers."""

import jax
import jax.numpy as jnp

from cbjax.losses import one_vs_rest_terms, softmax_cross_entropy
from cbjax.parallel.sharding import sum_over
from cbjax.types import Array, Batch, Model, Objective, Terms, TrainState


def histogram(norms: Array, counted: Array, bins: int) -> tuple[Array, Array]:
    """Sorts gradient norms into bins of equal width.

    Args:
      norms: [B, K] in [0, 1], K of each example.
      counted: [B], False for examples that do not count.
      bins: number of bins.

    Returns:
      The bin of each norm [B, K], and the number of norms in each bin [bins], both int32: float32 cannot count on from
      2^24, which 2,100 images of 8,142 classes exceed.
    """
    places = jnp.clip(jnp.floor(norms * bins).astype(jnp.int32), 0, bins - 1)
    amounts = jnp.broadcast_to(counted[:, None], norms.shape).astype(jnp.int32)
    return places, jnp.zeros(bins, jnp.int32).at[places].add(amounts)


def ghm(model: Model, bins: int = 30, axis: str | None = "data") -> Objective:
    """Returns GHM-C. `settings` has the momentum; the state is a count for each bin, equal on all devices.

    If a batch has terms in a bin, the bin's count becomes momentum * count + (1 - momentum) * terms in the bin. Other
    counts stay. The weight of a term is (terms of the batch) / (count of its bin) / (number of bins with terms). Counts
    start at 0, as in the published code. So the first weights of a bin are 1 / (1 - momentum) times too large.

    Args:
      model: the network.
      bins: number of bins of gradient norms.
      axis: the mesh axis that a batch is split over, or None.

    Source: Li et al. 2019 (Gradient Harmonized Single-stage Detector), section 3.2, and mmdetection's GHMC.
    """

    def apply(params, state, batch):
        logits, batch_stats = model.apply(params, state.batch_stats, batch["image"], train=True, key=batch.get("key"))
        labels = batch["label"]
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        targets = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype) if labels.ndim == 1 else labels
        norms = jax.lax.stop_gradient(jnp.abs(jax.nn.sigmoid(logits) - targets))
        weights, counts = _by_rarity(norms, batch, state, bins, axis)
        weights = weights * _of_class(state.class_weights, labels)
        losses = jnp.sum(weights * one_vs_rest_terms(logits, labels), axis=1)
        amounts = jnp.full(labels.shape[0], float(logits.shape[1]))
        return Terms(losses, amounts, logits, batch_stats, counts)

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(lambda key, params, settings: jnp.zeros(bins), apply, logits)


def ghm_softmax(model: Model, bins: int = 30, axis: str | None = "data") -> Objective:
    """Returns our softmax form of GHM-C, which weights examples instead of terms; the paper and its code have none.

    The gradient norm of an example is 1 - p of its true class. All else is as in `ghm`, with one norm an example.

    Args:
      model: the network.
      bins: number of bins of gradient norms.
      axis: the mesh axis that a batch is split over, or None.
    """

    def apply(params, state, batch):
        logits, batch_stats = model.apply(params, state.batch_stats, batch["image"], train=True, key=batch.get("key"))
        losses = softmax_cross_entropy(logits, batch["label"])
        norms = jax.lax.stop_gradient(-jnp.expm1(-losses))
        weights, counts = _by_rarity(norms[:, None], batch, state, bins, axis)
        weighed = softmax_cross_entropy(logits, batch["label"], state.class_weights, example_weights=weights[:, 0])
        return Terms(weighed, jnp.ones(losses.shape[0]), logits, batch_stats, counts)

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(lambda key, params, settings: jnp.zeros(bins), apply, logits)


def _by_rarity(norms: Array, batch: Batch, state: TrainState, bins: int, axis: str | None) -> tuple[Array, Array]:
    """Returns the weight of each norm [B, K], and the counts [bins] after this batch."""
    counted = batch["mask"] if "mask" in batch else jnp.ones(norms.shape[0], bool)
    places, own = histogram(norms, counted, bins)
    found = sum_over(axis, own).astype(jnp.float32)
    total, used = found.sum(), jnp.sum(found > 0, dtype=jnp.float32)
    momentum = state.settings.loss["momentum"]
    counts = jnp.where(found > 0, momentum * state.objective + (1 - momentum) * found, state.objective)
    weights = jnp.where(found > 0, total / jnp.maximum(counts, 1e-30) / used, 0.0)
    return weights[places], counts


def _of_class(class_weights: Array, labels: Array) -> Array:
    """Returns the class weight of each term, as in `losses.sigmoid_cross_entropy`."""
    return class_weights[labels][:, None] if labels.ndim == 1 else class_weights[None, :]
