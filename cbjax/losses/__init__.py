"""Losses as pure functions: each computes one loss an example [B], which is never reduced over the batch.

All take (logits, labels, class_weights) and then options by name. Begin with `softmax.py`, whose docstring says what
labels, weights and `ignore` mean for all of them; `one_vs_rest.py` has the sigmoid losses, `focal.py` the focal ones,
and `by_counts.py` those that know how many training images a class has. `means.py` divides over devices. What a config
may name is in `facts.py`. Weights of classes are not here: see `weights.py` and `difficulty.py`.
"""

from cbjax.losses.by_counts import (
    balanced_softmax_loss,
    ldam_loss,
    ldam_margins,
    log_prior,
    logit_adjusted_loss,
    vs_loss,
)
from cbjax.losses.equalization import (
    equalization_loss,
    equalization_mask,
    rare_classes,
    softmax_equalization_loss,
)
from cbjax.losses.facts import LOSSES, LossFacts
from cbjax.losses.focal import focal_loss, softmax_focal_loss
from cbjax.losses.means import weighted_mean
from cbjax.losses.one_vs_rest import one_vs_rest_terms, sigmoid_cross_entropy
from cbjax.losses.softmax import poly_loss, softmax_cross_entropy

__all__ = [
    "LOSSES",
    "LossFacts",
    "balanced_softmax_loss",
    "equalization_loss",
    "equalization_mask",
    "focal_loss",
    "ldam_loss",
    "ldam_margins",
    "log_prior",
    "logit_adjusted_loss",
    "one_vs_rest_terms",
    "poly_loss",
    "rare_classes",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "softmax_equalization_loss",
    "softmax_focal_loss",
    "vs_loss",
    "weighted_mean",
]
