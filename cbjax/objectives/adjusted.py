"""Logits shifted and scaled by the counts of the classes: in the loss, or after training in the model's answers."""

from cbjax.losses import log_prior, logit_adjusted_loss, vs_loss
from cbjax.objectives.weighted import weighted
from cbjax.types import Model, Objective


def logit_adjusted(model: Model, mean: str = "batch") -> Objective:
    """Returns softmax cross entropy of logits + tau log prior, which teaches the network balanced logits.

    A tau of 1 is balanced softmax; 0 is plain cross entropy. `settings` has counts and tau.

    Args:
      model: the network.
      mean: as in `weighted`.

    Source: Menon et al. 2021, eq. 10; Ren et al. 2020 for a tau of 1; the loss itself is `losses.logit_adjusted_loss`.
    """

    def loss(logits, labels, class_weights, settings):
        given = {"counts": settings.counts, "tau": settings.loss["tau"]}
        return logit_adjusted_loss(logits, labels, class_weights, **given)

    return weighted(model, loss, mean)


def vector_scaled(model: Model, mean: str = "batch") -> Objective:
    """Returns the VS loss: logits are divided by (largest count / count)^divisor_power, then tau log prior is added.

    A power of 0 is `logit_adjusted`. `settings` has counts, divisor_power and tau. Answers are the network's logits.

    Args:
      model: the network.
      mean: as in `weighted`.

    Source: Kini et al. 2021, eq. 2, and the authors' code (gamma 0.3, tau 1); the loss itself is `losses.vs_loss`.
    """

    def loss(logits, labels, class_weights, settings):
        given = {"counts": settings.counts, "gamma": settings.loss["divisor_power"], "tau": settings.loss["tau"]}
        return vs_loss(logits, labels, class_weights, **given)

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
