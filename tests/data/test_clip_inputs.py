"""Clips as people have them: turned by phones, of odd sizes and names, cut off, damaged, or no clips at all."""

import fractions
import gc
import os

import numpy as np
import psutil
import pytest

from cbjax.data import lists
from cbjax.data.clips import finding, pixels, reading, transforms
from cbjax.data.clips.given import ClipFit
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.decode import DecodeError
from cbjax.data.records import DataError
from cbjax.data.stream import make_image
from tests import clips
from tests.photos import photo

TURNS = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}  # counterclockwise: a, b, c, d
EVALUATION = EvalTransform(8, 8)
EVALUATE = transforms.EvalClip(4, EVALUATION)


def square(a, b, c, d):
    return np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], np.int32) * 65536


@pytest.mark.parametrize(
    "signs", [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
)
def test_a_display_matrix_moves_each_pixel_where_it_says(signs):
    a, b, c, d = signs
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    places = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(2) for x in range(3)}
    left, top = (min(place[axis] for place in places) for axis in range(2))
    shown = pixels.turned_by(image, square(*signs))
    assert shown.shape[:2] == ((3, 2) if b else (2, 3))
    for (x, y), value in places.items():
        np.testing.assert_array_equal(shown[y - top, x - left], value)


@pytest.mark.parametrize("signs", [(1, 1, -1, 1), (1, 0, 1, 1), (0, 0, 0, 0)])
def test_other_angles_leave_an_image_as_it_is(signs):
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(pixels.turned_by(image, square(*signs)), image)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Returns a video of 34×48 pixels, and its frames."""
    path = tmp_path_factory.mktemp("wide") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (4, 34, 48, 3)).astype(np.uint8)
    clips.write_video(path, frames)
    return path, np.stack(clips.decoded(path))


@pytest.mark.parametrize("angle", TURNS)
def test_videos_of_phones_are_read_upright(wide, tmp_path, angle):
    import av

    path = tmp_path / "clip.mp4"
    path.write_bytes(wide[0].read_bytes())
    clips.mark_turn(path, *TURNS[angle])
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == angle
    expected = np.rot90(wide[1], angle // 90, axes=(1, 2))
    np.testing.assert_array_equal(list(reading.frames(str(path), range)), expected)
    evaluated = transforms.EvalClip(4, EVALUATION)(os.fsencode(path))
    np.testing.assert_array_equal(evaluated, [EVALUATION.of_pixels(frame) for frame in expected])
    assert transforms.TrainClip(4, TrainTransform(8, 0))(os.fsencode(path), 0).shape == (4, 8, 8, 3)


def picture(side=32):
    import av

    return av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24")


def add_cover(container):
    """Adds a cover picture, a track of pictures too; returns what writes it, which must be called first."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width, stream.pix_fmt, stream.disposition = 16, 16, "yuvj420p", 1 << 10

    def write():
        container.mux(stream.encode(picture(16)) + stream.encode())

    return write


