"""Class-wise difficulty (CDB): computes class weights from the accuracy of each class on held-out validation data."""

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array

FORMULAS = ("paper", "authors_code", "authors_code_imagenet")


def dynamic_tau(accuracy: Array, formula: str = "paper") -> Array:
    """Computes the exponent of the difficulty from the gap between the best and the worst class.

    Args:
      accuracy: [C] accuracies in [0, 1].
      formula: with b = max / (min + epsilon), "paper" is 2 sigmoid(b - 1) with epsilon 1e-4; "authors_code_imagenet" is
        the same with epsilon 0.01; "authors_code" is sigmoid(b) with epsilon 0.01.

    Returns:
      [] tau, float32: 0.538 to 2, or 0.5 to 1 for "authors_code".

    Raises:
      ValueError: if accuracies are not [C], known not to be in [0, 1], or the formula is unknown.

    Source: Sinha et al. 2020, eqs. 3 and 4; the authors' CIFAR-LT/losses/cdb_loss.py and
    ImageNet-LT/loss/CDBSoftmaxLoss.py.
    """
    accuracy = _checked_accuracy(accuracy)
    if formula not in FORMULAS:
        raise ValueError(f"formula must be one of {', '.join(FORMULAS)}, got {formula!r}")
    best, worst = accuracy.max(), accuracy.min()
    if formula == "authors_code":
        return jax.nn.sigmoid(best / (worst + 0.01))
    return 2.0 * jax.nn.sigmoid(best / (worst + (1e-4 if formula == "paper" else 0.01)) - 1.0)


def difficulty_weights(
    accuracy: Array,
    tau: float | Array | str = "dynamic",
    *,
    formula: str = "paper",
    floor: float | Array = 0.01,
    scale: bool = True,
) -> Array:
    """Computes class weights from difficulty, (1 - accuracy)^tau.

    Args:
      accuracy: [C] accuracies in [0, 1] on held-out validation data. For classes without validation examples, see
        `carry_accuracy`.
      tau: exponent, at least 0 (0 gives equal weights), or "dynamic" for `dynamic_tau` of these accuracies.
      formula: the form of `dynamic_tau`; not used if tau is a number.
      floor: least difficulty of a class, in [0, 1). The paper and the authors' code use 0, which gives a class without
        errors the weight 0.
      scale: True scales the weights to sum to C, as in the authors' code; False is the paper's equation.

    Returns:
      [C] weights, float32. If floor is 0 and no class has an error, all weights are 1.

    Raises:
      ValueError: if accuracies are not [C] or known not to be in [0, 1], or tau, formula or floor is out of range.

    Source: Sinha et al. 2020, eq. 2.
    """
    accuracy = _checked_accuracy(accuracy)
    if isinstance(tau, str):
        if tau != "dynamic":
            raise ValueError(f"tau must be 'dynamic' or a number, at least 0, got {tau!r}")
        tau = dynamic_tau(accuracy, formula)
    elif jnp.ndim(tau) != 0 or (not isinstance(tau, jax.core.Tracer) and not tau >= 0):
        raise ValueError(f"tau must be 'dynamic' or a number, at least 0, got {tau}")
    if not isinstance(floor, jax.core.Tracer) and not 0 <= floor < 1:
        raise ValueError(f"floor must be in [0, 1), got {floor}")
    tau, floor = jnp.asarray(tau, accuracy.dtype), jnp.asarray(floor, accuracy.dtype)
    difficulty = jnp.maximum(1.0 - accuracy, floor)
    largest = difficulty.max()
    if scale:
        # Relative to the hardest class, so that a large tau cannot bring the sum to 0.
        difficulty = difficulty / jnp.where(largest > 0, largest, 1.0)
    positive = difficulty > 0
    # 0^tau is 1 for tau = 0. For tau < 1 its slope is infinite; the slope here is 0.
    weights = jnp.where(positive, jnp.where(positive, difficulty, 1.0) ** tau, jnp.where(tau > 0, 0.0, 1.0))
    weights = jnp.where(largest > 0, weights, 1.0)
    return weights * (weights.size / weights.sum()) if scale else weights


