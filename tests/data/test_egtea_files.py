"""EGTEA's files as published, and as people have them."""

import pytest

from cbjax.data.clips import egtea
from cbjax.data.records import DataError
from tests import clips


@pytest.mark.parametrize("frames", [False, True])
def test_egtea_is_read_as_published(tmp_path, frames):
    names = clips.write_egtea(tmp_path, "frames" if frames else "empty")
    source = egtea.load(tmp_path, 8, 4)
    assert source.class_names == ("Take", "Put", "Move Around")
    assert source.train.labels.tolist() == [0, 1, 2]
    assert source.validation.labels.tolist() == [0, 1]  # P20 and P26
    assert source.test.labels.tolist() == [2, 0]
    folder, ending = ("extracted_frames", "") if frames else ("cropped_clips", ".mp4")
    assert source.test.images.name(1) == str(tmp_path / folder / (names["test"][1] + ending))
    with pytest.raises(DataError, match=r"train_split2\.txt"):
        egtea.load(tmp_path, 8, 4, split=2)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("verb_idx.txt", "Take 1\nPut 3\n", r"from 1 without gaps, got '1', '3'"),
        ("verb_idx.txt", "Take 1\nPut\n", r"line 2: must be a name and a number"),
        ("verb_idx.txt", "Take 1\nPut 2\nTake 3\n", r"line 3: must be a name and a number of their own"),
        ("train_split1.txt", "clip 1 4 1\n", r"line 1: the verb must be 1 to 3, got 4"),
        ("train_split1.txt", "\n\nclip 1 1\n", r"line 3: must be a clip and 3 to 5 numbers"),
        ("train_split1.txt", "clip 1 1 1\nclip 1 2 1\n", "clips of train have two, .* clip with 'Take', 'Put'"),
        ("test_split1.txt", "P20-R03-x 1 1 1\nP20-R03-x 1 1 1\n", "test clips of split 1, such as .* are not there"),
        ("train_split1.txt", "../../clip 1 1 1\n", "must hold no path"),
        ("train_split1.txt", "\n", "the split is empty"),
        ("train_split1.txt", "P20-R01-x 1 1 1\n", "every training clip is of the subjects"),
        ("train_split1.txt", "P01-R01-x-1-2-F1-F2 1 1 1\n", "are not there"),
    ],
)
def test_wrong_files_of_egtea_are_refused(tmp_path, file, text, message):
    clips.write_egtea(tmp_path)
    (tmp_path / "action_annotation" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        egtea.load(tmp_path, 8, 4)


def test_rows_of_egtea_count_once_in_files_of_any_editor(tmp_path):
    clips.write_egtea(tmp_path)
    for name in ("verb_idx", "train_split1"):
        file = tmp_path / "action_annotation" / f"{name}.txt"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n").replace(b" 1", b"\t1"))
    train = tmp_path / "action_annotation" / "train_split1.txt"
    (tmp_path / "action_annotation" / "test_split1.txt").write_bytes(train.read_bytes()[3:] * 2)
    source = egtea.load(tmp_path, 8, 4)
    assert source.class_names == ("Take", "Put", "Move Around") and source.train.labels.tolist() == [0, 1, 2]
    assert source.test.labels.tolist() == [0, 1, 2, 0, 1]
    told = " ".join(source.notes)
    assert "test: left out rows whose clip is listed before, 5 of them" in told
    assert "3 of 5 clips of test are also trained on" in told and "2 of 2 clips of validation are also in test" in told


def test_a_run_on_videos_is_told_why_its_data_differ_once_frames_are_there(tmp_path):
    clips.write_egtea(tmp_path)
    before = egtea.load(tmp_path, 8, 4)
    (tmp_path / "cropped_clips").rename(tmp_path / "extracted_frames")
    for path in (tmp_path / "extracted_frames").rglob("*.mp4"):
        path.rename(path.with_suffix(""))
    (tmp_path / "cropped_clips").mkdir()
    after = egtea.load(tmp_path, 8, 4)
    assert after.train.images.fingerprint() != before.train.images.fingerprint()
    assert before.notes == ()
    assert after.notes == ("clips are read from extracted_frames; cropped_clips is there too, and is not read",)


def test_a_wrong_root_of_egtea_is_told(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*none; it must be that of EGTEA"):
        egtea.load(tmp_path / "none", 8, 4)
    with pytest.raises(DataError, match="must be the folder of EGTEA, but has no folder action_annotation"):
        egtea.load(tmp_path, 8, 4)
    (tmp_path / "action_annotation").mkdir()
    with pytest.raises(DataError, match=r"there is no file .*verb_idx\.txt, the index of verbs"):
        egtea.load(tmp_path, 8, 4)


def test_frames_of_egtea_that_are_not_made_yet_say_what_makes_them(tmp_path):
    clips.write_egtea(tmp_path)
    (tmp_path / "extracted_frames").mkdir()
    with pytest.raises(DataError, match=r"are not there: `cbjax datasets frames .*cropped_clips .*extracted_frames`"):
        egtea.load(tmp_path, 8, 4)
