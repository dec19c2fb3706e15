"""Equalization losses: images of other classes do not teach rare classes that the answer is no."""

from collections.abc import Callable

import jax

from cbjax.losses import equalization_mask
from cbjax.objectives.weighted import weighted
from cbjax.parallel.sharding import places_in_batch
from cbjax.types import Array, Batch, Model, Objective, TrainState

MASKS = 2**32 - 2**16  # the number folded into a step's key for masks; no image has this place in a batch


def equalized(model: Model, loss: Callable[..., Array], mean: str = "batch", axis: str | None = "data") -> Objective:
    """Returns an equalization loss; `settings` has counts, rare_below and mask_chance.

    A class is rare if it has fewer training images than rare_below times the mean of all classes: lambda of the papers
    is rare_below / C. Each image leaves out each rare class that is not its own with the chance mask_chance, gamma of
    the papers. The draw depends on the step and on the image's place in the global batch, not on devices.

    Args:
      model: the network.
      loss: (logits, labels, class_weights, masked [B, C]) -> [B]: `losses.equalization_loss` or
        `losses.softmax_equalization_loss`.
      mean: as in `weighted`.
      axis: the mesh axis that a batch is split over, or None.

    Source: Tan et al. 2020. The sigmoid form of the detector's code leaves out always (a chance of 1). The authors'
    softmax form draws for each element, CDB's code once a batch. Published lambda and gamma: 0.005 and 0.9 for
    CIFAR-100, 0.05 for CIFAR-10 (both rare_below 0.5), 0.00043 and 0.9 for ImageNet-LT, 0.03 and 0.95 for EGTEA.
    """

    def without(masked):
        def left_out(logits, labels, class_weights, settings):
            return loss(logits, labels, class_weights, masked=masked)

        return weighted(model, left_out, mean)

    def apply(params, state, batch):
        return without(_mask(state, batch, axis)).apply(params, state, batch)

    return without(None)._replace(apply=apply)


def _mask(state: TrainState, batch: Batch, axis: str | None) -> Array:
    counts, numbers = state.settings.counts, state.settings.loss
    # As products, which are exact: rare_below / C is rounded, and a class just at the mean would be rare.
    rare = counts * counts.shape[0] < numbers["rare_below"] * counts.sum()
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MASKS)
    places = batch["place"] if "place" in batch else places_in_batch(batch["label"].shape[0], axis)
    return equalization_mask(jax.vmap(jax.random.fold_in, (None, 0))(key, places), rare, numbers["mask_chance"])