def carry_accuracy(previous: Array, measured: Array) -> Array:
    """Returns the measured accuracies; a class whose accuracy is NaN (no validation examples) keeps its previous one.

    Args:
      previous: [C] last known accuracies; 0, which is difficulty 1, before the first measurement.
      measured: [C] accuracies, NaN for classes without validation examples.

    Returns:
      [C] accuracies, without NaN if `previous` has none.
    """
    # On the host if possible, since jax_debug_nans refuses a NaN on its way to the device.
    xp = jnp if isinstance(measured, jax.Array) else np
    missing = xp.isnan(measured)
    measured = _at_least_float32(xp.where(missing, 0.0, measured))
    return jnp.where(missing, jnp.asarray(previous, measured.dtype), measured)


def smooth_accuracy(previous: Array, measured: Array, keep: float | Array) -> Array:
    """Averages accuracies over epochs, so that the weights do not depend on a single epoch. This is not in the paper.

    CDB sets the weights of an epoch from the accuracies of the epoch before. A class that was right gets almost no
    weight, is forgotten within the epoch, and gets the weight back while another is forgotten: the weights swing.

    Args:
      previous: [C] what this function returned at the last measurement. Before the first: zeros, which is difficulty 1
        for all classes, so that weights move away from equal ones step by step; NaN to take the first measurement
        whole.
      measured: [C] accuracies of this epoch, NaN for a class without validation examples.
      keep: share of `previous` that stays, in [0, 1); 0 is the paper, and the same as `carry_accuracy`.

    Returns:
      [C] keep * previous + (1 - keep) * measured, float32; if one of the two is NaN, the other.

    Raises:
      ValueError: if the accuracies are not both [C], or keep is known not to be in [0, 1).
    """
    previous, measured = jnp.asarray(previous), jnp.asarray(measured)
    if previous.ndim != 1 or previous.shape != measured.shape:
        raise ValueError(
            f"previous and measured must both be [C], one number a class, got {previous.shape} and {measured.shape}"
        )
    kind = jnp.float64 if jnp.float64 in (previous.dtype, measured.dtype) else jnp.float32
    # Checked in the precision of the computation: in float32 0.99999999 is 1, and no accuracy would ever count.
    if np.ndim(keep) != 0 or (not isinstance(keep, jax.core.Tracer) and not 0 <= np.asarray(keep, kind) < 1):
        raise ValueError(f"keep must be one number in [0, 1), got {keep}")
    previous, measured, keep = previous.astype(kind), measured.astype(kind), jnp.asarray(keep, kind)
    mixed = keep * previous + (1 - keep) * measured
    return jnp.where(jnp.isnan(measured), previous, jnp.where(jnp.isnan(previous), measured, mixed))


def weights_moved(before: Array, after: Array) -> Array:
    """Computes how far class weights moved: the share of the whole weight that changed classes.

    Args:
      before, after: [..., C] class weights, at least 0 and not all 0, on any scale.

    Returns:
      [...] float32, between 0 (equal weights) and 1 (all weight moved to classes that had none). For weights that sum
      to C it is half the sum of absolute changes, divided by C.

    Raises:
      ValueError: if the weights are not both [..., C].
    """
    before, after = jnp.asarray(before, jnp.float32), jnp.asarray(after, jnp.float32)
    if before.ndim == 0 or before.shape != after.shape:
        raise ValueError(f"before and after must have one shape [..., C], got {before.shape} and {after.shape}")
    shares = [weights / weights.sum(axis=-1, keepdims=True) for weights in (before, after)]
    moved = 0.5 * jnp.abs(shares[1] - shares[0]).sum(axis=-1)
    # A compiled program fuses the division with the difference, which leaves 1e-8 for equal weights.
    return jnp.where((before == after).all(axis=-1), 0.0, moved)


def _checked_accuracy(accuracy: Array) -> Array:
    """Returns accuracies in at least float32, or raises; values of a traced array are not checked."""
    accuracy = jnp.asarray(accuracy)
    if accuracy.ndim != 1 or accuracy.size == 0:
        raise ValueError(f"accuracy must be [C], one number a class, got shape {accuracy.shape}")
    if not isinstance(accuracy, jax.core.Tracer) and not bool(((accuracy >= 0) & (accuracy <= 1)).all()):
        raise ValueError(
            f"accuracy must be in [0, 1] for each class, got {accuracy.tolist()[:20]}; if a class has no validation "
            "example, keep its last accuracy with carry_accuracy"
        )
    return _at_least_float32(accuracy)


def _at_least_float32(values: Array) -> Array:
    values = jnp.asarray(values)
    # An explicit type, because jax_numpy_dtype_promotion="strict" refuses promotion.
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)
