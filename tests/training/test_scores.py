"""Areas under curves of a whole split, single and multi-hot labels, with images that have no answer."""

import types

import numpy as np
import pytest
import sklearn.metrics

from cbjax import config as configs
from cbjax.data import Split
from cbjax.training import scores
from cbjax.training.evaluate import Evaluation
from cbjax.training.restore import Examined


@pytest.mark.parametrize("multi_hot", [False, True])
def test_areas_leave_out_images_without_an_answer(multi_hot):
    rng = np.random.default_rng(0)
    size = scores.BATCH + 40  # two batches
    chances = rng.uniform(size=(size, 4))
    chances[[3, size - 1], 1] = np.nan
    labels = (rng.uniform(size=(size, 4)) < 0.3).astype(int) if multi_hot else rng.integers(0, 3, size)
    images = np.arange(size, dtype=np.float32)[:, None]

    def predict(images, allow_nan):
        assert allow_nan
        return chances[images[:, 0].astype(int)]

    run = types.SimpleNamespace(config=configs.load("digits_lt"), predict=predict)
    evaluation = Evaluation({"loss": 1.0}, np.zeros(4), np.zeros(size), np.zeros(4))
    found = scores.with_areas(Examined(run, evaluation, Split(images, labels), range(size), np.ones(4), {}))
    there, of_class = ~np.isnan(chances).any(axis=1), labels if multi_hot else np.eye(4)[labels]
    classes = range(4 if multi_hot else 3)  # class 3 has no image otherwise
    for name, truth in (
        ("roc_auc", sklearn.metrics.roc_auc_score),
        ("pr_auc", sklearn.metrics.average_precision_score),
    ):
        expected = [truth(of_class[there, c], chances[there, c]) for c in classes]
        np.testing.assert_allclose(found.areas[name], [*expected, *[np.nan] * (4 - len(classes))])
        assert found.evaluation.metrics[f"macro_{name}"] == pytest.approx(np.mean(expected))
    assert found.evaluation.metrics["loss"] == 1.0 and found.chances.shape == (size, 4)
