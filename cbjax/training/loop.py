"""The training loop: dispatches of steps; epochs, which end when their last image was used; what follows an epoch.

One loop trains a run alone and runs side by side, a cohort. A plan says what differs between the two.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
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
class Cohort:
    """Runs that are trained side by side, at one moment; a run alone is a cohort of one.

    Attributes:
      runs: [K] what each remembers, and the row of its last epoch. The loop does not read their own `state`.
      state: of all runs, on the devices, with an axis of runs in front; of a run alone without one.
      failed: the place of a run that diverged -> why. It is left behind, and its neighbours do not notice.
      best: as `state`, of each run's best epoch; None where nobody keeps it.
    """

    runs: tuple[Run, ...]
    state: TrainState
    failed: Mapping[int, str] = dataclasses.field(default_factory=dict)
    best: TrainState | None = None

    @property
    def step(self) -> int:
        """The steps taken."""
        return max(run.memory.step for run in self.runs)

    @property
    def epoch(self) -> int:
        """The epochs completed."""
        return max(run.memory.epoch for run in self.runs)

    @property
    def alive(self) -> list[int]:
        """The places of the runs that have not failed."""
        return [place for place in range(len(self.runs)) if place not in self.failed]

    @property
    def run(self) -> Run:
        """The run of a cohort of one, with its state."""
        (run,) = self.runs
        return dataclasses.replace(run, state=self.state)

    def with_run(self, place: int, run: Run) -> "Cohort":
        """Returns the cohort with another run in a place."""
        return dataclasses.replace(self, runs=(*self.runs[:place], run, *self.runs[place + 1 :]))

    @classmethod
    def of_one(cls, run: Run) -> "Cohort":
        """Returns the cohort of a run alone."""
        return cls((run,), run.state)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `fit` is to do.

    Attributes:
      advance: (state, first, last) -> (state, metrics): takes the steps first … last - 1 as one dispatch. Metrics
        ("loss", "correct", "count", "gradient_norm") are arrays [K, S]; S may be above the number of steps. An axis of
        one run or one step may be left out.
      epoch_end: epoch (from 1) -> the number of steps taken when it is complete.
      num_epochs: how many epochs to train.
      steps_per_dispatch: the largest `last - first`. A dispatch takes fewer steps if they would take too long.
      learning_rates: of each run, step -> its rate, for logs and messages.
      after_epoch: what follows an epoch, from runs whose `metrics` have its rows.
      save: saves a cohort.
      diverged: what follows if a loss or a gradient is not finite: `give_up` or `leave_behind`.
      is_save_due: says, in the middle of an epoch, whether the last save is too long ago.
      agreement: makes several processes stop and save at the same step.
      own_loss: name of the user's own loss, for messages; None for a loss of cbjax.
    """

    advance: Advance
    epoch_end: Callable[[int], int]
    num_epochs: int
    steps_per_dispatch: int
    learning_rates: Sequence[Callable[[int], float]]
    after_epoch: Callable[[Cohort], Cohort]
    save: Callable[[Cohort], None]
    diverged: Callable[[Cohort, int, NonFiniteLoss], Cohort]
    is_save_due: Callable[[], bool] = lambda: False
    agreement: Agreement = dataclasses.field(default_factory=Agreement)
    own_loss: str | None = None


def fit(cohort: Cohort, plan: Plan, interrupts: Interrupts, progress: Silent) -> Cohort:
    """Trains until `plan.num_epochs` epochs are complete or every run has failed, from wherever the cohort stands.

    Raises:
      NonFiniteLoss: if a run diverged and this ends the training. Nothing of that dispatch or epoch is saved.
      Interrupted: after a signal, once the state is saved.
    """
    pace = Pace(plan.steps_per_dispatch, plan.agreement)
    while cohort.alive and cohort.epoch < plan.num_epochs:
        cohort = _train_epoch(cohort, plan, interrupts, progress, pace)
        if not cohort.alive:
            break
        cohort = plan.after_epoch(cohort)
        progress.end_epoch(cohort.epoch, [cohort.runs[place].metrics for place in cohort.alive])
        signum = _signum(plan.agreement.now(_wish(interrupts)))
        if signum is not None:
            plan.save(cohort)
            raise Interrupted(signum, cohort.step)
    return cohort


