import dataclasses
import json
import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from cbjax.host import progress
from cbjax.host.interrupts import Interrupted, Interrupts
from cbjax.host.progress import Silent
from cbjax.parallel.processes import Agreement
from cbjax.training.loop import Cohort, Pace, Plan, fit, give_up, in_order, leave_behind
from cbjax.types import NonFiniteLoss, Run, Sums
from cbjax.workdir import memory

EXAMPLES, BATCH = 10, 4


def epoch_end(epoch):
    return -(-epoch * EXAMPLES // BATCH)


def make_run():
    return Run(None, None, jnp.int32(0), {}, ("a", "b"), memory=memory.start(2))


class Steps:
    """A stand-in for the device: counts steps; the loss of step s is 1 / (s + 1)."""

    def __init__(self, bad_step=None, bad_value=float("nan"), on_step=lambda step: None):
        self.dispatches, self.bad_step, self.bad_value, self.on_step = [], bad_step, bad_value, on_step

    def __call__(self, state, first, last):
        self.dispatches.append((first, last))
        self.on_step(last)
        loss = np.array([1 / (step + 1) for step in range(first, last)])
        norm = np.ones(last - first)
        if self.bad_step is not None and first <= self.bad_step < last:
            norm[self.bad_step - first] = self.bad_value
        count = np.full(last - first, BATCH)
        return state + (last - first), {"loss": loss, "gradient_norm": norm, "correct": count // 2, "count": count}


def make_plan(advance, callbacks=(), num_epochs=3, steps=1, save=lambda run: None, is_save_due=lambda: False):
    return Plan(
        advance=advance,
        epoch_end=epoch_end,
        num_epochs=num_epochs,
        steps_per_dispatch=steps,
        learning_rates=[lambda step: 0.1 / (step + 1)],
        after_epoch=in_order(callbacks),
        save=lambda cohort: save(cohort.run),
        diverged=give_up,
        is_save_due=is_save_due,
    )


def run_fit(plan, run=None, interrupts=None):
    return fit(Cohort.of_one(run or make_run()), plan, interrupts or Interrupts(), Silent()).run


def test_epochs_end_at_the_step_that_uses_their_last_image():
    ends = []
    run = run_fit(make_plan(Steps(), [lambda run: ends.append(run.memory.step) or run]))
    assert ends == [3, 5, 8]
    assert int(run.state) == 8 and run.memory.epoch == 3 and run.memory.images == 32


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_the_grouping_of_steps_changes_nothing(steps):
    rows = []
    advance = Steps()
    run_fit(make_plan(advance, [lambda run: rows.append(memory.timeless(run.metrics)) or run], steps=steps))
    assert all(last - first <= steps for first, last in advance.dispatches)
    assert rows[0] == {
        "train/loss": pytest.approx((1 + 1 / 2 + 1 / 3) / 3),
        "train/accuracy": 0.5,
        "train/learning_rate": pytest.approx(0.1 / 3),
    }
    assert [row["train/loss"] for row in rows] == pytest.approx(
        [11 / 18, (1 / 4 + 1 / 5) / 2, (1 / 6 + 1 / 7 + 1 / 8) / 3]
    )


def test_a_dispatch_lasts_for_seconds_at_most():
    clock = [0.0]
    pace = Pace(1000, Agreement(), lambda: clock[0])
    sizes = []
    for _ in range(3):
        sizes.append(pace.size)
        clock[0] += 0.02 * pace.size  # 20 ms a step
        pace.measure(pace.size)
    assert sizes == [16, 250, 250]
    clock[0] += 60
    pace.measure(1)
    assert pace.size == 1
    assert Pace(1, Agreement()).size == 1


def test_callbacks_are_called_in_order_with_what_the_one_before_returned():
    def mark(name):
        return lambda run: dataclasses.replace(
            run, metrics={**run.metrics, "order": run.metrics.get("order", "") + name}
        )

    run = run_fit(make_plan(Steps(), [mark("a"), mark("b"), mark("c")], num_epochs=1))
    assert run.metrics["order"] == "abc"


class Unread:
    """A metric that is still on the device: notes when it is read."""

    def __init__(self, values, read):
        self.values, self.read = values, read

    def __array__(self, dtype=None, copy=None):
        self.read()
        return self.values


@pytest.mark.parametrize("count", [1, 3])
def test_metrics_are_read_a_dispatch_late(count):
    """Within an epoch the loop never asks for the newest step; at its end the device is idle anyway."""
    steps, read = Steps(), []

    def advance(state, first, last):
        state, metrics = steps(state, first, last)
        values = np.tile(metrics["loss"], (count, 1))
        loss = Unread(values, lambda: read.append((last, steps.dispatches[-1][1])))
        return state, {**{key: np.tile(value, (count, 1)) for key, value in metrics.items()}, "loss": loss}

    fit(cohort_of(count), plan_of(count, advance), Interrupts(), Silent())
    assert [step for step, _ in read] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [newest for _, newest in read] == [2, 3, 3, 5, 5, 7, 8, 8]


@pytest.mark.parametrize("bad_step", [0, 2, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved(bad_step, value):
    saved = []
    plan = make_plan(Steps(bad_step, value), [lambda run: saved.append(run.memory.step) or run])
    with pytest.raises(NonFiniteLoss, match=rf"step {bad_step + 1}: loss .*gradient norm {value}, learning rate 0\."):
        run_fit(plan)
    assert saved == ([3] if bad_step >= 3 else [])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_from_there(signum, step):
    plain = run_fit(make_plan(Steps(), [log]))
    saved = []
    with Interrupts() as interrupts:
        advance = Steps(on_step=lambda done: signal.raise_signal(signum) if done == step else None)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name}; step {step} is saved") as stopped:
            run_fit(make_plan(advance, [log], save=saved.append), interrupts=interrupts)
    assert stopped.value.signum == signum
    run = saved[-1]
    assert run.memory.step == step == int(run.state)
    run = run_fit(make_plan(Steps(), [log]), run)
    assert run.memory == plain.memory
    assert int(run.state) == int(plain.state)


def cohort_of(count):
    return Cohort((make_run(),) * count, jnp.zeros(count, jnp.int32))


def plan_of(count, advance, **changes):
    """A plan for some runs side by side, at rates 0.1 and 0.2 and so on over the steps taken."""
    rates = [lambda step, k=k: 0.1 * (k + 1) / (step + 1) for k in range(count)]
    plan = Plan(advance, epoch_end, 3, 1, rates, lambda cohort: cohort, lambda cohort: None, leave_behind)
    return dataclasses.replace(plan, **changes)


def side_by_side(*steps):
    """Takes the steps of several runs as one dispatch; returns metrics [K, S]."""

    def advance(state, first, last):
        taken = [one(state[k], first, last) for k, one in enumerate(steps)]
        metrics = {key: np.stack([found[key] for _, found in taken]) for key in taken[0][1]}
        return jnp.stack([one for one, _ in taken]), metrics

    return advance


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("bad_step", [0, 1, 2, 4])
def test_a_run_that_diverges_is_left_behind_and_its_neighbours_do_not_notice(bad_step, size):
    rows = []

    def note(cohort):
        rows.append([memory.timeless(cohort.runs[place].metrics) for place in cohort.alive])
        return cohort

    advance = side_by_side(Steps(), Steps(bad_step), Steps())
    plan = plan_of(3, advance, after_epoch=note, steps_per_dispatch=size)
    done = fit(cohort_of(3), plan, Interrupts(), Silent())
    rate = f"learning rate {0.2 / (bad_step + 1):.6g};"
    assert list(done.failed) == [1] and done.failed[1].startswith(f"step {bad_step + 1}: loss {1 / (bad_step + 1)},")
    assert rate in done.failed[1] and done.runs[1].memory.step <= bad_step
    alone = []
    run_fit(make_plan(Steps(), [lambda run: alone.append(memory.timeless(run.metrics)) or run], steps=size))
    assert [row[0] for row in rows] == alone and len(rows) == 3
    assert [row["train/learning_rate"] for row in rows[0]] == pytest.approx(
        [0.1 / 3, 0.3 / 3] if bad_step < 3 else [0.1 / 3, 0.2 / 3, 0.3 / 3]
    )


@pytest.mark.parametrize("size", [1, 100])
def test_the_training_ends_where_every_run_has_failed(size):
    steps, saved = [Steps(1), Steps(3)], []
    advance = side_by_side(*steps)
    plan = plan_of(2, advance, steps_per_dispatch=size, save=saved.append, is_save_due=lambda: True)
    done = fit(cohort_of(2), plan, Interrupts(), Silent())
    assert sorted(done.failed) == [0, 1] and not done.alive
    assert max(last for _, last in steps[0].dispatches) <= 5  # the dispatch after is under way when it is read
    assert all(cohort.step == cohort.state[1] and cohort.step <= 3 for cohort in saved)
    assert fit(done, plan, Interrupts(), Silent()) is done


def test_runs_side_by_side_share_the_time_of_their_steps():
    steps, shares = side_by_side(Steps(), Steps()), []

    def slow(*args):
        time.sleep(0.1)
        return steps(*args)

    def evaluate(cohort):
        time.sleep(0.5)
        shares.extend(run.metrics["time/train_seconds"] for run in cohort.runs)
        return cohort

    begun = time.perf_counter()
    fit(cohort_of(2), plan_of(2, slow, after_epoch=evaluate, num_epochs=1), Interrupts(), Silent())
    assert shares[0] == shares[1] and 0.3 <= sum(shares) <= time.perf_counter() - begun - 0.5


def test_the_time_of_an_epoch_counts_its_steps_before_a_stop():
    saved, times = [], []

    def slow(done):
        time.sleep(0.1)
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    def note(run):
        times.append(run.metrics["time/train_seconds"])
        return run

    begun = time.perf_counter()
    with Interrupts() as interrupts, pytest.raises(Interrupted):
        run_fit(make_plan(Steps(on_step=slow), save=saved.append), interrupts=interrupts)
    run = dataclasses.replace(
        saved[-1], memory=memory.from_json(json.loads(json.dumps(memory.to_json(saved[-1].memory))))
    )
    done = run_fit(make_plan(Steps(on_step=lambda step: time.sleep(0.1)), [note], num_epochs=2), run)
    assert times[0] >= 0.3 and times[1] >= 0.2 and sum(times) <= time.perf_counter() - begun
    assert "seconds" not in memory.to_json(done.memory)  # the checkpoints of equal runs are equal


def log(run):
    return memory.record(run, "metrics", memory.timeless(run.metrics))


def test_a_long_epoch_is_saved_on_the_way():
    saved = []
    run_fit(make_plan(Steps(), num_epochs=1, save=saved.append, is_save_due=lambda: True))
    assert [run.memory.step for run in saved] == [1, 2]
    assert saved[1].memory.sums == Sums(6.0, 4, 8)


def test_signals_act_as_usual_after_the_first_and_outside():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
    with Interrupts():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_works_outside_of_the_main_thread():
    done = []

    def target():
        with Interrupts() as interrupts:
            done.append(run_fit(make_plan(Steps()), interrupts=interrupts).memory.step)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert done == [8]


def row(loss, balanced=None):
    held_out = {} if balanced is None else {"validation/balanced_accuracy": balanced}
    return {"train/loss": loss, **held_out}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_without_a_terminal_an_epoch_is_a_line(clock, capsys):
    told = []
    with progress.shown(300, 0, 3, "auto", told.append) as shown:
        for epoch, loss in ((1, 2.0), (2, 1.5), (3, 1.25)):
            clock[0] += 30  # the first, to compile; the others until their first step was read
            shown.update(100 * epoch - 50, epoch, loss, 100.0)
            clock[0] += 10
            shown.update(100 * epoch, epoch, loss, 100.0)
            shown.end_epoch(epoch, [row(loss, epoch / 4)])
    assert told == [
        "the first steps are taken, after 0:00:30 of compilation",
        "epoch 1 of 3  loss 2.0000  validation balanced accuracy 25.0 %  0:00:40 left",  # 50 steps in 10 s, 200 to go
        "epoch 2 of 3  loss 1.5000  validation balanced accuracy 50.0 %  0:00:40 left",  # 100 steps in 40 s, 100 to go
        "epoch 3 of 3  loss 1.2500  validation balanced accuracy 75.0 %",
    ]
    assert capsys.readouterr() == ("", "")


def test_short_epochs_do_not_flood_a_log_and_long_ones_are_not_silent(clock):
    told = []
    with progress.shown(1000, 0, 1000, "lines", told.append) as shown:
        for epoch in range(1, 1001):
            clock[0] += 2**-5
            shown.update(epoch, epoch, 0.5, 100.0)
            shown.end_epoch(epoch, [row(0.5)])
    assert [int(line.split()[1]) for line in told] == [1, 161, 321, 481, 641, 801, 961, 1000]
    told.clear()
    with progress.shown(1000, 0, 10, "lines", told.append) as shown:
        for step in range(1, 90):
            clock[0] += 10
            shown.update(step, 1, 0.25, 100.0)
    assert told == [
        "epoch  1 of 10  step 30 of 1000  loss 0.2500  2:41:40 left",
        "epoch  1 of 10  step 60 of 1000  loss 0.2500  2:36:40 left",
    ]


def test_the_bar_comes_with_its_first_figure(capsys):
    with progress.shown(10, 0, 5, "on", print) as shown:
        pass
    assert "epoch" not in capsys.readouterr().err
    with progress.shown(10, 0, 5, "on", print) as shown:
        shown.update(4, 2, 0.5, 1234.0)
    seen = capsys.readouterr()
    assert "epoch 2" in seen.err and "4/10" in seen.err and "0.5000" in seen.err and "1,234 images/s" in seen.err
    assert "nan" not in seen.err and not seen.out


def test_progress_can_be_off(capsys):
    with progress.shown(10, 0, 5, "off", print) as shown:
        shown.update(1, 1, 0.5, 100.0)
        shown.end_epoch(1, [row(0.5)])
    assert capsys.readouterr() == ("", "")


def test_several_processes_save_once_when_a_save_is_due(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("cbjax.parallel.processes._greatest", lambda wish: wish)
    agreement, saved = Agreement(), [0]
    for step in range(12):
        if agreement(int(step - saved[-1] >= 5)):  # due five steps after the last save
            saved.append(step)
    assert saved == [0, 6]
