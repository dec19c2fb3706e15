"""From a description of the data to a Dataset: what `prepare` joins together."""

import numpy as np
import pytest

from cbjax.data import DataError, prepare

DIGITS = {"name": "digits", "longtail": "exponential", "imbalance": 20, "test": 40, "validation": 20}

SPLITS = ("train", "validation", "test")


@pytest.fixture
def own_arrays(tmp_path):
    """Writes a .npz and returns the description that reads it."""

    def write(**contents):
        np.savez(tmp_path / "own.npz", **contents)
        return {"name": "arrays", "file": tmp_path / "own.npz"}

    return write


def make_images(count, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4)).astype(dtype)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name).images, getattr(other, name).images)
        and np.array_equal(getattr(one, name).labels, getattr(other, name).labels)
        for name in SPLITS
    )


def test_the_embedded_default():
    dataset = prepare(DIGITS, seed=0)
    assert dataset.counts.tolist() == [118, 84, 60, 43, 31, 22, 16, 11, 8, 5]
    assert dataset.counts.dtype == np.int64
    assert np.bincount(dataset.test.labels).tolist() == [40] * 10
    assert np.bincount(dataset.validation.labels).tolist() == [20] * 10
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert not dataset.multi_label
    assert dataset.notes == ()
    assert dataset.mean == pytest.approx(dataset.train.images.mean(axis=(0, 1, 2)))
    assert dataset.std == pytest.approx(dataset.train.images.std(axis=(0, 1, 2)))


def test_the_seed_alone_draws():
    assert same(prepare(DIGITS, 3), prepare(DIGITS, 3))
    assert not same(prepare(DIGITS, 3), prepare(DIGITS, 4))


def test_indices_are_positions_in_the_source(tmp_path):
    from cbjax.data import sources

    dataset = prepare(DIGITS, 0)
    source = sources.load("digits")
    np.savez(tmp_path / "indices.npz", **dataset.indices)
    with np.load(tmp_path / "indices.npz") as saved:
        assert set(saved) == {f"{name}{end}" for name in SPLITS for end in ("", "_from")}
        for name in SPLITS:
            assert str(saved[f"{name}_from"]) == "train"
            np.testing.assert_array_equal(source.train.images[saved[name]], getattr(dataset, name).images)
            np.testing.assert_array_equal(source.train.labels[saved[name]], getattr(dataset, name).labels)


def test_a_smaller_imbalance_has_all_images_of_a_larger_one():
    small, large = (prepare({**DIGITS, "imbalance": imbalance}, 0).indices["train"] for imbalance in (5, 50))
    assert set(large.tolist()) < set(small.tolist())


@pytest.mark.parametrize("classes", [("9", "4"), (9, 4), ("9", 4)])
def test_classes_are_relabelled_in_the_order_given(classes):
    data = {**DIGITS, "classes": classes, "longtail": "majority", "majority_ratio": 0.9, "train_size": 100}
    dataset = prepare(data, 0)
    assert dataset.class_names == ("9", "4")
    assert dataset.counts.tolist() == [90, 10]
    # The same images of each class as among all ten.
    assert dataset.indices["test"].size == 80
    everything = prepare(DIGITS, 0)
    chosen = np.isin(everything.test.labels, (9, 4))
    np.testing.assert_array_equal(dataset.test.images, everything.test.images[chosen])
    np.testing.assert_array_equal(np.array([9, 4])[dataset.test.labels], everything.test.labels[chosen])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "digit"}, r"data\.name='digit' is unknown"),
        ({"test": 0}, r"'digits' brings no test split: set data\.test to a number per class or a fraction"),
        ({"test": 200}, r"data\.test=200 takes 200 images of class '0', which has 178"),
        ({"imbalance": 500}, r"data\.imbalance=500 is not possible: class '0' has only 118 images .* at most 118"),
        ({"longtail": "zipf"}, r"data\.longtail='zipf' is unknown"),
        (
            {"longtail": "counts", "counts": (500,) * 10},
            "asks for 500 training images of class '0', which has only 118",
        ),
        ({"classes": ("9", "nine")}, r"data\.classes: there is no class 'nine' among the 10"),
        ({"classes": (9, 10)}, "there is no class 10 among"),
        ({"classes": ("9", 9)}, "at least two different classes"),
        ({"classes": ("9",)}, "at least two different classes"),
        ({"normalization": "cifar"}, "has 3 channels, but the images have 1"),
    ],
)
def test_prepare_refuses(change, message):
    with pytest.raises(DataError, match=message):
        prepare({**DIGITS, **change}, 0)


