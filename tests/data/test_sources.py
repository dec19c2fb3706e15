"""Sources: digits, a user's own arrays with all that can be wrong in them, and prepared TFDS folders."""

import io
import json
import os
import pathlib
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from cbjax.data import DataError, arrays, sources, tfds
from cbjax.host import machine

IMAGES = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MULTI_HOT = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])


def save(folder, **contents):
    path = folder / "data.npz"
    np.savez(path, **contents)
    return path


def test_digits():
    source = sources.load("digits")
    assert source.train.images.shape == (1797, 8, 8, 1)
    assert source.train.images.dtype == np.uint8
    assert len(np.unique(source.train.images)) == 17
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
    counts = np.bincount(source.train.labels)
    assert (counts.min(), counts.max(), len(counts)) == (174, 183, 10)
    assert source.class_names == tuple("0123456789")
    assert source.validation is source.test is None


def test_an_unknown_source_is_answered_with_the_known_ones():
    with pytest.raises(DataError, match=r"data\.name='cifar' is unknown; it is one of 'digits', 'arrays', 'mnist'"):
        sources.load("cifar")


@pytest.mark.parametrize("as_type", [np.int8, np.uint16, np.int64])
def test_arrays_with_integer_labels(tmp_path, as_type):
    source = arrays.load(save(tmp_path, images=IMAGES, labels=LABELS.astype(as_type)))
    assert source.train.images.shape == (6, 4, 4, 1)
    assert source.train.labels.dtype == np.int32
    assert source.train.labels.tolist() == LABELS.tolist()
    assert source.class_names == ("0", "1", "2")
    assert source.validation is source.test is None


def test_arrays_with_class_names(tmp_path):
    names = np.array(["ant", "bee", "cat"])
    assert arrays.load(save(tmp_path, images=IMAGES, labels=LABELS, class_names=names)).class_names == tuple(names)


