"""Convolution, BatchNorm, pooling and the CIFAR ResNet in float64 NumPy; imports nothing of cbjax."""

import numpy as np


def convolution(images, kernel, stride=1, padding=0):
    """images [B, H, W, D], kernel [k, k, D, E] -> [B, H', W', E], as a sum over the kernel's positions."""
    size = kernel.shape[0]
    images = np.pad(np.asarray(images, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (images.shape[1] - size) // stride + 1
    width = (images.shape[2] - size) // stride + 1
    outputs = np.zeros((images.shape[0], height, width, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            seen = images[:, i : i + stride * height : stride, j : j + stride * width : stride]
            outputs += seen @ np.asarray(kernel[i, j], np.float64)
    return outputs


def pool(images, reduce):
    """Reduces each 2x2 window of [B, H, W, D] with even H and W."""
    windows = [images[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return reduce(np.stack(windows), axis=0)


def batch_norm(inputs, scale, bias, mean=None, variance=None, epsilon=1e-5):
    """Normalises [B, H, W, D] by the given statistics or else by its own; returns those too."""
    if mean is None:
        mean = inputs.mean((0, 1, 2))
        variance = ((inputs - mean) ** 2).mean((0, 1, 2))
    return (inputs - mean) / np.sqrt(variance + epsilon) * scale + bias, mean, variance


def resnet(params, running, images, shortcut, train):
    """Logits of the CIFAR ResNet whose parameters have cbjax's names; running is None or the running statistics."""

    def norm(inputs, where, name):
        own, statistics = params, running
        for key in where:
            own, statistics = own[key], statistics[key]
        stored = {} if train else {"mean": statistics[name]["mean"], "variance": statistics[name]["var"]}
        return batch_norm(inputs, own[name]["scale"], own[name]["bias"], **stored)[0]

    outputs = np.maximum(norm(convolution(images, params["stem"]["kernel"], 1, 1), (), "stem_norm"), 0)
    blocks = sorted(name for name in params if name.startswith("stage"))
    for name in blocks:
        block = params[name]
        stride = 2 if name in ("stage2_block1", "stage3_block1") else 1
        inner = np.maximum(norm(convolution(outputs, block["convolution1"]["kernel"], stride, 1), (name,), "norm1"), 0)
        inner = norm(convolution(inner, block["convolution2"]["kernel"], 1, 1), (name,), "norm2")
        if stride == 2 and shortcut == "projection":
            outputs = norm(convolution(outputs, block["projection"]["kernel"], 2, 0), (name,), "projection_norm")
        elif stride == 2:
            outputs = pool(outputs, np.mean) if shortcut == "average" else outputs[:, ::2, ::2]
            zeros = np.zeros((*outputs.shape[:3], outputs.shape[3] // 2))
            outputs = np.concatenate([zeros, outputs, zeros], axis=3)
        outputs = np.maximum(outputs + inner, 0)
    return outputs.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
