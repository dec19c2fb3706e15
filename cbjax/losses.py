"""Computes classification losses of each example, weighted by its class; no loss reduces the batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array


def softmax_cross_entropy(
    logits: Array, labels: Array, class_weights: Array | None = None, *, label_smoothing: float | Array = 0.0
) -> Array:
    """Computes the softmax cross entropy of each example, weighted by its class.

    Args:
      logits: [B, C] scores, C at least 2; -inf for a class that is masked out.
      labels: [B] integers in [0, C). An example with another label, such as -100, has loss 0 and no gradient.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. A smoothed label
        keeps the weight of its true class.
      label_smoothing: share s of the label that is spread evenly over all C classes, in [0, 1). The target is 1 - s +
        s/C for the true class and s/C for the others. A traced scalar is not checked.

    Returns:
      [B] losses in nats, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels are not integers, there are fewer than two classes, or
        label_smoothing is not a scalar in its range.

    Source: Cui et al. 2019, eq. 10; Sinha et al. 2020, eq. 7. Label smoothing: Szegedy et al. 2016, section 7.
    """
    logits, labels, class_weights = _checked(logits, labels, class_weights)
    if labels.ndim == 2:
        raise ValueError(
            f"softmax_cross_entropy needs one integer label an example, [B], got labels of shape {labels.shape}; "
            "for multi-hot labels use sigmoid_cross_entropy or focal_loss"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"softmax_cross_entropy needs at least 2 classes, got logits of shape {logits.shape}")
    # Softplus of the log-odds of the other classes against the true one. It keeps all digits of 1 - p when p is near 1,
    # in the loss and in its gradient; log_softmax loses them.
    known, labels, logits = _known(labels, logits)
    # The true class gets the least finite number: its exponential is 0 like that of -inf, but the sum still has a slope
    # if all other classes are masked out.
    others = jax.nn.logsumexp(jnp.where(_one_hot(labels, logits), _least(logits), logits), axis=1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    losses = jax.nn.softplus(others - own)
    traced = isinstance(label_smoothing, jax.core.Tracer)
    if jnp.ndim(label_smoothing) != 0 or (not traced and not 0 <= label_smoothing < 1):
        raise ValueError(f"label_smoothing must be a number of at least 0 and below 1, got {label_smoothing}")
    if traced or label_smoothing > 0:
        # The cross entropies of two classes differ by their logits. So the mean over all C is this loss plus a
        # difference. If the true class is masked out, its loss is infinite already.
        difference = jnp.where(own < _least(own), 0.0, own - logits.mean(axis=1))
        losses += jnp.asarray(label_smoothing, losses.dtype) * difference
    return jnp.where(known, losses if class_weights is None else losses * class_weights[labels], 0.0)


def sigmoid_cross_entropy(logits: Array, labels: Array, class_weights: Array | None = None) -> Array:
    """Computes the cross entropy of C one-vs-rest tasks of each example, weighted by class.

    Args:
      logits: [B, C] scores, any real or infinite.
      labels: [B] integers in [0, C), or [B, C] multi-hot: 0 and 1, or floats between them. An example with another
        integer label, such as -100, has loss 0 and no gradient; other values of [B, C] are not detected.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. With integer labels
        all C terms of an example have the weight of its true class; with multi-hot labels each has its own weight.

    Returns:
      [B] losses in nats, summed over classes, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels [B] are not integers, or there is only one class for them.

    Source: Cui et al. 2019, eq. 12.
    """
    logits, labels, class_weights = _checked(logits, labels, class_weights)
    return _sum_over_classes(one_vs_rest_terms, logits, labels, class_weights)


def focal_loss(logits: Array, labels: Array, class_weights: Array | None = None, *, gamma: float | Array) -> Array:
    """Computes the sigmoid focal loss of each example, weighted by class.

    Sums over the C one-vs-rest tasks; gamma = 0 is sigmoid cross entropy.

    Args:
      logits: [B, C] scores, any real or infinite.
      labels: [B] integers in [0, C), or [B, C] multi-hot: 0 and 1, or floats between them. An example with another
        integer label, such as -100, has loss 0 and no gradient; other values of [B, C] are not detected.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. With integer labels
        all C terms of an example have the weight of its true class; with multi-hot labels each has its own weight.
      gamma: focusing power, at least 0; a traced scalar is not checked.

    Returns:
      [B] losses in nats, summed over classes, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels [B] are not integers, there is only one class for them, or
        gamma is negative or not a scalar.

    Source: Cui et al. 2019, eq. 13. The authors' modulator overflows below logit -88; this one does not. Labels between
    0 and 1: as `optax.sigmoid_focal_loss`, cross entropy times (1 - p_t)^gamma with p_t = y p + (1 - y)(1 - p).
    """
    logits, labels, class_weights = _checked(logits, labels, class_weights)
    if jnp.ndim(gamma) != 0 or (not isinstance(gamma, jax.core.Tracer) and not gamma >= 0):
        raise ValueError(f"gamma must be a number, at least 0, got {gamma}")
    gamma = jnp.asarray(gamma, logits.dtype)

    def terms(logits, labels):
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            return _focal_terms(_margins(logits, labels), gamma)
        hard = (labels == 0) | (labels == 1)
        score, soft = jnp.where(hard, 0.0, logits), jnp.where(hard, 0.5, labels)
        # 1 - p_t, which is never 0 for labels between 0 and 1.
        missed = soft * jax.nn.sigmoid(-score) + (1.0 - soft) * jax.nn.sigmoid(score)
        between = one_vs_rest_terms(score, soft) * missed**gamma
        return jnp.where(hard, _focal_terms(_margins(logits, labels), gamma), between)

    return _sum_over_classes(terms, logits, labels, class_weights)


class LossFacts(NamedTuple):
    """A loss, and facts that follow from its choice.

    Attributes:
      function: (logits, labels, class_weights, **options) -> [B]: the loss itself. A method with an objective of its
        own (`objectives/`) has here the plain loss by which its answers are evaluated.
      one_vs_rest: whether each class is a separate yes-or-no answer. If True, probabilities are sigmoids, labels may be
        multi-hot, and the last biases start at the prior of a class, -log(C - 1), and do not decay (CB). If False, one
        class is right: probabilities are a softmax, and the last biases start at 0 and decay like all others.
      numbers: options of the function that are numbers of the config, in `types.Settings.loss`.
      needs_counts: whether every class must have a training image.
    """

    function: Callable[..., Array]
    one_vs_rest: bool = False
    numbers: tuple[str, ...] = ()
    needs_counts: bool = False


LOSSES: dict[str, LossFacts] = {
    "softmax": LossFacts(softmax_cross_entropy),
    "sigmoid": LossFacts(sigmoid_cross_entropy, one_vs_rest=True),
    "focal": LossFacts(focal_loss, one_vs_rest=True, numbers=("gamma",)),
    "ldam": LossFacts(softmax_cross_entropy, needs_counts=True),
    "logit_adjusted": LossFacts(softmax_cross_entropy, needs_counts=True),
    "ghm": LossFacts(sigmoid_cross_entropy, one_vs_rest=True),
}


@jax.custom_jvp
def _focal_terms(margins: Array, gamma: Array) -> Array:
    """Returns -(1 - p)^gamma log p for p = sigmoid(margins), element by element."""
    log_p, log_q = _log_sigmoids(margins)
    # As exp(gamma log(1 - p)) the modulator and its gradient are finite, even for p = 1 and gamma < 1.
    return -jnp.exp(gamma * jnp.maximum(log_q, _least(log_q))) * log_p


@_focal_terms.defjvp
def _focal_terms_jvp(primals, tangents):
    # Written by hand, because automatic differentiation keeps three times as many [B, C] arrays.
    (margins, gamma), (dmargins, dgamma) = primals, tangents
    log_p, log_q = _log_sigmoids(margins)
    # Made finite for infinite margins, so that 0 times them is 0.
    finite_p, log_q = jnp.maximum(log_p, _least(log_p)), jnp.maximum(log_q, _least(log_q))
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


def one_vs_rest_terms(logits: Array, labels: Array) -> Array:
    """Returns the cross entropy of each of the C yes-or-no answers, [B, C]; their sum is `sigmoid_cross_entropy`."""
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        return jax.nn.softplus(-_margins(logits, labels))
    # For a label of 0 or 1 only one side counts and keeps its digits; the other side may be infinite.
    positive = jnp.where(labels > 0, labels * jax.nn.softplus(jnp.where(labels > 0, -logits, 0.0)), 0.0)
    return positive + jnp.where(labels < 1, (1.0 - labels) * jax.nn.softplus(jnp.where(labels < 1, logits, 0.0)), 0.0)


def _margins(logits: Array, labels: Array) -> Array:
    """Returns [B, C] logits with the sign changed for negative labels."""
    return jnp.where(_one_hot(labels, logits) if labels.ndim == 1 else labels > 0, logits, -logits)


def _one_hot(labels: Array, logits: Array) -> Array:
    return labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]


def _known(labels: Array, logits: Array) -> tuple[Array, Array, Array]:
    """Returns which integer labels [B] name a class, and labels and logits with 0 for all other examples.

    The logits must be 0 there, because a NaN would reach the gradient: 0 times NaN is NaN.
    """
    known = (labels >= 0) & (labels < logits.shape[1])
    return known, jnp.where(known, labels, 0), jnp.where(known[:, None], logits, 0.0)


def _least(x: Array) -> Any:
    return jnp.finfo(x.dtype).min


def _sum_over_classes(
    terms: Callable[[Array, Array], Array], logits: Array, labels: Array, class_weights: Array | None
) -> Array:
    if labels.ndim == 2:
        each = terms(logits, labels)
        return (each if class_weights is None else each * class_weights[None, :]).sum(axis=1)
    known, labels, logits = _known(labels, logits)
    losses = terms(logits, labels).sum(axis=1)
    return jnp.where(known, losses if class_weights is None else losses * class_weights[labels], 0.0)


def _checked(logits: Array, labels: Array, class_weights: Array | None) -> tuple[Array, Array, Array | None]:
    """Returns the arguments as jax arrays, floats in at least float32; raises ValueError for a caller's mistake."""
    # NumPy arrays are converted too, because traced labels cannot index them; class weights are such arrays.
    logits = jnp.asarray(logits)
    try:
        labels = jnp.asarray(labels)
    except TypeError as error:
        if (kind := np.asarray(labels).dtype.kind) not in "USTO":
            raise
        raise ValueError(
            f"labels must be integers, got {'objects' if kind == 'O' else 'strings'}: number the classes first, as "
            "numpy.unique(labels, return_inverse=True)[1]"
        ) from error
    if logits.ndim != 2:
        raise ValueError(f"logits must be [B, C], got shape {logits.shape}; for more axes use jax.vmap")
    if labels.shape not in (logits.shape[:1], logits.shape):
        column = labels.shape == (*logits.shape[:1], 1)
        raise ValueError(
            f"labels must be integers [B] or multi-hot [B, C] for logits [B, C], got labels of shape {labels.shape} "
            f"and logits of shape {logits.shape}{'; write labels[:, 0]' if column else ''}"
        )
    if labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.inexact):
        raise ValueError(f"labels of shape [B] must be integers, got {labels.dtype}; write labels.astype('int32')")
    if labels.ndim == 1 and logits.shape[1] == 1:
        raise ValueError(
            f"integer labels [B] need at least 2 classes, got logits of shape {logits.shape}; for one yes-or-no logit "
            "an example give labels of shape [B, 1], 0 or 1: write labels[:, None]"
        )
    # Explicit types, because jax_numpy_dtype_promotion="strict" refuses promotion.
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(dtype)
    elif labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    logits = logits.astype(dtype)
    if class_weights is None:
        return logits, labels, None
    class_weights = jnp.asarray(class_weights, dtype)
    if class_weights.shape != logits.shape[1:]:
        raise ValueError(
            f"class_weights must be [C], one weight a class, got shape {class_weights.shape} "
            f"for logits of shape {logits.shape}"
        )
    return logits, labels, class_weights
