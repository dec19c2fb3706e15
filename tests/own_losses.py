"""Losses as a user writes them, for tests: (logits, labels, class_weights, **options) -> [B]."""

import jax
import jax.numpy as jnp


def hinge(logits, labels, class_weights, *, margin=1.0):
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    others = jnp.where(jnp.arange(logits.shape[1])[None] == labels[:, None], 0.0, margin + logits - true)
    losses = jnp.maximum(others, 0.0).sum(axis=1)
    return losses if class_weights is None else class_weights[labels] * losses


def plain(logits, labels, class_weights=None):
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return losses if class_weights is None else class_weights[labels] * losses


def yes_or_no(logits, labels, class_weights):
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[1])
    terms = jnp.logaddexp(0.0, logits) - targets * logits
    if class_weights is None:
        return terms.sum(axis=1)
    return terms @ class_weights if labels.ndim == 2 else class_weights[labels] * terms.sum(axis=1)


yes_or_no.one_vs_rest = True


def reduced(logits, labels, class_weights):
    return plain(logits, labels, class_weights).mean()


def typo(logits, labels, class_weights):
    return plain(logits, labels, clas_weights)  # noqa: F821


def needs_weights(logits, labels, class_weights):
    return plain(logits, labels) * class_weights[labels]


def counted(logits, labels, class_weights):
    return (logits.argmax(axis=1) != labels).astype(jnp.int32)


def two_arguments(logits, labels):
    return plain(logits, labels)


def not_a_number(logits, labels, class_weights):
    return jnp.sqrt(-1.0 - plain(logits, labels) ** 2)