@pytest.mark.parametrize("as_type", ["U", "S"])
def test_arrays_with_string_labels(tmp_path, as_type):
    strings = np.array(["fox", "ant", "hen"]).astype(as_type)[LABELS]
    source = arrays.load(save(tmp_path, images=IMAGES, labels=strings))
    assert source.class_names == ("ant", "fox", "hen")
    assert source.train.labels.tolist() == [1, 0, 2, 1, 0, 2]
    names = np.array(["hen", "fox", "ant"]).astype(as_type)
    assert arrays.load(save(tmp_path, images=IMAGES, labels=strings, class_names=names)).train.labels.tolist() == [
        1, 2, 0, 1, 2, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("as_type", [bool, np.int64, np.float64])
def test_arrays_with_multi_hot_labels(tmp_path, as_type):
    source = arrays.load(save(tmp_path, images=IMAGES, labels=MULTI_HOT.astype(as_type)))
    assert source.train.multi_label
    assert source.train.labels.dtype == np.float32
    assert source.train.labels.tolist() == MULTI_HOT.tolist()
    assert source.class_names == ("0", "1", "2")


def test_arrays_with_splits_of_their_own(tmp_path):
    colour = np.random.default_rng(0).random((6, 4, 5, 3))
    source = arrays.load(
        save(
            tmp_path,
            train_images=colour,
            train_labels=LABELS,
            test_images=colour[:3],
            test_labels=LABELS[:3],
        )
    )
    assert source.train.images.dtype == np.float32
    assert source.test.images.shape == (3, 4, 5, 3)
    assert source.test.labels.tolist() == [0, 1, 2]
    assert source.validation is None


NAN = np.where(np.arange(96).reshape(6, 4, 4) == 40, np.nan, 1.0)
MISFITS = {
    "missing images": (dict(labels=LABELS), r"there is no 'images' among its keys 'labels'; a file holds images and"),
    "missing labels": (dict(images=IMAGES), r"there is no 'labels' among its keys 'images'"),
    "misspelt": (dict(images=IMAGES, label=LABELS), r"there is no 'labels' among its keys 'images', 'label'"),
    "nothing": ({}, r"there is no 'images', 'labels' among its keys"),
    "unknown key": (dict(images=IMAGES, labels=LABELS, val_images=IMAGES), "unknown key 'val_images'; a file holds"),
    "half a split": (
        dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES),
        "there is no 'test_labels' among its keys",
    ),
    "no train": (dict(test_images=IMAGES, test_labels=LABELS), "there is no 'train_images', 'train_labels' among"),
    "mixed": (
        dict(images=IMAGES, labels=LABELS, test_images=IMAGES, test_labels=LABELS),
        "there is no 'train_images', 'train_labels' among",
    ),
    "lengths": (dict(images=IMAGES, labels=LABELS[:5]), "there are 6 train images and 5 train labels"),
    "scalar label": (dict(images=IMAGES, labels=3), "6 train images and 0 train labels"),
    "empty": (dict(images=IMAGES[:0], labels=LABELS[:0]), r"no side of 0, got shape \(0, 4, 4\)"),
    "flat images": (dict(images=IMAGES.reshape(6, 16), labels=LABELS), r"\[N, H, W\] .* got shape \(6, 16\)"),
    "channels first": (
        dict(images=np.zeros((6, 3, 8, 8), np.uint8), labels=LABELS),
        r"of shape \(6, 3, 8, 8\) seem to be \[N, channels, H, W\].* images.transpose\(0, 2, 3, 1\)",
    ),
    "int images": (dict(images=IMAGES.astype(int), labels=LABELS), r"uint8 .* or float, got int64: use images.astype"),
    "bool images": (dict(images=IMAGES > 3, labels=LABELS), "got bool"),
    "nan": (dict(images=NAN, labels=LABELS), "must be finite, but 1 images have NaN or .*, the first is image 2"),
    "overflow": (dict(images=IMAGES * 1e300, labels=LABELS), "must be finite, but 6 images"),
    "negative": (dict(images=IMAGES, labels=LABELS - 1), "labels count from 0, but train labels have -1"),
    "gap": (
        dict(images=IMAGES, labels=LABELS * 2),
        r"each with a training image; the largest is 4, and these have no image: '1', '3': relabel with np.unique",
    ),
    "huge label": (dict(images=IMAGES, labels=LABELS + 2**40), "the largest is 1099511627778, and .*: '0', '1'"),
    "float labels": (dict(images=IMAGES, labels=LABELS * 1.0), r"\[N\] whole numbers or strings, .* \(6,\) of float64"),
    "wide": (
        dict(images=IMAGES.astype(np.uint16) * 600, labels=LABELS),
        r"got uint16: its values, 0 to 57000, do not fit, .* use images.astype\('float32'\), .*standardize, or scale",
    ),
    "latin": (dict(images=IMAGES, labels=np.array([b"caf\xe9", b"tea"] * 3)), r"labels must be UTF-8, .*b'caf\\xe9'"),
    "surrogate": (dict(images=IMAGES, labels=np.array(["a\udce9", "b"] * 3)), "half of a surrogate pair"),
    "latin names": (dict(images=IMAGES, labels=LABELS, class_names=[b"\xe9", b"b", b"c"]), "class_names must be UTF-8"),
    "no name": (dict(images=IMAGES, labels=np.array(["", "b"] * 3)), "every class needs a name, got ''"),
    "two spellings": (
        dict(images=IMAGES, labels=np.array(["caf\u00e9", "cafe\u0301", "tea"] * 2)),
        r"must have names that differ, but .* look the same",
    ),
    "spaces": (dict(images=IMAGES, labels=LABELS, class_names=["a", "a ", "b"]), "must have names that differ"),
    "structured": (dict(images=np.zeros(6, [("a", "u1")]), labels=LABELS), r"images must be \[N, H, W\]"),
    "complex": (dict(images=IMAGES * 1j, labels=LABELS), "got complex128: convert them to real numbers"),
    "column": (dict(images=IMAGES, labels=LABELS[:, None]), r"got shape \(6, 1\) of int64"),
    "not binary": (dict(images=IMAGES, labels=MULTI_HOT * 2), r"\[N, C\] must be zeros and ones, got 2"),
    "nan labels": (dict(images=IMAGES, labels=MULTI_HOT * np.nan), "must be zeros and ones, got nan"),
    "one class": (dict(images=IMAGES, labels=LABELS * 0), "there must be at least 2 classes, got '0'"),
    "few names": (dict(images=IMAGES, labels=LABELS, class_names=["a", "b"]), "label 2 has no class name: .* has 2"),
    "names of columns": (dict(images=IMAGES, labels=MULTI_HOT, class_names=["a", "b"]), "2 names, but .* 3 classes"),
    "repeated names": (dict(images=IMAGES, labels=LABELS, class_names=["a", "b", "a"]), "these are repeated: 'a'"),
    "number names": (dict(images=IMAGES, labels=LABELS, class_names=[1, 2, 3]), r"must be \[C\] strings, got shape"),
    "other strings": (
        dict(images=IMAGES, labels=np.array(list("abcabc")), class_names=["a", "b"]),
        "train labels 'c' are not among the classes 'a', 'b'",
    ),
    "test strings": (
        dict(
            train_images=IMAGES, train_labels=np.array(list("abaaba")),
            test_images=IMAGES, test_labels=np.array(list("abcabc")),
        ),
        "test labels 'c' are not among the classes 'a', 'b'",
    ),
    "kinds": (
        dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=MULTI_HOT),
        "one kind of labels, got {'train': 'integer', 'test': 'multi-hot'}",
    ),
    "shapes": (
        dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:, :3], test_labels=LABELS),
        r"one shape and dtype; test images are \(3, 4, 1\) of uint8, training images are \(4, 4, 1\) of uint8",
    ),
    "columns": (
        dict(train_images=IMAGES, train_labels=MULTI_HOT, test_images=IMAGES, test_labels=MULTI_HOT[:, :2]),
        "test labels have 2 classes, training labels have 3",
    ),
    "objects": (
        dict(images=IMAGES, labels=np.array(["a", None] * 3, dtype=object)),
        "holds an array of Python objects, which may run code when read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_misfit_in_arrays_is_refused(tmp_path, misfit):
    contents, message = MISFITS[misfit]
    path = save(tmp_path, **contents)
    with pytest.raises(DataError, match=message) as caught:
        arrays.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"set data\.file to its path"):
        arrays.load(None)
    with pytest.raises(DataError, match=r"data\.file: there is no file .*absent\.npz"):
        arrays.load(tmp_path / "absent.npz")
    single = tmp_path / "single.npy"
    np.save(single, IMAGES)
    with pytest.raises(DataError, match="holds a single array"):
        arrays.load(single)
    text = tmp_path / "text.npz"
    text.write_text("images,labels\n")
    with pytest.raises(DataError, match=r"cannot be read as \.npz \(it is not a zip archive\)"):
        arrays.load(text)
    whole = save(tmp_path, images=IMAGES, labels=LABELS).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]):
        text.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            arrays.load(text)


