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


def looping(logits, labels, class_weights):
    return jax.lax.while_loop(lambda losses: losses[0] > 1, lambda losses: losses / 2, plain(logits, labels))


def two_arguments(logits, labels):
    return plain(logits, labels)


def not_a_number(logits, labels, class_weights):
    return jnp.sqrt(-1.0 - plain(logits, labels) ** 2)


def root(logits, labels, class_weights):
    return jnp.sqrt(0.0 * plain(logits, labels))


def only_pairs(logits, labels, class_weights):
    return logits.reshape(2, -1)[:, 0]


class Record:
    def __init__(self, logits, labels, class_weights):
        self.shape = "none"


def one_by_one(logits, labels, class_weights):
    yield plain(logits, labels)


async def awaited(logits, labels, class_weights):
    return plain(logits, labels)


def branching(logits, labels, class_weights):
    return logits[:, 0] if logits.sum() > 0 else logits[:, 1]


def numpy_like(logits, labels, class_weights):
    return float(logits[0, 0]) + logits[:, 0]


def lengthy(logits, labels, class_weights):
    raise ValueError("\n\nthe first line\n\n  and another\n")


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def without_text(logits, labels, class_weights):
    raise SilentError


builtin, kind = max, dict


def signed(logits, labels, class_weights):
    return plain(logits, labels)


signed.__signature__ = "none"


class Shy:
    def __call__(self, logits, labels, class_weights):
        return plain(logits, labels)

    @property
    def one_vs_rest(self):
        raise RuntimeError("ask me later")


shy = Shy()


@jax.custom_vjp
def backward_only(logits, labels, class_weights):
    return plain(logits, labels)


backward_only.defvjp(
    lambda *given: (plain(*given), given), lambda given, slope: (given[0] * slope[:, None], None, None)
)


def __getattr__(name):
    if name == "raising":
        raise KeyError("module attribute")
    raise AttributeError(name)
