"""Times clips from video files: decode, 10 frames of a clip, square crop to 224, rotation, flip; clips/s on two cores.

    python tests/benchmarks/clips.py [--pytorch=PATH] [--rounds=5] [--epochs=2] [--out=FILE]

PATH: a python with torch, torchvision and av; this one needs cbjax and its extra [video]. Each reads the same 96 files
in batches of 32, and takes a random frame of each of 10 equal segments; crop, angle and flip are drawn once for a clip.
PyTorch's is a DataLoader of two workers whose Dataset decodes by PyAV up to the last frame that it needs, and converts
only those that it takes. Then torchvision's transforms of tensors, v2 ("pytorch"), or Pillow frame by frame
("pytorch_pillow"). They take turns, each in a process of its own; the first batches, in which threads and workers
start, are not counted. The files are like EGTEA's: H.264, 640×480, 24 frames a second, 30 to 90 of them, x264's
defaults but for the preset; each pans over a photograph of scikit-learn, with noise that changes from frame to frame.
Wall clock, time on a core and resident memory are taken as in `loaders.py`. FILE gets every round in JSON.
"""

import os
import pathlib
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import loaders  # beside this file

BATCH, SIDE, FRAMES, COUNT, WARM = 32, 224, 10, 96, 2
ANGLE = 10
HEIGHT, WIDTH = 480, 640


def write_files(folder):
    import av
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [np.asarray(Image.fromarray(photo).resize((960, 640))) for photo in load_sample_images().images]
    for number in range(COUNT):
        photo, length = photos[number % len(photos)], int(rng.integers(30, 91))
        begin, end = (rng.uniform(0, (640 - HEIGHT, 960 - WIDTH), 2) for _ in range(2))
        path = folder / str(number % 8) / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24, options={"preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for place in np.linspace(0, 1, length):
                top, left = np.rint(begin + place * (end - begin)).astype(int)
                noise = rng.integers(-4, 5, (HEIGHT, WIDTH, 1), np.int16)
                pixels = np.clip(photo[top : top + HEIGHT, left : left + WIDTH] + noise, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())


def with_cbjax(folder, epochs):
    from cbjax.data import sources
    from cbjax.data.batches import Batches
    from cbjax.data.clips.transforms import TrainClip
    from cbjax.data.crops import TrainTransform
    from cbjax.data.stream import Reading, stream

    split = sources.load("folder", root=folder, image_size=SIDE, frames=FRAMES).train
    stop = WARM + epochs * COUNT // BATCH
    transform = TrainClip(FRAMES, TrainTransform(SIDE, seed=0, crop="square"), ANGLE)
    return stream(split, Batches(COUNT, BATCH, 0), transform, Reading(2), start=0, stop=stop)


class Clips:
    """What a PyTorch user writes."""

    def __init__(self, folder, epochs, change):
        self.epochs, self.change = epochs, change
        self.paths = sorted(map(str, pathlib.Path(folder).glob("*/*.mp4")))

    def __len__(self):
        return self.epochs * len(self.paths) + WARM * BATCH

    def __getitem__(self, index):
        import av

        path = self.paths[index % len(self.paths)]
        with av.open(path) as container:
            stream = container.streams.video[0]
            edges = [i * stream.frames // FRAMES for i in range(FRAMES + 1)]
            wanted = {random.randrange(edges[i], edges[i + 1]) for i in range(FRAMES)}
            frames = []
            for position, frame in enumerate(container.decode(stream)):
                if position in wanted:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    if len(frames) == FRAMES:
                        break
        return self.change(frames), int(pathlib.Path(path).parent.name)


def by_tensors(frames):
    import numpy as np
    import torch
    from torchvision.transforms import v2

    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    return v2.Compose(
        [v2.RandomCrop(HEIGHT), v2.Resize(SIDE, antialias=True), v2.RandomRotation(ANGLE), v2.RandomHorizontalFlip()]
    )(clip)


def by_pillow(frames):
    import numpy as np
    import torch
    from PIL import Image

    left, angle, flip = random.randint(0, WIDTH - HEIGHT), random.uniform(-ANGLE, ANGLE), random.random() < 0.5
    images = []
    for frame in frames:
        image = Image.fromarray(frame).crop((left, 0, left + HEIGHT, HEIGHT))
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).rotate(angle)
        images.append(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image))
    return torch.from_numpy(np.stack(images))


def with_pytorch(folder, epochs, change):
    import torch

    clips = Clips(folder, epochs, change)
    return torch.utils.data.DataLoader(clips, batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)


WAYS = {
    "cbjax": with_cbjax,
    "pytorch": lambda folder, epochs: with_pytorch(folder, epochs, by_tensors),
    "pytorch_pillow": lambda folder, epochs: with_pytorch(folder, epochs, by_pillow),
}


def measure(name, folder, epochs):
    return loaders.measure(WAYS[name](folder, epochs), "clips", BATCH, WARM, epochs * COUNT // BATCH)


if __name__ == "__main__":
    pythons = {"cbjax": "", "pytorch": "pytorch", "pytorch_pillow": "pytorch"}
    loaders.main(__file__, "clips", pythons, measure, write_files, epochs=2)
