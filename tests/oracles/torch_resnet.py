"""Torchvision's ResNet in evaluation, from a state dict alone, in float64 NumPy; imports nothing of cbjax."""

import numpy as np

from oracles.networks import convolution


def names(blocks, bottleneck, width, num_classes, expansion=4):
    """Yields the name and shape of every tensor that torchvision saves, `num_batches_tracked` included."""

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{leaf}", (channels,)
        yield f"{name}.num_batches_tracked", ()

    yield "conv1.weight", (width, 3, 7, 7)
    yield from norm("bn1", width)
    before = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        after = inner * expansion if bottleneck else inner
        for index in range(count):
            block = f"layer{stage + 1}.{index}"
            sizes = [(inner, before, 1), (inner, inner, 3), (after, inner, 1)]
            if not bottleneck:
                sizes = [(inner, before, 3), (inner, inner, 3)]
            for k, (outputs, inputs, size) in enumerate(sizes, 1):
                yield f"{block}.conv{k}.weight", (outputs, inputs, size, size)
                yield from norm(f"{block}.bn{k}", outputs)
            if index == 0 and (stage > 0 or before != after):
                yield f"{block}.downsample.0.weight", (after, before, 1, 1)
                yield from norm(f"{block}.downsample.1", after)
            before = after
    yield "fc.weight", (num_classes, before)
    yield "fc.bias", (num_classes,)


def draw(seed=0, **shape):
    """Returns a state dict with random weights and statistics far from their start."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, size in names(**shape):
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.int64(7)
        elif name.endswith("running_var"):
            tensors[name] = rng.uniform(0.5, 2.0, size).astype(np.float32)
        elif len(size) > 1:
            tensors[name] = (rng.normal(size=size) * np.sqrt(2 / np.prod(size[1:]))).astype(np.float32)
        else:
            tensors[name] = (rng.normal(size=size) * 0.3 + name.endswith("weight")).astype(np.float32)
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def logits(tensors, images):
    """Computes the logits [B, C] of images [B, H, W, 3]."""

    def convolve(inputs, name, stride=1):
        kernel = tensors[f"{name}.weight"]
        return convolution(inputs, kernel.transpose(2, 3, 1, 0), stride, kernel.shape[2] // 2)

    def norm(inputs, name):
        weight, bias, mean, variance = (
            tensors[f"{name}.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (inputs - mean) / np.sqrt(variance + 1e-5) * weight + bias

    outputs = np.maximum(norm(convolve(images, "conv1", 2), "bn1"), 0)
    outputs = max_pool(outputs)
    blocks = sorted({tuple(map(int, name[5:].split(".")[:2])) for name in tensors if name.startswith("layer")})
    for stage, index in blocks:
        block = f"layer{stage}.{index}"
        convolutions = 3 if f"{block}.conv3.weight" in tensors else 2
        strided = 2 if convolutions == 3 else 1  # version 1.5: the 3x3 convolution of a bottleneck
        stride = 2 if stage > 1 and index == 0 else 1
        inner = outputs
        for k in range(1, convolutions + 1):
            inner = norm(convolve(inner, f"{block}.conv{k}", stride if k == strided else 1), f"{block}.bn{k}")
            inner = inner if k == convolutions else np.maximum(inner, 0)
        if f"{block}.downsample.0.weight" in tensors:
            outputs = norm(convolve(outputs, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        outputs = np.maximum(outputs + inner, 0)
    return outputs.mean((1, 2)) @ tensors["fc.weight"].T.astype(np.float64) + tensors["fc.bias"]


def max_pool(inputs):
    """Takes the maximum over 3x3 windows, stride 2, one pixel of padding that never wins."""
    padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = ((size - 1) // 2 + 1 for size in inputs.shape[1:3])
    windows = [padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)]
    return np.max(windows, axis=0)
