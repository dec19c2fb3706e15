"""Focal losses, which make light of examples that are already right: of yes-or-no answers, and of a softmax."""

import jax
import jax.numpy as jnp

from cbjax.losses.arguments import check_number, checked, least
from cbjax.losses.one_vs_rest import margins, one_vs_rest_terms, sum_over_classes
from cbjax.losses.softmax import by_shares, one_of_classes, others_over_own
from cbjax.types import Array


def focal_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    gamma: float | Array,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the sigmoid focal loss of each example, weighted by class.

    Sums over the C one-vs-rest tasks; gamma = 0 is sigmoid cross entropy.

    Args:
      logits: [B, C] scores, any real or infinite.
      labels: [B] integers in [0, C), or [B, C] multi-hot: 0 and 1, or floats between them. An example with another
        integer label, such as -100, has loss 0 and no gradient; other values of [B, C] are not detected.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. With integer labels
        all C terms of an example have the weight of its true class; with multi-hot labels each has its own weight.
      gamma: focusing power, at least 0; or [C], one for the yes-or-no answer of each class. Traced ones are not
        checked.
      example_weights: [B] that each loss is multiplied by at last; None for 1.
      ignore: [B] true for an example with loss 0 and no gradient, whatever its logits and label are; None for none.

    Returns:
      [B] losses in nats, summed over classes, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels [B] are not integers, there is only one class for them, or
        gamma is negative or neither a scalar nor [C].

    Source: Cui et al. 2019, eq. 13. The authors' modulator overflows below logit -88; this one does not. Labels between
    0 and 1: as `optax.sigmoid_focal_loss`, cross entropy times (1 - p_t)^gamma with p_t = y p + (1 - y)(1 - p).
    """
    given = checked(logits, labels, class_weights, example_weights, ignore)
    gamma = check_number("gamma", gamma, 0, given.logits, of_class=True)
    gamma = gamma[None, :] if gamma.ndim else gamma

    def terms(logits, labels):
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            return _focal_terms(margins(logits, labels), gamma)
        hard = (labels == 0) | (labels == 1)
        score, soft = jnp.where(hard, 0.0, logits), jnp.where(hard, 0.5, labels)
        # 1 - p_t, which is never 0 for labels between 0 and 1.
        missed = soft * jax.nn.sigmoid(-score) + (1.0 - soft) * jax.nn.sigmoid(score)
        between = one_vs_rest_terms(score, soft) * missed**gamma
        return jnp.where(hard, _focal_terms(margins(logits, labels), gamma), between)

    return sum_over_classes(given, terms)


def softmax_focal_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    gamma: float | Array,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the focal loss of a softmax, -(1 - p)^gamma log p of the true class, weighted by class.

    Args:
      gamma: focusing power, at least 0; or [C], of which an example has that of its true class. Traced ones are not
        checked.

    Other arguments, result and errors are those of `softmax_cross_entropy`; gamma = 0 is that loss.

    Source: Lin et al. 2017, eq. 4, with p of a softmax. LDAM-DRW's code puts the class weight inside the power
    (p = exp(-weighted cross entropy)), which is another function; this one weighs the focal loss.
    """
    given = one_of_classes("softmax_focal_loss", logits, labels, class_weights, example_weights, ignore)
    gamma = check_number("gamma", gamma, 0, given.logits, of_class=True)
    return by_shares(given, _focal_terms(-others_over_own(given), given.of_label(gamma) if gamma.ndim else gamma))


@jax.custom_jvp
def _focal_terms(margins: Array, gamma: Array) -> Array:
    """Returns -(1 - p)^gamma log p for p = sigmoid(margins), element by element."""
    log_p, log_q = _log_sigmoids(margins)
    # As exp(gamma log(1 - p)) the modulator and its gradient are finite, even for p = 1 and gamma < 1.
    return -jnp.exp(gamma * jnp.maximum(log_q, least(log_q))) * log_p


@_focal_terms.defjvp
def _focal_terms_jvp(primals, tangents):
    # Written by hand, because automatic differentiation keeps three times as many [B, C] arrays.
    (margins, gamma), (dmargins, dgamma) = primals, tangents
    log_p, log_q = _log_sigmoids(margins)
    # Made finite for infinite margins, so that 0 times them is 0.
    finite_p, log_q = jnp.maximum(log_p, least(log_p)), jnp.maximum(log_q, least(log_q))
    modulator = jnp.exp(gamma * log_q)
    slope = modulator * (gamma * jax.nn.sigmoid(margins) * finite_p - jax.nn.sigmoid(-margins))
    return -modulator * log_p, slope * dmargins - modulator * finite_p * log_q * dgamma


@jax.custom_jvp
def _log_sigmoids(x: Array) -> tuple[Array, Array]:
    """Returns log sigmoid(x) and log sigmoid(-x), each to full relative accuracy, from one exponential."""
    tail = jnp.log1p(jnp.exp(-jnp.abs(x)))
    return jnp.minimum(x, 0.0) - tail, jnp.minimum(-x, 0.0) - tail


@_log_sigmoids.defjvp
def _log_sigmoids_jvp(primals, tangents):
    # Written by hand: at 0 |x| has no slope, but second derivatives of the focal loss need one.
    (x,), (dx,) = primals, tangents
    return _log_sigmoids(x), (jax.nn.sigmoid(-x) * dx, -jax.nn.sigmoid(x) * dx)
