"""LDAM: margins that are larger for rarer classes, on the cosines of a normalised head."""

import jax.numpy as jnp

from cbjax.losses import softmax_cross_entropy
from cbjax.objectives.weighted import weighted
from cbjax.types import Array, Model, Objective


def margins(counts: Array, max_margin: float | Array = 0.5) -> Array:
    """Returns the margin of each class [C]: counts^(-1/4), scaled so that the largest is `max_margin`.

    Args:
      counts: [C] training images, each above 0.
      max_margin: [] margin of the rarest class.
    """
    rarity = jnp.asarray(counts, jnp.float32) ** -0.25
    return rarity * (max_margin / rarity.max())


def ldam_loss(
    cosines: Array, labels: Array, class_weights: Array | None = None, *, margins: Array, scale: float | Array = 30.0
) -> Array:
    """Computes the softmax cross entropy of scaled cosines. The true class's cosine loses its margin first.

    Args:
      cosines: [B, C] of a normalised head.
      labels: [B] integers in [0, C).
      class_weights: [C]; None for equal weights.
      margins: [C].
      scale: [] factor that turns cosines into logits.

    Returns:
      [B] losses in nats, not reduced.

    Source: Cao et al. 2019, eq. 13, and the authors' code (scale 30, largest margin 0.5).
    """
    is_true = labels[:, None] == jnp.arange(cosines.shape[1], dtype=labels.dtype)[None, :]
    logits = scale * (cosines - jnp.where(is_true, margins[None, :], 0.0))
    return softmax_cross_entropy(logits, labels, class_weights)


def ldam(model: Model, mean: str = "batch") -> Objective:
    """Returns LDAM; `settings` has counts, the largest margin and the scale.

    Args:
      model: a network with a normalised head.
      mean: as in `weighted`; the authors' code has "weight_sum".
    """

    def loss(cosines, labels, class_weights, settings):
        own = margins(settings.counts, settings.loss["max_margin"])
        return ldam_loss(cosines, labels, class_weights, margins=own, scale=settings.loss["scale"])

    objective = weighted(model, loss, mean)

    def logits(trained, images):
        return trained.settings.loss["scale"] * objective.logits(trained, images)

    return objective._replace(logits=logits)
