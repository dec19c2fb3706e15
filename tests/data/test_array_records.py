"""Sets that TFDS prepared, read record by record: splits, labels read once, names in messages."""

import pickle
import shlex
import shutil
import threading

import numpy as np
import pytest

from cbjax.data import DataError, array_records, prepare, sources
from cbjax.data.crops import EvalTransform
from cbjax.data.stream import Reading, Sweep, stream
from tests.data.test_sources import write_encoded, write_prepared
from tests.photos import photo

NAMES = ("ant", "bee", "cat")
LABELS = [0, 2, 1, 0, 0, 1]
PHOTOS = [photo(label, number) for number, label in enumerate(LABELS)]
ROWS = list(zip(PHOTOS, LABELS, strict=True))
SECRET = [(image, -1) for image in PHOTOS[:3]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_set_is_read_as_it_was_written(tmp_path):
    write_encoded(tmp_path, "insects", {"train": ROWS, "validation": ROWS[:2], "test": ROWS[2:4]}, NAMES)
    source = sources.load("tfds:insects", data_dir=tmp_path, image_size=32)
    assert source.class_names == NAMES and source.notes == ()
    for split, rows in ((source.train, ROWS), (source.validation, ROWS[:2]), (source.test, ROWS[2:4])):
        assert split.images.shape == (len(rows), 32, 32, 3)
        assert [split.images.read(i) for i in range(len(rows))] == [image for image, _ in rows]
        assert split.labels.tolist() == [label for _, label in rows] and split.labels.dtype == np.int32


@pytest.mark.parametrize("name", ["tf[1]", "a*", "what?", "a[0:1]", "two\nlines", "$x #1"])
def test_a_folder_whose_name_looks_like_a_pattern_is_as_any_other(tmp_path, name):
    folder = tmp_path / name
    write_prepared(folder, "mnist", np.zeros((3, 28, 28, 1), np.uint8), np.arange(3), NAMES)
    write_encoded(folder, "insects", {"train": ROWS}, NAMES)
    assert sources.load("mnist", data_dir=folder).train.labels.tolist() == [0, 1, 2]
    train = sources.load("tfds:insects", data_dir=folder).train
    assert train.labels.tolist() == LABELS and train.images.read(2) == PHOTOS[2]
    listed = {row.name: row for row in sources.describe(folder)}
    assert listed["mnist"].ready and listed["tfds:insects"].images == 6
    # The description of other records is another: sets are told apart by the sizes of their files, too.
    before = train.images.store.key()
    (path,) = (path for path in (folder / "insects" / "1.0.0").iterdir() if "-train.array_record" in path.name)
    path.write_bytes(path.read_bytes() + b"x")
    assert train.images.store.key() != before


def test_a_folder_whose_name_is_not_utf_8_is_not_told_to_be_prepared_again(tmp_path):
    with pytest.raises(DataError, match="must have a name in UTF-8; rename or link it") as refused:
        sources.load("mnist", data_dir=tmp_path / "caf\udce9")
    assert not refused.value.command


def test_the_command_that_prepares_data_is_one_word_to_the_shell(tmp_path):
    """A folder $(…) must not be run."""
    folder = tmp_path / """a "$(touch b)" 'c'"""
    with pytest.raises(DataError) as missing:
        sources.load("mnist", data_dir=folder)
    _, _, command = missing.value.command.partition(" && ")
    words = shlex.split(command)
    assert words[:2] == ["python", "-c"] and len(words) == 3
    assert repr(str(folder)) in words[2] and "$(touch" not in command.replace(shlex.quote(words[2]), "")


@pytest.mark.parametrize("splits", [{"validation": ROWS[:2]}, {"validation": ROWS[:2], "test": SECRET}])
def test_without_test_labels_the_validation_split_is_tested_on(tmp_path, splits):
    write_encoded(tmp_path, "imagenet2012", {"train": ROWS, **splits}, NAMES)
    data = {"name": "imagenet2012", "data_dir": tmp_path, "normalization": "imagenet", "validation": 1}
    dataset = prepare(data, 0)
    assert dataset.test.labels.tolist() == LABELS[:2]
    assert dataset.counts.tolist() == [2, 1, 1] and dataset.validation.labels.tolist() == [0, 1]
    assert "the validation split is used as the test split" in dataset.notes[0]
    assert str(dataset.indices["test_from"]) == "test"


def test_labels_are_read_once(tmp_path, capsys, monkeypatch):
    write_encoded(tmp_path, "insects", {"train": ROWS}, NAMES)
    first = sources.load("tfds:insects", data_dir=tmp_path)
    assert "reading the labels of 6 train images of insects; this happens only once" in capsys.readouterr().out
    monkeypatch.setattr(array_records.Records, "source", lambda self: pytest.fail("a record was read"))
    again = sources.load("tfds:insects", data_dir=tmp_path)
    assert again.train.labels.tolist() == first.train.labels.tolist()
    assert capsys.readouterr().out == ""


def test_other_records_are_read_again(tmp_path, capsys):
    version = write_encoded(tmp_path, "insects", {"train": ROWS}, NAMES)
    before = sources.load("tfds:insects", data_dir=tmp_path).train.images.fingerprint()
    shutil.rmtree(version)
    write_encoded(tmp_path, "insects", {"train": ROWS[:5] + [(photo(2, 99), 2)] * 3}, NAMES)
    after = sources.load("tfds:insects", data_dir=tmp_path).train
    assert after.labels.tolist() == [*LABELS[:5], 2, 2, 2]
    assert after.images[np.arange(6)].fingerprint() != before


def test_labels_of_read_only_data_are_kept_elsewhere(tmp_path, cache, monkeypatch):
    version = write_encoded(tmp_path, "insects", {"train": ROWS}, NAMES)
    write = array_records._write

    def refuse(place, labels):
        if str(place).startswith(str(version)):
            raise PermissionError(13, "read-only")
        write(place, labels)

    monkeypatch.setattr(array_records, "_write", refuse)
    sources.load("tfds:insects", data_dir=tmp_path)
    (kept,) = (cache / "cbjax").iterdir()
    assert kept.name.startswith("insects-cbjax-labels-train-") and np.load(kept).tolist() == LABELS
    assert not list(version.glob(".cbjax*"))


def test_a_damaged_file_of_labels_is_read_again(tmp_path):
    version = write_encoded(tmp_path, "insects", {"train": ROWS}, NAMES)
    sources.load("tfds:insects", data_dir=tmp_path)
    (kept,) = version.glob(".cbjax-labels-train-*.npy")
    for damaged in (b"", b"no array"):
        kept.write_bytes(damaged)
        assert sources.load("tfds:insects", data_dir=tmp_path).train.labels.tolist() == LABELS
    np.save(kept, np.zeros(2, np.int32))
    assert sources.load("tfds:insects", data_dir=tmp_path).train.labels.tolist() == LABELS


def test_a_bad_image_is_named_by_its_record_and_file(tmp_path):
    write_encoded(tmp_path, "insects", {"train": [*ROWS, (b"no image", 1)]}, NAMES)
    split = sources.load("tfds:insects", data_dir=tmp_path, image_size=16).train
    with pytest.raises(DataError, match=r"insects/1\.0\.0, train record 6 \(6\.jpg\): it cannot be decoded"):
        list(stream(split, Sweep(7, 7), EvalTransform(16, 18), Reading(2), start=0, stop=1))


def test_threads_and_processes_may_share_a_set(tmp_path):
    write_encoded(tmp_path, "insects", {"train": ROWS * 20}, NAMES)
    images = sources.load("tfds:insects", data_dir=tmp_path).train.images
    again = pickle.loads(pickle.dumps(images))
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(
            target=lambda chosen: found.update({i: again.read(i) for i in chosen}), args=(range(i, 120, 4),)
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(120)] == PHOTOS * 20


def test_what_is_missing_or_of_another_kind_is_said(tmp_path):
    with pytest.raises(DataError, match="the data set 'i_naturalist2018' is not prepared: looked for") as caught:
        sources.load("i_naturalist2018", data_dir=tmp_path)
    assert "tfds.builder('i_naturalist2018'" in caught.value.command
    version = write_encoded(tmp_path, "insects", {"train": ROWS, "test": ROWS}, NAMES)
    features = version / "features.json"
    whole = features.read_text()
    features.write_text(whole.replace('"label"', '"family"'))
    (version / "label.labels.txt").rename(version / "family.labels.txt")
    with pytest.raises(DataError, match=r"must have the features image and label; it has {.*'family': 'ClassLabel'"):
        sources.load("tfds:insects", data_dir=tmp_path)
    features.write_text("{")
    with pytest.raises(DataError, match=r"insects.* cannot be read") as caught:
        sources.load("tfds:insects", data_dir=tmp_path)
    assert caught.value.command.startswith(f"rm -r {version} && ")
    (version / "insects-test.array_record-00000-of-00001").unlink()
    with pytest.raises(DataError, match="lacks files of test"):
        sources.load("tfds:insects", data_dir=tmp_path)


def test_each_configuration_of_a_data_set_has_its_own_name(tmp_path, capsys):
    version = write_encoded(tmp_path, "insects", {"train": ROWS}, NAMES)
    shutil.copytree(version, tmp_path / "insects" / "small" / "1.0.0")
    shutil.rmtree(version)
    small = sources.load("tfds:insects/small", data_dir=tmp_path)
    assert small.train.labels.tolist() == LABELS
    rows = {row.name: row for row in sources.describe(tmp_path)}
    assert rows["tfds:insects/small"].ready and "tfds:insects" not in rows


def test_a_set_without_a_training_split_says_what_it_has(tmp_path):
    write_encoded(tmp_path, "insects", {"test": ROWS}, NAMES)
    with pytest.raises(DataError, match=r"has no split train; it has test\. cbjax trains on the split train"):
        sources.load("tfds:insects", data_dir=tmp_path)


def test_prepared_sets_are_listed_by_name(tmp_path):
    version = write_encoded(tmp_path, "insects", {"train": ROWS, "test": ROWS[:1]}, NAMES)
    rows = {row.name: row for row in sources.describe(tmp_path)}
    assert rows["tfds:insects"] == ("tfds:insects", 7, True, str(version))
    assert not rows["imagenet2012"].ready and "tfds.builder('imagenet2012'" in rows["imagenet2012"].where_or_command
    assert "data.train_list=FILE" in rows["list"].where_or_command and rows["folder"].ready is None
