"""Metrics one example at a time."""

import numpy as np


def summary(logits, labels, losses, confidence):
    """Returns the figures of a split by name."""
    num_classes = logits.shape[1]
    predicted = [int(np.argmax(row)) for row in logits]
    top5 = [label in np.argsort(-row, kind="stable")[:5] for row, label in zip(logits, labels, strict=True)]
    recall, precision = {}, {}
    for c in range(num_classes):
        mine = [p == c for p, label in zip(predicted, labels, strict=True) if label == c]
        named = [label == c for p, label in zip(predicted, labels, strict=True) if p == c]
        if mine:
            recall[c] = np.mean(mine)
            precision[c] = np.mean(named) if named else 0.0
    f1 = [2 * precision[c] * recall[c] / (precision[c] + recall[c]) if recall[c] else 0.0 for c in recall]
    # Matthews' coefficient is the correlation of one-hot predictions and labels, summed over classes.
    ours, true = np.eye(num_classes)[predicted], np.eye(num_classes)[labels]
    ours, true = ours - ours.mean(axis=0), true - true.mean(axis=0)
    return {
        "macro_f1": np.mean(f1),
        "geometric_mean": np.prod(list(recall.values())) ** (1 / len(recall)),
        "matthews": (ours * true).sum() / np.sqrt((ours**2).sum() * (true**2).sum()),
        "accuracy": np.mean([p == label for p, label in zip(predicted, labels, strict=True)]),
        "top5_accuracy": np.mean(top5),
        "loss": np.mean(losses),
        "balanced_accuracy": np.mean(list(recall.values())),
        "worst_accuracy": min(recall.values()),
        "macro_recall": np.mean(list(recall.values())),
        "macro_precision": np.mean(list(precision.values())),
        "ece": calibration_error(confidence, [p == label for p, label in zip(predicted, labels, strict=True)], 15),
    }


def calibration_error(confidence, correct, bins):
    """Returns the expected calibration error (Guo et al. 2017)."""
    error = 0.0
    for k in range(bins):
        inside = [i for i, value in enumerate(confidence) if k / bins < value <= (k + 1) / bins]
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            error += len(inside) / len(confidence) * abs(gap)
    return error
