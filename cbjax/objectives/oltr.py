"""OLTR: cross entropy of a network with a memory, and a loss that draws features to their class's centroid."""

import jax
import jax.numpy as jnp

from cbjax.models.meta_embedding import MEMORY, squared_distances
from cbjax.objectives.weighted import SettledLoss
from cbjax.parallel.sharding import sum_over
from cbjax.types import Model, Objective, Terms


def oltr(model: Model, loss: SettledLoss, axis: str | None = "data") -> Objective:
    """Returns OLTR's second stage. The memory of centroids is a parameter of the network, so there is no other state.

    The loss of a batch of N images, with direct features v and centroids M of C classes:

      mean w_y loss(logits, y) + a (A + b max(0, m - R))
      A = mean |v - M_y|^2 / 2                              attracts
      R = mean over images of sum over c != y of |v - M_c|^2 / C   repels, up to a margin

    `settings` has a (`oltr.feature_weight`), b (`oltr.repulsion`) and m (`oltr.margin`). Class weights w, such as
    CDB's, are those of the first term alone. In the gradient of A by M, that of class c is divided by 1 + its images in
    the batch, and it is not multiplied by a; both are so in the authors' code, whose own backward pass leaves out the
    factor. Counts and R are of the batch of all devices, or of a part where `optim.accumulation` cuts the batch.

    Args:
      model: from `models.meta_embedding.with_memory`.
      loss: (logits, labels, class_weights, settings) -> [B].
      axis: the mesh axis that a batch is split over, or None.

    Source: Liu et al. 2019, section 3, and the authors' DiscCentroidsLoss.py, which this follows; the paper has a hinge
      of distances instead. With class weights it is "OLTR + CDB-CE" of Sinha et al. 2020, table 5.
    """

    def apply(params, state, batch):
        features, batch_stats = model.features(params, state.batch_stats, batch["image"], train=True)
        logits, labels, given = model.head(params, features), batch["label"], state.settings.method
        memory = params[MEMORY]
        fixed, still = jax.lax.stop_gradient(memory), jax.lax.stop_gradient(features)
        counted = batch["mask"] if "mask" in batch else jnp.ones(labels.shape[0], bool)
        own = jax.nn.one_hot(labels, memory.shape[0], dtype=features.dtype)
        ones = counted.astype(own.dtype)
        of_class, size = sum_over(axis, (jnp.sum(own * ones[:, None], axis=0), jnp.sum(ones)))

        def attraction(features, memory):
            return 0.5 * jnp.sum(jnp.square(features - memory[labels]), axis=1)

        # Its value is 0. It only adds the gradient with respect to the centroids.
        drawn = attraction(still, memory) / (1 + of_class[labels])
        drawn = drawn - jax.lax.stop_gradient(drawn)
        apart = jnp.sum((1 - own) * squared_distances(features, memory), axis=1) / memory.shape[0]
        total = sum_over(axis, jnp.sum(jnp.where(counted, jax.lax.stop_gradient(apart), 0.0)))
        # The margin is that of the whole batch: either each of its images repels, or none.
        near = total < given["oltr.margin"] * size
        repulsion = jnp.where(near, given["oltr.margin"] - apart, 0.0)
        of_features = attraction(features, fixed) + given["oltr.repulsion"] * repulsion
        losses = loss(logits, labels, state.class_weights, state.settings)
        losses = losses + given["oltr.feature_weight"] * of_features + drawn
        return Terms(losses, jnp.ones(labels.shape[0]), logits, batch_stats, state.objective)

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(lambda key, params, settings: (), apply, logits)
