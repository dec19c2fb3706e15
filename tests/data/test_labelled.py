"""New labelled images: their classes are found by name among those of a run."""

import numpy as np
import pytest

from cbjax.data import DataError, labelled
from cbjax.data.crops import EvalTransform
from cbjax.data.given import Fit
from tests.photos import write_csv, write_list, write_tree

FILES = Fit((24, 24, 3), "uint8", (0, 255), EvalTransform(24, 28))
ARRAYS = Fit((8, 8, 1), "uint8", (0, 255), None)
NAMES = ("cat", "ant", "dog", "bee")  # the run's classes; new data have some of them


def save(folder, **arrays):
    np.savez(folder / "new.npz", **arrays)
    return {"file": folder / "new.npz"}


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)


def test_a_folder_and_a_csv_have_names(tmp_path):
    rows = write_tree(tmp_path, {"here": (1, 0, 2)})
    listed = write_csv(tmp_path / "new.csv", rows["here"])
    for kind, where in (("folder", {"root": tmp_path / "here"}), ("csv", {"test_list": listed})):
        found = labelled.read(kind, where, "test", NAMES, FILES)
        assert found.split.labels.tolist() == [1, 0, 0]
        assert [name.split("/")[-2:] for name in found.names] == [["ant", "0.jpg"], ["cat", "0.jpg"], ["cat", "1.jpg"]]
        assert found.split.images.shape == (3, 24, 24, 3)
    small = labelled.read("folder", {"root": tmp_path / "here"}, "test", NAMES, ARRAYS)
    assert small.split.images.shape == (3, 8, 8, 1) and small.split.images.dtype == np.uint8


def test_a_tree_of_splits_gives_the_one_asked_for(tmp_path):
    write_tree(tmp_path, {"train": (1, 1, 1), "val": (2, 1, 1), "test": (1, 0, 0)})
    found = [labelled.read("folder", {"root": tmp_path}, split, NAMES, FILES) for split in ("validation", "test")]
    assert [len(one.split) for one in found] == [4, 1]


def test_the_numbers_of_a_list_are_the_runs(tmp_path):
    rows = write_tree(tmp_path, {"here": (1, 1, 0)})["here"]
    flat = [(path.replace("/ant/", "/").replace("/bee/", "/1"), 2) for path, _ in rows]
    for (old, _), (new, _) in zip(rows, flat, strict=True):
        (tmp_path / new).write_bytes((tmp_path / old).read_bytes())
    where = {"test_list": write_list(tmp_path / "new.txt", flat)}
    assert labelled.read("list", where, "test", NAMES, FILES).split.labels.tolist() == [2, 2]
    numbers = tuple("0123")
    assert labelled.read("list", where, "test", numbers, FILES).split.labels.tolist() == [2, 2]
    assert labelled.read("list", where, "test", ("5", "2"), FILES, True).split.labels.tolist() == [1, 1]
    with pytest.raises(DataError, match="a number does not tell the class"):
        labelled.read("list", where, "test", NAMES, FILES, True)
    with pytest.raises(DataError, match="label 2 is not among those of the run, 0 to 1"):
        labelled.read("list", where, "test", ("ant", "bee"), FILES)
    where = {"test_list": write_list(tmp_path / "new.txt", rows)}
    with pytest.raises(DataError, match=r"0\.jpg has the label 0, which is the class 'cat'"):
        labelled.read("list", where, "test", NAMES, FILES)


@pytest.mark.parametrize("names", [("0", "1", "10", "2"), ("1", "2", "3"), ("00000", "00001", "00002")])
def test_a_list_numbers_folders_that_have_numbers_for_names(tmp_path, names):
    """Folders sorted as text, or named from 1: a number of the run's own list is the place of a class, not its name."""
    rows = write_tree(tmp_path, {"here": (1,) * len(names)}, names)["here"]
    numbered = [(path, label) for label, (path, _) in enumerate(rows)]
    where = {"test_list": write_list(tmp_path / "new.txt", numbered)}
    assert labelled.read("list", where, "test", names, FILES).split.labels.tolist() == list(range(len(names)))
    where = {"test_list": write_list(tmp_path / "new.txt", [(rows[1][0], 2)])}
    with pytest.raises(DataError, match=f"has the label 2, which is the class '{names[2]}'"):
        labelled.read("list", where, "test", names, FILES)


def test_a_number_that_may_be_a_place_or_a_name_is_refused(tmp_path):
    path = write_tree(tmp_path, {"here": (1,)}, ("x",))["here"][0][0]
    where = {"test_list": write_list(tmp_path / "new.txt", [(path, 2)])}
    with pytest.raises(DataError, match=r"may be the run's class '10', which is number 2 .* the one that is named '2'"):
        labelled.read("list", where, "test", ("0", "1", "10", "2"), FILES)
    with pytest.raises(DataError, match=r"labels are the numbers '0', '2', but the run's classes have names"):
        labelled.read("arrays", save(tmp_path, images=images(2), labels=[0, 2]), "test", ("0", "1", "10", "2"), ARRAYS)
    columns = save(tmp_path, images=images(1), labels=[[1, 0, 1, 0]])
    with pytest.raises(DataError, match=r"labels are the numbers '0', '1', '2', '3', but"):
        labelled.read("arrays", columns, "test", ("0", "1", "10", "2"), ARRAYS)
    path = write_tree(tmp_path, {"there": (1,)}, ("3",))["there"][0][0]
    where = {"test_list": write_list(tmp_path / "new.txt", [(path, 1)])}  # classes 3 and 1 chosen of folders 1, 2, 3
    with pytest.raises(DataError, match=r"3/0\.jpg has the label 1, which is the class '1'"):
        labelled.read("list", where, "test", ("3", "1"), FILES, True)


