"""Chooses the images of an epoch and their order: pure functions of (seed, epoch), for `batches.Batches`.

An epoch always has as many places as there are training images, so all samplers take equally many steps. All but
`instance` repeat images of rare classes and leave out images of frequent ones. Within a class, no image comes again
before all others have come.

- `class_aware` and `oversample` give equal shares to all classes: the one in turns, the other in random order.
- `undersample` keeps as many images of each class as the rarest class has, the same ones in all epochs.
- `class_balanced` draws each image in proportion to its class's weight 1/E_n (CB): "Resample" of LDAM-DRW's code.
- `square_root` and `progressive` lie between the images' frequencies and equal shares.

Source: Kang et al. 2020, section 4.1 (Decoupling), after Shen et al. 2016 for class-aware sampling; Buda et al. 2018
for over- and undersampling; Cao et al. 2019 for class-balanced and deferred resampling.
"""

import functools

import numpy as np

from cbjax import weights
from cbjax.data import shuffle
from cbjax.data.batches import Order, epoch_order
from cbjax.data.records import DataError

SAMPLERS = ("instance", "class_aware", "square_root", "progressive", "oversample", "undersample", "class_balanced")
# Keys of a sampler's random orders, different from all other keys.
_CLASSES, _IMAGES, _PLACES, _SHARES, _KEPT, _ROUNDS = 4, 5, 6, 7, 8, 9


def make_order(
    name: str,
    labels: np.ndarray,
    seed: int,
    *,
    images_per_class: int = 4,
    num_epochs: int = 1,
    beta: float = 0.9999,
    start_epoch: int = 0,
) -> Order:
    """Returns epoch -> [N] positions in the labels.

    Args:
      name: one of `SAMPLERS`.
      labels: [N] of the training images.
      seed: at least 0.
      images_per_class: number of images of a class that follow each other in "class_aware".
      num_epochs: number of epochs in which "progressive" goes from the images' frequencies to equal classes.
      beta: of the effective number in "class_balanced".
      start_epoch: number of epochs that have the order of "instance" first (deferred resampling).

    Raises:
      DataError: if the name is unknown, or labels are multi-hot but the sampler needs single ones.
    """
    if name not in SAMPLERS:
        raise DataError(f"data.sampler={name!r} is unknown; it is one of {', '.join(SAMPLERS)}")
    plain = functools.partial(epoch_order, seed, num_examples=len(labels))
    if name == "instance":
        return plain
    if labels.ndim != 1:
        raise DataError(f"data.sampler={name!r} needs one label an image, but these are multi-hot: use 'instance'")
    chosen = _order_of(name, labels, seed, images_per_class, num_epochs, beta)
    return functools.partial(_deferred, plain, chosen, start_epoch) if start_epoch else chosen


def _order_of(name, labels, seed, images_per_class, num_epochs, beta):
    if name == "class_aware":
        return functools.partial(class_aware, seed, labels=labels, images_per_class=images_per_class)
    if name == "undersample":
        return functools.partial(undersample, seed, labels=labels)
    counts = np.bincount(labels)
    if name in ("square_root", "progressive"):
        shares = square_root_shares if name == "square_root" else progressive_shares
        shares_of = functools.partial(shares, counts / len(labels), num_epochs=num_epochs)
        return functools.partial(_order_by_shares, seed, labels=labels, shares_of=shares_of)
    fixed = class_balanced_shares(counts, 1.0 if name == "oversample" else beta)
    return functools.partial(by_shares, seed, labels=labels, shares=fixed)


