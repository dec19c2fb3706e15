"""Images as files: lists, tables and trees of folders, and all that can be wrong in them."""

import gzip
import os
import pickle
import shutil
import signal
import socket
import unicodedata

import numpy as np
import pytest

from cbjax import config
from cbjax.data import DataError, Encoded, files, prepare, sources
from cbjax.models import pretrained
from cbjax.sweeps.file import PlannedRun
from cbjax.sweeps.sweep import sweep
from cbjax.training.run import train
from cbjax.variants import Sweep
from tests.photos import photo, write_csv, write_list, write_tree

SPLITS = {"train": (6, 4, 2), "val": (1, 1, 1), "test": (2, 2, 2)}


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "images", write_tree(tmp_path / "images", SPLITS)


@pytest.mark.parametrize("split", [False, True], ids=["classes", "splits"])
def test_a_work_directory_is_no_class(tmp_path, split):
    (tmp_path / "images" / "train").mkdir(parents=True) if split else (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    keys = config.load("own_images", [f"data.root={tmp_path / 'images'}"])
    inside = ("images/train", "images/test/run") if split else ("images", "images/run", "link/runs/one")
    for name in inside:
        with pytest.raises(DataError, match=r"--workdir must lie outside of the images, .* choose another"):
            train(keys, tmp_path / name)
        assert not list(tmp_path.rglob("config.json"))
    for name in ("runs", "images_run", ".", *(("images", "images/runs") if split else ())):
        files.check_outside(keys.data, tmp_path / name)
    files.check_outside(config.load("digits_lt").data, tmp_path / "images")
    with pytest.raises(DataError, match="--workdir must lie outside"):
        sweep("s", Sweep("", []), [PlannedRun("ce", {}, keys)], tmp_path / inside[0])


def lists(folder, rows):
    write = {split: write_list(folder / f"{split}.txt", lines) for split, lines in rows.items()}
    return {"train_list": str(write["train"]), "validation_list": str(write["val"]), "test_list": str(write["test"])}


def assert_is_the_tree(source, rows, tell_names=True):
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        found = getattr(source, split)
        assert isinstance(found.images, Encoded) and found.images.shape == (len(rows[name]), 32, 32, 3)
        by_path = {found.images.name(i): (found.images.read(i), int(found.labels[i])) for i in range(len(found))}
        assert len(by_path) == len(rows[name])
        for path, label in rows[name]:
            (match,) = (value for key, value in by_path.items() if key.endswith(path))
            number = int(path.split("/")[-1].removesuffix(".jpg")) + 1000 * list(SPLITS).index(name)
            assert match == (photo(label, number), label)
    if tell_names:
        assert source.class_names == ("ant", "bee", "cat")
    assert found.labels.dtype == np.int32


def test_list_table_and_tree_are_the_same_images(tree, tmp_path):
    root, rows = tree
    assert_is_the_tree(sources.load("folder", root=root, image_size=32), rows)
    assert_is_the_tree(sources.load("list", root=root, image_size=32, **lists(tmp_path, rows)), rows)
    tables = {f"{name}_list": str(write_csv(tmp_path / f"{split}.csv", rows[split])) for name, split in
              (("train", "train"), ("validation", "val"), ("test", "test"))}  # fmt: skip
    assert_is_the_tree(sources.load("csv", root=root, image_size=32, **tables), rows)


def test_paths_are_relative_to_the_list_without_a_root_and_lists_may_be_compressed(tree):
    root, rows = tree
    places = lists(root, rows)
    packed = root / "train.txt.gz"
    packed.write_bytes(gzip.compress((root / "train.txt").read_bytes()))
    assert_is_the_tree(sources.load("list", image_size=32, **{**places, "train_list": str(packed)}), rows)


def test_lines_may_have_spaces_blank_lines_marks_and_any_line_end(tmp_path):
    (tmp_path / "a b.jpg").write_bytes(photo(0, 0))
    listed = tmp_path / "train.txt"
    listed.write_bytes("\ufeffa b.jpg 0\r\n\r\nc d.jpg\t1  \r\n".encode())
    source = sources.load("list", train_list=listed)
    assert source.train.images.name(0) == f"{tmp_path}/a b.jpg"
    assert source.train.labels.tolist() == [0, 1]
    assert source.class_names == ("0", "1")


def test_absolute_paths_need_no_root(tree, tmp_path):
    root, rows = tree
    listed = write_list(tmp_path / "all.txt", [(f"{root}/{path}", label) for path, label in rows["train"]])
    source = sources.load("list", root="/elsewhere", train_list=listed)
    assert source.train.images.read(0) == photo(0, 0)


def test_a_tree_without_splits_is_all_for_training(tree):
    root, _ = tree
    source = sources.load("folder", root=root / "train")
    assert len(source.train) == 12 and source.validation is source.test is None
    with pytest.raises(DataError, match=r"brings no test split: set data\.test"):
        prepare({"name": "folder", "root": str(root / "train"), "normalization": "imagenet"}, 0)


def test_without_a_test_split_the_validation_split_is_tested_on(tmp_path):
    write_tree(tmp_path, {"train": (3, 3, 3), "validation": (1, 1, 1)})
    dataset = prepare({"name": "folder", "root": str(tmp_path), "normalization": "imagenet"}, 0)
    assert dataset.validation is None and len(dataset.test) == 3
    assert dataset.notes == ("there is no labelled test split: the validation split is used as the test split",)


def test_other_files_are_not_images(tmp_path):
    write_tree(tmp_path, {"train": (2, 2, 2)})
    for name in ("train/ant/notes.txt", "train/ant/.hidden.jpg", "train/readme.md", "train/bee/thumbs.db"):
        (tmp_path / name).write_text("x")
    deep = tmp_path / "train" / "cat" / "deep"
    deep.mkdir()
    (deep / "one.JPEG").write_bytes(photo(2, 9))
    source = sources.load("folder", root=tmp_path)
    assert np.bincount(source.train.labels).tolist() == [2, 2, 3]


def put(folder, count, name="loose"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{name}{number}.png").write_bytes(b"not looked into")


def test_images_in_no_class_folder_and_splits_without_class_folders_are_told(tmp_path):
    write_tree(tmp_path, {"train": (2, 2, 2), "test": (1, 1, 1)})
    assert sources.load("folder", root=tmp_path).notes == ()
    put(tmp_path, 2, "cover")
    put(tmp_path / "train", 7)
    put(tmp_path / "val", 7, "flat")
    put(tmp_path / "test", 1)
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / "train" / name).write_text("x")
    source = sources.load("folder", root=tmp_path)
    assert len(source.train) == 6 and source.validation is None and len(source.test) == 3
    assert source.notes == (
        f"{tmp_path}: left out 2 images that are in no class folder, such as 'cover0.png'",
        "train: left out 7 images that are in no class folder, such as 'loose0.png'",
        "test: left out 1 image that is in no class folder, such as 'loose0.png'",
        "val is not used, as it has no class folders; it holds 7 images, such as 'flat0.png'",
    )
    assert sources.load("folder", root=tmp_path / "train").notes == (
        f"{tmp_path / 'train'}: left out 7 images that are in no class folder, such as 'loose0.png'",
    )


def test_a_test_folder_without_class_folders_is_told_where_a_test_split_is_missed(tmp_path):
    write_tree(tmp_path, {"train": (2, 2, 2)})
    put(tmp_path / "test", 1)
    keys = {"name": "folder", "root": str(tmp_path), "normalization": "imagenet"}
    message = (
        r"brings no test split \(test is not used, as it has no class folders; it holds 1 image 'loose0.png'\): "
        r"move its files into a folder for each class, as in train, or set data\.test"
    )
    with pytest.raises(DataError, match=message):
        prepare(keys, 0)
    write_tree(tmp_path, {"val": (1, 1, 1)})
    (tmp_path / "test" / "loose0.png").unlink()
    dataset = prepare(keys, 0)
    assert len(dataset.test) == 3
    assert dataset.notes[1] == "test is not used, as it has no class folders"


def test_tables_may_have_other_columns_and_numbers_for_names(tmp_path):
    (tmp_path / "a,b.jpg").write_bytes(photo(0, 0))
    table = tmp_path / "train.csv"
    table.write_text('id, Label ,path\n7,10,"c,d.jpg"\n\n8,9,"a,b.jpg"\n')
    source = sources.load("csv", train_list=table)
    assert source.class_names == ("9", "10")
    assert source.train.labels.tolist() == [1, 0]
    assert source.train.images.name(1) == f"{tmp_path}/a,b.jpg"


BAD_LISTS = {
    "empty": ("", "train.txt: the list is empty"),
    "blank": ("\n \n", "train.txt: the list is empty"),
    "no label": ("a.jpg 0\na.jpg\n", r"train.txt, line 2: must be a path and a whole number, got 'a.jpg'"),
    "word": ("a.jpg 0\n\na.jpg cat\n", r"train.txt, line 3: must be a path and a whole number, got 'a.jpg cat'"),
    "underscore": ("a.jpg 1_0\n", r"train.txt, line 1: must be a path"),
    "negative": ("a.jpg 0\na.jpg -1\n", r"train.txt, line 2: label -1 is out of range: labels count from 0"),
    "huge": ("a.jpg 0\na.jpg 99999999999\n", r"train.txt, line 2: label 99999999999 is out of range"),
    "gap": ("a.jpg 0\na.jpg 2\n", "each with a training image; the largest is 2, and these have no image: '1'"),
    "one class": ("a.jpg 0\n", "there must be at least 2 classes, got 1"),
    "missing": ("b.jpg 0\nc.jpg 1\n", r"its images, such as .*/b.jpg, are not there: set data.root to the folder"),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_a_bad_list_is_refused(tmp_path, kind):
    text, message = BAD_LISTS[kind]
    (tmp_path / "a.jpg").write_bytes(photo(0, 0))
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        sources.load("list", train_list=tmp_path / "train.txt")
    assert str(tmp_path / "train.txt") in str(caught.value)


def test_a_list_that_is_numbered_from_its_own_folders_is_refused(tree, tmp_path):
    """A test list without ants that numbers bee 0 and cat 1: its figures would be those of other classes."""
    root, rows = tree
    shifted = [(path, label - 1) for path, label in rows["test"] if label]
    places = lists(tmp_path, {**rows, "test": shifted})
    with pytest.raises(DataError, match=r"test.txt: test/bee/\d.jpg has the label 0, which is the class 'ant'"):
        sources.load("list", root=root, **places)


def test_folders_that_hold_several_labels_are_none_of_classes(tmp_path):
    """A day or a shard a folder: the training images of each class happen to be of one day."""
    for split, rows in {"train": [("1/a", 0), ("2/b", 1)], "test": [("1/c", 1), ("1/d", 0), ("2/e", 0)]}.items():
        for path, label in rows:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / f"{path}.jpg").write_bytes(photo(label, 0))
        write_list(tmp_path / f"{split}.txt", [(f"{path}.jpg", label) for path, label in rows])
    source = sources.load("list", train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt")
    assert source.test.labels.tolist() == [1, 0, 0]


def test_a_label_of_another_split_must_be_one_of_trainings(tree, tmp_path):
    root, rows = tree
    places = lists(tmp_path, {**rows, "test": [*rows["test"], ("test/ant/0.jpg", 3)]})
    with pytest.raises(DataError, match=r"test.txt: label 3 of image 7 is out of range: training has 0 to 2"):
        sources.load("list", root=root, **places)
    tables = {f"{name}_list": write_csv(tmp_path / f"{name}.csv", rows[split], names) for name, split, names in
              (("train", "train", "abc"), ("test", "test", "abd"))}  # fmt: skip
    with pytest.raises(DataError, match=r"test.csv: labels 'd' are not among the classes of training"):
        sources.load("csv", root=root, **tables)


BAD_TABLES = {
    "empty": ("", r"line 1: must be a header with path and label, got ''"),
    "no header": ("a.jpg,ant\n", r"line 1: must be a header with path and label, got 'a.jpg,ant'"),
    "header only": ("path,label\n", "the list is empty"),
    "short": ("path,label\na.jpg,ant\na.jpg\n", r"line 3: must have a path and a label in 2 columns, got 'a.jpg'"),
    "no label": ("path,label\na.jpg,\n", r"line 2: must have a path and a label"),
    "semicolons": ("path;label\na.jpg;ant\n", r"commas must separate the columns, not ';'"),
    "one class": ("path,label\na.jpg,ant\n", "there must be at least 2 classes, got 'ant'"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_bad_table_is_refused(tmp_path, kind):
    text, message = BAD_TABLES[kind]
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        sources.load("csv", train_list=tmp_path / "train.csv")
    assert str(tmp_path / "train.csv") in str(caught.value)


def test_a_bad_tree_is_refused(tmp_path):
    def refused(message, root=tmp_path):
        with pytest.raises(DataError, match=message):
            sources.load("folder", root=root)

    refused("there is no folder /nowhere", "/nowhere")
    refused("set data.root to its root", None)
    refused("there must be a folder for each of 2 classes or more, got 0; .*, but it holds nothing: set data.root to")
    (tmp_path / "0.jpg").write_bytes(photo(0, 0))
    refused(
        "got 0; it must be root/train/CLASS/.*, or root/CLASS/.*, but it holds '0.jpg': set data.root to the folder"
    )
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "images").mkdir()
    refused(
        "got 'images'; it must be .*, but it holds 'images': set data.root to the folder that holds the class folders"
    )
    (tmp_path / "images").rmdir()
    for name in ("Train", "val"):
        (tmp_path / name / "ant").mkdir(parents=True)
    refused(r"has 'Train', 'val' but no folder train; it must be root/train/CLASS/.*: name the folder of the training")
    for name in ("Train", "val"):
        (tmp_path / name / "ant").rmdir()
        (tmp_path / name).rmdir()
    (tmp_path / "train" / "ant").mkdir(parents=True)
    refused("/train: there must be a folder for each of 2 classes or more, got 'ant'; .*, but it holds 'ant'")
    (tmp_path / "train" / "ant").rmdir()
    (tmp_path / "train").rmdir()
    write_tree(tmp_path, {"train": (2, 0, 1), "val": (1, 1, 1)})
    refused(r"every class needs a training image, .* these have none: 'bee'")
    (tmp_path / "train" / "bee" / "1.png").write_bytes(photo(1, 1, "PNG"))
    (tmp_path / "valid" / "ant").mkdir(parents=True)
    refused("has 'val', 'valid', but only one can be the validation split: remove one")
    (tmp_path / "valid" / "ant").rmdir()
    (tmp_path / "valid").rmdir()
    (tmp_path / "test" / "dog").mkdir(parents=True)
    refused("test has classes that training lacks, 'dog'")


def test_what_is_not_given_is_asked_for():
    for name in ("list", "csv"):
        with pytest.raises(DataError, match=rf"data.name='{name}' reads a file that lists images: set data.train_list"):
            sources.load(name)
        with pytest.raises(DataError, match=r"there is no file /nowhere\.txt, which was to list images"):
            sources.load(name, train_list="/nowhere.txt")


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00a 0\n")
    with pytest.raises(DataError, match=r"list.txt cannot be read as text"):
        sources.load("list", train_list=tmp_path / "list.txt")
    (tmp_path / "list.gz").write_bytes(b"a.jpg 0\n")
    with pytest.raises(DataError, match=r"list.gz cannot be read as text"):
        sources.load("list", train_list=tmp_path / "list.gz")


def test_choosing_images_reads_none(tree):
    root, _ = tree
    data = {"name": "folder", "root": str(root), "image_size": 24, "normalization": "imagenet"}
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    dataset = prepare({**data, "longtail": "exponential", "imbalance": 2, "classes": ("cat", "ant")}, 3)
    assert dataset.counts.tolist() == [2, 1] and dataset.class_names == ("cat", "ant")
    assert dataset.train.images.shape == (3, 24, 24, 3) and dataset.train.images.dtype == np.uint8
    names = [dataset.train.images.name(i) for i in range(3)]
    assert ["/cat/" in name for name in names] == [label == 0 for label in dataset.train.labels]
    with pytest.raises(DataError, match=r"'standardize' needs the training images in memory.*use 'imagenet'"):
        prepare({**data, "normalization": "standardize"}, 0)


def test_encoded_images_travel_to_other_processes(tree):
    root, _ = tree
    images = sources.load("folder", root=root).train.images[np.array([3, 1])]
    again = pickle.loads(pickle.dumps(images))
    assert [again.read(i) for i in range(2)] == [photo(0, 3), photo(0, 1)]
    assert again.fingerprint() == images.fingerprint()


def test_the_fingerprint_tells_other_images_apart_and_not_another_place(tree, tmp_path):
    root, rows = tree
    before = sources.load("folder", root=root).train.images.fingerprint()
    moved = tmp_path / "moved"
    root.rename(moved)
    after = sources.load("folder", root=moved).train.images
    assert after.fingerprint() == before
    assert after[np.arange(11)].fingerprint() != after.fingerprint()
    path, sizes = moved / rows["train"][5][0], after.sizes()
    assert sizes == sources.load("folder", root=moved).train.images.sizes()
    path.write_bytes(path.read_bytes() + b"\0")
    assert after.fingerprint() == before and after.sizes() != sizes
    path.unlink()
    assert after.fingerprint() == before and after.sizes() != sizes


def test_a_list_may_name_an_image_that_is_gone(tree, tmp_path):
    root, rows = tree
    (root / rows["train"][0][0]).unlink()
    files = lists(tmp_path, rows)
    assert len(sources.load("list", root=root, **files).train) == len(rows["train"])


def test_a_label_of_nine_digits_is_refused_without_counting_up_to_it(tmp_path):
    path = write_list(tmp_path / "train.txt", [("a.jpg", 0), ("b.jpg", 2_000_000_000)])
    with pytest.raises(DataError, match="the largest is 2000000000, and these have no image: '1', '2'"):
        sources.load("list", train_list=str(path))


def test_labels_of_thousands_of_digits_are_refused_or_names(tmp_path):
    (tmp_path / "train.txt").write_text(f"a.jpg {'9' * 5000}\nb.jpg 0\n")
    with pytest.raises(DataError, match="line 1: label 99999999999999999999 is out of range"):
        sources.load("list", train_list=tmp_path / "train.txt")
    (tmp_path / "train.csv").write_text(f"path,label\na.jpg,{'9' * 5000}\nb.jpg,0\n")
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(photo(0, 0))
    assert sources.load("csv", train_list=tmp_path / "train.csv").class_names == ("0", "9" * 5000)


def test_a_bucket_is_not_waited_for_without_a_network(tmp_path, monkeypatch, in_time):
    def no_address(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    for name in ("STORAGE_EMULATOR_HOST", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.jpg").write_bytes(photo(0, 0))
    (tmp_path / "train.csv").write_text("path,label\na.jpg,0\ngs://bucket/b.jpg,1\n")  # the first one is here
    for name, given in (
        ("csv", {"train_list": tmp_path / "train.csv"}),
        ("list", {"train_list": "gs://bucket/train.txt"}),
        ("folder", {"root": "gs://bucket/images"}),
        ("arrays", {"file": "gs://bucket/own.npz"}),
    ):
        with pytest.raises(
            DataError, match=r"gs://bucket/.* cannot be read: this machine cannot find storage.googleapis"
        ):
            sources.load(name, **given)
    with pytest.raises(ValueError, match=r"gs://bucket/w.npz this machine cannot find storage.googleapis"):
        pretrained.read("gs://bucket/w.npz")


def test_a_quotation_mark_left_open_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text('path,label\n"a.jpg,x\n' + "b.jpg,y\n" * 20_000)
    with pytest.raises(DataError, match="is a quotation mark left open"):
        sources.load("csv", train_list=str(tmp_path / "train.csv"))


def test_names_that_are_not_utf_8_are_read(tmp_path):
    for label, name in enumerate((b"caf\xe9.jpg", b"tea.jpg")):
        folder = tmp_path / str(label)
        folder.mkdir()
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(photo(label, 0))
    images = sources.load("folder", root=str(tmp_path)).train.images
    assert [images.read(i) for i in range(2)] == [photo(0, 0), photo(1, 0)]


def names_of(split):
    return sorted(os.path.basename(split.images.name(i)) for i in range(len(split)))


@pytest.fixture
def in_time():
    """Ends a test that waits for a pipe or reads a device without end."""

    def stop(*_):
        raise TimeoutError("a pipe or a device was read")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def test_only_regular_files_are_images(tmp_path, in_time, monkeypatch):
    write_tree(tmp_path, {"train": (2, 2, 2)})
    ant = tmp_path / "train" / "ant"
    os.mkfifo(ant / "pipe.jpg")
    os.mkfifo(ant / "pipe")
    os.symlink("pipe.jpg", ant / "link to a pipe.jpg")
    os.symlink("/dev/zero", ant / "zero.jpg")
    os.symlink("nowhere.jpg", ant / "broken.jpg")
    os.symlink("ring.jpg", ant / "ring.jpg")
    monkeypatch.chdir(ant)  # a socket's path is short
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket.jpg")
    listener.close()
    source = sources.load("folder", root=tmp_path)
    assert np.bincount(source.train.labels).tolist() == [2, 2, 2]
    special, broken = source.notes
    assert special.startswith("train: left out 5 files, each a pipe, a socket or a device")
    assert special.endswith("by class: 'ant' 5")
    assert broken.startswith("train: left out 2 files, each a link that leads nowhere")


def test_a_list_that_names_a_pipe_or_a_device_does_not_wait_for_it(tmp_path, in_time):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(photo(0, 0))
    listed = write_list(tmp_path / "train.txt", [("a.jpg", 0), ("pipe.jpg", 1), ("/dev/zero", 1)])
    images = sources.load("list", train_list=listed).train.images
    for position in (1, 2):
        with pytest.raises(OSError, match="it is not a regular file"):
            images.read(position)


def test_links_are_followed_once_and_each_file_counts_once(tmp_path):
    write_tree(tmp_path, {"train": (3, 3, 3)})
    train, other = tmp_path / "train", tmp_path / "elsewhere"
    os.symlink(".", train / "ant" / "again")
    os.symlink("..", train / "ant" / "up")
    os.link(train / "bee" / "0.jpg", train / "bee" / "hard.jpg")
    os.symlink("1.jpg", train / "bee" / "0 soft.jpg")
    other.mkdir()
    (other / "far.jpg").write_bytes(photo(2, 7))
    os.symlink(other, train / "cat" / "one way")
    os.symlink(other, train / "cat" / "another way")
    os.symlink(train / "cat", other / "back")
    source = sources.load("folder", root=tmp_path)
    assert np.bincount(source.train.labels).tolist() == [3, 3, 4]
    assert names_of(source.train) == sorted(["0.jpg", "1.jpg", "2.jpg"] * 3 + ["far.jpg"])
    again, above = source.notes
    assert again.startswith("train: left out 5 files, each found before under another path")
    assert again.endswith("by class: 'ant' 1, 'bee' 2, 'cat' 2")
    assert "left out 1 file, a link to a folder that contains this one, such as 'up'" in above


def test_the_content_of_other_endings_decides_and_what_is_left_out_is_said(tmp_path):
    write_tree(tmp_path, {"train": (2, 2, 2)})
    train = tmp_path / "train"
    for number, name in enumerate(("a.jfif", "b.jpe", "c.JFIF", "d", "e.txt")):
        (train / "ant" / name).write_bytes(photo(0, 50 + number))
    for number, kind in enumerate(("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")):
        (train / "bee" / kind).write_bytes(photo(1, 50 + number, kind))
    (train / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (train / "cat" / "notes.txt").write_text("BMP and P5 are no images")
    for name, text in (("plan.txt", "P1 fix the lamp"), ("log", "P5 2024 was dry"), ("grades", "P6\n\n-")):
        (train / "cat" / name).write_text(text)
    (train / "cat" / "comment").write_bytes(b"P5 # by a scanner\n" + photo(2, 50, "PPM").partition(b"\n")[2])
    (train / "cat" / "tabs").write_bytes(b"P6\t\n" + photo(2, 51, "PPM").partition(b"\n")[2])
    (train / "ant" / "empty").write_bytes(b"")
    (train / "cat" / ".DS_Store").write_bytes(b"x")
    source = sources.load("folder", root=tmp_path)
    assert np.bincount(source.train.labels).tolist() == [7, 9, 4]
    no_image, hidden = source.notes
    assert no_image.startswith("train: left out 6 files, each not an image by its content")
    assert no_image.endswith("by class: 'ant' 1, 'cat' 5")
    assert hidden == "train: left out 1 file, hidden, such as '.DS_Store'; by class: 'cat' 1"


def test_a_file_of_two_classes_or_of_two_splits_is_refused_or_noted(tmp_path):
    write_tree(tmp_path, {"train": (3, 3, 3), "test": (1, 1, 1)})
    test = tmp_path / "test" / "ant"
    os.symlink(tmp_path / "train" / "ant" / "1.jpg", test / "same.jpg")
    source = sources.load("folder", root=tmp_path)
    (note,) = source.notes
    assert note.startswith("1 of 4 images of test are also trained on, such as ")
    shutil.rmtree(tmp_path / "test")
    os.symlink("train", tmp_path / "test")
    with pytest.raises(DataError, match="all 9 images of test are also trained on"):
        sources.load("folder", root=tmp_path)
    (tmp_path / "test").unlink()
    os.symlink("../ant/0.jpg", tmp_path / "train" / "bee" / "ant.jpg")
    with pytest.raises(DataError, match=r"each image must have one label, but images of train .* with 'ant', 'bee'"):
        sources.load("folder", root=tmp_path)


def test_classes_that_look_the_same_are_refused(tmp_path):
    for name in ("caf\u00e9", "tea"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.jpg").write_bytes(photo(0, len(name)))
    other = tmp_path / "test" / unicodedata.normalize("NFD", "caf\u00e9")
    other.mkdir(parents=True)
    (other / "1.jpg").write_bytes(photo(0, 1))
    with pytest.raises(DataError, match=r"test has classes that training lacks, .* looks the same as 'caf.xe9'"):
        sources.load("folder", root=tmp_path)
    shutil.copytree(other, tmp_path / "train" / other.name)
    with pytest.raises(DataError, match=r"must have names that differ, but .* look the same"):
        sources.load("folder", root=tmp_path)


def table(path, rows):
    path.write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    return str(path)


@pytest.fixture
def three(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.jpg").write_bytes(photo(0, 0))
    return tmp_path


def test_an_image_has_one_label(three):
    with pytest.raises(DataError, match=r"one label, but images of train have two, 1 of them, .*/a.jpg with 'cat', 'd"):
        sources.load("csv", train_list=table(three / "t.csv", ["a.jpg,cat", "b.jpg,dog", "./a.jpg,dog"]))
    for joined in ("cat|dog", "cat;dog", '"cat, dog"', "dog / cat"):
        rows = ["a.jpg,cat", f"b.jpg,{joined}", "c.jpg,dog"]
        with pytest.raises(DataError, match=r"must have one label, but '.*' joins the labels "):
            sources.load("csv", train_list=table(three / "t.csv", rows))
    source = sources.load("csv", train_list=table(three / "t.csv", ["a.jpg,cat|dog", "b.jpg,cat|cow"]))
    assert source.class_names == ("cat|cow", "cat|dog")
    assert "2 labels, such as 'cat|cow', look like several labels joined" in source.notes[0]
    rows = ["a.jpg,missile", 'b.jpg,"projectile, missile"']  # two classes of ImageNet
    assert sources.load("csv", train_list=table(three / "t.csv", rows)).notes == ()


def test_a_row_that_is_there_twice_counts_once(three):
    rows = ["a.jpg,cat", "b.jpg,dog", "./a.jpg,cat", "c.jpg,dog"]
    source = sources.load("csv", train_list=table(three / "t.csv", rows))
    assert names_of(source.train) == ["a.jpg", "b.jpg", "c.jpg"] and source.train.labels.tolist() == [0, 1, 1]
    assert source.notes == (f"train: left out rows whose image is listed before, 1 of them, such as {three}/a.jpg",)


def test_another_path_to_a_listed_file_is_the_same_image(three):
    os.symlink("a.jpg", three / "link.jpg")
    rows = ["a.jpg,cat", "b.jpg,dog", "link.jpg,dog"]
    with pytest.raises(DataError, match=r"one label, but images of train have two, 1 of them"):
        sources.load("csv", train_list=table(three / "t.csv", rows))
    rows = ["a.jpg,cat", "b.jpg,dog", "link.jpg,cat", "gone.jpg,cat"]
    assert len(sources.load("csv", train_list=table(three / "t.csv", rows)).train) == 3


def test_images_in_two_splits_are_refused_or_noted(three):
    train = table(three / "t.csv", ["a.jpg,cat", "b.jpg,dog", "c.jpg,dog"])
    with pytest.raises(DataError, match=r"all 3 images of validation are also trained on, .*/a.jpg.*data.validation=0"):
        sources.load("csv", train_list=train, validation_list=train)
    some = table(three / "v.csv", ["d.jpg,cat", "b.jpg,dog", "b.jpg,dog"])
    source = sources.load("csv", train_list=train, validation_list=some, test_list=some)
    assert len(source.validation) == len(source.test) == 2
    assert any(note.startswith("1 of 2 images of validation are also trained on") for note in source.notes)
    assert any(note.startswith("2 of 2 images of test are also in validation, such as") for note in source.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,label\na.jpg,cat,dog\n", "line 1: must have one column label, got 2"),
        ("path,label,Path\na.jpg,cat,dog\n", "line 1: must have one column path, got 2"),
        ("path,label\nhttps://x.org/a.jpg,cat\n", "line 2: the path 'https://x.org/a.jpg' begins with https://, but"),
        ("path,label\nfile:///a.jpg,cat\n", "line 2: the path .* begins with file://"),
        ("path,label\na\0.jpg,cat\n", "NUL"),
        ("path,label\na.jpg,caf\udce9\n", "line 2: the label .* is not UTF-8: save the file as UTF-8"),
        ("path,label\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\n", "must have names that differ"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(three, text, message):
    (three / "train.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        sources.load("csv", train_list=three / "train.csv")


def test_places_that_are_no_files_are_refused_at_once(tmp_path, in_time):
    os.mkfifo(tmp_path / "pipe.txt")
    for place, message in (
        ("https://example.org/list.txt", "begins with https://, but cbjax reads only local paths and gs://"),
        ("/dev/zero", "/dev/zero is a pipe, a socket or a device; it must be a file"),
        (tmp_path / "pipe.txt", "pipe.txt is a pipe, a socket or a device"),
        (tmp_path, "is a folder; it must be a file"),
        ("a\0b", "has a NUL character"),
    ):
        for name in ("list", "csv"):
            with pytest.raises(DataError, match=message):
                sources.load(name, train_list=place)
        with pytest.raises(DataError, match=message):
            sources.load("arrays", file=place)
    with pytest.raises(DataError, match="begins with https://"):
        sources.load("folder", root="https://example.org/images")


def test_a_list_may_name_files_whose_names_are_not_utf_8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write(photo(0, 0))
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.jpg 0\nb.jpg 1\n")
    assert sources.load("list", train_list=tmp_path / "train.txt").train.images.read(0) == photo(0, 0)
