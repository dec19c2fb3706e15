"""Schedules and deferral: the step at which a fraction of training is over."""

import numpy as np
import pytest

from cbjax import build
from cbjax import config as configs
from cbjax.data.sampling import Batches


@pytest.mark.parametrize(
    ("num_examples", "batch_size"),
    [(10847, 128), (19573, 128), (50000, 128), (363, 64), (5000, 100), (997, 31)],  # CIFAR-100 of imbalance 100, 10, 1
)
@pytest.mark.parametrize("num_epochs", [5, 200, 100])
def test_the_rate_drops_with_the_first_step_of_an_epoch(num_examples, batch_size, num_epochs):
    config = configs.load("cifar_lt:cui", [f"num_epochs={num_epochs}", "optim.warmup=0"])
    config.optim.decay_at = (0.6, 0.8)
    config.batch_size = batch_size
    batches = Batches(num_examples, batch_size, 0)
    schedule = build.build_schedule(config, batches)
    peak = config.optim.learning_rate
    for drops, fraction in enumerate(config.optim.decay_at):
        step = batches.epoch_end(round(fraction * num_epochs))
        rates = [float(schedule(at)) / peak for at in (step - 1, step)]
        expected = [config.optim.decay_factor**drops, config.optim.decay_factor ** (drops + 1)]
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_fractions_are_those_that_were_written():
    # 0.55 * 100 in binary is above 55.
    assert build._exactly(0.55) * 100 == 55 and 0.55 * 100 > 55