def _train_epoch(cohort, plan, interrupts, progress, pace):
    """Takes the steps that are left of an epoch; returns the cohort with each run's row of the epoch."""
    step, epoch = cohort.step, cohort.epoch + 1
    end, images = plan.epoch_end(epoch), [run.memory.images for run in cohort.runs]
    unread: collections.deque = collections.deque()  # dispatches that were taken and not read yet
    pace.start()
    started = time.perf_counter()

    def read(all_but):
        nonlocal cohort
        while len(unread) > all_but and cohort.alive:
            first, last, metrics = unread.popleft()
            # A run alone has no axis of runs on the devices.
            values = {key: np.reshape(value, (len(cohort.runs), -1)) for key, value in fetch(metrics).items()}
            pace.measure(last - first)
            cohort = _remember(cohort, plan, first, last, values)
            if cohort.alive:
                loss = float(values["loss"][cohort.alive[0], last - first - 1])
                rate = sum(_drawn(cohort, images)) / (time.perf_counter() - started)
                progress.update(last, epoch, loss, rate)

    while step < end and cohort.alive:
        first, step = step, min(step + pace.size, end)
        state, metrics = plan.advance(cohort.state, first, step)
        cohort = dataclasses.replace(cohort, state=state)
        unread.append((first, step, metrics))
        read(all_but=1)  # the device works on the newest one meanwhile
        agreed = plan.agreement(_wish(interrupts, plan.is_save_due))
        if agreed and step < end:
            read(all_but=0)
            if cohort.alive:
                plan.save(_timed(cohort, time.perf_counter() - started))
                if (signum := _signum(agreed)) is not None:
                    raise Interrupted(signum, step)
    read(all_but=0)
    return _end_epoch(cohort, plan, _drawn(cohort, images), time.perf_counter() - started)


def _remember(cohort, plan, first, last, values):
    """Adds the metrics [K, S] of the steps first … last - 1 to what the runs remember."""
    for place in cohort.alive:
        run, own = cohort.runs[place], {key: value[place, : last - first] for key, value in values.items()}
        error = divergence(own, first, plan.learning_rates[place], plan.own_loss)
        if error is not None:
            cohort = plan.diverged(cohort, place, error)
            continue
        images = run.memory.images + int(own["count"].sum())
        cohort = cohort.with_run(place, run.remember(step=last, images=images, sums=add(run.memory.sums, own)))
    return cohort


def _end_epoch(cohort, plan, images, seconds):
    """Ends the epoch of each run, which drew images [K] in `seconds` together: gives it its row and new sums."""
    share = _share(cohort, seconds)
    for place in cohort.alive:
        run, rate = cohort.runs[place], plan.learning_rates[place]
        epoch, sums = run.memory.epoch + 1, run.memory.sums
        if not sums.count:
            raise AllImagesSkipped(
                f"every image of epoch {epoch} was skipped, see bad_images.jsonl: are the files there?"
            )
        row = {
            "train/loss": sums.loss / sums.count,
            "train/accuracy": sums.correct / sums.count,
            "train/learning_rate": float(rate(run.memory.step - 1)),
            "time/train_seconds": run.memory.seconds + share,
            "time/images_per_second": images[place] / share,
        }
        run = dataclasses.replace(run, metrics=row).remember(epoch=epoch, sums=Sums(), seconds=0.0)
        cohort = cohort.with_run(place, run)
    return cohort


def _timed(cohort, seconds):
    """Returns the cohort as it is saved in the middle of an epoch, with the time that the epoch took until then."""
    share = _share(cohort, seconds)
    for place in cohort.alive:
        run = cohort.runs[place]
        cohort = cohort.with_run(place, run.remember(seconds=run.memory.seconds + share))
    return cohort


def _share(cohort, seconds):
    """Returns the time of one run, so that the times of runs side by side add up."""
    return seconds / max(1, len(cohort.alive))


