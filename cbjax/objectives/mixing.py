"""Mixup, CutMix, Remix and CMO: trains any objective on pairs of images that are mixed into one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cbjax.types import Array, Model, Objective, Terms, TrainState

PARTNER = "partner"  # the stream of the images that are mixed in
MIXING = 2**32 - 2**8  # no image has this place in a batch, and no stream this number


class Mixture(NamedTuple):
    """How the images of a batch are mixed with their partners.

    Attributes:
      images: [B, H, W, channels]; clips are [B, T, H, W, channels].
      share: [] of an image in the mixture, in [0, 1].
    """

    images: Array
    share: Array


def blend(key: Array, share: Array, images: Array, partners: Array) -> Mixture:
    """Returns share * image + (1 - share) * partner (mixup)."""
    return Mixture(jnp.where(share == 1, images, share * images + (1 - share) * partners), share)


def paste(key: Array, share: Array, images: Array, partners: Array) -> Mixture:
    """Pastes one box of the partner, at a random place that is the same for the whole batch and all frames (CutMix).

    The share becomes that of the pixels outside the box: at the border the box is cut off.
    """
    height, width = images.shape[-3:-1]
    row_key, column_key = jax.random.split(key)
    row, column = jax.random.randint(row_key, (), 0, height), jax.random.randint(column_key, (), 0, width)
    inside = box(share, row, column, height, width)
    of_pixels = jnp.expand_dims(inside, (*range(images.ndim - 3), -1))
    return Mixture(jnp.where(of_pixels, partners, images), 1 - jnp.mean(inside, dtype=jnp.float32))


def box(share: Array, row: Array, column: Array, height: int, width: int) -> Array:
    """Says which pixels [H, W] lie in the box around a pixel; its area is about 1 - share of the image.

    Source: the authors' `rand_bbox`: sides are rounded down to even numbers of pixels.
    """
    ratio = jnp.sqrt(1 - share)

    def within(center, size):
        half = jnp.floor(size * ratio).astype(jnp.int32) // 2
        places = jnp.arange(size)
        return (places >= center - half) & (places < center + half)

    return within(row, height)[:, None] & within(column, width)[None, :]


def same_share(share: Array, count: Array, partner_count: Array, kappa: Array, tau: Array) -> Array:
    """Returns the image's own share in the mixture as the share of its label."""
    return jnp.broadcast_to(share, count.shape)


def rare_share(share: Array, count: Array, partner_count: Array, kappa: Array, tau: Array) -> Array:
    """Returns the share of an image's label [B] by Remix: a label that is much rarer than the other may take all.

    Args:
      share: [] of the image.
      count: [B] training images of its class.
      partner_count: [B] those of its partner's class.
      kappa: [] a class is much rarer if the other has at least so many times its images.
      tau: [] its label takes all if the share of the other image is below this.

    Source: Chou et al. 2020 (Remix), section 3; the code of imbalanced-DL has it so.
    """
    gives_all = (count >= kappa * partner_count) & (share < tau)
    takes_all = (partner_count >= kappa * count) & (1 - share < tau)
    return jnp.where(gives_all, 0.0, jnp.where(takes_all, 1.0, share))


# Name -> what is done with the images, and what share the label has.
METHODS: dict[str, tuple[Callable[..., Mixture], Callable[..., Array]]] = {
    "mixup": (blend, same_share),
    "cutmix": (paste, same_share),
    "remix": (blend, rare_share),
    "cmo": (paste, same_share),
}