def write_prepared(folder, name, images, labels, label_names):
    """Writes what TFDS would have prepared: both splits with the same records, in the format that it reads."""
    records = []
    for image, label in zip(images, labels, strict=True):
        png = io.BytesIO()
        Image.fromarray(image.squeeze()).save(png, "PNG")
        records.append((png.getvalue(), label))
    return write_encoded(folder, name, {"train": records, "test": records}, label_names, images.shape[1:])


def write_encoded(folder, name, splits, label_names, shape=(None, None, 3)):
    """Writes what TFDS would have prepared of encoded images: split -> [(bytes, label)]."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    version = folder / name / "1.0.0"
    version.mkdir(parents=True)
    described = []
    for split, records in splits.items():
        path = f"{version}/{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(path, "group_size:1")
        for number, (image, label) in enumerate(records):
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(image)
            example.features.feature["label"].int64_list.value.append(label)
            example.features.feature["file_name"].bytes_list.value.append(f"{number}.jpg".encode())
            writer.write(example.SerializeToString())
        writer.close()
        described.append(
            {
                "name": split,
                "shardLengths": [str(len(records))],
                "numBytes": str(os.path.getsize(path)),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": described}
    (version / "dataset_info.json").write_text(json.dumps(info))
    prefix = "tensorflow_datasets.core.features"
    sides = {"dimensions": [str(-1 if side is None else side) for side in shape]}
    features = {
        "image": {
            "image": {"dtype": "uint8", "shape": sides},
            "pythonClassName": f"{prefix}.image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": str(len(label_names))},
            "pythonClassName": f"{prefix}.class_label_feature.ClassLabel",
        },
        "file_name": {"text": {}, "pythonClassName": f"{prefix}.text_feature.Text"},
    }
    description = {"featuresDict": {"features": features}, "pythonClassName": f"{prefix}.features_dict.FeaturesDict"}
    (version / "features.json").write_text(json.dumps(description))
    (version / "label.labels.txt").write_text("".join(f"{label}\n" for label in label_names))
    return version


@pytest.fixture
def tiny_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1)).astype(np.uint8)
    return write_prepared(tmp_path, "mnist", images, LABELS, ("zero", "one", "two")), images


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_folder_is_read_pixel_by_pixel(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (6, 7, 5, channels)).astype(np.uint8)
    write_prepared(tmp_path, "mnist", images, LABELS, ("zero", "one", "two"))
    source = sources.load("mnist", data_dir=tmp_path)
    for split in (source.train, source.test):
        np.testing.assert_array_equal(split.images, images)
        assert split.images.dtype == np.uint8
        assert split.labels.tolist() == LABELS.tolist()
    assert source.class_names == ("zero", "one", "two")
    assert source.validation is None


def test_the_newest_whole_version_is_read(tiny_mnist):
    version, _ = tiny_mnist
    for name in ("0.9.0", "1.0.0.incompleteXYZ", "10.0.0"):
        (version.parent / name).mkdir()
    assert tfds.find("mnist", version.parent.parent).folder.name == "1.0.0"
    older = version.parent / "0.10.0"
    version.rename(older)
    assert tfds.find("mnist", version.parent.parent).folder.name == "0.10.0"


def test_the_folder_is_the_argument_then_the_environment_then_the_default(tiny_mnist, monkeypatch):
    folder = tiny_mnist[0].parent.parent
    monkeypatch.setenv("CBJAX_DATA_DIR", str(folder))
    assert tfds.find("mnist", None).sizes == {"train": 6, "test": 6}
    with pytest.raises(DataError, match="looked for /nowhere/mnist/VERSION"):
        tfds.find("mnist", "/nowhere")
    monkeypatch.delenv("CBJAX_DATA_DIR")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert tfds.find("mnist", None).sizes == {"train": 6, "test": 6}
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_folder(None) == pathlib.Path("~/tensorflow_datasets").expanduser()


def test_a_missing_data_set_says_where_it_was_looked_for_and_what_prepares_it(tmp_path):
    with pytest.raises(DataError) as caught:
        sources.load("cifar20", data_dir=tmp_path)
    message = str(caught.value)
    assert f"looked for {tmp_path}/cifar100/VERSION/dataset_info.json" in message
    command = caught.value.command
    assert message.endswith(f":\n  {command}")
    assert command.startswith("pip install 'cbjax[prepare]' && python -c \"import tensorflow_datasets as tfds; ")
    assert f"tfds.builder('cifar100', data_dir='{tmp_path}', file_format='array_record')" in command


def test_a_set_prepared_as_tfrecord_is_told_how_to_convert(tiny_mnist):
    version, _ = tiny_mnist
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    folder = version.parent.parent
    # Converted in place, the records lie beside those of the first format.
    assert tfds.find("mnist", folder).sizes["train"] == 6
    for path in version.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="is prepared as tfrecord, but only array_record can be read") as caught:
        sources.load("mnist", data_dir=folder)
    assert caught.value.command.endswith(
        f"tfds convert_format --dataset_dir={folder}/mnist --out_file_format=array_record"
    )


def test_a_damaged_set_is_told_how_to_prepare_again(tiny_mnist):
    version, _ = tiny_mnist
    test_file = version / "mnist-test.array_record-00000-of-00001"
    content = test_file.read_bytes()
    test_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read") as caught:
        sources.load("mnist", data_dir=version.parent.parent)
    assert caught.value.command.startswith(f"rm -r {version} && pip install")
    test_file.unlink()
    with pytest.raises(DataError, match="lacks files of test; prepare it again") as caught:
        sources.load("mnist", data_dir=version.parent.parent)
    assert caught.value.command.startswith(f"rm -r {version} && pip install")
    for damaged in ("{", "{}", "[]"):
        (version / "dataset_info.json").write_text(damaged)
        with pytest.raises(DataError, match=r"dataset_info\.json is not readable") as caught:
            sources.load("mnist", data_dir=version.parent.parent)
        assert caught.value.command.startswith(f"rm -r {version} && pip install")


def test_describe_lists_every_source_with_its_readiness(tiny_mnist):
    version, _ = tiny_mnist
    rows = {row.name: row for row in sources.describe(version.parent.parent)}
    assert list(rows) == list(sources.SOURCES)
    assert rows["digits"][1:3] == (1797, True)
    assert rows["arrays"].ready is None
    assert rows["mnist"] == ("mnist", 12, True, str(version))
    for name in ("cifar20", "cifar100"):
        assert rows[name][1:3] == (None, False)
        assert "tfds.builder('cifar100'" in rows[name].where_or_command


def test_describing_imports_no_large_package():
    program = (
        "import sys; from cbjax.data import sources; sources.describe('/nowhere'); "
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'grain') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


REAL = {
    "mnist": ((28, 28, 1), 60000, "0", (5421, 6742)),
    "cifar10": ((32, 32, 3), 50000, "airplane", (5000, 5000)),
    "cifar20": ((32, 32, 3), 50000, "aquatic_mammals", (2500, 2500)),
    "cifar100": ((32, 32, 3), 50000, "apple", (500, 500)),
}


@pytest.mark.parametrize(
    "name", ["mnist", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cifar10", "cifar20"))]
)
def test_real_data(prepared_data, name):
    shape, size, first_name, extremes = REAL[name]
    source = sources.load(name, data_dir=prepared_data)
    assert source.train.images.shape == (size, *shape)
    assert source.test.images.shape == (10000, *shape)
    assert source.class_names[0] == first_name
    counts = np.bincount(source.train.labels)
    assert (counts.min(), counts.max(), len(counts)) == (*extremes, len(source.class_names))
    # All different images: a decoder that went wrong would repeat some.
    assert len({image.tobytes() for image in source.test.images}) > 9950


def test_images_of_two_splits_are_noted(tmp_path):
    colour = np.random.default_rng(0).random((6, 4, 5, 3))
    splits = {"train_images": colour, "train_labels": LABELS, "test_images": np.stack([colour[2], colour[3] + 1])}
    source = arrays.load(save(tmp_path, **splits, test_labels=LABELS[2:4]))
    assert source.notes == (
        "1 of 2 test images are equal to train images in every pixel, the first is image 0: their figures are "
        "better than on new images",
    )


def npy(header, content=b""):
    """Returns an .npy file with any header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def zipped(folder, members, method=zipfile.ZIP_DEFLATED):
    path = folder / "odd.npz"
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(name, content)
    return path


