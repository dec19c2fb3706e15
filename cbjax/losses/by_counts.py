"""Losses that know how many training images each class has: margins, shifts and scales of logits."""

import jax
import jax.numpy as jnp

from cbjax.losses.arguments import Given, above_zero, check_counts, check_number
from cbjax.losses.softmax import by_shares, one_of_classes, others_over_own
from cbjax.types import Array


def ldam_margins(counts: Array, max_margin: float | Array = 0.5) -> Array:
    """Returns the margin of each class [C]: counts^(-1/4), scaled so that the largest is `max_margin`.

    Args:
      counts: [C] training images, each above 0; traced ones are not checked.
      max_margin: [] margin of the rarest class.

    Raises:
      ValueError: if counts are not [C], or a class has none.

    Source: Cao et al. 2019, eq. 13, and the authors' code.
    """
    rarity = above_zero(counts).astype(jnp.float32) ** -0.25
    return rarity * (max_margin / rarity.max())


def ldam_loss(
    cosines: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    margins: Array,
    scale: float | Array = 30.0,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the softmax cross entropy of scaled cosines. The true class's cosine loses its margin first.

    Args:
      cosines: [B, C] of a normalised head.
      margins: [C] (`ldam_margins`). With shares for labels, each class has its margin in its own part of the loss.
      scale: factor that turns cosines into logits, at least 0; a traced scalar is not checked.

    Other arguments, result and errors are those of `softmax_cross_entropy`.

    Source: Cao et al. 2019, eq. 13, and the authors' code (scale 30, largest margin 0.5).
    """
    given = one_of_classes("ldam_loss", cosines, labels, class_weights, example_weights, ignore)
    if jnp.shape(margins) != given.logits.shape[1:]:
        raise ValueError(
            f"margins must be [C], got shape {jnp.shape(margins)} for cosines of shape {given.logits.shape}"
        )
    margins = jnp.asarray(margins, given.logits.dtype)
    scale = check_number("scale", scale, 0, given.logits)
    if given.is_hard:
        # Before the scale is taken, so that a margin is rounded like a cosine.
        scaled = scale * (given.logits - jnp.where(given.is_true, margins[None, :], 0.0))
        over = others_over_own(given._replace(logits=scaled))
    else:
        over = others_over_own(given._replace(logits=scale * given.logits)) + scale * margins[None, :]
    return by_shares(given, jax.nn.softplus(over))


def log_prior(counts: Array) -> Array:
    """Returns the logarithm of each class's share of the training images [C].

    Raises:
      ValueError: if counts are not [C], or a class has none; traced ones are not checked.
    """
    counts = above_zero(counts)
    return jnp.log(counts) - jnp.log(counts.sum())


def logit_adjusted_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    counts: Array,
    tau: float | Array = 1.0,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the softmax cross entropy of logits + tau log prior, which teaches the network balanced logits.

    Args:
      counts: [C] training images of each class, above 0; traced ones are not checked.
      tau: power of the prior, at least 0, which is plain cross entropy; a traced scalar is not checked.

    Other arguments, result and errors are those of `softmax_cross_entropy`. Answers are the logits as they are.

    Source: Menon et al. 2021, eq. 10.
    """
    given = one_of_classes("logit_adjusted_loss", logits, labels, class_weights, example_weights, ignore)
    return _of_shifted(given, counts, tau)


def balanced_softmax_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    counts: Array,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the softmax cross entropy of logits + log counts: `logit_adjusted_loss` with a tau of 1.

    Source: Ren et al. 2020, eq. 3.
    """
    given = one_of_classes("balanced_softmax_loss", logits, labels, class_weights, example_weights, ignore)
    return _of_shifted(given, counts, 1.0)


def vs_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    counts: Array,
    gamma: float | Array = 0.3,
    tau: float | Array = 1.0,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the vector-scaling loss: cross entropy of logits / (largest count / count)^gamma + tau log prior.

    A gamma of 0 is `logit_adjusted_loss`; a tau of 0 is the class-dependent temperatures of CDT.

    Args:
      counts: [C] training images of each class, above 0; traced ones are not checked.
      gamma: power of the divisor, at least 0; a traced scalar is not checked.
      tau: power of the prior, at least 0; a traced scalar is not checked.

    Other arguments, result and errors are those of `softmax_cross_entropy`. Answers are the logits as they are.

    Source: Kini et al. 2021, eq. 2, and the authors' code (gamma 0.3, tau 1). CDT: Ye et al. 2020, eq. 5.
    """
    given = one_of_classes("vs_loss", logits, labels, class_weights, example_weights, ignore)
    gamma = check_number("gamma", gamma, 0, given.logits)
    images = check_counts(counts, given.logits)
    divisor = (images.max() / images) ** gamma
    return _of_shifted(given._replace(logits=given.logits / divisor[None, :]), counts, tau)


def _of_shifted(given: Given, counts: Array, tau: float | Array) -> Array:
    tau = check_number("tau", tau, 0, given.logits)
    shift = tau * log_prior(check_counts(counts, given.logits))
    over = others_over_own(given._replace(logits=given.logits + shift[None, :]))
    return by_shares(given, jax.nn.softplus(over))
