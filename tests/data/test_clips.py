import os
import threading

import numpy as np
import pytest

from cbjax.data import files, lists, stream
from cbjax.data.batches import Batches
from cbjax.data.clips import finding, reading, transforms
from cbjax.data.clips.sampling import centres, frames_at
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.decode import DecodeError
from cbjax.data.records import DataError
from tests import clips

# A codec, its container and options: with frames that refer to later ones, few and many key frames, and none of both.
KINDS = {
    "a.mp4": ("libx264", {"bf": 2, "g": 5}),
    "b.mp4": ("libx264", {"bf": 3, "g": 250}),
    "c.mkv": ("libx264", {"bf": 2, "g": 4, "x264-params": "open-gop=1:b-pyramid=2"}),
    "d.mov": ("mpeg4", {"bf": 2, "g": 6}),
    "e.avi": ("mpeg4", {"bf": 2, "g": 6}),
    "f.webm": ("libvpx-vp9", {"g": 5, "cpu-used": 8, "deadline": "realtime"}),
    "g.avi": ("mjpeg", {}),
    "h.mp4": ("libx265", {"x265-params": "log-level=none:keyint=6:bframes=3"}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Returns a folder with a video of each kind, and the frames of each as a decode of the whole gives them."""
    folder = tmp_path_factory.mktemp("videos")
    for number, (name, (codec, options)) in enumerate(KINDS.items()):
        clips.write_video(folder / name, clips.pixels(number % 3, number, count=17), codec, **options)
    return folder, {name: clips.decoded(folder / name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_each_frame_is_that_of_a_decode_of_the_whole(videos, name):
    folder, whole = videos
    path, expected = str(folder / name), whole[name]
    assert len(expected) == 17

    def read(*positions):
        return list(reading.frames(path, lambda count: positions if count == 17 else None))

    for position in range(17):
        (found,) = read(position)
        np.testing.assert_array_equal(found, expected[position])
    for chosen in ((0, 0, 3, 4, 16), (2, 9, 9, 10), tuple(range(17)), (5, 15, 16)):
        np.testing.assert_array_equal(read(*chosen), [expected[position] for position in chosen])


def test_threads_read_one_video_at_once(videos):
    folder, whole = videos
    found = {}

    def read(position):
        (found[position],) = reading.frames(str(folder / "a.mp4"), lambda count: [position])

    threads = [threading.Thread(target=read, args=(position,)) for position in range(17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal([found[position] for position in range(17)], whole["a.mp4"])


def test_videos_are_closed(videos):
    folder, _ = videos
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        next(reading.frames(str(folder / "a.mp4"), lambda count: [1, 2]))
        list(reading.frames(str(folder / "e.avi"), lambda count: [1, 2]))
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_are_in_the_order_of_their_numbers_whatever_the_disk_says():
    names = ["a2b10.jpg", "2.jpg", "010.jpg", "a2b9.jpg", "10.jpg", "1.jpg"]
    expected = ["1.jpg", "2.jpg", "010.jpg", "10.jpg", "a2b9.jpg", "a2b10.jpg"]
    assert reading.in_order(names) == reading.in_order(names[::-1]) == expected


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:06d}.jpg" for i in range(9, 13)],
        [f"{i}.jpg" for i in (100, 9, 1, 10)],
        [f"a2b{i}.JPG" for i in (10, 9, 200)],
        ["1.jpg", "01.jpg", "2.jpg"],
        ["7.jpg"],
        ["1.jpg", "2.JPG", "10.jpg"],
        ["P1-10.5.png", "P1-9.5.png"],
        ["1_a.jpg", "2_a.jpg", "10_a.jpg"],
    ],
)
def test_the_short_way_to_the_order_of_frames_gives_the_same(tmp_path, names):
    tree(tmp_path, *names)
    assert reading._names(str(tmp_path)) == reading.in_order(names)


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path):
    for number in (2, 10, 1):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".3.jpg").write_bytes(b"hidden")
    (tmp_path / "4.jpg").mkdir()
    assert list(reading.frames(str(tmp_path), range)) == [b"1", b"2", b"10"]
    (tmp_path / "5.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DecodeError, match=r"a frame cannot be read: .*5\.jpg: No such file"):
        list(reading.frames(str(tmp_path), range))


@pytest.mark.parametrize("other", ["flow_x_00001.jpg", "cover.jpg", "1 (2).jpg"])
def test_images_of_another_series_are_no_frames_of_a_clip(tmp_path, other):
    tree(tmp_path, "1.jpg", "2.JPG", other)
    with pytest.raises(DecodeError, match=r"several series of frames, .*: leave one there"):
        list(reading.frames(str(tmp_path), range))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no video"), "the video cannot be decoded"),
        (lambda path: path.mkdir(), "has no frame"),
        (os.mkfifo, "a pipe"),
    ],
)
def test_what_is_no_clip_says_so(tmp_path, make, message):
    make(tmp_path / "clip.mp4")
    with pytest.raises(DecodeError, match=message):
        list(reading.frames(str(tmp_path / "clip.mp4"), centre))


def centre(count):
    return frames_at(count, [0.5])


def test_a_video_that_is_cut_off_says_so_and_its_first_frames_can_be_read(videos, tmp_path):
    folder, whole = videos
    content = (folder / "c.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    (found,) = reading.frames(str(tmp_path / "cut.mkv"), lambda count: [0])
    np.testing.assert_array_equal(found, whole["c.mkv"][0])
    content = (folder / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match=r"decoded|damaged|no frame"):
        list(reading.frames(str(tmp_path / "cut.mp4"), lambda count: [count - 1]))


def test_large_frames_are_refused(videos):
    with pytest.raises(DecodeError, match=r"32 × 32 = 1024 pixels.*data\.max_pixels"):
        list(reading.frames(str(videos[0] / "a.mp4"), centre, max_pixels=1000))


def test_without_pyav_the_message_says_what_to_install(videos, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'cbjax\[video\]'"):
        list(reading.frames(str(videos[0] / "a.mp4"), centre))


def test_frames_come_from_equal_segments():
    assert frames_at(100, centres(10)) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert frames_at(10, [0.0] * 5) == [0, 2, 4, 6, 8]
    assert frames_at(10, [1 - 2**-53] * 5) == [1, 3, 5, 7, 9]
    assert frames_at(3, centres(7)) == [0, 0, 0, 1, 1, 2, 2]
    assert frames_at(1, centres(4)) == [0, 0, 0, 0]


def test_short_clips_repeat_frames_in_order():
    rng = np.random.default_rng(0)
    for count in (*range(1, 30), 2801):
        for frames in (1, 2, 10, 16):
            chosen = frames_at(count, rng.random(frames).tolist())
            assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < count
            if count >= frames:
                assert len(set(chosen)) == frames


def test_all_frames_of_a_clip_are_changed_alike(tmp_path):
    still = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    clips.write_frames(tmp_path / "clip", [still] * 5, "PNG")
    transform = transforms.TrainClip(4, TrainTransform(24, 3, 0.3, color_jitter=0.2), rotation=10)
    made = [transform(os.fsencode(tmp_path / "clip"), place) for place in range(6)]
    for clip in made:
        assert clip.shape == (4, 24, 24, 3) and (clip == clip[:1]).all()
    assert len({clip.tobytes() for clip in made}) == 6
    np.testing.assert_array_equal(made[2], transform(os.fsencode(tmp_path / "clip"), 2))


def test_without_turning_a_frame_is_cropped_as_an_image(tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
    clips.write_frames(tmp_path / "clip", frames)
    image = TrainTransform(24, 3, 0.3)
    clip = transforms.TrainClip(3, image)(os.fsencode(tmp_path / "clip"), 7)
    encoded = [(tmp_path / "clip" / f"{number:06d}.jpg").read_bytes() for number in range(3)]
    np.testing.assert_array_equal(clip, [image(frame, 7) for frame in encoded])
    evaluation = EvalTransform(24, 30)
    clip = transforms.EvalClip(3, evaluation)(os.fsencode(tmp_path / "clip"))
    np.testing.assert_array_equal(clip, [evaluation(frame) for frame in encoded])


def test_random_frames_of_the_evaluation_depend_on_the_place(tmp_path):
    grey = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 8, 8, 3))
    clips.write_frames(tmp_path / "clip", grey, "PNG")
    transform = transforms.EvalClip(4, EvalTransform(8, 8), seed=1)
    chosen = [transform(os.fsencode(tmp_path / "clip"), place)[:, 0, 0, 0].tolist() for place in (0, 1, 0)]
    assert chosen[0] == chosen[2] != chosen[1]
    for frames in chosen:
        assert [frame // 10 for frame in frames] == [0, 1, 2, 3]


def test_turning_is_counterclockwise_about_the_middle():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 15:20] = 255
    np.testing.assert_array_equal(transforms.turned(image, 90), np.rot90(image))
    np.testing.assert_array_equal(transforms.turned(image, 0), image)
    assert (transforms.turned(np.full((20, 20, 3), 99, np.uint8), 45)[0, 0] == 0).all()


def test_clips_of_a_tree_are_videos_and_folders_of_frames(tmp_path):
    for name in ("b.mp4", "deep/a.MOV", "notes.txt", ".hidden.mp4", "single.jpg"):
        (tmp_path / "cut" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cut" / name).write_bytes(b"x")
    clips.write_frames(tmp_path / "cut" / "deep" / "clip", clips.pixels(0, 0, 2))
    (tmp_path / "cut" / "again.mp4").symlink_to(tmp_path / "cut" / "b.mp4")
    found = finding.search(tmp_path, "cut")
    assert found.paths == ["cut/b.mp4", "cut/deep/a.MOV", "cut/deep/clip"]
    told = " ".join(files.listing.describe({"cut": found.left_out}))
    assert "2 files, each not a video by its ending, and not in a folder of frames" in told
    assert "1 file, hidden" in told and "1 file, found before under another path" in told


def test_what_could_be_two_clips_or_one_is_one_and_the_rest_is_told(tmp_path):
    tree(tmp_path, "cut/session/cover.jpg", "cut/session/1.mp4", "cut/session/2.mp4")  # videos, not a clip of one frame
    tree(tmp_path, "cut/3.mp4", "cut/3/1.jpg", "cut/3/flow/1.jpg")  # frames that were made beside their video
    tree(tmp_path, "cut/4.mp4/1.jpg")  # a folder, whatever its name
    (tmp_path / "cut" / "5").mkdir()
    found = finding.search(tmp_path, "cut")
    assert found.paths == ["cut/3", "cut/4.mp4", "cut/session/1.mp4", "cut/session/2.mp4"]
    assert len(found.inodes) == 4
    told = " ".join(files.listing.describe({"cut": found.left_out}))
    assert "1 file, a video whose frames are in a folder of its name, such as '3.mp4'" in told
    assert "1 file, an empty folder, such as '5'" in told
    assert "1 file, in a folder of frames, such as 'flow'" in told and "such as 'cover.jpg'" in told
    paths, left_out = finding.videos(tmp_path)
    assert paths == ["cut/session/1.mp4", "cut/session/2.mp4"]
    assert sorted(left_out[files.listing.FRAMES]) == ["3", "4.mp4"]


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def test_a_tree_and_lists_give_the_same_clips(tmp_path):
    tree(tmp_path, "train/a/1.mp4", "train/a/2.avi", "train/b/1.mkv", "val/a/3.mp4", "val/b/2.mp4")
    source = files.load_folder(tmp_path, 8, finding.medium(5))
    assert source.class_names == ("a", "b") and source.train.images.shape == (3, 5, 8, 8, 3)
    assert source.test.labels.tolist() == [0, 1]
    assert source.train.images.read(2) == os.fsencode(tmp_path / "train/b/1.mkv")
    (tmp_path / "train.txt").write_text("train/a/1.mp4 0\ntrain/a/2.avi 0\ntrain/b/1.mkv 1\n")
    (tmp_path / "train.csv").write_text("path,label\ntrain/a/1.mp4,a\ntrain/a/2.avi,a\ntrain/b/1.mkv,b\n")
    for load, name in ((lists.load_lists, "train.txt"), (lists.load_csv, "train.csv")):
        listed = load({"train": str(tmp_path / name)}, None, 8, finding.medium(5))
        assert listed.train.images.fingerprint() == source.train.images.fingerprint()
        assert listed.train.images.sizes() == source.train.images.sizes()


def test_a_list_with_numbers_of_frames_says_what_a_line_is(tmp_path):
    tree(tmp_path, "a/1/1.jpg", "b/1/1.jpg")
    (tmp_path / "train.txt").write_text("a/1 120 0\nb/1 80 1\n")
    with pytest.raises(DataError, match=r"are not there: .*; if lines are `path frames label`, take out the number"):
        lists.load_lists({"train": str(tmp_path / "train.txt")}, None, 8, finding.medium(4))


def test_a_tree_of_images_read_as_clips_says_what_a_clip_is(tmp_path):
    tree(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(DataError, match=r"every class needs a training clip, a video \(.mp4.*folder of frames"):
        files.load_folder(tmp_path, 8, finding.medium(5))


def test_clips_in_no_class_folder_are_told(tmp_path):
    tree(tmp_path, "train/cut/1.mp4", "train/mix/2.mp4", "train/3.MP4", "train/notes.txt", "test/4.mp4", "test/5.mp4")
    assert files.load_folder(tmp_path, 8, finding.medium(5)).notes == (
        "train: left out 1 clip that is in no class folder, such as '3.MP4'",
        "test is not used, as it has no class folders; it holds 2 clips, such as '4.mp4'",
    )


def test_a_tree_of_videos_read_as_images_says_how_to_read_clips(tmp_path):
    tree(tmp_path, "a/1.mp4", "b/1.MOV")
    with pytest.raises(DataError, match=r"such as '1.mp4'.*: set data\.frames=10 if the videos are clips"):
        files.load_folder(tmp_path, 8)


def test_clips_in_buckets_are_refused():
    with pytest.raises(DataError, match="this machine's disks only"):
        finding.ClipFiles("gs://bucket", ["a/1.mp4"])


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    clips.write_tree(root, {".": (5, 3, 2)})
    return files.load_folder(root, 16, finding.medium(4)).train


TRAIN = transforms.TrainClip(4, TrainTransform(16, 3, 0.5), 10)


def batches_of(split, start=0, **options):
    reader = stream.Reading(**options)
    return list(stream.stream(split, Batches(len(split), 4, 0), TRAIN, reader, start=start, stop=5))


def test_batches_of_clips_do_not_depend_on_threads_and_the_first_step(split):
    expected = batches_of(split, num_threads=1)
    assert expected[0]["image"].shape == (4, 4, 16, 16, 3) and expected[0]["image"].dtype == np.uint8
    for found in (batches_of(split, num_threads=3), [None] * 3 + batches_of(split, 3)):
        for one, other in zip(found, expected, strict=True):
            for key in other if one else ():
                np.testing.assert_array_equal(one[key], other[key])


def test_hosts_share_a_batch_of_clips(split):
    whole = batches_of(split)[0]["image"]
    parts = [
        next(
            stream.stream(
                split,
                Batches(len(split), 4, 0),
                TRAIN,
                stream.Reading(),
                start=0,
                stop=1,
                process_index=i,
                process_count=2,
            )
        )["image"]
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
