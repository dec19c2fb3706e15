"""Tests of what is refused once the data of a config are known."""

import dataclasses

import numpy as np
import pytest

from cbjax import config, data
from cbjax.config import ConfigError
from cbjax.training import check_data


@pytest.fixture(scope="module")
def digits():
    return data.of_config(config.load("digits_lt"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["batch_size=1000000"],
            r"batch_size: must be at most the number of training images; got 1000000 for \d+ images, which "
            "data.validation and data.test made fewer: set batch_size=",
        ),
        (["num_epochs=1000000", "batch_size=1"], None),
        (["evaluation.batch_size=1000000"], None),
        (["steps_per_dispatch=100000"], None),
    ],
)
def test_numbers_that_a_machine_can_take_are_taken(digits, overrides, message):
    chosen = config.load("digits_lt", overrides)
    if message is None:
        check_data.check_data(chosen, digits)
    else:
        with pytest.raises(ConfigError, match=message):
            check_data.check_data(chosen, digits)


def of_size(dataset, count, side):
    # Broadcast: the arrays take no memory.
    images = np.broadcast_to(np.uint8(0), (count, side, side, 3))
    labels = np.broadcast_to(np.int32(0), (count,))
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=images, labels=labels))


def test_more_steps_than_a_state_can_count_are_refused(digits):
    many = of_size(digits, 3000, 8)
    with pytest.raises(ConfigError, match=r"num_epochs: a run can have at most 2147483647 steps; got 1000000 epochs"):
        check_data.check_data(config.load("digits_lt", ["num_epochs=1000000", "batch_size=1"]), many)
    check_data.check_data(config.load("digits_lt", ["num_epochs=1000000", "batch_size=2"]), many)


@pytest.mark.parametrize("key", ["batch_size", "evaluation.batch_size"])
def test_a_batch_that_no_memory_holds_is_refused(digits, key):
    large = of_size(digits, 10**6, 4096)
    with pytest.raises(ConfigError, match=rf"^{key}: 1000000 images of 4096 x 4096 x 3 take 201,326.6 GB,"):
        check_data.check_data(config.load("digits_lt", ["batch_size=1", f"{key}=1000000"]), large)


def test_a_dispatch_that_no_memory_holds_is_refused(digits):
    small = of_size(digits, 10**6, 8)
    chosen = config.load("digits_lt", ["batch_size=1000000", "steps_per_dispatch=100000"])
    with pytest.raises(ConfigError, match=r"steps_per_dispatch: 100000 steps of 1000000 images take 400.0 GB"):
        check_data.check_data(chosen, small)


def test_answers_of_a_users_one_vs_rest_loss_are_not_adjusted(digits, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def loss(logits, labels, class_weights):\n    return logits[:, 0]\n\n\nloss.one_vs_rest = True\n")
    chosen = config.load("digits_lt", [f"loss.name={path}:loss", "evaluation.tau=1"])
    with pytest.raises(ConfigError, match=r"evaluation.tau must be 0 when loss.name is .*, whose answers are one-vs-"):
        check_data.check_data(chosen, digits)


@pytest.mark.parametrize("overrides", [["loss.name=ldam"], ["loss.name=logit_adjusted"], ["evaluation.tau=1"]])
def test_methods_that_need_every_class_say_which_have_no_image(digits, overrides):
    counts = digits.counts.copy()
    counts[[3, 7]] = 0
    few = dataclasses.replace(digits, counts=counts)
    key = overrides[0].removesuffix("=1")
    with pytest.raises(ConfigError, match=f"{key} needs a training image of every class, and 2 have none: 3, 7"):
        check_data.check_data(config.load("digits_lt", overrides), few)
    check_data.check_data(config.load("digits_lt", overrides), digits)
