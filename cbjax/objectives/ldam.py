"""LDAM: margins that are larger for rarer classes, on the cosines of a normalised head."""

from cbjax.losses import ldam_loss, ldam_margins
from cbjax.objectives.weighted import weighted
from cbjax.types import Model, Objective


def ldam(model: Model, mean: str = "batch") -> Objective:
    """Returns LDAM; `settings` has counts, the largest margin and the scale.

    Args:
      model: a network with a normalised head.
      mean: as in `weighted`; the authors' code has "weight_sum".

    Source: Cao et al. 2019, eq. 13, and the authors' code; the loss itself is `losses.ldam_loss`.
    """

    def loss(cosines, labels, class_weights, settings):
        own = ldam_margins(settings.counts, settings.loss["max_margin"])
        return ldam_loss(cosines, labels, class_weights, margins=own, scale=settings.loss["scale"])

    objective = weighted(model, loss, mean)

    def logits(trained, images):
        return trained.settings.loss["scale"] * objective.logits(trained, images)

    return objective._replace(logits=logits)
