"""Walks over the points of a landscape, keeps what is measured, and goes on where a killed walk stopped."""

import collections
import dataclasses
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cbjax.data import Encoded
from cbjax.host.interrupts import Interrupted, Interrupts
from cbjax.landscape import images, points, statistics
from cbjax.landscape.directions import Directions
from cbjax.landscape.points import Points, Way
from cbjax.landscape.subject import Subject

AHEAD = 3  # calls that wait on the device while the host reads an earlier one
BLOCK_SECONDS = 2.0  # of points between two looks at the clock
STREAMED = 64  # least points for which encoded images are read once
SAVE_SECONDS = 5.0  # between two saves


@dataclasses.dataclass(frozen=True)
class Sums:
    """What was measured at P points, sums over images.

    Attributes:
      loss: [P], of all images.
      class_loss: [P, C], of the images of each class.
      correct: [P, C], images of each class that were recognised.
      class_count: [C], images of each class that were read; [] of zeros before a walk is over.
      count: images that were read.
      done: [P], whether a point was measured.
    """

    loss: np.ndarray
    class_loss: np.ndarray
    correct: np.ndarray
    class_count: np.ndarray
    count: int
    done: np.ndarray

    @classmethod
    def empty(cls, size: int, num_classes: int) -> "Sums":
        """Returns the sums before the first point."""
        by_class = np.zeros((size, num_classes)), np.zeros((size, num_classes))
        return cls(np.zeros(size), *by_class, np.zeros(num_classes, np.int64), 0, np.zeros(size, bool))


class Stopped(Interrupted):
    """A walk was stopped by a signal, after what it had measured was saved."""

    def __init__(self, signum: int, done: int, total: int, what: str = "points"):
        KeyboardInterrupt.__init__(
            self,
            f"stopped by {signal.Signals(signum).name}; {done} of {total} {what} are saved, the same command goes "
            "on from there",
        )
        self.signum, self.step = signum, done


def measure(
    subject: Subject,
    directions: Directions,
    places: np.ndarray,
    *,
    batch_norm_statistics: str = "keep",
    way: Way | None = None,
    images_at_once: int | None = None,
    before: Sums | None = None,
    block_seconds: float = BLOCK_SECONDS,
    save: Callable[[Sums, Way], None] = lambda sums, way: None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Sums, Way]:
    """Measures the points that are not done yet.

    The figures of a point do not depend on the others, so a walk that goes on ends like one that was never stopped.

    Args:
      subject: the network and its images.
      directions: the line or plane.
      places: [P, 1 or 2] coordinates of the points.
      batch_norm_statistics: as for `points.build`.
      way: how points are spread; None to measure which way is fastest.
      images_at_once: images of a batch; None to choose.
      before: what an earlier walk measured.
      block_seconds: of points between two looks at what to save.
      save: called now and then, and at the end, with what is measured so far.
      progress: called with the number of points that are done.

    Raises:
      Stopped: after SIGINT or SIGTERM, once all is saved.
    """
    sums = before or Sums.empty(len(places), subject.num_classes)
    left = np.flatnonzero(~sums.done)
    if not left.size:
        return sums, way or Way(1, 1)
    size = images_at_once or images.batch_size(subject, len(subject.examples))
    # Without BatchNorm there is nothing to compute again.
    recompute = batch_norm_statistics == "recompute" and bool(jax.tree.leaves(directions.center.batch_stats))
    chosen = "keep" if batch_norm_statistics == "recompute" and not recompute else batch_norm_statistics

    def make(way: Way) -> tuple[Points, Callable[[], Any]]:
        made = points.build(subject, directions, chosen, way)
        walk = images.in_batches(subject, subject.examples, size, images.everywhere(made.mesh))
        some = places[np.resize(left, way.points)]
        given = statistics.like(directions.center.batch_stats, way.points) if recompute else None
        first = next(iter(walk()))[0]
        return made, lambda: jax.block_until_ready(made.sums(some, first, given))

    tried = [way] if way else points.ways(len(left), subject.devices)
    made, seconds = points.fastest(make, tried)
    walk = images.in_batches(subject, subject.examples, size, images.everywhere(made.mesh))
    normal = statistics.Recomputed(subject, directions, made) if recompute else None
    streamed = isinstance(subject.examples.images, Encoded)
    a_walk = max(seconds, 1e-6) * -(-len(subject.examples) // size)
    per_block = max(block_seconds / a_walk, STREAMED if streamed else 1)
    per_block = min(-(-int(per_block) // made.way.points) * made.way.points, 4096) if seconds else made.way.points
    saved = time.perf_counter()
    with Interrupts() as interrupts:
        for first in range(0, len(left), per_block):
            block = left[first : first + per_block]
            found = _block(places[block], walk, made, normal, interrupts)
            if found is not None:
                sums = _with(sums, block, *found)
                progress(int(sums.done.sum()))
            now = time.perf_counter()
            if interrupts.signum is not None or now - saved > SAVE_SECONDS:
                save(sums, made.way)
                # Large figures are saved more rarely, so that saving takes little of the time.
                saved = time.perf_counter() + 20 * (time.perf_counter() - now)
            if interrupts.signum is not None:
                raise Stopped(interrupts.signum, int(sums.done.sum()), len(places))
    save(sums, made.way)
    return sums, made.way


def _block(places, walk, made, normal, interrupts):
    """Measures a few points; returns their sums and the images that were read, or None after a signal."""
    calls = [slice(first, first + made.way.points) for first in range(0, len(places), made.way.points)]
    given = [None] * len(calls) if normal is None else [normal.at(places[part]) for part in calls]
    totals: dict[str, np.ndarray] = {}
    shown: Any = 0
    waiting: collections.deque[tuple[slice, Any]] = collections.deque()

    def take():
        part, found = waiting.popleft()
        for name, leaf in jax.device_get(found).items():
            total = totals.setdefault(name, np.zeros((len(places), *leaf.shape[1:])))
            # In float64 and batch after batch, whatever was killed in between.
            total[part] += leaf

    for batch, in_batch in walk():
        shown = shown + in_batch
        for part, stats in zip(calls, given, strict=True):
            if interrupts.signum is not None:
                return None
            waiting.append((part, made.sums(places[part], batch, stats)))
            if len(waiting) > AHEAD:
                take()
    while waiting:
        take()
    return totals, shown


def _with(sums, block, totals, shown):
    *class_count, count = shown.tolist()
    new = {name: getattr(sums, name).copy() for name in ("loss", "class_loss", "correct", "done")}
    for name, total in totals.items():
        new[name][block] = total
    new["done"][block] = True
    return dataclasses.replace(sums, **new, class_count=np.array(class_count), count=count)
