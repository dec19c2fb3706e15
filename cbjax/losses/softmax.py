"""Losses of one right class among C: softmax cross entropy and poly loss, and what other softmax losses share."""

import jax
import jax.numpy as jnp

from cbjax.losses.arguments import Given, check_number, checked, least, one_hot
from cbjax.types import Array


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    label_smoothing: float | Array = 0.0,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes the softmax cross entropy of each example, weighted by its class.

    Args:
      logits: [B, C] scores, C at least 2; -inf for a class that is masked out.
      labels: [B] integers in [0, C), or [B, C] floats, the share of each class in an example. The loss of shares is
        the mean of the losses of the classes by these shares. That they are at least 0 and sum to 1 is not checked.
        A share of 0 has no gradient by itself.
        An example with another integer label, such as -100, has loss 0 and no gradient.
      class_weights: [C], mean 1 by convention (`weights.class_balanced`); None for equal weights. With shares each
        class's part of the loss has the weight of this class. A smoothed label keeps the weight of its true class.
      label_smoothing: share s of the label that is spread evenly over all C classes, in [0, 1). The target is 1 - s +
        s/C for the true class and s/C for the others, so a class that is masked out makes the loss infinite. A traced
        scalar is not checked.
      example_weights: [B] that each loss is multiplied by at last; None for 1.
      ignore: [B] true for an example with loss 0 and no gradient, whatever its logits and label are; None for none.

    Returns:
      [B] losses in nats, float32 (float64 for float64 logits), not reduced.

    Raises:
      ValueError: if the shapes do not fit together, labels are not integers [B] or floats [B, C], there are fewer than
        two classes, or label_smoothing is not a scalar in its range.

    Source: Cui et al. 2019, eq. 10; Sinha et al. 2020, eq. 7. Label smoothing: Szegedy et al. 2016, section 7.
    """
    given = one_of_classes("softmax_cross_entropy", logits, labels, class_weights, example_weights, ignore)
    traced = isinstance(label_smoothing, jax.core.Tracer)
    if jnp.ndim(label_smoothing) != 0 or (not traced and not 0 <= label_smoothing < 1):
        raise ValueError(f"label_smoothing must be a number of at least 0 and below 1, got {label_smoothing}")
    if not given.is_hard:
        losses, share = jax.nn.softplus(others_over_own(given)), jnp.asarray(label_smoothing, given.logits.dtype)
        if traced or label_smoothing > 0:
            losses = (1 - share) * losses + _smoothed(share, losses.mean(axis=1, keepdims=True))
        return by_shares(given, losses)
    others, own = _others_and_own(given)
    losses = jax.nn.softplus(others - own)
    if traced or label_smoothing > 0:
        # The cross entropies of two classes differ by their logits. So the mean over all C is this loss plus a
        # difference. If the true class is masked out, its loss is infinite already.
        difference = jnp.where(own < least(own), 0.0, own - given.logits.mean(axis=1))
        losses += _smoothed(jnp.asarray(label_smoothing, losses.dtype), difference)
    return given.weigh(losses)


def poly_loss(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    *,
    epsilon: float | Array = 2.0,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Array:
    """Computes softmax cross entropy plus epsilon (1 - p of the true class), Poly-1, weighted by class.

    Args:
      epsilon: at least -1, below which a sure and right answer would cost more than a less sure one; 0 is cross
        entropy. A traced scalar is not checked.

    Other arguments, result and errors are those of `softmax_cross_entropy`.

    Source: Leng et al. 2022, eq. 6 (epsilon 2 for ImageNet). `optax.losses.poly_loss_cross_entropy` is the same
    formula, but it rounds small losses to 0 and is NaN for a logit of -inf.
    """
    given = one_of_classes("poly_loss", logits, labels, class_weights, example_weights, ignore)
    epsilon = check_number("epsilon", epsilon, -1, given.logits)
    over = others_over_own(given)
    return by_shares(given, jax.nn.softplus(over) + epsilon * jax.nn.sigmoid(over))


def one_of_classes(
    name: str,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    example_weights: Array | None,
    ignore: Array | None,
) -> Given:
    """Returns the checked arguments of a loss of one right class; `name` is that of the loss, for messages."""
    given = checked(logits, labels, class_weights, example_weights, ignore)
    if not given.is_hard and not jnp.issubdtype(given.labels.dtype, jnp.floating):
        raise ValueError(
            f"{name} needs one integer label an example, [B], or shares of the classes as floats [B, C], got "
            f"{given.labels.dtype} labels of shape {given.labels.shape}; for multi-hot labels use "
            "sigmoid_cross_entropy or focal_loss"
        )
    if given.logits.shape[1] < 2:
        raise ValueError(f"{name} needs at least 2 classes, got logits of shape {given.logits.shape}")
    return given


def others_over_own(given: Given) -> Array:
    """Returns the log-odds of all other classes against one: the true one [B], or with shares each one [B, C].

    Their softplus is the cross entropy, and their sigmoid 1 - p. Both keep all digits when p is near 1, also in the
    gradient; those of log_softmax do not.
    """
    logits = given.logits
    if given.is_hard:
        others, own = _others_and_own(given)
        return others - own
    highest = jnp.argmax(logits, axis=1)
    is_highest = one_hot(highest, logits)
    top = jnp.take_along_axis(logits, highest[:, None], axis=1)
    rest = jax.nn.logsumexp(jnp.where(is_highest, least(logits), logits), axis=1, keepdims=True) - top
    # Only the highest class can have p above 1/2, so 1 - p loses no digits for the others.
    above = top - jnp.where(is_highest, 0.0, logits) + jax.nn.softplus(rest)
    log_p = jnp.where(is_highest, least(logits), -above)
    return jnp.where(is_highest, rest, above + jnp.log1p(-jnp.exp(log_p)))


def by_shares(given: Given, losses: Array) -> Array:
    """Weighs losses of the true class [B], or of each class [B, C] by its share, and returns [B]."""
    if not given.is_hard:
        # A class of share 0 may have an infinite loss.
        losses = jnp.where(given.labels > 0, given.labels * jnp.where(given.labels > 0, losses, 0.0), 0.0)
    return given.weigh(losses)


def _smoothed(share: Array, values: Array) -> Array:
    """Returns share * values; 0 for a share of 0, also if the values are infinite because a class is masked out."""
    return share * jnp.where(share > 0, values, 0.0)


def _others_and_own(given: Given) -> tuple[Array, Array]:
    """Returns the log of the summed exponentials of the other classes, and the logit of the true one, each [B]."""
    logits, labels = given.logits, given.labels
    # The true class gets the least finite number: its exponential is 0 like that of -inf, but the sum still has a slope
    # if all other classes are masked out.
    others = jax.nn.logsumexp(jnp.where(one_hot(labels, logits), least(logits), logits), axis=1)
    return others, jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
