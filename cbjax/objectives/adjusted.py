"""Logit adjustment by the shares of the classes: in the loss, or after training in the model's answers."""

import jax.numpy as jnp

from cbjax.losses import softmax_cross_entropy
from cbjax.objectives.weighted import weighted
from cbjax.types import Array, Model, Objective


def log_prior(counts: Array) -> Array:
    """Returns the logarithm of each class's share of the training images [C]; no class may be empty."""
    counts = jnp.asarray(counts, jnp.float32)
    return jnp.log(counts) - jnp.log(counts.sum())


def logit_adjusted(model: Model, mean: str = "batch") -> Objective:
    """Returns softmax cross entropy of logits + tau log prior, which teaches the network balanced logits.

    A tau of 1 is balanced softmax; 0 is plain cross entropy. `settings` has counts and tau.

    Args:
      model: the network.
      mean: as in `weighted`.

    Source: Menon et al. 2021, eq. 10; Ren et al. 2020 for a tau of 1.
    """

    def loss(logits, labels, class_weights, settings):
        shift = settings.loss["tau"] * log_prior(settings.counts)
        return softmax_cross_entropy(logits.astype(shift.dtype) + shift[None, :], labels, class_weights)

    return weighted(model, loss, mean)


def adjusted(objective: Objective) -> Objective:
    """Returns the objective with `answer_tau * log prior` subtracted from its answers. Its training stays the same.

    `settings` has counts and answer_tau.

    Source: Menon et al. 2021, eq. 9 (post hoc).
    """

    def logits(trained, images):
        shift = trained.settings.answer_tau * log_prior(trained.settings.counts)
        return objective.logits(trained, images) - shift[None, :]

    return objective._replace(logits=logits)
