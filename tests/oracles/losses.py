"""Losses in float64 and their gradients by hand, weighted per example (integer labels) or per class (multi-hot)."""

import numpy as np


def softmax_cross_entropy(logits, labels, class_weights):
    """Returns losses [B] and the gradient of their sum [B, C] (Cui et al. 2019, eq. 10)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    rows = np.arange(len(labels))
    weights = class_weights[labels]
    gradient = np.exp(shifted - log_sum[:, None])
    gradient[rows, labels] = 0.0
    gradient[rows, labels] = -gradient.sum(axis=1)
    return weights * (log_sum - shifted[rows, labels]), weights[:, None] * gradient


def smoothed_cross_entropy(logits, labels, class_weights, label_smoothing):
    """Returns losses [B] and the gradient of their sum [B, C]: cross entropy against the mixed label, written out."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    target = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    weights = class_weights[labels]
    return -weights * (target * log_p).sum(axis=1), weights[:, None] * (np.exp(log_p) - target)


def sigmoid_cross_entropy(logits, labels, class_weights):
    """Returns losses [B] and the gradient of their sum [B, C] (eq. 12)."""
    sign, weights = _sign_and_weights(logits, labels, class_weights)
    not_p = np.exp(-np.logaddexp(0.0, sign * logits))
    return (weights * np.logaddexp(0.0, -sign * logits)).sum(axis=1), weights * -sign * not_p


def focal_loss(logits, labels, class_weights, gamma):
    """Returns losses [B] and the gradient of their sum [B, C] (eq. 13)."""
    sign, weights = _sign_and_weights(logits, labels, class_weights)
    log_p = -np.logaddexp(0.0, -sign * logits)
    log_not_p = -np.logaddexp(0.0, sign * logits)
    modulator = np.exp(gamma * log_not_p)
    slope = modulator * (gamma * np.exp(log_p) * log_p - np.exp(log_not_p))
    return (weights * modulator * -log_p).sum(axis=1), weights * sign * slope


def authors_focal_loss(logits, labels, class_weights, gamma):
    """Returns losses [B] as in the CB authors' code, for moderate logits and integer labels."""
    one_hot = np.eye(logits.shape[1])[labels]
    cross_entropy = np.maximum(logits, 0) - logits * one_hot + np.log1p(np.exp(-np.abs(logits)))
    modulator = np.exp(-gamma * one_hot * logits - gamma * np.log1p(np.exp(-logits)))
    return (class_weights[labels][:, None] * modulator * cross_entropy).sum(axis=1)


def soft_focal_loss(logits, labels, class_weights, gamma):
    """Returns losses [B] for labels [B, C] in [0, 1], as in torchvision's and optax's sigmoid_focal_loss."""
    p = 1 / (1 + np.exp(-logits))
    cross_entropy = labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits)
    missed = labels / (1 + np.exp(logits)) + (1 - labels) * p
    return (class_weights * cross_entropy * missed**gamma).sum(axis=1)


def _sign_and_weights(logits, labels, class_weights):
    if labels.ndim == 2:
        return 2.0 * labels - 1.0, np.broadcast_to(class_weights, logits.shape)
    sign = 2.0 * np.eye(logits.shape[1])[labels] - 1.0
    return sign, np.broadcast_to(class_weights[labels][:, None], logits.shape)
