"""The pure steps of training and evaluation, each one device's share where an axis is named."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cbjax.metrics import ClassificationSums, has_answer
from cbjax.parallel.sharding import mean_over, sum_over, varying
from cbjax.types import Array, Batch, Loss, Model, TrainState

MEANS = ("batch", "weight_sum")


def make_train_step(
    model: Model,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    mean: str = "batch",
    accumulation: int = 1,
    axis: str | None = "data",
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns the pure step (state, batch) -> (state, metrics), one device's share of it where `axis` is a mesh axis.

    Args:
      model: the network.
      tx: the optimiser.
      loss: (logits, labels, class_weights) -> [B], not reduced.
      mean: "batch" divides the sum of weighted losses by the number of examples of the global batch (CB, CDB);
        "weight_sum" by the sum of their class weights (PyTorch's weighted cross entropy), for integer labels.
      accumulation: into how many parts a device's share of the batch is cut, which are taken one after another so that
        one part's activations are in memory at a time. The gradient is that of the whole batch, except that BatchNorm
        normalises each part by its own statistics; the running ones take in their mean.
      axis: the mesh axis over which the batch is divided, or None.

    Returns:
      The step. Its metrics are scalars over the global batch: "loss" (the reduced, weighted loss), "correct" and
      "count" (examples whose highest logit is a true class, and all), "gradient_norm".

    Raises:
      ValueError: if `mean` is neither of the two, and in use if `accumulation` does not divide a device's share.
    """
    if mean not in MEANS:
        raise ValueError(f"mean={mean!r}: must be one of {', '.join(MEANS)}")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        labels, mask = batch["label"], _mask(batch)
        share = _share(labels, mask, state.class_weights, mean, axis)

        def objective(params, part):
            logits, batch_stats = model.apply(params, state.batch_stats, part["image"], train=True)
            losses, counted = loss(logits, part["label"], state.class_weights), _mask(part)
            correct = jnp.sum(counted & _is_correct(logits, part["label"]))
            return jnp.sum(jnp.where(counted, losses, 0.0)) / share, (batch_stats, correct)

        # Replicated parameters are cast to per-device ones so that the gradient stays local until the one mean below;
        # without the cast shard_map sums it over devices first.
        params = varying(state.params, axis)
        gradient = functools.partial(jax.value_and_grad(objective, has_aux=True), params)
        (value, (batch_stats, correct)), grads = _over_parts(gradient, batch, accumulation, axis)
        value, batch_stats, grads = mean_over(axis, (value, batch_stats, grads))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": value,
            "correct": sum_over(axis, correct),
            "count": sum_over(axis, jnp.sum(mask)),
            "gradient_norm": optax.tree.norm(grads),
        }
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    return train_step


def make_eval_step(
    model: Model, loss: Loss, probabilities: Callable[[Array], Array], *, axis: str | None = "data"
) -> Callable[[Any, Any, Batch], tuple[Any, Array]]:
    """Returns the pure step (params, batch_stats, batch) -> (sums over all devices, outputs of this device's share).

    For integer labels the sums are `metrics.ClassificationSums` and the outputs the predicted classes [B], -1 for an
    example that is masked or has no answer. For multi-hot ones, whose metrics rank a whole split, the sums are the
    "loss" over examples, their "count", the "total" of each class and how many are "unanswered"; the outputs are
    probabilities [B, C], NaN where the others have -1. Losses are not weighted: one number to compare methods by.
    """

    def eval_step(params, batch_stats, batch):
        labels, mask = batch["label"], _mask(batch)
        logits, _ = model.apply(params, batch_stats, batch["image"], train=False)
        losses = loss(logits, labels, None)
        chances, answered = probabilities(logits), has_answer(logits)
        if labels.ndim == 1:
            sums = ClassificationSums.from_outputs(logits, labels, losses, mask, jnp.max(chances, axis=-1))
            return sum_over(axis, sums), jnp.where(mask & answered, jnp.argmax(logits, axis=-1), -1)
        totals = {"loss": jnp.sum(jnp.where(mask, losses, 0.0)), "count": jnp.sum(mask)}
        totals["unanswered"] = jnp.sum(mask & ~answered)
        totals["total"] = jnp.sum(mask[:, None] & (labels > 0), axis=0)
        return sum_over(axis, totals), jnp.where((mask & answered)[:, None], chances, jnp.nan)

    return eval_step


def _over_parts(gradient: Callable[[Batch], Any], batch: Batch, accumulation: int, axis: str | None) -> Any:
    """Sums what `gradient` returns, ((value, (batch_stats, correct)), grads), over the parts of a batch in turn.

    The running statistics, which every part blends into those before the step, are averaged instead.
    """
    if accumulation == 1:
        return gradient(batch)
    size = batch["image"].shape[0]
    if size % accumulation:
        raise ValueError(f"accumulation must divide the {size} examples of a device's share, got {accumulation}")
    parts = jax.tree.map(lambda leaf: leaf.reshape(accumulation, -1, *leaf.shape[1:]), dict(batch))
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda leaf: leaf[0], parts))
    # Devices differ in what they sum, so that the sums start as per-device zeros.
    zeros = varying(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), axis)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, gradient(part)), None

    ((value, (batch_stats, correct)), grads), _ = jax.lax.scan(add, zeros, parts)
    return (value, (jax.tree.map(lambda leaf: leaf / accumulation, batch_stats), correct)), grads


def _mask(batch: Batch) -> Array:
    return batch["mask"] if "mask" in batch else jnp.ones(batch["image"].shape[0], bool)


def _share(labels: Array, mask: Array, class_weights: Array, mean: str, axis: str | None) -> Array:
    """Returns the divisor of a device's sum of losses; the mean over devices is then that over the global batch."""
    amounts = jnp.ones(labels.shape[0]) if mean == "batch" else class_weights[labels]
    share = mean_over(axis, jnp.sum(jnp.where(mask, amounts, 0.0)))
    # A batch of which every example has weight 0 has loss 0, not 0/0.
    return jnp.where(share > 0, share, 1.0)


def _is_correct(logits: Array, labels: Array) -> Array:
    predicted = jnp.argmax(logits, axis=-1)
    if labels.ndim == 1:
        return predicted == labels
    return jnp.take_along_axis(labels, predicted[:, None], axis=-1)[:, 0] > 0
