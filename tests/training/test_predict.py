"""Predictions of a function in a network's place: the work for few images, and outputs that are not finite."""

import jax
import numpy as np
import pytest

from cbjax.training.predict import images_at_once, make_predict
from cbjax.types import NonFiniteLoss, Trained


class AsTheyAre:
    """In place of `data.given.Fit`."""

    shape, dtype = (1, 1, 2), "float32"

    def all(self, images):
        return iter(images)


def predict_and_sizes(probabilities=jax.nn.softmax):
    sizes = []

    def logits(trained, images):
        sizes.append(len(images))
        return images.reshape(-1, 2)

    options = {"fit": AsTheyAre(), "normalize": lambda images: images, "probabilities": probabilities}
    return make_predict(logits, Trained({}, {}, ()), **options), sizes


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((224, 224, 3), 256), ((1, 8, 8, 3), 256), ((2, 8, 8, 3), 128), ((10, 224, 224, 3), 16), ((99, 8, 8, 3), 8)],
)
def test_a_batch_of_clips_has_no_more_frames_than_one_of_images_has_images(shape, expected):
    assert images_at_once(shape) == expected


def test_few_images_take_little_work_and_all_numbers_few_programs():
    predict, sizes = predict_and_sizes()
    images = np.random.default_rng(0).normal(size=(600, 1, 1, 2)).astype(np.float32)
    whole = predict(images)
    assert sizes == [256]
    for count in (1, 3, 8, 9, 200, 256, 257):
        np.testing.assert_array_equal(predict(images[:count]), whole[:count])
    assert sizes == [256, 8, 16]  # each a program, compiled once
    assert predict(images[:0]).shape == (0, 2)


@pytest.mark.parametrize("probabilities", [jax.nn.softmax, jax.nn.sigmoid])
def test_images_with_outputs_that_are_not_finite_are_named_and_get_no_class(probabilities):
    predict, _ = predict_and_sizes(probabilities)
    nan, inf = np.nan, np.inf
    images = np.float32([[1, 2], [nan, 0], [nan, nan], [inf, inf], [2, 1], [-inf, 1]])[:, None, None]
    with pytest.raises(NonFiniteLoss, match="for 3 of 6 images, the first of them image 1"):
        predict(images)
    found = predict(images, allow_nan=True)
    assert np.isnan(found[1:4]).all() and found[[0, 4, 5]].argmax(axis=1).tolist() == [1, 0, 1]
