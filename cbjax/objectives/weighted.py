"""A loss weighted by class: cross entropy and focal loss, CB, CDB, and weights that begin late."""

from collections.abc import Callable

import jax.numpy as jnp

from cbjax.parallel.sharding import mean_over
from cbjax.types import Array, Batch, Model, Objective, Settings, Terms

MEANS = ("batch", "weight_sum")
SettledLoss = Callable[
    [Array, Array, Array | None, Settings], Array
]  # (logits, labels, class_weights, settings) -> [B]


def weighted(model: Model, loss: SettledLoss, mean: str = "batch") -> Objective:
    """Returns the objective that trains with `loss`, weighted by the state's class weights.

    Args:
      model: the network.
      loss: (logits, labels, class_weights, settings) -> [B], not reduced.
      mean: "batch" divides the sum of weighted losses by the number of examples of the global batch (CB, CDB);
        "weight_sum" by the sum of their class weights (PyTorch's weighted cross entropy), for integer labels.

    Raises:
      ValueError: if `mean` is neither of the two.
    """
    if mean not in MEANS:
        raise ValueError(f"mean={mean!r}: must be one of {', '.join(MEANS)}")

    def apply(params, state, batch):
        logits, batch_stats = model.apply(params, state.batch_stats, batch["image"], train=True, key=batch.get("key"))
        labels, class_weights = batch["label"], state.class_weights
        losses = loss(logits, labels, class_weights, state.settings)
        amounts = jnp.ones(labels.shape[0]) if mean == "batch" else class_weights[labels]
        return Terms(losses, amounts, logits, batch_stats, state.objective)

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(lambda key, params, settings: (), apply, logits)


def mean_loss(losses: Array, batch: Batch, axis: str | None) -> Array:
    """Returns this device's part [] of a batch's mean loss; its mean over the devices of `axis` is the whole.

    Args:
      losses: [B] of this device's examples.
      batch: these; those that its "mask" leaves out count nothing.
      axis: the mesh axis that the batch is split over, or None.
    """
    if "mask" not in batch:
        return jnp.mean(losses)
    count = mean_over(axis, jnp.sum(batch["mask"], dtype=losses.dtype))
    return jnp.sum(jnp.where(batch["mask"], losses, 0)) / jnp.where(count > 0, count, 1)
