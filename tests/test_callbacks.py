"""What happens after an epoch, one callback at a time."""

import dataclasses

import jax.numpy as jnp
import pytest
from oracles.difficulty import paper_tau

from cbjax import callbacks, memory
from cbjax.types import Run


def run_at(epoch, accuracy=(0.9, 0.3)):
    run = Run(None, None, jnp.int32(0), {}, ("a", "b"), memory=memory.start(2))
    return dataclasses.replace(run, memory={**run.memory, "epoch": epoch, "accuracy": list(accuracy)})


@pytest.mark.parametrize(("start_epoch", "equal"), [(0, [1]), (1, [1]), (3, [1, 2, 3])])
def test_epochs_of_equal_weights_have_no_tau(start_epoch, equal):
    log_tau = callbacks.log_tau("paper", start_epoch)
    logged = {epoch: log_tau(run_at(epoch)).metrics for epoch in range(1, 6)}
    assert [epoch for epoch, metrics in logged.items() if not metrics] == equal
    assert logged[5] == {"difficulty/tau": pytest.approx(paper_tau([0.9, 0.3]))}
