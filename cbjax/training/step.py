"""The pure steps of training and evaluation, each one device's share where an axis is named."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cbjax.metrics import ClassificationSums, has_answer
from cbjax.objectives.sharpness import Around, Found, once
from cbjax.objectives.weighted import SettledLoss
from cbjax.parallel.sharding import mean_over, places_in_batch, sum_over, varying
from cbjax.types import Array, Batch, Model, Objective, Trained, TrainState

DROPOUT = 2**32 - 1  # no image has this place in a batch: images' keys are folded from the same step's key


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    around: Around = once,
    accumulation: int = 1,
    axis: str | None = "data",
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns the pure step (state, batch) -> (state, metrics), one device's share of it where `axis` is a mesh axis.

    The loss of a batch is the sum of its examples' losses over the sum of their amounts, both over the global batch.

    Args:
      objective: the method; built for the same axis.
      tx: the optimiser.
      around: how often and where the gradient is taken (`objectives.sharpness`).
      accumulation: into how many parts a device's share of the batch is cut, which are taken one after another so that
        one part's activations are in memory at a time. The gradient is that of the whole batch, except that BatchNorm
        normalises each part by its own statistics; the running ones take in their mean. What the objective remembers
        goes from part to part.
      axis: the mesh axis over which the batch is divided, or None.

    Returns:
      The step. Its metrics are scalars over the global batch: "loss" (the reduced, weighted loss), "correct" and
      "count" (examples whose highest logit is a true class, and all), "gradient_norm" (of what the optimiser gets). A
      use of it raises ValueError if `accumulation` does not divide a device's share.
    """

    def divisor(amount):
        """Returns what a device's sum of losses is divided by; the mean over devices is then that over the batch."""
        share = mean_over(axis, amount)
        # A batch of which every example counts 0 has loss 0, not 0/0.
        return jnp.where(share > 0, share, 1.0)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        # The places of a part's images, too, are those in the global batch.
        places = places_in_batch(batch["label"].shape[0], axis)
        batch = {**batch, "key": _key(state, axis), "place": places}

        def total(chosen, params, remembered, part):
            """Sums the losses of a part of the batch; divided at once where the part is the whole."""
            terms = objective.apply(params, dataclasses.replace(state, objective=remembered), part)
            counted = _mask(part)
            amount = jax.lax.stop_gradient(jnp.sum(jnp.where(counted, terms.amounts, 0.0)))
            correct = jnp.sum(counted & _is_correct(terms.logits, part["label"]))
            summed = counted if chosen is None else counted & chosen(part["label"])
            value = jnp.sum(jnp.where(summed, terms.losses, 0.0))
            value = value / divisor(amount) if accumulation == 1 else value
            return value, (terms.batch_stats, terms.state, amount, correct)

        def gradient(params, chosen):
            """Makes one pass over the batch, on all devices."""
            # Replicated parameters are cast to per-device ones so that the gradient stays local until the one mean
            # below; without the cast shard_map sums it over devices first.
            own = varying(params, axis)
            of_part = functools.partial(jax.value_and_grad(functools.partial(total, chosen), has_aux=True), own)
            if accumulation == 1:
                (value, (batch_stats, remembered, _, correct)), grads = of_part(state.objective, batch)
            else:
                sums, batch_stats, remembered = _over_parts(of_part, state.objective, batch, accumulation, axis)
                (value, grads), amount, correct = sums
                value, grads = jax.tree.map(lambda leaf: leaf / divisor(amount), (value, grads))
            value, batch_stats, grads = mean_over(axis, (value, batch_stats, grads))
            return Found(value, grads, batch_stats, remembered, correct)

        value, grads, batch_stats, remembered, correct = around(gradient, state)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": value,
            "correct": sum_over(axis, correct),
            "count": sum_over(axis, jnp.sum(_mask(batch))),
            "gradient_norm": optax.tree.norm(grads),
        }
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            objective=remembered,
        )
        return state, metrics

    return train_step


