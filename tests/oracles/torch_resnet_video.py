"""3D-ResNets-PyTorch's networks in evaluation, from a state dict alone, in float64 NumPy; imports nothing of cbjax.

`TORCH` holds the logits that PyTorch itself gives for the same weights and clips (`torch_resnet_video_made.py`).
"""

import pathlib

import numpy as np

TORCH = pathlib.Path(__file__).with_name("torch_resnet_video.npz")
# Networks as narrow as can be: blocks of each stage, kind, and groups of the grouped convolutions.
SMALL = {
    "resnext": {"blocks": (1, 2, 1, 1), "block": "resnext", "width": 4, "cardinality": 4, "stem": "pooled"},
    "basic": {"blocks": (1, 1, 1, 1), "block": "basic", "width": 4, "cardinality": 1, "stem": "pooled"},
    "basic_a": {"blocks": (1, 1, 1, 1), "block": "basic_a", "width": 4, "cardinality": 1, "stem": "pooled"},
    "plain": {"blocks": (1, 1, 1, 1), "block": "basic", "width": 4, "cardinality": 1, "stem": "plain"},
}
CLIPS = (2, 5, 37, 32, 3)  # odd sizes show where padding stands


def names(blocks, block, width, cardinality, stem, num_classes):
    """Yields the name and shape of every tensor of the file, `num_batches_tracked` left out."""

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{leaf}", (channels,)

    yield "conv1.weight", (width, 3, 3 if stem == "plain" else 7, 7, 7)
    yield from norm("bn1", width)
    before = width
    for stage, count in enumerate(blocks):
        base = width * 2**stage
        after = 4 * base if block == "resnext" else base
        for index in range(count):
            where = f"layer{stage + 1}.{index}"
            sizes = [(base, before, 3), (base, base, 3)]
            if block == "resnext":
                sizes = [(2 * base, before, 1), (2 * base, 2 * base // cardinality, 3), (after, 2 * base, 1)]
            for k, (outputs, inputs, size) in enumerate(sizes, 1):
                yield f"{where}.conv{k}.weight", (outputs, inputs, size, size, size)
                yield from norm(f"{where}.bn{k}", outputs)
            if before != after and block != "basic_a":
                yield f"{where}.downsample.0.weight", (after, before, 1, 1, 1)
                yield from norm(f"{where}.downsample.1", after)
            before = after
    yield "fc.weight", (num_classes, before)
    yield "fc.bias", (num_classes,)


def draw(num_classes=5, **shape):
    """Returns a state dict with random weights and statistics far from their start, equal in every version of NumPy."""
    rng = np.random.RandomState(0)
    tensors = {}
    for name, size in names(**shape, num_classes=num_classes):
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 2.0, size)
        elif len(size) > 1:
            values = rng.normal(size=size) * np.sqrt(2 / np.prod(size[1:]))
        else:
            values = rng.normal(size=size) * 0.3 + name.endswith("weight")
        tensors[name] = values.astype(np.float32)
    return tensors


def clips(shape=CLIPS):
    """Returns clips [B, T, H, W, 3] float32, equal in every version of NumPy."""
    return np.random.RandomState(1).normal(size=shape).astype(np.float32)


def convolution(inputs, kernel, strides, groups=1):
    """inputs [B, T, H, W, D], kernel [t, h, w, D / groups, E] -> [B, T', H', W', E], a sum over the kernel's places."""
    sizes, outputs = kernel.shape[:3], kernel.shape[-1]
    padded = np.pad(np.asarray(inputs, np.float64), ((0, 0), *((size // 2, size // 2) for size in sizes), (0, 0)))
    lengths = [(n - size) // stride + 1 for n, size, stride in zip(padded.shape[1:4], sizes, strides, strict=True)]
    found = np.zeros((len(inputs), *lengths, outputs))
    inner, outer = inputs.shape[-1] // groups, outputs // groups
    for place in np.ndindex(*sizes):
        cuts = (slice(at, at + s * n, s) for at, s, n in zip(place, strides, lengths, strict=True))
        seen = padded[(slice(None), *cuts)]
        for group in range(groups):
            there = slice(group * outer, (group + 1) * outer)
            found[..., there] += seen[..., group * inner : (group + 1) * inner] @ kernel[place][:, there].astype(float)
    return found


def logits(tensors, inputs, groups):
    """Computes the logits [B, C] of clips [B, T, H, W, 3]."""

    def convolve(inputs, name, strides=(1, 1, 1), groups=1):
        return convolution(inputs, tensors[f"{name}.weight"].transpose(2, 3, 4, 1, 0), strides, groups)

    def norm(inputs, name):
        weight, bias, mean, variance = (
            tensors[f"{name}.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (inputs - mean) / np.sqrt(variance + 1e-5) * weight + bias

    outputs = np.maximum(norm(convolve(inputs, "conv1", (1, 2, 2)), "bn1"), 0)
    if tensors["conv1.weight"].shape[2] == 7:
        outputs = max_pool(outputs)
    for stage, index in sorted({tuple(map(int, name[5:].split(".")[:2])) for name in tensors if name[:5] == "layer"}):
        block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
        three = f"{block}.conv3.weight" in tensors
        inner = convolve(outputs, f"{block}.conv1", (1,) * 3 if three else (stride,) * 3)
        inner = np.maximum(norm(inner, f"{block}.bn1"), 0)
        inner = norm(convolve(inner, f"{block}.conv2", (stride if three else 1,) * 3, groups), f"{block}.bn2")
        if three:
            inner = norm(convolve(np.maximum(inner, 0), f"{block}.conv3"), f"{block}.bn3")
        if f"{block}.downsample.0.weight" in tensors:
            outputs = norm(convolve(outputs, f"{block}.downsample.0", (stride,) * 3), f"{block}.downsample.1")
        elif stride == 2:
            kept = outputs[:, ::2, ::2, ::2]
            outputs = np.concatenate([kept, np.zeros((*kept.shape[:4], inner.shape[4] - kept.shape[4]))], axis=4)
        outputs = np.maximum(outputs + inner, 0)
    return outputs.mean((1, 2, 3)) @ tensors["fc.weight"].T.astype(np.float64) + tensors["fc.bias"]


def max_pool(inputs):
    """Takes the maximum over 3x3x3 windows, stride 2, padding of one that never wins."""
    padded = np.pad(inputs, ((0, 0), *((1, 1),) * 3, (0, 0)), constant_values=-np.inf)
    counts = [(size - 1) // 2 + 1 for size in inputs.shape[1:4]]
    cuts = [[slice(at, at + 2 * n - 1, 2) for n in counts] for at in range(3)]
    return np.max([padded[:, cuts[i][0], cuts[j][1], cuts[k][2]] for i, j, k in np.ndindex(3, 3, 3)], axis=0)