@pytest.mark.parametrize(
    ("arrays", "names", "expected"),
    [
        ({"labels": ["bee", "cat", "bee"]}, NAMES, [3, 0, 3]),
        ({"labels": [0, 2, 2], "class_names": ["bee", "x", "ant"]}, NAMES, [3, 1, 1]),  # no image of x
        ({"labels": [1, 3, 3]}, ("3", "1"), [1, 0, 0]),
        (
            {"labels": [[1, 0], [1, 1], [0, 0]], "class_names": ["bee", "cat"]},
            NAMES,
            [[0, 0, 0, 1], [1, 0, 0, 1], [0] * 4],
        ),
    ],
)
def test_arrays_have_names_numbers_or_columns(tmp_path, arrays, names, expected):
    pixels = images(len(expected))
    found = labelled.read("arrays", save(tmp_path, images=pixels, **arrays), "test", names, ARRAYS)
    np.testing.assert_array_equal(found.split.labels, expected)
    np.testing.assert_array_equal(found.split.images[..., 0], pixels)
    split = {f"validation_{key}" if key != "class_names" else key: value for key, value in arrays.items()}
    split = save(tmp_path, validation_images=pixels, train_images=images(2), train_labels=[0, 0], **split)
    np.testing.assert_array_equal(labelled.read("arrays", split, "validation", names, ARRAYS).split.labels, expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": ["bee", "emu"]}, "classes 'emu' are not among those of the run, 'cat', 'ant', 'dog', 'bee'"),
        ({"labels": [0, 1]}, r"numbers '0', '1', but the run's classes have names.*add class_names"),
        ({"labels": [0, 2], "class_names": ["bee", "cat"]}, "labels must be 0 to 1; got 0 to 2"),
        ({"labels": ["bee"]}, "2 images and 1 labels"),
        ({"images": 5, "labels": ["bee"]}, "0 images and 1 labels"),
        ({"train_labels": ["bee", "bee"]}, r"there is no 'labels' among its keys.*test_images and test_labels"),
    ],
)
def test_labels_that_are_not_the_runs_are_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        labelled.read("arrays", save(tmp_path, **{"images": images(2), **arrays}), "test", NAMES, ARRAYS)


def test_each_image_counts_once_and_what_is_left_out_is_said(tmp_path):
    rows = write_tree(tmp_path, {"here": (1, 1, 1)})["here"]
    (tmp_path / "here" / "ant" / "notes.txt").write_text("no image")
    found = labelled.read("folder", {"root": tmp_path / "here"}, "test", NAMES, FILES)
    assert found.notes == ("left out 1 file, not an image by its content, such as 'notes.txt'; by class: 'ant' 1",)
    for where in (tmp_path / "here" / "loose.jpg", tmp_path / "flat" / "test" / "loose.jpg"):
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(b"not looked into")
    told = "left out 1 image that is in no class folder, such as 'loose.jpg'"
    found = labelled.read("folder", {"root": tmp_path / "here"}, "test", NAMES, FILES)
    assert len(found.split) == 3 and found.notes[0] == f"{tmp_path / 'here'}: {told}"
    with pytest.raises(DataError, match=f"no image in a folder for each class; {tmp_path}/flat/test: {told}"):
        labelled.read("folder", {"root": tmp_path / "flat"}, "test", NAMES, FILES)
    (tmp_path / "here" / "loose.jpg").unlink()
    path, label = rows[0]
    again = write_csv(tmp_path / "new.csv", [*rows, (f"./{path}", label)])
    for fit in (FILES, ARRAYS):
        found = labelled.read("csv", {"test_list": again}, "test", NAMES, fit)
        assert len(found.split) == len(found.names) == len(found.split.labels) == 3
        assert "left out rows whose image is listed before, 1 of them" in found.notes[0]
    other = write_csv(tmp_path / "new.csv", [*rows, (path, rows[-1][1])])
    with pytest.raises(DataError, match="each image must have one label, but images of test have two, 1 of them"):
        labelled.read("csv", {"test_list": other}, "test", NAMES, FILES)
    (tmp_path / "here" / "ant" / "0.jpg").unlink()
    for name in ("bee", "cat", "dog"):
        for image in (tmp_path / "here" / name).glob("*.jpg"):
            image.unlink()
    with pytest.raises(DataError, match=r"no image in a folder for each class; left out 1 file, not an image"):
        labelled.read("folder", {"root": tmp_path / "here"}, "test", NAMES, FILES)


def test_folders_that_are_not_the_runs_are_refused(tmp_path):
    write_tree(tmp_path, {"train": (1, 1, 1), "val": (1, 1, 1)}, ("ant", "bee", "emu"))
    with pytest.raises(DataError, match="has 'train', 'val' but no folder test"):
        labelled.read("folder", {"root": tmp_path}, "test", NAMES, FILES)
    with pytest.raises(DataError, match="classes 'emu' are not among those of the run"):
        labelled.read("folder", {"root": tmp_path}, "validation", NAMES, FILES)
    with pytest.raises(DataError, match="there is no folder"):
        labelled.read("folder", {"root": tmp_path / "none"}, "test", NAMES, FILES)
