"""What is said of data that are not read, against what reading them gives."""

import numpy as np
import pytest

from cbjax import config as configs
from cbjax import data
from cbjax.config import ConfigError
from cbjax.config.image_sources import SOURCES
from cbjax.estimate import abstract_data
from cbjax.estimate.abstract_data import KNOWN


def described(name, *overrides, **options):
    return abstract_data.describe(configs.load(name, overrides), **options)


def test_known_sources_agree_with_the_schema():
    for name, (classes, size) in SOURCES.items():
        if name in KNOWN:
            assert KNOWN[name][2] == classes
            assert size is None or KNOWN[name][3][:2] == size
        else:
            assert classes is None, f"{name} has a known number of classes: add it to KNOWN"


def test_digits_agree_with_the_data():
    config = configs.load("digits_lt")
    dataset = data.prepare(config.data, config.seed)
    about = abstract_data.describe(config)
    assert about.image_shape == dataset.train.images.shape[1:]
    assert about.resident
    assert len(about.counts) == len(dataset.counts)
    # Digits are not quite balanced, and here they are taken to be.
    np.testing.assert_allclose(about.counts, dataset.counts, rtol=0.1, atol=1)
    assert about.num_test == len(dataset.test.labels)


def test_long_tailed_cifar_to_the_image():
    about = described("cifar_lt:cui")
    assert (about.image_shape, int(about.counts.sum()), about.num_test) == ((32, 32, 3), 10847, 10000)
    assert int(described("cifar_lt:cdb").counts.sum()) == 9754  # 450 · 100^(-i/99), truncated, summed
    meta = described("cifar_lt:cdb", "meta.name=l2rw", "data.meta=10")
    assert int(meta.counts.sum()) == sum(int(440 * 100 ** (-place / 99)) for place in range(100))
    assert set(described("cifar_lt:cui", "data.synthesis=smote").counts.tolist()) == {500}


def test_a_class_whose_images_are_all_held_out_is_refused():
    with pytest.raises(ConfigError, match=r"hold out 600 images of a class that has 500 .*none is left to train on"):
        described("cifar_lt:cdb", "data.validation=600")


def test_classes_of_ones_own():
    about = described("mnist_binary")
    assert len(about.counts) == 2 and about.image_shape == (28, 28, 1)


def test_arrays_need_their_sizes():
    arrays = ("data.name=arrays", "data.file=mine.npz", "data.longtail=natural", "data.imbalance=1")
    with pytest.raises(ConfigError, match=r"'arrays' does not say .* give --classes and --images and --image_size$"):
        described("cifar_lt:cui", *arrays)
    with pytest.raises(ConfigError, match=r"give --images$"):
        described("cifar_lt:cui", *arrays, num_classes=7, image_size=64)
    with pytest.raises(ConfigError, match="at least 2 for each of the 7 classes; got 9"):
        described("cifar_lt:cui", *arrays, num_classes=7, num_images=9, image_size=64)
    about = described("cifar_lt:cui", *arrays, num_classes=7, num_images=1000, image_size=64)
    assert about.image_shape == (64, 64, 3)
    assert about.counts.sum() == 1000 and about.counts.max() - about.counts.min() <= 1
    assert about.resident


def test_images_of_large_data_are_cropped_to_the_size_of_the_config():
    config = configs.load("imagenet:resnet50_softmax", ["data.image_size=96", "data.resize=none"])
    about = abstract_data.describe(config)
    assert about.image_shape == (96, 96, 3) and not about.resident
    assert (len(about.counts), int(about.counts.sum()), about.num_test) == (1000, 1281167, 50000)
    assert about.counts.max() - about.counts.min() <= 1
    config.data.validation = 20
    assert int(abstract_data.describe(config).counts.sum()) == 1281167 - 20 * 1000
    assert abstract_data.describe(config, image_size=64).image_shape == (64, 64, 3)
    assert described("cifar_lt:cui").image_shape == (32, 32, 3)  # these are not cropped


def test_lists_need_their_sizes():
    config = configs.load("imagenet:resnet50_softmax")
    config.data.name = "list"
    with pytest.raises(ConfigError, match=r"give --classes and --images$"):
        abstract_data.describe(config)
    about = abstract_data.describe(config, num_classes=365, num_images=62500)
    assert about.image_shape == (224, 224, 3) and not about.resident and len(about.counts) == 365
