"""Losses of one right class in float64, each written from its paper; gradients by complex steps, which lose no digits.

Each takes logits [B, C] (complex where a gradient is taken) and a class c, and returns its loss for every example, as
if c were the true class of all.
"""

import numpy as np


def of_labels(loss, logits, labels, class_weights):
    """Returns losses [B] and the gradient of their sum [B, C], for integer labels or shares [B, C]."""
    shares = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels

    def total(logits):
        each = np.stack([loss(logits, c) for c in range(logits.shape[1])], axis=1)
        return np.sum(np.where(shares > 0, shares * class_weights * each, 0.0), axis=1)

    step = 1e-30
    slopes = [total(logits + 1j * step * np.eye(logits.shape[1])[c]).imag / step for c in range(logits.shape[1])]
    return total(logits + 0j).real, np.stack(slopes, axis=1)


def cross_entropy(logits, c):
    """Returns -log p of class c, which keeps its digits where p is near 1."""
    others = np.delete(logits, c, axis=1) - logits[:, [c]]
    top = np.maximum(others.real.max(axis=1), 0.0)
    powers = np.exp(others - top[:, None]).sum(axis=1)
    small = np.log1p(powers.real) + 1j * powers.imag / (1 + powers.real)  # NumPy's log1p of complex numbers rounds
    return np.where(top == 0, small, top + np.log(np.exp(-top) + powers))


def missed(logits, c):
    """Returns 1 - p of class c."""
    powers = np.exp(logits - logits.real.max(axis=1, keepdims=True))
    return np.delete(powers, c, axis=1).sum(axis=1) / powers.sum(axis=1)


def focal(logits, c, gamma):
    """Lin et al. 2017, eq. 4, with p of a softmax."""
    return missed(logits, c) ** gamma * cross_entropy(logits, c)


def poly(logits, c, epsilon):
    """Leng et al. 2022, eq. 6."""
    return cross_entropy(logits, c) + epsilon * missed(logits, c)


def ldam(cosines, c, margins, scale):
    """Cao et al. 2019, eq. 13."""
    return cross_entropy(scale * (cosines - margins[c] * np.eye(cosines.shape[1])[c]), c)


def logit_adjusted(logits, c, counts, tau):
    """Menon et al. 2021, eq. 10."""
    return cross_entropy(logits + tau * np.log(counts / counts.sum()), c)


def vector_scaling(logits, c, counts, gamma, tau):
    """Kini et al. 2021, eq. 2, with the authors' choice of Delta and iota."""
    return cross_entropy(logits * (counts / counts.max()) ** gamma + tau * np.log(counts / counts.sum()), c)


def equalized(logits, c, masked, true):
    """Tan et al. 2020, eq. 11: exponentials of masked classes [C] are left out, but those of true ones [B, C] stay."""
    kept = ~masked[None, :] | true
    powers = np.exp(logits - np.where(kept, logits.real, -np.inf).max(axis=1, keepdims=True))
    return -np.log(powers[:, c] / np.where(kept, powers, 0.0).sum(axis=1))
