"""What a loss is given, checked and brought into one form; and what all losses do with weights at their end."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.types import Array


class Given(NamedTuple):
    """The arguments of a loss as jax arrays, floats in at least float32.

    Attributes:
      logits: [B, C], 0 for an example that does not count.
      labels: [B] integers, each naming a class, or [B, C].
      class_weights: [C] or None.
      counted: [B] which examples count, or None if all do.
      example_weights: [B] or None.
    """

    logits: Array
    labels: Array
    class_weights: Array | None
    counted: Array | None
    example_weights: Array | None

    @property
    def is_hard(self) -> bool:
        """Whether each label is the number of one class."""
        return self.labels.ndim == 1

    @property
    def is_true(self) -> Array:
        """Which classes are true of an example, in whole or in part, [B, C]."""
        return one_hot(self.labels, self.logits) if self.is_hard else self.labels > 0

    def of_label(self, numbers: Array) -> Array:
        """Picks the number of each label's class, [B], from those of all classes [C]; labels [B, C] get all, [1, C]."""
        return numbers[self.labels] if self.is_hard else numbers[None, :]

    def weigh(self, losses: Array) -> Array:
        """Weighs losses [B] of integer labels, or of each class [B, C], and sums over classes; returns [B].

        A loss of 0 stands for an example that does not count, whatever else it is.
        """
        if self.class_weights is not None:
            losses = losses * self.of_label(self.class_weights)
        if losses.ndim == 2:
            losses = losses.sum(axis=1)
        if self.example_weights is not None:
            losses = losses * self.example_weights
        return losses if self.counted is None else jnp.where(self.counted, losses, 0.0)


def checked(
    logits: Array,
    labels: Array,
    class_weights: Array | None = None,
    example_weights: Array | None = None,
    ignore: Array | None = None,
) -> Given:
    """Returns the arguments in one form; raises ValueError for a caller's mistake."""
    logits, labels, class_weights = _arrays(logits, labels, class_weights)
    if example_weights is not None:
        example_weights = jnp.asarray(example_weights, logits.dtype)
        if example_weights.shape != logits.shape[:1]:
            raise ValueError(
                f"example_weights must be [B], one weight an example, got shape {example_weights.shape} for logits of "
                f"shape {logits.shape}"
            )
    if ignore is not None:
        ignore = jnp.asarray(ignore)
        if ignore.shape != logits.shape[:1] or ignore.dtype != bool:
            raise ValueError(
                f"ignore must be [B], true for each example that does not count, got {ignore.dtype} of shape "
                f"{ignore.shape} for logits of shape {logits.shape}"
            )
    counted = None if ignore is None else ~ignore
    if labels.ndim == 1:
        known = (labels >= 0) & (labels < logits.shape[1])
        counted = known if counted is None else known & counted
        labels = jnp.where(counted, labels, 0)
    if counted is not None:
        # Zeros, because a NaN would reach the gradient: 0 times NaN is NaN.
        logits = jnp.where(counted[:, None], logits, 0.0)
        if labels.ndim == 2:
            labels = jnp.where(counted[:, None], labels, 0)
    return Given(logits, labels, class_weights, counted, example_weights)


def check_number(name: str, number: Any, low: float, logits: Array, *, of_class: bool = False) -> Array:
    """Returns an option as an array of the logits' type; a traced one is not checked for its range.

    Args:
      name: of the option, for the message.
      number: [], or [C] where `of_class` allows one for each class.
      low: the least value.
      logits: [B, C].
      of_class: whether it may be [C].

    Raises:
      ValueError: if it has another shape, or a value below `low`, or one that is not finite.
    """
    known = None if isinstance(number, jax.core.Tracer) else np.asarray(number)
    # Kinds of numbers that can be compared; an option may come as text from a file.
    is_number = known is None or known.dtype.kind in "biufV"  # V: bfloat16
    fits = is_number and (jnp.ndim(number) == 0 or (of_class and jnp.shape(number) == logits.shape[1:]))
    if not fits or (known is not None and not np.all((known >= low) & (known < np.inf))):
        other = f", or [C] of them, one for each of the {logits.shape[1]} classes" if of_class else ""
        shown = repr(number) if isinstance(number, str) else number
        raise ValueError(f"{name} must be a finite number, at least {low}{other}, got {shown}")
    return jnp.asarray(number, logits.dtype)


def check_share(name: str, share: Any) -> None:
    """Raises ValueError if a share or a chance is not in [0, 1]; a traced one is not checked."""
    if not isinstance(share, jax.core.Tracer) and not np.all((np.asarray(share) >= 0) & (np.asarray(share) <= 1)):
        raise ValueError(f"{name} must be in [0, 1], got {share}")


def check_counts(counts: Any, logits: Array) -> Array:
    """Returns counts [C] as floats; raises ValueError for another shape, or a class without images."""
    if jnp.shape(counts) != logits.shape[1:]:
        raise ValueError(
            f"counts must be [C], the training images of each class, got shape {jnp.shape(counts)} for logits of "
            f"shape {logits.shape}"
        )
    above_zero(counts)
    return jnp.asarray(counts, logits.dtype)


def above_zero(counts: Any) -> Array:
    """Returns counts [C] as floats; raises ValueError for another shape, or a class without images."""
    if np.ndim(counts) != 1:
        raise ValueError(f"counts must be [C], the training images of each class, got shape {np.shape(counts)}")
    if not isinstance(counts, jax.core.Tracer) and not (np.asarray(counts) > 0).all():
        empty = np.flatnonzero(~(np.asarray(counts) > 0))[:20].tolist()
        raise ValueError(f"counts must be above 0 for every class, got 0 or less in {empty}")
    return as_floats(counts)


def as_floats(numbers: Any) -> Array:
    """Returns numbers as floats in at least float32."""
    numbers = jnp.asarray(numbers)
    return numbers if numbers.dtype == jnp.float64 else numbers.astype(jnp.float32)


def one_hot(labels: Array, logits: Array) -> Array:
    """Returns which class an integer label names, [B, C]."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # of 8 bits they end before 300 classes
    return labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]


def least(x: Array) -> Any:
    """Returns the least finite number of an array's type."""
    return jnp.finfo(x.dtype).min


def _arrays(logits: Array, labels: Array, class_weights: Array | None) -> tuple[Array, Array, Array | None]:
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
    logits = as_floats(logits)
    dtype = logits.dtype
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(dtype)
    elif labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    if class_weights is None:
        return logits, labels, None
    class_weights = jnp.asarray(class_weights, dtype)
    if class_weights.shape != logits.shape[1:]:
        raise ValueError(
            f"class_weights must be [C], one weight a class, got shape {class_weights.shape} "
            f"for logits of shape {logits.shape}"
        )
    return logits, labels, class_weights
