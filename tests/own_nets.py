"""Networks as a user writes them, for tests: each function is named by this file's path and its own name."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from cbjax.types import Model


class Attention(nn.Module):
    """Self-attention and a small network, each with its residual connection: [B, T, D] -> [B, T, D]."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(self, tokens, train):
        width = tokens.shape[-1]
        outputs = nn.MultiHeadDotProductAttention(self.heads, deterministic=True)(nn.LayerNorm()(tokens))
        tokens = tokens + nn.Dropout(self.dropout, deterministic=not train)(outputs)
        outputs = nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(tokens)))
        outputs = nn.Dense(width)(outputs)
        return tokens + nn.Dropout(self.dropout, deterministic=not train)(outputs)


class Vit(nn.Module):
    """A vision transformer; `head` stands apart, so that methods can read its features."""

    num_classes: int
    width: int
    depth: int
    heads: int
    patch: int
    dropout: float

    def setup(self):
        size = (self.patch, self.patch)
        self.embed = nn.Conv(self.width, size, size, padding="VALID")
        self.place = self.param("place", nn.initializers.normal(0.02), (16, self.width))
        self.blocks = [Attention(self.heads, self.dropout) for _ in range(self.depth)]
        self.norm = nn.LayerNorm()
        self.classifier = nn.Dense(self.num_classes)

    def features(self, images, train):
        tokens = self.embed(images)
        tokens = tokens.reshape(tokens.shape[0], -1, self.width)
        tokens = tokens + self.place[None, : tokens.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, train)
        return self.norm(tokens).mean(axis=1)

    def head(self, features):
        return self.classifier(features)

    def __call__(self, images, train):
        return self.head(self.features(images, train))


def vit(num_classes, *, width=16, depth=1, heads=2, patch=2, dropout=0.1):
    return Vit(num_classes, width, depth, heads, patch, dropout)


def wide(num_classes, *, width=16):
    flat = lambda images: images.reshape(images.shape[0], -1)  # noqa: E731
    return nn.Sequential([flat, nn.Dense(width), nn.relu, nn.Dense(num_classes)])


def dropped(num_classes, *, width=16, rate=0.2):
    return Dropped(num_classes, width, rate)


class Dropped(nn.Module):
    """Two layers with dropout between them."""

    num_classes: int
    width: int
    rate: float

    @nn.compact
    def __call__(self, images, train):
        outputs = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        return nn.Dense(self.num_classes)(nn.Dropout(self.rate, deterministic=not train)(outputs))


class Parted(nn.Module):
    """Two layers, the second of which stands apart."""

    num_classes: int

    def setup(self):
        self.body = nn.Dense(12)
        self.classifier = nn.Dense(self.num_classes)

    def features(self, images, train):
        return nn.relu(self.body(images.reshape(images.shape[0], -1)))

    def head(self, features):
        return self.classifier(features)

    def __call__(self, images, train):
        return self.head(self.features(images, train))


def parted(num_classes):
    return Parted(num_classes)


class Normalised(nn.Module):
    """A layer with BatchNorm."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        outputs = nn.Dense(16)(images.reshape(images.shape[0], -1))
        return nn.Dense(self.num_classes)(nn.relu(nn.BatchNorm(use_running_average=not train)(outputs)))


def normalised(num_classes):
    return Normalised(num_classes)


class Pooled(nn.Module):
    """A convolution with BatchNorm and the mean over the image, which may have any size."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        outputs = nn.Conv(8, (3, 3), strides=(2, 2), use_bias=False)(images)
        outputs = nn.relu(nn.BatchNorm(use_running_average=not train)(outputs))
        return nn.Dense(self.num_classes)(outputs.mean(axis=(1, 2)))


def pooled(num_classes):
    return Pooled(num_classes)


