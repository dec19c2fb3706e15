"""Areas under curves of a whole split, single and multi-hot labels, with images that have no answer."""

import types

import numpy as np
import pytest
import sklearn.metrics

from cbjax import config as configs
from cbjax.data import Split, lists
from cbjax.data.clips import finding
from cbjax.data.clips.transforms import EvalClip
from cbjax.data.crops import EvalTransform
from cbjax.data.stream import make_image
from cbjax.training import input_paths, scores
from cbjax.training.evaluate import Evaluation
from cbjax.training.restore import Examined
from tests import clips


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


def test_random_frames_of_clips_are_those_of_the_evaluation(tmp_path):
    """The frames of a clip depend on its place; `predicted` and the probabilities must come from the same ones."""
    for number in range(4):
        frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 15, np.uint8)
        clips.write_frames(tmp_path / str(number), frames, "PNG")
    (tmp_path / "train.txt").write_text("0 0\n1 1\n2 0\n3 1\n")
    split = lists.load_lists({"train": str(tmp_path / "train.txt")}, None, 8, finding.medium(3)).train
    random = ["data.frames=3", "data.evaluation_frames=random", "data.image_size=8", "seed=5"]
    config = configs.load("egtea", [*random, "data.root=egtea"])
    transform = input_paths.evaluation_transform(config)
    assert transform == EvalClip(3, EvalTransform(8, transform.image.resize), 5)
    found = Examined(types.SimpleNamespace(config=config), None, split, range(4), np.ones(3), {})
    scored = scores.of_split(found, lambda images, allow_nan: images[..., 0].mean(axis=(2, 3)))
    expected = [make_image(split.images, transform, place, place)[1][..., 0].mean(axis=(1, 2)) for place in range(4)]
    np.testing.assert_array_equal(scored, expected)
    assert len({tuple(row) for row in scored.tolist()}) > 1
