"""The streamed batches: the same whatever reads them, each image once in an evaluation, bad ones told or skipped."""

import dataclasses
import threading

import numpy as np
import pytest

from cbjax.data import DataError, sources
from cbjax.data.batches import Batches, Partners
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.samplers import make_order
from cbjax.data.stream import Reading, Sweep, stream
from tests.photos import write_tree

TRAIN = TrainTransform(16, seed=3, flip=True, color_jitter=0.2)
EVAL = EvalTransform(16, 18)


@pytest.fixture
def split(tmp_path):
    write_tree(tmp_path, {"train": (20, 12, 5)})
    return sources.load("folder", root=tmp_path, image_size=16).train


def read(split, batches, transform=TRAIN, *, threads=0, workers=0, start=0, stop=6, **options):
    bad = {key: options.pop(key) for key in ("on_bad_image", "report") if key in options}
    reading = Reading(threads, workers, **bad)
    return list(stream(split, batches, transform, reading, start=start, stop=stop, **options))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() == {"image", "label", "mask"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
            assert one[key].dtype == other[key].dtype


@pytest.mark.parametrize("batch_size", [8, 20, 36])
def test_a_batch_is_what_its_step_says(split, batch_size):
    batches = Batches(37, batch_size, 5)
    for step, batch in enumerate(read(split, batches)):
        positions = batches.indices(step)
        assert batch["image"].shape == (batch_size, 16, 16, 3) and batch["image"].dtype == np.uint8
        assert batch["mask"].dtype == bool and batch["mask"].all()
        np.testing.assert_array_equal(batch["label"], split.labels[positions])
        for place, position in enumerate(positions):
            expected = TRAIN(split.images.read(position), step * batch_size + place)
            np.testing.assert_array_equal(batch["image"][place], expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(split, threads):
    batches = Batches(37, 20, 5)
    assert_equal(read(split, batches, threads=threads), read(split, batches))


@pytest.mark.parametrize("processes", [2, 4, 12])
def test_the_global_batch_is_the_same_on_any_number_of_processes(split, processes):
    batches = Batches(37, 24, 5, order=make_order("class_aware", split.labels, 5))
    whole = read(split, batches)
    shares = [read(split, batches, threads=i % 3, process_index=i, process_count=processes) for i in range(processes)]
    joined = [
        {key: np.concatenate([share[key] for share in of_step]) for key in whole[0]}
        for of_step in zip(*shares, strict=True)
    ]
    assert_equal(joined, whole)


def test_each_process_reads_the_partners_of_its_share_with_their_crops(split):
    batches = Batches(37, 8, 5)
    partners = Partners(batches, 5)
    whole = read(split, batches)
    shares = [read(split, partners, threads=i, process_index=i, process_count=2) for i in range(2)]
    for step, (batch, *parts) in enumerate(zip(whole, *shares, strict=True)):
        joined = {key: np.concatenate([part[key] for part in parts]) for key in batch}
        assert_equal([joined], [{key: values[partners.places(step)] for key, values in batch.items()}])


@pytest.mark.parametrize("start", [0, 1, 3, 5, 6])
def test_any_step_can_be_the_first(split, start):
    batches = Batches(37, 20, 5)
    assert_equal(read(split, batches, threads=2, start=start), read(split, batches)[start:])


@pytest.mark.parametrize("batch_size", [5, 16, 37, 64])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_evaluation_sees_every_image_once(split, batch_size, processes):
    if batch_size % processes:
        pytest.skip("processes must divide the batch")
    sweep = Sweep(37, batch_size)
    seen = []
    for index in range(processes):
        options = {"stop": sweep.num_steps, "process_index": index, "process_count": processes}
        batches = read(split, sweep, EVAL, threads=2, **options)
        assert all(len(batch["image"]) == batch_size // processes for batch in batches)
        seen += [(image.tobytes(), label) for b in batches for image, label, real in
                 zip(b["image"], b["label"], b["mask"], strict=True) if real]  # fmt: skip
        assert not any(batch["image"][~batch["mask"]].any() for batch in batches)
    expected = [(EVAL(split.images.read(i)).tobytes(), split.labels[i]) for i in range(37)]
    assert sorted(seen) == sorted(expected)


def damage(split, chosen, content=b"\xff\xd8no"):
    for position in chosen:
        with open(split.images.name(position), "wb") as file:
            file.write(content)


@pytest.mark.parametrize("threads", [0, 2])
def test_the_first_bad_image_in_the_order_is_an_error_with_its_name(split, threads):
    batches = Batches(37, 10, 5)
    order = batches.indices_between(0, 3).ravel()
    damage(split, [order[17], order[25]])
    iterator = stream(split, batches, TRAIN, Reading(threads), start=0, stop=6)
    assert next(iterator)["mask"].all()
    with pytest.raises(DataError, match=r"it cannot be decoded \(.*; repair .* data.on_bad_image=skip") as caught:
        next(iterator)
    assert str(caught.value).startswith(split.images.name(order[17]) + ": ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no such file"), (b"", "the file is empty"), ("half", "it cannot be decoded")],
)
def test_what_is_wrong_is_said(split, tmp_path, content, reason):
    path = tmp_path / "train" / "ant" / "3.jpg"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=reason) as caught:
        read(split, Sweep(37, 37), EVAL, stop=1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_skipped_image_leaves_its_place_empty_and_all_else_as_it_was(split, threads):
    batches = Batches(37, 20, 5)
    before = read(split, batches)
    bad = batches.indices(0)[[2, 19]]
    damage(split, bad)
    told = []
    found = read(split, batches, threads=threads, on_bad_image="skip", report=lambda *row: told.append(row))
    for step, (one, other) in enumerate(zip(found, before, strict=True)):
        gone = np.isin(batches.indices(step), bad)
        np.testing.assert_array_equal(one["mask"], ~gone)
        np.testing.assert_array_equal(one["image"][~gone], other["image"][~gone])
        np.testing.assert_array_equal(one["label"][~gone], other["label"][~gone])
        assert not one["image"][gone].any() and not one["label"][gone].any()
    assert {name for name, _ in told} == {split.images.name(position) for position in bad}
    assert all("cannot be decoded" in reason for _, reason in told)


def test_a_mistake_in_a_transform_is_no_bad_image(split):
    def transform(data, place):
        raise TypeError("a mistake")

    for threads in (0, 2):
        with pytest.raises(TypeError, match="a mistake"):
            read(split, Batches(37, 20, 5), transform, threads=threads, on_bad_image="skip")


def test_closing_ends_the_threads(split):
    before = set(threading.enumerate())
    iterator = stream(split, Batches(37, 20, 5), TRAIN, Reading(3), start=0, stop=10**6)
    next(iterator)
    iterator.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive() or not thread.name.startswith("grain-prefetch")


def test_multi_hot_labels_are_streamed_too(split):
    labels = np.eye(3, dtype=np.float32)[split.labels]
    batch = read(dataclasses.replace(split, labels=labels), Sweep(37, 40), EVAL, stop=1)[0]
    np.testing.assert_array_equal(batch["label"][:37], labels)
    assert not batch["label"][37:].any() and batch["label"].dtype == np.float32


def test_processes_must_divide_the_batch(split):
    with pytest.raises(ValueError, match="process_count must divide the batch size, 20, got 3"):
        stream(split, Batches(37, 20, 5), TRAIN, Reading(), start=0, stop=1, process_count=3)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_change_nothing(split, workers):
    batches = Batches(37, 20, 5, order=make_order("square_root", split.labels, 5))
    expected = read(split, batches, start=1)
    assert_equal(read(split, batches, threads=1, workers=workers, start=1), expected)