def class_aware(seed: int, epoch: int, labels: np.ndarray, images_per_class: int) -> np.ndarray:
    """Returns [N] positions: all classes in random order, again and again; each gives `images_per_class` images."""
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    turns = -(-len(labels) // images_per_class)
    rounds = -(-turns // len(present))
    bits = shuffle.random_bits(rounds * len(present), seed, _CLASSES, epoch).reshape(rounds, len(present))
    classes = present[np.argsort(bits, axis=1, kind="stable")].ravel()
    chosen = np.repeat(classes[:turns], images_per_class)[: len(labels)]
    return _images_of(seed, epoch, labels, chosen)


def by_shares(seed: int, epoch: int, labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns [N] positions in random order; class c has N · shares[c] of them, rounded up or down.

    Args:
      labels: [N].
      shares: [C], at least 0, sum 1; 0 for a class without images.
    """
    size = len(labels)
    # Systematic sampling: a random start, then steps of 1/N. So each class's number is off by less than one.
    start = float(shuffle.random_bits(1, seed, _SHARES, epoch)[0] >> np.uint64(11)) * 2.0**-53
    marks = (np.arange(size) + start) / size
    ends = np.cumsum(shares)
    present = np.flatnonzero(shares > 0)
    chosen = present[np.minimum(np.searchsorted(ends[present] / ends[-1], marks, side="right"), len(present) - 1)]
    return _images_of(seed, epoch, labels, chosen[shuffle.permutation(size, seed, _PLACES, epoch)])


def undersample(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """Returns [N] positions: the images that are kept, each in every round, in a new random order each round.

    Each class keeps as many images as the rarest class has. They are drawn once, by the seed.
    """
    counts = np.bincount(labels)
    order = shuffle.permutation(len(labels), seed, _KEPT)
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = by_class[rank < counts[counts > 0].min()]
    rounds = -(-len(labels) // len(kept))
    bits = shuffle.random_bits(rounds * len(kept), seed, _ROUNDS, epoch).reshape(rounds, len(kept))
    return kept[np.argsort(bits, axis=1, kind="stable").ravel()[: len(labels)]]


def class_balanced_shares(counts: np.ndarray, beta: float) -> np.ndarray:
    """Returns the classes' shares [C] if each image is drawn in proportion to 1/E_n of its class: n/E_n, scaled.

    A beta of 1 gives equal shares, 0 the images' frequencies. A class without images has no share.
    """
    amounts = counts * weights.class_balanced(counts, beta, zero_count="ignore").astype(np.float64)
    return amounts / amounts.sum()


def square_root_shares(frequencies: np.ndarray, epoch: int, num_epochs: int) -> np.ndarray:
    """Returns the classes' shares [C], proportional to the roots of their frequencies; equal in all epochs."""
    roots = np.sqrt(frequencies)
    return roots / roots.sum()


def progressive_shares(frequencies: np.ndarray, epoch: int, num_epochs: int) -> np.ndarray:
    """Returns the classes' shares [C] in an epoch: their frequencies in the first epoch, equal shares in the last.

    Source: Kang et al. 2020, eq. 2, with t/T from 0 in the first epoch to 1 in the last.
    """
    progress = min(epoch / max(num_epochs - 1, 1), 1.0)
    equal = (frequencies > 0) / np.count_nonzero(frequencies)
    return (1 - progress) * frequencies + progress * equal


def _deferred(plain, chosen, start_epoch, epoch):
    return (plain if epoch < start_epoch else chosen)(epoch)


def _order_by_shares(seed, epoch, labels, shares_of):
    return by_shares(seed, epoch, labels, shares_of(epoch))


def _images_of(seed, epoch, labels, chosen):
    """Returns [M] positions, one for each chosen class [M]: the next image of that class in its random order."""
    counts = np.bincount(labels, minlength=int(chosen.max()) + 1)
    order = shuffle.permutation(len(labels), seed, _IMAGES, epoch)
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    # rank: how often the class was chosen before this place.
    places = np.argsort(chosen, kind="stable")
    times = np.bincount(chosen, minlength=len(counts))
    rank = np.empty(len(chosen), np.int64)
    rank[places] = np.arange(len(chosen)) - np.repeat(np.cumsum(times) - times, times)
    return by_class[starts[chosen] + rank % counts[chosen]]