def write_song(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        cover = add_cover(container)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        cover()
        container.mux(stream.encode(sound) + stream.encode())


def write_cut_off(path, wide):
    clips.write_video(path, wide[1], movflags="faststart")
    path.write_bytes(path.read_bytes()[:-2000])


def write_damaged(path, wide):
    content = bytearray(wide[0].read_bytes())
    middle = len(content) // 3
    content[middle : middle + 1000] = np.random.default_rng(0).bytes(1000)
    path.write_bytes(content)


BAD = {
    "empty": (lambda path, wide: path.write_bytes(b""), "the file is empty"),
    "image": (lambda path, wide: path.write_bytes(photo(0, 0)), r"a single image; a clip is a video \(.mp4.*of frames"),
    "text": (lambda path, wide: path.write_text("no video" * 100), "the video cannot be decoded: Invalid data"),
    "song": (lambda path, wide: write_song(path), "the file has no video in it"),
    "codec": (
        lambda path, wide: path.write_bytes(wide[0].read_bytes().replace(b"avc1", b"zzzz")),
        "not know the codec",
    ),
    "head": (lambda path, wide: path.write_bytes(wide[0].read_bytes()[:3000]), "cannot be decoded: Invalid data"),
    "cut off": (write_cut_off, "the video cannot be decoded: Invalid data"),
    "damaged": (write_damaged, "the video cannot be decoded: Invalid data|is damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_whole_video_says_why(tmp_path, wide, kind):
    path = tmp_path / "clip.mp4"
    make, message = BAD[kind]
    make(path, wide)
    with pytest.raises(DecodeError, match=message):
        list(reading.frames(str(path), range))
    with pytest.raises(DataError, match=r"clip\.mp4: it cannot be read"):
        ClipFit(EVALUATE).file(path)


def test_a_cover_picture_is_not_the_video(tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        cover = add_cover(container)
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        cover()
        container.mux(stream.encode(picture()) + stream.encode())
    (found,) = reading.frames(str(path), range)
    assert found.shape == (32, 32, 3)


@pytest.mark.parametrize(
    "name", ["a b.mp4", "ü – 漢字.mp4", "100%03d.mp4", "http:x.mp4", "-x.mp4", "q?x#y.mp4", "[x]*.mp4", "\udcff.mp4"]
)
def test_any_name_of_a_file_is_a_name(wide, tmp_path, name):
    (tmp_path / name).symlink_to(wide[0])
    np.testing.assert_array_equal(list(reading.frames(str(tmp_path / name), range)), wide[1])


def test_frames_are_told_by_their_times_however_they_are_spaced(tmp_path):
    import av

    path, moments = tmp_path / "clip.mp4", (0, 10, 11, 400, 401, 1000, 5000, 5001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "3"})
        stream.height, stream.width, stream.pix_fmt = clips.SIDE, clips.SIDE, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for pixel_rows, moment in zip(clips.pixels(0, 0, len(moments)), moments, strict=True):
            frame = av.VideoFrame.from_ndarray(pixel_rows, format="rgb24")
            frame.pts, frame.time_base = moment, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    whole = clips.decoded(path)
    assert len(whole) == 8
    np.testing.assert_array_equal(
        list(reading.frames(str(path), lambda count: [1, 4, 4, 7])), [whole[i] for i in (1, 4, 4, 7)]
    )


def test_clips_of_a_pixel_of_a_frame_and_of_several_sizes_are_used(tmp_path):
    clips.write_video(tmp_path / "pixel.avi", np.full((1, 1, 1, 3), 200, np.uint8), "mjpeg")
    for number, side in ((1, 9), (7, 12), (30, 5)):  # with gaps
        clips.write_frames(tmp_path / "clip" / str(number), np.full((1, side, side + 1, 3), number, np.uint8), "PNG")
        (tmp_path / "clip" / str(number) / "000000.png").rename(tmp_path / "clip" / f"{number}.png")
        (tmp_path / "clip" / str(number)).rmdir()
    for name in ("pixel.avi", "clip"):
        data = os.fsencode(tmp_path / name)
        assert transforms.TrainClip(5, TrainTransform(8, 0), 10)(data, 3).shape == (5, 8, 8, 3)
    assert EVALUATE(os.fsencode(tmp_path / "clip"))[:, 0, 0, 0].tolist() == [1, 1, 7, 30]


def test_a_damaged_frame_of_a_folder_is_named(tmp_path):
    clips.write_frames(tmp_path / "clip", clips.pixels(0, 0, 8))
    (tmp_path / "clip" / "000007.jpg").write_bytes(b"no image")
    with pytest.raises(DecodeError, match=r"its frame 000007\.jpg: its content is not an image"):
        EVALUATE(os.fsencode(tmp_path / "clip"))


def test_a_listed_clip_that_is_missing_or_an_image_is_a_bad_clip(tmp_path):
    clips.write_frames(tmp_path / "a", clips.pixels(0, 0, 2))
    (tmp_path / "b.jpg").write_bytes(photo(0, 0))
    (tmp_path / "train.txt").write_text("a 0\nb.jpg 1\nc.mp4 1\n")
    images = lists.load_lists({"train": str(tmp_path / "train.txt")}, None, 8, finding.medium(4)).train.images
    reasons = [make_image(images, EVALUATE, position)[0] for position in range(3)]
    assert reasons[0] == "" and "it is a single image" in reasons[1] and reasons[2] == "there is no such file"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 9, 9, 3), np.uint8), r"one clip of shape \[5, 9, 9, 3\]: give it in a list"),
        ([np.zeros((9, 9, 3), np.uint8)] * 2, r"an array \[frames, height, width, 3\]; got \[9, 9, 3\]"),
        ([np.zeros((5, 9, 9, 3), np.float32)], r"whole numbers from 0 to 255; got float32 of 0 to 0: convert"),
        ([np.full((5, 9, 9, 3), 256)], "got int64 of 256 to 256"),
        ([[np.zeros((9, 9, 3)), np.zeros((8, 9, 3))]], "must be of one size"),
        (np.float32(3), "must be paths or arrays"),
        (3, "must be paths or arrays .*; got int"),
        ([None], "got NoneType"),
    ],
)
def test_given_clips_that_do_not_fit_say_so(given, message):
    with pytest.raises(DataError, match=message):
        list(ClipFit(EVALUATE).all(given))


@pytest.mark.parametrize("seed", [None, 3])
def test_given_arrays_are_converted_as_files_are(wide, seed):
    fit = ClipFit(transforms.EvalClip(2, EVALUATION, seed))
    ((of_file,), (of_array,), (of_numbers,)) = (list(fit.all([one])) for one in (wide[0], wide[1], wide[1].astype(int)))
    np.testing.assert_array_equal(of_file, of_array)
    np.testing.assert_array_equal(of_file, of_numbers)


def test_memory_stays_flat_over_clips(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3)).astype(np.uint8)
    clips.write_video(tmp_path / "clip.mp4", noise, preset="ultrafast", bf=2)
    transform, process = transforms.TrainClip(3, TrainTransform(32, 0), 10), psutil.Process()
    enabled = gc.isenabled()
    gc.disable()  # a clip that waits for a collection is held too long

    def read(count):
        for place in range(count):
            transform(os.fsencode(tmp_path / "clip.mp4"), place)
        return process.memory_info().rss

    try:
        read(20)
        growth = [-read(0) + read(40) for _ in range(2)]
    finally:
        if enabled:
            gc.enable()
    assert min(growth) < 4 << 20  # a decoder that is kept, or a frame of each clip, is 8 MB or more over 40 clips
