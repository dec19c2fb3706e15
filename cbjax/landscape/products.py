"""Products of a loss's Hessian with vectors, and its gradient: summed over all images, never formed as a matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cbjax.data import Split
from cbjax.landscape import images
from cbjax.landscape.subject import Subject, build_logits, build_losses, rest_of
from cbjax.parallel import sharding

LEAST = 8  # images of a batch


class Products(NamedTuple):
    """Compiled products of one network; they serve all parts of its images.

    Attributes:
      size: P, parameters.
      of: images -> products of their mean loss.
    """

    size: int
    of: Callable[[Split], "OfImages"]


class OfImages(NamedTuple):
    """Derivatives of the mean loss over some images.

    Attributes:
      hessian: vector [P] -> its product with the Hessian, [P].
      gradient: () -> the gradient, [P].
    """

    hessian: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[], np.ndarray]


def build(subject: Subject, mesh: Mesh, images_at_once: int | None = None) -> Products:
    """Builds the products of a subject's loss, without weights of classes and without augmentation.

    BatchNorm's statistics are those of the network. A batch is divided over the devices.

    Args:
      subject: the network.
      mesh: the devices.
      images_at_once: images of a batch; None to choose.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, subject.network.params))
    logits_of, losses_of = build_logits(subject, sharding.AXIS), build_losses(subject)
    params, stats, rest = sharding.replicate((flat, subject.network.batch_stats, rest_of(subject)), mesh)

    def loss_of(stats, rest, batch):
        def loss(flat):
            logits = logits_of(unravel(flat), stats, rest, batch["image"])
            return jnp.sum(jnp.where(batch["mask"], losses_of(logits, batch["label"], rest), 0.0))

        return loss

    def add_product(total, flat, vector, stats, rest, batch):
        flat, vector = sharding.varying((flat, vector), sharding.AXIS)
        product = jax.jvp(jax.grad(loss_of(stats, rest, batch)), (flat,), (vector,))[1]
        return (total + sharding.sum_over(sharding.AXIS, product),)

    def add_gradient(total, flat, stats, rest, batch):
        flat = sharding.varying(flat, sharding.AXIS)
        return (total + sharding.sum_over(sharding.AXIS, jax.grad(loss_of(stats, rest, batch))(flat)),)

    def compiled(function, count):
        split = (*(None,) * (count - 1), 0)
        return sharding.data_parallel(function, mesh, split=split, split_outputs=(None,), donate=(0,))

    run_product, run_gradient = compiled(add_product, 6), compiled(add_gradient, 5)

    def of(examples: Split) -> OfImages:
        size = _batch_size(subject, len(examples), mesh, images_at_once)
        walk = images.in_batches(subject, examples, size, lambda batch: sharding.divide(batch, mesh))

        def over_all(call) -> np.ndarray:
            total, count = sharding.replicate(np.zeros(flat.size, np.float32), mesh), 0
            for batch, shown in walk():
                (total,) = call(total, batch)
                count += int(shown[-1])
            return np.asarray(total, np.float64) / max(count, 1)

        def hessian(vector):
            placed = sharding.replicate(np.asarray(vector, np.float32), mesh)
            return over_all(lambda total, batch: run_product(total, params, placed, stats, rest, batch))

        def gradient():
            return over_all(lambda total, batch: run_gradient(total, params, stats, rest, batch))

        return OfImages(hessian, gradient)

    return Products(int(flat.size), of)


def _batch_size(subject: Subject, size: int, mesh: Mesh, images_at_once: int | None) -> int:
    """Returns how many images to take: a power of two for few images, so that small classes share a program."""
    devices = mesh.devices.size
    usual = images_at_once or images.batch_size(subject, len(subject.examples), images.VALUES // 8)
    small = max(LEAST, 1 << (size - 1).bit_length())
    return images.rounded(min(usual, small), devices)


def of_classes(examples: Split, classes: Any) -> np.ndarray:
    """Returns the positions of the images that show one of the classes."""
    if examples.labels.ndim == 2:
        return np.flatnonzero((examples.labels[:, classes] > 0).any(axis=1))
    return np.flatnonzero(np.isin(examples.labels, classes))