def _drawn(cohort, images):
    """Returns how many images each run has drawn since it had drawn `images` [K]."""
    return [run.memory.images - before for run, before in zip(cohort.runs, images, strict=True)]


def _wish(interrupts, is_save_due=lambda: False):
    """Returns what this process wants; the greatest wins: 0 to go on, 1 to save, 1 + a signal's number to stop."""
    if interrupts.signum is not None:
        return 1 + interrupts.signum
    return int(is_save_due())


def _signum(wish):
    return wish - 1 if wish > 1 else None


def in_order(callbacks: Sequence[Callback]) -> Callable[[Cohort], Cohort]:
    """Returns what follows an epoch of a run alone: each callback gets the run that the one before it returned."""

    def after_epoch(cohort: Cohort) -> Cohort:
        run = cohort.run
        for callback in callbacks:
            run = callback(run)
        return Cohort.of_one(run)

    return after_epoch


def give_up(cohort: Cohort, place: int, error: NonFiniteLoss) -> Cohort:
    """Ends the training because a run diverged."""
    raise error


def leave_behind(cohort: Cohort, place: int, error: NonFiniteLoss) -> Cohort:
    """Marks a run that diverged as failed; the others go on."""
    return dataclasses.replace(cohort, failed={**cohort.failed, place: str(error)})


class Pace:
    """How many steps to take in one dispatch, so that a signal is heeded within seconds."""

    SECONDS = 5.0
    FIRST = 16  # steps, while their time is not known

    def __init__(self, limit: int, agreement: Agreement, clock: Callable[[], float] = time.perf_counter):
        self.size = min(limit, self.FIRST)
        self._limit, self._agreement, self._clock, self._read = limit, agreement, clock, clock()

    def start(self) -> None:
        """Starts the clock: until now the device had nothing to do."""
        self._read = self._clock()

    def measure(self, steps: int) -> None:
        """Takes note that a dispatch of so many steps has just been read from the device."""
        now = self._clock()
        seconds, self._read = (now - self._read) / steps, now
        if self._limit > 1:
            size = min(self._limit, max(1, int(self.SECONDS / max(seconds, 1e-9))))
            self.size = self._agreement.now(size)  # the same on all processes


def fetch(metrics: Any) -> Any:
    """Reads metrics from the device: the one place where the loop waits for it."""
    return jax.device_get(metrics)


def add(sums: Sums, values: Mapping[str, np.ndarray]) -> Sums:
    """Adds the metrics of a dispatch, an entry a step, to the sums of an epoch."""
    # One step after the other, so that the sums don't depend on how steps were grouped into dispatches.
    loss = sums.loss
    for value, count in zip(values["loss"].astype(np.float64), values["count"], strict=True):
        loss += float(value) * int(count)
    return Sums(loss, sums.correct + int(values["correct"].sum()), sums.count + int(values["count"].sum()))


def divergence(
    values: Mapping[str, np.ndarray], first: int, learning_rate: Callable[[int], Any], own_loss: str | None = None
) -> NonFiniteLoss | None:
    """Returns the error of the dispatch that starts at step `first`; None if its losses and gradients are finite.

    Args:
      values: metrics, an entry a step.
      first: steps that were taken before.
      learning_rate: step -> learning rate.
      own_loss: name of the user's own loss, or None.
    """
    finite = np.isfinite(values["loss"]) & np.isfinite(values["gradient_norm"])
    if finite.all():
        return None
    at = int(np.argmin(finite))
    step, loss, norm = first + at + 1, values["loss"][at], values["gradient_norm"][at]
    said = f"step {step}: loss {loss}, gradient norm {norm}, learning rate {float(learning_rate(step - 1)):.6g}"
    if np.isfinite(loss):
        said += f"; the loss is finite, and its gradient is {norm}"
    if own_loss is not None:
        said += f"; the loss {own_loss} gave it: look there for a root or logarithm of 0 or less, and for 0 / 0"
    if step > 1:
        said += "; a smaller optim.learning_rate or a longer optim.warmup usually helps"
    elif own_loss is None:
        said += "; no update came before it, so the images or the first parameters are the cause"
    return NonFiniteLoss(said)
