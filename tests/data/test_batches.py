"""The sequence of batches: every image once an epoch, any step on its own, whatever the sizes."""

import concurrent.futures
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax.data.batches import Batches, epoch_order

sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(0, 2**60))
def test_every_image_comes_once_an_epoch(num_examples, batch_size, seed):
    batches = Batches(num_examples, batch_size, seed)
    stream = batches.indices_between(0, batches.epoch_end(4)).ravel()
    for epoch in range(4):
        one = stream[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(one.tolist()) == list(range(num_examples))
        assert one.tolist() == epoch_order(seed, epoch, num_examples).tolist()


@given(sizes, sizes, st.integers(0, 30), st.integers(0, 10))
def test_a_step_is_a_slice_of_the_concatenated_epochs(num_examples, batch_size, start, count):
    epochs = (start + count + 1) * batch_size // num_examples + 1
    stream = np.concatenate([epoch_order(5, epoch, num_examples) for epoch in range(epochs)])
    # A fresh object each time: nothing depends on the steps asked for before.
    step = Batches(num_examples, batch_size, 5).indices(start)
    assert step.tolist() == stream[start * batch_size :][:batch_size].tolist()
    several = Batches(num_examples, batch_size, 5).indices_between(start, start + count)
    assert several.shape == (count, batch_size)
    assert several.ravel().tolist() == stream[start * batch_size :][: count * batch_size].tolist()


@given(sizes, sizes, st.integers(0, 5))
def test_an_epoch_ends_at_the_first_step_that_completes_it(num_examples, batch_size, epoch):
    end = Batches(num_examples, batch_size, 0).epoch_end(epoch)
    assert end * batch_size >= epoch * num_examples
    assert end == 0 or (end - 1) * batch_size < epoch * num_examples


def test_orders_differ_by_epoch_and_seed():
    orders = [epoch_order(seed, epoch, 100).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_steps_may_come_in_any_order():
    batches = Batches(10, 4, 0)
    forward = [batches.indices(step).tolist() for step in range(20)]
    assert [batches.indices(step).tolist() for step in reversed(range(20))] == forward[::-1]


def test_another_order_fits_in():
    asked = []

    def order(epoch):
        asked.append(epoch)
        return np.full(3, epoch)

    batches = Batches(3, 2, 0, order=order)
    assert batches.indices_between(0, 3).tolist() == [[0, 0], [0, 1], [1, 1]]
    assert batches.indices(1).tolist() == [0, 1]
    assert asked == [0, 1]


def test_threads_make_an_order_once():
    asked = []

    def order(epoch):
        asked.append(epoch)
        time.sleep(0.05)
        return np.arange(8)

    batches = Batches(8, 2, 0, order=order)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [part.tolist() for part in pool.map(batches.indices, range(4))] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert asked == [0]


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        Batches(10, 0, 0)
    with pytest.raises(ValueError, match="num_examples must be a whole number of at least 1, got 0"):
        Batches(0, 1, 0)
    with pytest.raises(ValueError, match="got 3 and 2"):
        Batches(10, 2, 0).indices_between(3, 2)
    with pytest.raises(ValueError, match="got -1 and 0"):
        Batches(10, 2, 0).indices(-1)
    with pytest.raises(ValueError, match="an epoch's order must have 10 positions, got 9"):
        Batches(10, 2, 0, order=lambda epoch: np.arange(9)).indices(0)
