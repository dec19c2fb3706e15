import fcntl
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from cbjax.cli import main
from cbjax.data import files
from cbjax.data.clips import extraction, finding
from cbjax.data.records import DataError
from tests import clips


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in pathlib.Path(root).rglob("*") if path.is_file()}


def test_frames_are_extracted_once_and_broken_videos_named(tmp_path, capsys):
    root, out = tmp_path / "clips", tmp_path / "frames"
    clips.write_tree(root, {".": (2, 1, 1)})
    clips.mark_turn(root / "across" / "1.mp4", 0, -1, 1, 0)  # as a phone does, a quarter counterclockwise
    (root / "back" / "broken.mp4").write_bytes((root / "back" / "0.mp4").read_bytes()[:600])
    (root / "back" / "notes.txt").write_text("no video")
    (out / "back" / ".0.part").mkdir(parents=True)  # of a run that was killed
    (out / "back" / ".0.part" / "000000.jpg").write_bytes(b"half")
    assert main(["datasets", "frames", str(root), str(out), "--quality=100", "--workers=2"]) == 1
    told = capsys.readouterr()
    assert "back/broken.mp4: the video cannot be decoded" in told.err
    assert "1 of 5 videos could not be decoded" in told.err and "frames of 4 videos" in told.out
    assert "left out 1 file, not a video by its ending" in told.out
    made = content(out)
    folders = ("across/0", "across/1", "back/0", "down/0")
    names = {pathlib.Path(folder, f"{i:06d}.jpg") for folder in folders for i in range(12)}
    assert set(made) == names
    expected = np.rot90(clips.decoded(root / "across" / "1.mp4"), axes=(1, 2))
    found = [np.asarray(Image.open(out / "across" / "1" / f"{i:06d}.jpg")) for i in range(12)]
    assert np.abs(np.stack(found).astype(int) - expected).mean() < 4
    assert files.load_folder(out, 8, finding.medium(4)).train.labels.tolist() == [0, 0, 1, 2]

    shutil.rmtree(out / "across" / "1")
    (root / "back" / "broken.mp4").unlink()
    assert main(["datasets", "frames", str(root), str(out), "--quality=100"]) == 0
    assert "the frames of 3 of 4 videos are there already" in capsys.readouterr().out
    assert content(out) == made
    assert main(["datasets", "frames", str(root), str(out)]) == 0  # nothing to do


def test_what_cannot_be_extracted_is_said_before_anything_is(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        extraction.plan(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no video \(.mp4"):
        extraction.plan(tmp_path / "empty", tmp_path / "out")
    root = tmp_path / "clips"
    root.mkdir()
    for name in ("1.mp4", "1.avi"):
        (root / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"'1.avi', '1.mp4' would have one folder of frames"):
        extraction.plan(root, tmp_path / "out")
    (root / "1.avi").rename(root / "1")
    with pytest.raises(DataError, match=r"need a folder, but .*clips/1 is a file"):
        extraction.plan(root, root / "1")
    (root / "1").unlink()
    (root / "1").mkdir()
    (root / "1" / "2.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"the frames of 1/2\.mp4 would be in those of 1\.mp4"):
        extraction.plan(root, tmp_path / "out")
    for out in (root, root / "frames", tmp_path):
        with pytest.raises(DataError, match="must be in folders apart, or a training finds each clip twice"):
            extraction.plan(root, out)


def test_two_extractions_do_not_meet(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").write_bytes(b"no video")
    what = extraction.plan(tmp_path / "clips", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / extraction.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another process extracts frames to .*out"):
            extraction.extract(what)
    (tmp_path / "out" / "1").mkdir()  # the other has made the frames
    assert extraction.extract(what) == [] and os.listdir(tmp_path / "out") == ["1"]


def test_videos_that_changed_after_their_extraction_are_told(tmp_path, capsys):
    for folder in ("clips", "out/1", "out/2"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x")
        os.utime(tmp_path / "clips" / name, (1, 1))
    os.utime(tmp_path / "out" / "2", (0, 0))
    assert main(["datasets", "frames", str(tmp_path / "clips"), str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "newer than their frames: 1, such as 2.mp4; remove" in told and "2 of 2 videos are there already" in told


def test_a_process_that_dies_ends_its_own_clip_alone():
    own = extraction._OwnProcess()
    try:
        assert "ended" in own.call(exit_or_not, "dies")
        assert own.call(exit_or_not, "lives") == "lives"
    finally:
        own.close()


def exit_or_not(what):
    if what == "dies":
        os._exit(1)
    return what
