"""The class weights of each epoch, from what a run remembers."""

import numpy as np
import pytest
from oracles import difficulty as cdb
from oracles import weights as cb

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.training import reweight
from cbjax.types import Memory

COUNTS = np.array([90, 9, 3])


def rule_of(*overrides, counts=COUNTS):
    return reweight.build(configs.load("digits_lt", list(overrides)), counts)


def test_fixed_weights_are_those_of_every_epoch():
    rule = rule_of("weights.name=class_balanced", "weights.beta=0.9")
    expected = cb.scaled_inverse(cb.effective_number(COUNTS, 0.9))
    for epoch in (0, 1, 9):
        weights = rule.next_weights(Memory(epoch=epoch))
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert rule_of().next_weights(Memory(epoch=5)).tolist() == [1, 1, 1]


def test_difficulty_decides_from_the_second_epoch_on():
    rule = rule_of("weights.name=difficulty", "difficulty.floor=0.02")
    accuracy = (0.9, 0.5, 0.1)
    assert rule.next_weights(Memory(accuracy=accuracy)).tolist() == [1, 1, 1]  # nothing was measured yet
    expected = cdb.weights(accuracy, cdb.paper_tau(accuracy), 0.02)
    np.testing.assert_allclose(rule.next_weights(Memory(epoch=1, accuracy=accuracy)), expected, rtol=1e-5)


def test_a_class_without_training_images_takes_no_weight_from_the_others():
    rule = rule_of("weights.name=difficulty", counts=np.array([90, 0, 3]))
    memory = Memory(epoch=1, accuracy=(0.9, 0.0, 0.6))  # nothing teaches the second class, so it is always wrong
    known = (0.9, 0.6)
    expected = np.insert(cdb.weights(known, cdb.paper_tau(known), 0.01), 1, 0.0)
    np.testing.assert_allclose(rule.next_weights(memory), expected, rtol=1e-5)
    tau = reweight.dynamic_tau("paper", rule.present)(memory)
    assert tau == pytest.approx(float(cdb.paper_tau(known)), rel=1e-6)


@pytest.mark.parametrize(("start", "num_epochs", "equal"), [(0.55, 100, 55), (0.5, 5, 3), (0.01, 4, 1), (0.0, 4, 0)])
def test_weights_are_equal_before_their_start(start, num_epochs, equal):
    settings = (f"weights.start={start}", f"num_epochs={num_epochs}")
    for name, first in (("inverse_frequency", equal), ("difficulty", max(1, equal))):
        rule = rule_of(f"weights.name={name}", *settings)
        memories = [Memory(epoch=epoch, accuracy=(0.9, 0.5, 0.1)) for epoch in range(num_epochs)]
        same = [bool(np.all(rule.next_weights(memory) == 1)) for memory in memories]
        assert same == [epoch < first for epoch in range(num_epochs)]
        assert same == [rule.is_equal(memory.epoch) for memory in memories]


def test_counts_without_weights_are_refused_by_the_key():
    with pytest.raises(ConfigError, match=r"weights.name='class_balanced': .*"):
        rule_of("weights.name=class_balanced", counts=np.array([3, 0, 1]))
