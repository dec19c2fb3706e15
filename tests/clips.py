"""Small videos for tests, encoded by a real codec: classes that differ in the direction in which a square moves."""

import pathlib

import numpy as np

from tests import photos

SIDE = 32
MOVES = ((0, 2), (0, -2), (2, 0))  # rows and columns a frame, by class: across, back, down
# The same eight places of a square, in the order in which it visits them, by class.
ORDERS = {"right": (0, 1, 2, 3, 4, 5, 6, 7), "left": (7, 6, 5, 4, 3, 2, 1, 0), "swing": (0, 2, 4, 6, 7, 5, 3, 1)}


def pixels(label, number, count=12):
    """Returns the frames of a clip, [count, 32, 32, 3] uint8; its class shows in its motion alone."""
    rng = np.random.default_rng([label, number])
    start, colour = rng.integers(0, SIDE, 2), rng.integers(120, 256, 3)
    clip = np.full((count, SIDE, SIDE, 3), 40, np.uint8)
    for frame in range(count):
        rows, columns = ((start[axis] + MOVES[label][axis] * frame + np.arange(12)) % SIDE for axis in range(2))
        clip[frame, rows[:, None], columns[None]] = colour
    return clip


def write_video(path, frames, codec="libx264", **options):
    """Encodes frames [T, H, W, 3] uint8 as a video; options are the codec's, such as g for the key frames' distance."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={key: str(value) for key, value in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def mark_turn(path, a, b, c, d):
    """Writes a display matrix into the head of an MP4's track, as phones do."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = (np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14]) << 16).astype(">i4").tobytes()
    path.write_bytes(content)


def decoded(path):
    """Returns all frames of a video, decoded from its beginning."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_frames(folder, frames, kind="JPEG"):
    """Writes a folder of frames, 000000.jpg …"""
    from PIL import Image

    pathlib.Path(folder).mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(pathlib.Path(folder, f"{number:06d}.{'jpg' if kind == 'JPEG' else 'png'}"), kind)


def write_clip(path, label, seed):
    write_video(path, pixels(label, seed), bf=2, g=6)


def write_tree(root, splits, names=("across", "back", "down")):
    """Writes root/SPLIT/CLASS/NUMBER.mp4; arguments and result as those of `photos.write_tree`."""
    return photos.write_tree(root, splits, names, "mp4", write_clip)


EGTEA_CLIPS = {  # split file -> a subject and a verb, from 1, for each clip; P20 and P26 are the validation
    "train": [("P01", 1), ("OP02", 2), ("P03", 3), ("P20", 1), ("P26", 2)],
    "test": [("P07", 3), ("P30", 1)],
}


EGTEA_VERBS = (  # as in verb_idx.txt
    *("Inspect/Read", "Open", "Take", "Cut", "Turn on", "Put", "Operate", "Close", "Move Around", "Wash", "Spread"),
    *("Turn off", "Divide/Pull Apart", "Clean/Wipe", "Mix", "Pour", "Compress", "Crack", "Squeeze"),
)


def small_egtea():
    """Returns the rows of every verb for `write_egtea`: 1 to 6 training, 1 validation and 1 test clips of each."""
    verbs = [(verb, 6 if verb in (2, 3, 4, 6) else 3 if verb == 1 else 1) for verb in range(1, len(EGTEA_VERBS) + 1)]
    train = [("P01", verb) for verb, count in verbs for _ in range(count)]
    return {"train": [*train, *(("P21", verb) for verb, _ in verbs)], "test": [("P07", verb) for verb, _ in verbs]}


def write_egtea(root, kind="empty", verbs=("Take", "Put", "Move Around"), rows=EGTEA_CLIPS):
    """Writes EGTEA's files, with its clips as "videos", "frames" or "empty" files; returns those of each split file."""
    annotation = root / "action_annotation"
    annotation.mkdir(parents=True)
    (annotation / "verb_idx.txt").write_text("".join(f"{name} {place}\n" for place, name in enumerate(verbs, 1)))
    (annotation / "noun_idx.txt").write_text("bread container 1\neating_utensil 2\n")
    (annotation / "action_idx.txt").write_text("Take bread container 1\n")
    names = {}
    for split, clip_rows in rows.items():
        lines, names[split] = [], []
        for number, (subject, verb) in enumerate(clip_rows):
            session = f"{subject}-R0{number}-Pasta_Salad"
            clip = f"{session}-100{number}-2000-F00002{number}-F000047"
            nouns = " ".join(["1", "2", "2"][: number % 3 + 1])
            lines.append(f"{clip} {number + 1} {verb} {nouns} \n")
            names[split].append(f"{session}/{clip}")
            place = root / ("extracted_frames" if kind == "frames" else "cropped_clips") / session
            place.mkdir(parents=True)
            if kind == "frames":
                write_frames(place / clip, pixels(verb % len(MOVES), number, 3))
            elif kind == "videos":
                write_clip(place / f"{clip}.mp4", verb % len(MOVES), number)
            else:
                (place / f"{clip}.mp4").write_bytes(b"x")
        (annotation / f"{split}_split1.txt").write_text("".join(lines))
    return names


def write_motion(path, label, seed):
    """Writes a clip of eight frames of 16×16 pixels whose class shows in nothing but the order of its frames."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, 16, 2)
    clip = np.full((8, 16, 16, 3), rng.integers(20, 60), np.int16)
    for frame, place in enumerate(list(ORDERS.values())[label]):
        rows, columns = (row + np.arange(5)) % 16, (column + place + np.arange(5)) % 16
        clip[frame, rows[:, None], columns[None]] = rng.integers(90, 140)
    clip += rng.integers(-40, 41, clip.shape, np.int16)
    write_video(path, clip.clip(0, 255).astype(np.uint8), crf=18, preset="ultrafast", bf=2)


def write_motions(root, splits):
    """Writes root/SPLIT/CLASS/NUMBER.mp4 of the classes of `ORDERS`; arguments and result as `photos.write_tree`."""
    return photos.write_tree(root, splits, tuple(ORDERS), "mp4", write_motion)