def test_a_class_name_goes_before_an_index(own_arrays):
    labels = np.array([0, 1] * 6)
    data = own_arrays(images=make_images(12), labels=labels, class_names=np.array(["1", "0"]))
    dataset = prepare({**data, "classes": ("1", 0), "test": 2}, 0)
    assert dataset.class_names == ("1", "0")
    assert dataset.counts.tolist() == [4, 4]


def test_the_nearest_class_name_is_offered(own_arrays):
    labels = np.array(["cattle", "dolphin"] * 5)
    data = own_arrays(images=make_images(10), labels=labels)
    with pytest.raises(DataError, match=r"no class 'dolfin' .*; the nearest is 'dolphin'"):
        prepare({**data, "classes": ("cattle", "dolfin"), "test": 1}, 0)


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(DataError, match=r"data\.seed must be a whole number of at least 0"):
        prepare(DIGITS, seed)


def test_splits_of_the_source_are_used(own_arrays):
    images, labels = make_images(60), np.arange(60) % 3
    own = {f"{name}_images": images for name in SPLITS} | {f"{name}_labels": labels for name in SPLITS}
    data = own_arrays(**own)
    whole = prepare({**data, "validation": 0, "test": None}, 0)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (60, 60, 60)
    assert [str(whole.indices[f"{name}_from"]) for name in SPLITS] == list(SPLITS)
    part = prepare({**data, "validation": 5, "test": 0.5, "longtail": "exponential", "imbalance": 4}, 0)
    assert np.bincount(part.validation.labels).tolist() == [5, 5, 5]
    assert np.bincount(part.test.labels).tolist() == [10, 10, 10]
    assert part.counts.tolist() == [20, 10, 5]


def test_classes_without_held_out_images_are_named_once(own_arrays):
    labels = np.array(["common"] * 30 + ["rare"] * 2 + ["single"])
    data = own_arrays(images=make_images(33), labels=labels)
    dataset = prepare({**data, "validation": 0.2, "test": 0.5}, 0)
    assert dataset.counts.tolist() == [9, 1, 1]
    assert dataset.notes == (
        "no validation images of classes 'rare', 'single'",
        "no test images of classes 'single'",
    )


@pytest.mark.parametrize(("split", "kind"), [("test", "test"), ("validation", "validation"), ("train", "training")])
def test_a_split_without_any_image_of_the_chosen_classes_is_refused(own_arrays, split, kind):
    labels = {name: np.arange(24) % 4 for name in SPLITS} | {split: np.arange(24) % 2}
    arrays = {f"{name}_labels": of_split for name, of_split in labels.items()}
    arrays |= {f"{name}_images": make_images(24) for name in SPLITS}
    data = own_arrays(**arrays, class_names=["ant", "bee", "cat", "dog"])
    with pytest.raises(DataError, match=f"no {kind} image is of the classes 'cat', 'dog': choose others"):
        prepare({**data, "classes": ("cat", 3)}, 0)


def test_nothing_held_out(own_arrays):
    labels = np.arange(40) % 2
    dataset = prepare({**own_arrays(images=make_images(40), labels=labels), "test": 5}, 0)
    assert dataset.validation is None
    assert "validation" not in dataset.indices
    assert dataset.counts.tolist() == [15, 15]


