"""L2RW: weights each image by how well its gradient agrees with the gradient of a balanced set of meta images."""

import jax
import jax.numpy as jnp

from cbjax.objectives.weighted import SettledLoss, mean_loss
from cbjax.parallel.sharding import mean_over, varying
from cbjax.types import Model, Objective, Terms


def l2rw(model: Model, loss: SettledLoss, axis: str | None = "data") -> Objective:
    """Returns learning to reweight.

    The weight of an image is max(0, <gradient of its loss, gradient of the mean meta loss>). Weights are scaled to sum
    to 1 over the batch. If no image agrees, the batch has loss 0.

    This is the published method. That takes a virtual step, and weights each image by the derivative of the meta loss
    with respect to its weight, at weights of 0. At 0 the virtual step does not move the parameters, so it need not be
    taken: one `jax.jvp` gives the products of all images' gradients with the meta gradient.

    Both passes are in training mode. BatchNorm's running statistics come from the training images alone.

    Args:
      model: the network.
      loss: (logits, labels, class_weights, settings) -> [B]; meta images have no class weights.
      axis: the mesh axis that a batch is split over, or None.

    Source: Ren et al. 2018, algorithm 1; the authors' code has this form beside the unrolled one.
    """

    def apply(params, state, batch):
        key = batch.get("key")

        def of_meta(params):
            meta = batch["meta"]
            logits, _ = model.apply(params, state.batch_stats, meta["image"], train=True, key=key)
            return mean_loss(loss(logits, meta["label"], None, state.settings), meta, axis)

        def of_each(params):
            logits, batch_stats = model.apply(params, state.batch_stats, batch["image"], train=True, key=key)
            return loss(logits, batch["label"], state.class_weights, state.settings), (logits, batch_stats)

        fixed = jax.lax.stop_gradient(params)
        direction = varying(mean_over(axis, jax.grad(of_meta)(fixed)), axis)
        losses, agreement, (logits, batch_stats) = jax.jvp(of_each, (params,), (direction,), has_aux=True)
        weights = jax.lax.stop_gradient(jnp.maximum(agreement, 0.0))
        return Terms(weights * losses, weights, logits, batch_stats, state.objective)

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(lambda key, params, settings: (), apply, logits, streams=("meta",))
