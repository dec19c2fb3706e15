"""The training loop: dispatches of steps, epochs that end where their last image was used, callbacks after each."""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cbjax.data import DataError
from cbjax.host.interrupts import Interrupted, Interrupts
from cbjax.host.progress import Silent
from cbjax.parallel.processes import Agreement
from cbjax.types import Callback, NonFiniteLoss, Run, Sums, TrainState

Advance = Callable[[TrainState, int, int], tuple[TrainState, dict[str, Any]]]


class AllImagesSkipped(DataError):
    """An epoch went by without an image that could be read; every process says so."""

    of_all = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `fit` is to do.

    Attributes:
      advance: (state, first, last) -> (state, metrics): takes the steps first … last - 1 as one dispatch; metrics are
        arrays, an entry a step ("loss", "correct", "count", "gradient_norm"), possibly longer than the number of steps.
      epoch_end: epoch (from 1) -> the number of steps taken when it is complete.
      num_epochs: how many epochs to train.
      steps_per_dispatch: the largest `last - first`; fewer are taken where they would last for too long.
      learning_rate: step -> its rate, for logs and messages.
      save: saves a run in the middle of an epoch.
      is_save_due: says whether the last save is too long ago.
      agreement: makes several processes stop and save at the same step.
    """

    advance: Advance
    epoch_end: Callable[[int], int]
    num_epochs: int
    steps_per_dispatch: int
    learning_rate: Callable[[int], float]
    save: Callable[[Run], None]
    is_save_due: Callable[[], bool] = lambda: False
    agreement: Agreement = dataclasses.field(default_factory=Agreement)


class Pace:
    """How many steps to take in one dispatch, so that a signal is heeded within seconds."""

    SECONDS = 5.0
    FIRST = 16  # steps, while nothing is known

    def __init__(self, limit: int, agreement: Agreement):
        self.size = min(limit, self.FIRST)
        self._limit, self._agreement, self._read = limit, agreement, time.perf_counter()

    def start(self) -> None:
        """Says that the device has nothing to do until now."""
        self._read = time.perf_counter()

    def measure(self, steps: int) -> None:
        """Takes note that a dispatch of so many steps has just been read from the device."""
        now = time.perf_counter()
        seconds, self._read = (now - self._read) / steps, now
        if self._limit > 1:
            size = min(self._limit, max(1, int(self.SECONDS / max(seconds, 1e-9))))
            self.size = self._agreement.now(size)  # of all processes the same


def fetch(metrics: Any) -> Any:
    """Reads metrics from the device: the one place where the loop waits for it."""
    return jax.device_get(metrics)


def fit(run: Run, plan: Plan, callbacks: Sequence[Callback], interrupts: Interrupts, progress: Silent) -> Run:
    """Trains until `plan.num_epochs` epochs are complete, from wherever the run stands.

    After each epoch the callbacks are called in order, each with the run that the one before it returned.

    Raises:
      NonFiniteLoss: at the first loss, gradient or output that is not finite; nothing of it is saved.
      Interrupted: after a signal, once the state is saved.
    """
    pace = Pace(plan.steps_per_dispatch, plan.agreement)
    while run.memory.epoch < plan.num_epochs:
        pace.start()
        run = _train_epoch(run, plan, interrupts, progress, pace)
        for callback in callbacks:
            run = callback(run)
        progress.end_epoch(run.memory.epoch, [run.metrics])
        signum = _signum(plan.agreement.now(_wish(interrupts)))
        if signum is not None:
            plan.save(run)
            raise Interrupted(signum, run.memory.step)
    return run


def _train_epoch(run, plan, interrupts, progress, pace):
    """Takes the steps that are left of an epoch; returns the run with the epoch's row in `metrics`."""
    epoch = run.memory.epoch + 1
    end, first = plan.epoch_end(epoch), run.memory.step
    step, state, sums = first, run.state, run.memory.sums
    pending: collections.deque = collections.deque()
    started = time.perf_counter()
    images = 0

    def read():
        nonlocal sums, images
        begin, stop, metrics = pending.popleft()
        values = {key: np.atleast_1d(value)[: stop - begin] for key, value in fetch(metrics).items()}
        pace.measure(stop - begin)
        check_finite(values, begin, plan.learning_rate)
        sums = add(sums, values)
        images += int(values["count"].sum())
        progress.update(stop, epoch, float(values["loss"][-1]), images / (time.perf_counter() - started))

    def at_this_step():
        while pending:
            read()
        return dataclasses.replace(run, state=state).remember(step=step, images=run.memory.images + images, sums=sums)

    while step < end:
        stop = min(step + pace.size, end)
        state, metrics = plan.advance(state, step, stop)
        pending.append((step, stop, metrics))
        step = stop
        if len(pending) > 1:  # the device works on the newest dispatch while the one before it is read
            read()
        agreed = plan.agreement(_wish(interrupts, plan.is_save_due))
        if step < end and agreed:
            plan.save(at_this_step())
            signum = _signum(agreed)
            if signum is not None:
                raise Interrupted(signum, step)

    run = at_this_step()
    if not sums.count:
        raise AllImagesSkipped(f"every image of epoch {epoch} was skipped, see bad_images.jsonl: are the files there?")
    row = epoch_row(sums, float(plan.learning_rate(step - 1)), time.perf_counter() - started, images)
    return dataclasses.replace(run, metrics=row).remember(epoch=epoch, sums=Sums())


def epoch_row(sums: Sums, learning_rate: float, seconds: float, images: int) -> dict[str, Any]:
    """Returns an epoch's row of the metrics from the sums over its steps; `images` were read in those seconds."""
    return {
        "train/loss": sums.loss / sums.count,
        "train/accuracy": sums.correct / sums.count,
        "train/learning_rate": learning_rate,
        "time/train_seconds": seconds,
        "time/images_per_second": images / seconds,
    }


def _wish(interrupts, is_save_due=lambda: False):
    """Returns what this process wants, of which the greatest counts: 0 to go on, 1 to save, 1 + a signal's number."""
    if interrupts.signum is not None:
        return 1 + interrupts.signum
    return int(is_save_due())


def _signum(wish):
    return wish - 1 if wish > 1 else None


def add(sums: Sums, values: dict[str, np.ndarray]) -> Sums:
    """Adds the metrics of a dispatch, an entry a step, to the sums of an epoch."""
    # One step after the other, so that the sums don't depend on how steps were grouped into dispatches.
    loss = sums.loss
    for value, count in zip(values["loss"].astype(np.float64), values["count"], strict=True):
        loss += float(value) * int(count)
    return Sums(loss, sums.correct + int(values["correct"].sum()), sums.count + int(values["count"].sum()))


def check_finite(values: dict[str, np.ndarray], begin: int, learning_rate: Callable[[int], Any]) -> None:
    """Raises NonFiniteLoss if a step of a dispatch, the first of which is `begin`, has a loss that is not finite."""
    finite = np.isfinite(values["loss"]) & np.isfinite(values["gradient_norm"])
    if finite.all():
        return
    at = int(np.argmin(finite))
    step = begin + at + 1
    raise NonFiniteLoss(
        f"step {step}: loss {values['loss'][at]}, gradient norm {values['gradient_norm'][at]}, learning rate "
        f"{float(learning_rate(step - 1)):.6g}; a smaller optim.learning_rate or a longer optim.warmup usually helps"
    )