def make_eval_step(
    objective: Objective,
    loss: SettledLoss,
    probabilities: Callable[[Array], Array],
    *,
    axis: str | None = "data",
) -> Callable[[Trained, Batch], tuple[Any, Array]]:
    """Returns the pure step (trained, batch) -> (sums over all devices, outputs of this device's share).

    For integer labels the sums are `metrics.ClassificationSums` and the outputs the predicted classes [B], -1 for an
    example that is masked or has no answer. For multi-hot ones, whose metrics rank a whole split, the sums are the
    "loss" over examples, their "count", the "total" of each class and how many are "unanswered"; the outputs are
    probabilities [B, C], -1 there too. Losses are not weighted: one number to compare methods by.
    """

    def eval_step(trained, batch):
        labels, mask = batch["label"], _mask(batch)
        logits = objective.logits(trained, batch["image"])
        losses = loss(logits, labels, None, trained.settings)
        chances, answered = probabilities(logits), has_answer(logits)
        if labels.ndim == 1:
            sums = ClassificationSums.from_outputs(logits, labels, losses, mask, jnp.max(chances, axis=-1))
            return sum_over(axis, sums), jnp.where(mask & answered, jnp.argmax(logits, axis=-1), -1)
        totals = {"loss": jnp.sum(jnp.where(mask, losses, 0.0)), "count": jnp.sum(mask)}
        totals["unanswered"] = jnp.sum(mask & ~answered)
        totals["total"] = jnp.sum(mask[:, None] & (labels > 0), axis=0)
        return sum_over(axis, totals), jnp.where((mask & answered)[:, None], chances, -1.0)

    return eval_step


def make_feature_step(model: Model, *, axis: str | None = "data") -> Callable[[Trained, Batch], tuple[Any, Array]]:
    """Returns the pure step (trained, batch) -> (how many examples' features are not finite, features [B, D] float32).

    The features are those of an evaluation, what the network's last layer reads. Those of masked examples are infinite:
    NaN would stop a run under `jax_debug_nans`.
    """

    def feature_step(trained, batch):
        outputs, _ = model.features(trained.params, trained.batch_stats, batch["image"], train=False)
        mask, finite = _mask(batch), jnp.isfinite(outputs).all(axis=1)
        lost = sum_over(axis, jnp.sum(mask & ~finite))
        return lost, jnp.where((mask & finite)[:, None], outputs.astype(jnp.float32), jnp.inf)

    return feature_step


def _over_parts(
    gradient: Callable[..., Any], remembered: Any, batch: Batch, accumulation: int, axis: str | None
) -> Any:
    """Calls `gradient`, (remembered, part) -> ((value, (stats, remembered, amount, correct)), grads), part after part.

    Returns:
      The sums ((value, grads), amount, correct); the mean of the parts' running statistics; and what is remembered
      after the last part. The statistics of each part start from those before the step.
    """
    size = batch["image"].shape[0]
    if size % accumulation:
        raise ValueError(f"accumulation must divide the {size} examples of a device's share, got {accumulation}")
    images = {name: leaf for name, leaf in batch.items() if name != "key"}
    parts = jax.tree.map(lambda leaf: leaf.reshape(accumulation, -1, *leaf.shape[1:]), images)
    parts["key"] = jax.random.split(batch["key"], accumulation)

    def one(remembered, part):
        (value, (batch_stats, remembered, amount, correct)), grads = gradient(remembered, part)
        return remembered, (((value, grads), amount, correct), batch_stats)

    _, shapes = jax.eval_shape(one, remembered, jax.tree.map(lambda leaf: leaf[0], parts))
    # Devices differ in what they sum, so that the sums start as per-device zeros.
    zeros = varying(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), axis)

    def add(carry, part):
        remembered, sums = carry
        remembered, terms = one(remembered, part)
        return (remembered, jax.tree.map(jnp.add, sums, terms)), None

    (remembered, (sums, batch_stats)), _ = jax.lax.scan(add, (remembered, zeros), parts)
    return sums, jax.tree.map(lambda leaf: leaf / accumulation, batch_stats), remembered


def _key(state: TrainState, axis: str | None) -> Array:
    """Returns the random key of this step on this device, for dropout."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), DROPOUT)
    return jax.random.fold_in(key, places_in_batch(1, axis)[0])


def _mask(batch: Batch) -> Array:
    return batch["mask"] if "mask" in batch else jnp.ones(batch["image"].shape[0], bool)


def _is_correct(logits: Array, labels: Array) -> Array:
    predicted = jnp.argmax(logits, axis=-1)
    if labels.ndim == 1:
        return predicted == labels
    return jnp.take_along_axis(labels, predicted[:, None], axis=-1)[:, 0] > 0
