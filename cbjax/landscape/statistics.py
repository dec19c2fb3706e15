"""BatchNorm's statistics at the points of a landscape, computed again from the training images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.config import ConfigError
from cbjax.landscape import images
from cbjax.landscape.directions import Directions
from cbjax.landscape.points import Points
from cbjax.landscape.subject import Subject


class Recomputed:
    """Gives the statistics of networks: means over batches of the training images, each image at most once.

    The images are those of the run without augmentation, in an order of its own and in batches of its batch size. A
    last batch that is not full is left out, since its statistics would be others.

    Raises:
      ConfigError: if the network's statistics are not running means.
    """

    def __init__(self, subject: Subject, directions: Directions, points: Points):
        config, train = subject.run.config, subject.dataset.train
        count = len(train)
        group = config.model.batch_norm_size
        group = group if isinstance(group, int) and group > 1 else 1
        size = min(config.batch_size, count // group * group)
        order = np.random.default_rng(config.seed).permutation(count)[: count // size * size]
        self._walk = images.in_batches(subject, images.some(train, order), size, images.everywhere(points.mesh))
        self._points = points
        stats = directions.center.batch_stats
        origin = np.zeros((1, len(directions.along)), np.float32)
        first = next(iter(self._walk()))[0]
        found = [
            jax.device_get(points.moments(origin, first, jax.tree.map(lambda leaf, at=at: leaf + at, like(stats, 1))))
            for at in (0.0, 1.0)
        ]
        self._like = stats
        self._kept = jax.tree.map(_momentum, *found)

    def at(self, places: np.ndarray) -> Any:
        """Returns statistics of the networks at places [n, 1 or 2], leaves [n, ...]."""
        nothing = like(self._like, len(places))
        total, batches = None, 0
        for batch, _ in self._walk():
            found = jax.device_get(self._points.moments(places, batch, nothing))
            found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
            total = found if total is None else jax.tree.map(np.add, total, found)
            batches += 1
        # From statistics of 0, a batch makes (1 - momentum) times its own.
        return jax.tree.map(lambda leaf, kept: (leaf / (batches * (1 - kept))).astype(np.float32), total, self._kept)


def like(stats: Any, count: int) -> Any:
    """Returns zeros in the shape of statistics, with an axis of points in front."""
    return jax.tree.map(lambda leaf: np.zeros((count, *jnp.shape(leaf)), np.float32), stats)


def _momentum(from_0, from_1):
    """Returns the share of the running statistics that a batch leaves, from what it makes of zeros and of ones."""
    kept = np.asarray(from_1, np.float64) - np.asarray(from_0, np.float64)
    # The smaller the batch's own statistic, the less its rounding matters.
    found = round(float(kept.ravel()[np.argmin(np.abs(from_0).ravel())]), 4)
    if not 0 <= found < 1 or not np.allclose(kept, found, atol=1e-3 * (1 + np.abs(from_0))):
        raise ConfigError("statistics=recompute needs a network whose batch_stats are running means; keep them instead")
    return found
