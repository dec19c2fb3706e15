"""The losses that a config may name, and what follows from the choice of each."""

from collections.abc import Callable
from typing import NamedTuple

from cbjax.losses.focal import focal_loss, softmax_focal_loss
from cbjax.losses.one_vs_rest import sigmoid_cross_entropy
from cbjax.losses.softmax import poly_loss, softmax_cross_entropy
from cbjax.types import Array


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
    "softmax_focal": LossFacts(softmax_focal_loss, numbers=("gamma",)),
    "poly": LossFacts(poly_loss, numbers=("epsilon",)),
    "ldam": LossFacts(softmax_cross_entropy, needs_counts=True),
    "logit_adjusted": LossFacts(softmax_cross_entropy, needs_counts=True),
    "vs": LossFacts(softmax_cross_entropy, needs_counts=True),
    "eql": LossFacts(sigmoid_cross_entropy, one_vs_rest=True),
    "softmax_eql": LossFacts(softmax_cross_entropy),
    "ghm": LossFacts(sigmoid_cross_entropy, one_vs_rest=True),
    "ghm_softmax": LossFacts(softmax_cross_entropy),
}