def test_multi_hot_labels(own_arrays):
    labels = (np.random.default_rng(0).random((100, 5)) < 0.3).astype(int)
    data = own_arrays(images=make_images(100, np.float32), labels=labels, class_names=list("abcde"))
    dataset = prepare({**data, "validation": 0.1, "test": 0.2}, 0)
    assert dataset.multi_label
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (70, 10, 20)
    assert dataset.train.labels.shape == (70, 5)
    assert dataset.counts.tolist() == dataset.train.labels.sum(axis=0).tolist()
    assert dataset.counts.dtype == np.int64
    for change, message in (
        ({"validation": 10}, r"data\.validation=10 is a number per class"),
        ({"longtail": "exponential"}, r"data\.longtail='exponential' counts images by class.*: use 'natural'"),
        ({"classes": ("a", "b")}, r"data\.classes cannot choose among multi-hot labels"),
        ({"normalization": "unit"}, "expects uint8 images"),
    ):
        with pytest.raises(DataError, match=message):
            prepare({**data, "validation": 0.1, "test": 0.2, **change}, 0)


def test_one_hot_labels_are_noticed(own_arrays):
    data = own_arrays(images=make_images(30), labels=np.eye(3)[np.arange(30) % 3])
    assert prepare({**data, "test": 0.3}, 0).notes == (
        "every image has one class: labels [N] of whole numbers would make this single-label",
    )


def test_cifar100_longtailed_as_cdb(prepared_data):
    data = {"name": "cifar100", "data_dir": prepared_data, "validation": 50, "normalization": "symmetric"}
    dataset = prepare({**data, "longtail": "exponential", "imbalance": 100}, 0)
    assert dataset.counts.sum() == 9754
    assert (dataset.counts[0], dataset.counts[-1]) == (450, 4)
    assert np.bincount(dataset.validation.labels).tolist() == [50] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert str(dataset.indices["test_from"]) == "test"
    assert (dataset.mean, dataset.std) == ((128.0,) * 3, (128.0,) * 3)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "minority"), [(0.9, 500), (0.995, 25)])
def test_mnist_four_against_nine(prepared_data, ratio, minority):
    data = {"name": "mnist", "data_dir": prepared_data, "classes": ("9", "4"), "validation": 500, "test": 800}
    dataset = prepare({**data, "longtail": "majority", "majority_ratio": ratio, "train_size": 5000}, 1)
    assert dataset.counts.tolist() == [5000 - minority, minority]
    assert np.bincount(dataset.validation.labels).tolist() == [500, 500]
    assert np.bincount(dataset.test.labels).tolist() == [800, 800]
    assert str(dataset.indices["test_from"]) == "test"


def test_a_part_of_ones_own_split_is_said(own_arrays):
    images = make_images(60)
    data = own_arrays(
        train_images=images[:20],
        train_labels=np.arange(20) % 2,
        test_images=images[20:],
        test_labels=np.arange(40) % 2,
    )
    assert prepare({**data, "test": 0.2, "validation": 0.2}, 0).notes == (
        "data.test=0.2 takes 8 of the 40 test images that come with the data; data.test=0 takes all",
    )
    assert prepare({**data, "test": 0, "validation": 0.2}, 0).notes == ()
    with pytest.raises(DataError, match=r"or a whole number, or 0 for the whole of the source's own test split"):
        prepare({**data, "test": 0.01}, 0)


def test_a_balanced_meta_set_is_held_out_and_moves_nothing_that_is_tested():
    plain, dataset = prepare(DIGITS, seed=0), prepare({**DIGITS, "meta": 4}, seed=0)
    assert np.bincount(dataset.meta.labels).tolist() == [4] * 10 and plain.meta is None
    for name in ("test", "validation"):
        np.testing.assert_array_equal(dataset.indices[name], plain.indices[name])
    of_each = [dataset.indices[name] for name in ("train", "validation", "test", "meta")]
    assert len(np.unique(np.concatenate(of_each))) == sum(map(len, of_each))