class Motion(nn.Module):
    """A convolution over time and space with BatchNorm, and the mean over the clip."""

    num_classes: int

    @nn.compact
    def __call__(self, clips, train):
        outputs = nn.Conv(8, (3, 3, 3), strides=(1, 2, 2), use_bias=False)(clips)
        outputs = nn.relu(nn.BatchNorm(use_running_average=not train)(outputs))
        return nn.Dense(self.num_classes)(outputs.mean(axis=(1, 2, 3)))


def motion(num_classes):
    return Motion(num_classes)


class Perceptron(nnx.Module):
    """Two layers in a list, BatchNorm and dropout."""

    def __init__(self, num_classes, width, rngs):
        self.layers = nnx.List([nnx.Linear(64, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images):
        outputs = images.reshape(images.shape[0], -1)
        for layer in self.layers:
            outputs = nnx.relu(layer(outputs))
        return self.head(self.dropout(self.norm(outputs)))


def perceptron(num_classes, *, width=16, rngs):
    return Perceptron(num_classes, width, rngs)


def without_rngs(num_classes):
    return Perceptron(num_classes, 8, nnx.Rngs(0))


def linear(num_classes, *, scale=0.1, final_bias=0.0):
    """A `Model` record: init, features, head, apply; the last two may be left out."""

    def init(key, images):
        kernel = scale * jax.random.normal(key, (images[0].size, num_classes))
        return {"kernel": kernel, "bias": jnp.full(num_classes, final_bias)}, {}

    def apply(params, batch_stats, images, train):
        logits = images.reshape(images.shape[0], -1) @ params["kernel"] + params["bias"][None]
        return logits, batch_stats

    return Model(init, None, None, apply)


class Remembering(nn.Module):
    """Keeps a collection of its own."""

    @nn.compact
    def __call__(self, images):
        self.variable("memory", "seen", lambda: jnp.zeros(()))
        return nn.Dense(10)(images.reshape(images.shape[0], -1))


def remembering(num_classes):
    return Remembering()


class Random(nn.Module):
    """Has dropout in evaluation too."""

    @nn.compact
    def __call__(self, images):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(10)(images.reshape(images.shape[0], -1)))


def random(num_classes):
    return Random()


def few_logits(num_classes):
    return wide(num_classes - 1)


def pairs(num_classes):
    return nn.Sequential([wide(num_classes), lambda logits: logits.reshape(2, -1)])


def looping(num_classes):
    record = linear(num_classes)

    def apply(params, batch_stats, images, train):
        logits, batch_stats = record.apply(params, batch_stats, images, train)
        return jax.lax.while_loop(lambda logits: logits[0, 0] > 1, lambda logits: logits / 2, logits), batch_stats

    return record._replace(apply=apply)


def failing(num_classes):
    return nn.Sequential([lambda images: images @ jnp.ones((3, 3))])


def nothing(num_classes):
    return None


def needs_depth(num_classes, depth):
    return wide(num_classes)


def without_parameters(num_classes):
    return nn.Sequential([lambda images: images.reshape(images.shape[0], -1)[:, :num_classes]])


class Movement(nn.Module):
    """Convolutions over frames, rows and columns, and the mean over all; with depth 1 each frame is seen alone.

    A 3D convolution is written as a 2D one of neighbouring frames, whose channels are joined. On a CPU, XLA takes 27
    times as long for the same sums as a 3D convolution.
    """

    num_classes: int
    depth: int

    @nn.compact
    def __call__(self, clips):
        for width in (12, 24):
            batch, frames = clips.shape[:2]
            half = self.depth // 2
            padded = jnp.pad(clips, ((0, 0), (half, half), (0, 0), (0, 0), (0, 0)))
            near = jnp.concatenate([padded[:, place : place + frames] for place in range(self.depth)], axis=-1)
            clips = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2))(near.reshape(batch * frames, *near.shape[2:])))
            clips = clips.reshape(batch, frames, *clips.shape[1:])
        return nn.Dense(self.num_classes)(clips.mean(axis=(1, 2, 3)))


def movement(num_classes, *, depth=3):
    return Movement(num_classes, depth)