def mixed(build: Callable[[Model], Objective], model: Model, name: str) -> Objective:
    """Returns the objective of `build`, trained on mixtures of images and their partners.

    The loss of a mixture is share * (its loss with the image's label) + (1 - share) * (its loss with the partner's);
    what it counts in the mean is mixed in the same way. One draw from Beta(alpha, alpha) gives the share for the whole
    batch, as in the authors' code of all four. A batch is mixed with probability `mix.chance`, at steps from
    `mix.first_step` to before `mix.end_step` (`settings.method`). Otherwise the share is 1, and the batch is as without
    mixing. Training accuracy counts the image's own label.

    - mixup (Zhang et al. 2018, eq. 1): partners are the batch's own images in another random order.
    - CutMix (Yun et al. 2019, eq. 1 and 2): the same partners; a box of the partner, one a batch. The authors mix
      CIFAR's batches with probability 0.5.
    - Remix (Chou et al. 2020): mixup, but a rare label may take all. kappa 3, tau 0.5.
    - CMO (Park et al. 2022): a box of an image that is drawn with weight 1/n by its class's n images, so all classes
      come equally often; alpha 1, probability 0.5, not in the first 4 and the last 3 epochs, as in the authors' code.

    With `loss.mean=weight_sum` the sum of mixed losses is divided by the sum of mixed weights; the authors divide each
    label's losses by its own weights first.

    Args:
      build: model -> objective. It remembers nothing and reads the network through `model.apply` alone.
      model: the network.
      name: one of `METHODS`.
    """
    mix, share_of_label = METHODS[name]
    plain = build(model)

    def apply(params, state, batch):
        labels, partner = batch["label"], batch[PARTNER]
        share_key, place_key = jax.random.split(_key(state))
        image, share = mix(place_key, _share(share_key, state), batch["image"], partner["image"])
        outputs = model.apply(params, state.batch_stats, image, train=True, key=batch.get("key"))
        # The same logits for both labels: the network is run once.
        once = build(model._replace(apply=lambda *args, **kwargs: outputs))
        both = (labels, partner["label"])
        own, other = (once.apply(params, state, {**batch, "image": image, "label": each}) for each in both)
        numbers, counts = state.settings.method, jnp.asarray(state.settings.counts)
        of_class = [counts[each] if each.ndim == 1 else jnp.ones(len(each)) for each in both]  # Remix: single labels
        share = share_of_label(share, *of_class, numbers["mix.kappa"], numbers["mix.tau"])
        losses, amounts = (
            share * one + (1 - share) * two for one, two in ((own.losses, other.losses), (own.amounts, other.amounts))
        )
        return Terms(losses, amounts, own.logits, own.batch_stats, own.state)

    return plain._replace(apply=apply, streams=(*plain.streams, PARTNER))


def _key(state: TrainState) -> Array:
    """Returns the key of this step's mixing, the same on all devices."""
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), MIXING)


def _share(key: Array, state: TrainState) -> Array:
    """Draws the share of the images of this batch: 1 if it is not mixed."""
    numbers = state.settings.method
    beta_key, chance_key = jax.random.split(key)
    step = state.step.astype(jnp.float32)  # as the settings are
    is_time = (step >= numbers["mix.first_step"]) & (step < numbers["mix.end_step"])
    is_mixed = is_time & (jax.random.uniform(chance_key) < numbers["mix.chance"])
    return jnp.where(is_mixed, symmetric_beta(beta_key, numbers["mix.alpha"]), 1.0)


def symmetric_beta(key: Array, alpha: Array) -> Array:
    """Draws from Beta(alpha, alpha) by a formula of two random numbers.

    `jax.random.beta` rejects draws in a loop, which would make every program take seconds longer to compile.

    Source: Devroye 1996 (Random variate generation in one line of code), section 5, after Bailey 1994.
    """
    radius_key, angle_key = jax.random.split(key)
    cosine = jnp.cos(jax.random.uniform(angle_key, maxval=2 * jnp.pi))
    spread = jnp.expm1(jax.random.exponential(radius_key) / alpha)  # may be infinite: then 0 or 1 is drawn
    return jnp.clip(0.5 + 0.5 * cosine / jnp.sqrt(1 / spread + cosine**2), 0.0, 1.0)  # rounding may step out
