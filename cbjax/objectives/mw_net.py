"""Meta-Weight-Net: a small network weights each image by its loss; it learns from a balanced set of meta images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cbjax.objectives.weighted import SettledLoss, mean_loss
from cbjax.parallel.sharding import mean_over, places_in_batch, sum_over, varying
from cbjax.types import Array, Model, Objective, Terms, TrainState

HIDDEN = 100
VARIANTS = ("imbalance", "noise")
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adam": optax.adam,
}


class Weighting(NamedTuple):
    """The objective's state: the weighting network and the state of its own optimiser."""

    params: Any
    opt_state: Any


def mw_net(
    model: Model,
    loss: SettledLoss,
    rate: Callable[[TrainState], Array] | None,
    *,
    variant: str = "imbalance",
    optimizer: str = "sgd",
    axis: str | None = "data",
) -> Objective:
    """Returns Meta-Weight-Net. `settings` has `meta.network_rate` and `meta.network_decay` of the weighting network.

    A step has three parts. First the weighted loss of the batch moves a copy of the network: one plain step at the
    learning rate of this step, without momentum or decay, of all parameters, BatchNorm's too. Then the weighting
    network takes a step against the copy's loss on the meta images. Last the new weights train the network itself; no
    gradient flows through them.

    The copy's loss depends on the weighting network by the virtual step alone. So its gradient is that of
    -rate * <gradient of the weighted loss, gradient of the meta loss at the copy>. One `jax.jvp` of the losses along
    the meta gradient gives this product, and no second-order graph is built. The authors repeat the forward pass after
    the step of the weighting network. It sees the same parameters and images, so it gives the same losses.

    All passes are in training mode. BatchNorm's running statistics come from the training images, before the virtual
    step; those of the copy are dropped.

    Args:
      model: the network.
      loss: (logits, labels, class_weights, settings) -> [B]; meta images have no class weights.
      rate: state -> [] the learning rate of its step; None if the objective is not trained.
      variant: "imbalance" divides the weighted losses by the batch's sum of weights, and in the virtual step it lets
        the gradient flow through the weights into the losses that they are computed from. "noise" divides by the number
        of images, and no gradient flows there. Each is one of the authors' two repositories.
      optimizer: "sgd", with Nesterov's momentum of 0.9 (the imbalance repository), or "adam" (the noise repository).
      axis: the mesh axis that a batch is split over, or None.

    Raises:
      ValueError: if the variant or the optimiser is unknown.

    Source: Shu et al. 2019, eqs. 3 to 5 and algorithm 1, whose form is "noise". The weighting network's rate and decay
      are 1e-5 and 5e-4 in the authors' imbalance repository, 1e-3 and 1e-4 in their noise repository.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r}: must be one of {', '.join(VARIANTS)}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer!r}: must be one of {', '.join(OPTIMIZERS)}")

    def optimizer_of(settings):
        given = settings.method
        decay = optax.add_decayed_weights(given["meta.network_decay"])
        return optax.chain(decay, OPTIMIZERS[optimizer](given["meta.network_rate"]))

    def virtual(weighting, losses, there):
        """Returns the loss of the virtual step from the losses [B] of the global batch; only those `there` count."""
        if variant == "noise":
            counted = {} if there is None else {"mask": there}
            return mean_loss(weights_of(weighting, jax.lax.stop_gradient(losses)) * losses, counted, None)
        weights = weights_of(weighting, losses)
        weights = weights if there is None else jnp.where(there, weights, 0)
        total = weights.sum()
        return jnp.sum(weights * losses) / jnp.where(total > 0, total, 1.0)

    def apply(params, state, batch):
        assert rate is not None, "an objective that trains needs the learning rate"
        key, before = batch.get("key"), state.objective

        def of_each(params):
            logits, batch_stats = model.apply(params, state.batch_stats, batch["image"], train=True, key=key)
            return loss(logits, batch["label"], state.class_weights, state.settings), (logits, batch_stats)

        def of_meta(params):
            meta = batch["meta"]
            logits, _ = model.apply(params, state.batch_stats, meta["image"], train=True, key=key)
            return mean_loss(loss(logits, meta["label"], None, state.settings), meta, axis)

        fixed = jax.lax.stop_gradient(params)
        own, back, _ = jax.vjp(of_each, fixed, has_aux=True)
        losses, pace = _whole_batch(own, axis), rate(state)
        there = _whole_batch(batch["mask"].astype(own.dtype), axis) > 0 if "mask" in batch else None
        shares = jax.grad(virtual, argnums=1)(before.params, losses, there)
        (slope,) = back(shares[places_in_batch(own.shape[0], axis)])
        slope = varying(sum_over(axis, slope), axis)
        copy = jax.tree.map(lambda leaf, slope: leaf - (pace * slope).astype(leaf.dtype), fixed, slope)
        direction = varying(mean_over(axis, jax.grad(of_meta)(copy)), axis)
        _, change, _ = jax.jvp(of_each, (fixed,), (direction,), has_aux=True)
        change = _whole_batch(change, axis)

        def meta_loss(weighting):  # to first order, which is all that its gradient at this place needs
            return -pace * jax.jvp(lambda losses: virtual(weighting, losses, there), (losses,), (change,))[1]

        updates, opt_state = optimizer_of(state.settings).update(
            jax.grad(meta_loss)(before.params), before.opt_state, before.params
        )
        after = Weighting(optax.apply_updates(before.params, updates), opt_state)
        trained, (logits, batch_stats) = of_each(params)
        weights = jax.lax.stop_gradient(weights_of(after.params, trained))
        amounts = weights if variant == "imbalance" else jnp.ones_like(weights)
        return Terms(weights * trained, amounts, logits, batch_stats, after)

    def init(key, params, settings):
        weighting = first_weighting(key)
        return Weighting(weighting, optimizer_of(settings).init(weighting))

    def logits(trained, images):
        return model.apply(trained.params, trained.batch_stats, images, train=False)[0]

    return Objective(init, apply, logits, streams=("meta",))


def first_weighting(key: Array) -> dict[str, Array]:
    """Returns a weighting network of 1, 100 and 1 units with PyTorch's first values: uniform in 1/sqrt(inputs)."""
    shapes = {"hidden": ((1, HIDDEN), 1), "hidden_bias": ((HIDDEN,), 1)}
    shapes |= {"last": ((HIDDEN, 1), HIDDEN), "last_bias": ((1,), HIDDEN)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) / inputs**0.5
        for key, (name, (shape, inputs)) in zip(keys, shapes.items(), strict=True)
    }


def weights_of(weighting: dict[str, Array], losses: Array) -> Array:
    """Returns the weight in (0, 1) of each loss, [B] of [B]."""
    hidden = jax.nn.relu(losses[:, None] * weighting["hidden"] + weighting["hidden_bias"][None])
    last = jnp.matmul(hidden, weighting["last"], precision="highest") + weighting["last_bias"][None]
    return jax.nn.sigmoid(last[:, 0])


def _whole_batch(values: Array, axis: str | None) -> Array:
    """Returns the values [B] of the global batch, the same on all devices, from those of this device's examples."""
    if axis is None:
        return values
    size = values.shape[0]
    places = places_in_batch(size, axis)
    # The sum is exact, since all terms but one are 0. Unlike a gathered array, it counts as equal on all devices.
    return sum_over(axis, jnp.zeros(size * jax.lax.axis_size(axis), values.dtype).at[places].set(values))