WHOLE = npy({"descr": "|u1", "fortran_order": False, "shape": (6, 4, 4)}, IMAGES.tobytes())
HUGE = {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**20)}
MEMBERS = {
    "huge shape": (
        [("images.npy", npy(HUGE))],
        "'images.npy': it has 0 bytes, but its header, float64 of shape",
    ),
    "negative shape": ([("images.npy", npy({**HUGE, "shape": (-1, 4)}))], "its member 'images.npy'"),
    "empty": ([("labels.npy", b"")], "its member 'labels.npy': .*EOF"),
    "cut": ([("images.npy", WHOLE[:-1])], "its member 'images.npy': it has 95 bytes, but"),
    "too long": ([("images.npy", WHOLE + b"x")], "its member 'images.npy': it has 97 bytes, but"),
    "no bytes": (
        [("labels.npy", npy({"descr": "<U0", "fortran_order": False, "shape": (10**12,)}))],
        r"'labels.npy': its numbers or strings, <U0, have no bytes",
    ),
    "long header": ([("images.npy", npy({**HUGE, "shape": (2**20,) * 400}))], r"its member 'images.npy': .{,250}$"),
    "header of code": ([("images.npy", WHOLE[:10] + b"__import__('os')" + WHOLE[26:])], "its member 'images.npy'"),
    "no array": ([("images.npy", WHOLE), ("readme.txt", "x")], "the member 'readme.txt', which is not an array"),
    "twice": ([("images.npy", WHOLE)] * 2, "holds 'images' twice"),
    "above": ([("../images.npy", WHOLE)], "there is no 'images', 'labels' among its keys '../images'"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_an_odd_member_is_refused_by_its_name(tmp_path, kind):
    members, message = MEMBERS[kind]
    with pytest.raises(DataError, match=message) as caught:
        arrays.load(zipped(tmp_path, members))
    assert "odd.npz" in str(caught.value)


def test_an_encrypted_member_is_refused(tmp_path):
    path = zipped(tmp_path, [("images.npy", WHOLE)])
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its member 'images\.npy' is encrypted"):
        arrays.load(path)


def test_arrays_that_do_not_fit_into_memory_are_refused_before_it_is_taken(tmp_path, monkeypatch):
    path = save(tmp_path, images=IMAGES, labels=LABELS)
    monkeypatch.setattr(machine, "free_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"data\.npz holds arrays of .* of memory are free"):
        arrays.load(path)


def test_arrays_of_any_order_and_byte_order_are_read(tmp_path):
    images = np.asfortranarray(np.random.default_rng(0).random((6, 4, 5, 3)).astype(">f4"))
    source = arrays.load(
        save(tmp_path, images=images, labels=LABELS.astype(">i8"), class_names=np.array(["a", "b", "é"], ">U4"))
    )
    np.testing.assert_array_equal(source.train.images, images)
    assert source.train.labels.tolist() == LABELS.tolist() and source.class_names == ("a", "b", "é")
