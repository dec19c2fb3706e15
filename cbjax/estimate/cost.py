"""Estimates what a sweep takes before it begins: images, steps and arithmetic, and its time on named devices."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config.parts import FITTED
from cbjax.data.batches import Batches
from cbjax.estimate import abstract_data
from cbjax.estimate.tpu import CHIPS
from cbjax.host.code import CodeError, is_own
from cbjax.training import components
from cbjax.types import Model

# Published peaks in FLOP/s, dense: for bfloat16 values, and for float32 values. JAX multiplies float32 values as TF32
# on these GPUs, at half the rate, and in one bfloat16 pass on TPUs. Source: NVIDIA's data sheets; for TPUs see `tpu`.
PEAKS = {
    "one A100": (312e12, 156e12),
    "one H100": (989e12, 494.5e12),
    "8 chips of v5e": (8 * CHIPS["v5e"].flops,) * 2,
    "8 chips of v6e": (8 * CHIPS["v6e"].flops,) * 2,
}
SHARE = 1 / 3  # share of the peak that large networks reach
# FLOP of a step. In smaller steps launching kernels and moving memory take longer than the arithmetic. For comparison:
# ResNet-32 with a batch of 128 has 5e10; half a millisecond of an H100 at its full float32 rate is 2.5e11.
LARGE = 2e11
# Passes of a step over its batch: forward ones, and backward ones.
PASSES = {"none": (1, 1), "sam": (2, 2), "imbsam": (2, 3)}
# What a meta method adds to each forward pass of a step: so many backward passes over the batch, beside one forward and
# one backward pass over the meta images. L2RW: a tangent. Meta-Weight-Net: a tangent, and the virtual step's gradient.
META = {"l2rw": 1, "mw_net": 2}


class Cost(NamedTuple):
    """The cost of training one run; `float32` is the part of `flops` on float32 values.

    A stage that is found without a step of training costs 0 of each.
    """

    steps: int
    images: int
    flops: float
    float32: float


def run_costs(runs: Iterable[ConfigDict], sizes: Mapping[str, int]) -> list[Cost]:
    """Counts the training of each run, without evaluations; nothing is compiled and no data are read.

    Args:
      runs: resolved configs of the runs.
      sizes: "num_classes", "num_images", "image_size", if the data's name does not say them (`abstract_data.describe`).

    Raises:
      ConfigError: if the sizes are neither known nor given.
    """
    known: dict[str, tuple[float, int]] = {}
    costs = []
    for config in runs:
        if config.stage.name in FITTED:
            costs.append(Cost(0, 0, 0.0, 0.0))
            continue
        about = abstract_data.describe(config, **sizes)
        steps = Batches(int(about.counts.sum()), config.batch_size, 0).epoch_end(config.num_epochs)
        count = _whole if is_own(config.model.name) else _features
        stage = (config.stage.name, config.oltr.form)
        shape = json.dumps([config.model.to_dict(), stage, about.image_shape, count is _whole and len(about.counts)])
        if shape not in known:
            known[shape] = count(config, about.image_shape, len(about.counts))
        flops, width = known[shape]
        total = steps * _of_step(config, flops, 2 * width * len(about.counts))
        costs.append(Cost(steps, steps * config.batch_size, total, total * (config.model.dtype == "float32")))
    return costs


def describe(costs: Sequence[Cost]) -> str:
    """Returns two lines for people: the counts of all runs together, and hours on each of the devices."""
    steps, images, flops = (sum(getattr(cost, name) for cost in costs) for name in ("steps", "images", "flops"))
    trained = [cost for cost in costs if cost.steps]
    large = [cost for cost in trained if cost.flops >= LARGE * cost.steps]
    counts = f"{len(costs)} runs: {steps:,} steps, {images:.3g} images, {flops:.3g} FLOP of training\n"
    if not trained:
        return f"{counts}the runs take no step: each is found in passes over its images"
    if not large:
        return (
            f"{counts}the time is not known: steps of {flops / steps:.2g} FLOP are so small that most of it is not "
            "arithmetic"
        )
    hours = ", ".join(f"{name} {_few_digits(_hours(large, *peaks))}" for name, peaks in PEAKS.items())
    but = "" if len(large) == len(trained) else f", for {len(large)} runs: the steps of the others are too small to say"
    told = f"hours of arithmetic alone at a third of the published peak{but}: {hours}; reading images may take longer"
    return counts + told


def _of_step(config: ConfigDict, features: float, head: float) -> float:
    """Returns the arithmetic of a step, FLOP, by counting passes; loss and optimiser take almost nothing.

    A backward pass takes twice as much as a forward one, and so does the tangent of `jax.jvp`, which is counted as one.
    Two passes over the same images with the same parameters share their beginning, which is computed once: ImbSAM's two
    groups share the forward pass, and so do the passes of a meta method.

    Args:
      config: of the run.
      features, head: arithmetic of an image's forward pass, up to the features and after them.
    """
    forward, backward = features + head, 2 * (features + head)
    if config.stage.name in ("crt", "lws") or (config.stage.name, config.oltr.backbone) == ("oltr", "frozen"):
        backward = head  # at most: no gradient flows into the features
    forwards, backwards = PASSES[config.sharpness.name]
    step = config.batch_size * (forwards * forward + backwards * backward)
    if (name := config.meta.name) in META:
        step += config.batch_size * forwards * META[name] * backward
        step += config.meta.batch_size * forwards * (forward + backward)
    return step


def _hours(costs: Iterable[Cost], bfloat16: float, float32: float) -> float:
    seconds = sum((cost.flops - cost.float32) / bfloat16 + cost.float32 / float32 for cost in costs)
    return seconds / SHARE / 3600


def _few_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _features(config: ConfigDict, image_shape: Sequence[int], num_classes: int) -> tuple[float, int]:
    """Returns the arithmetic of an image up to the features, FLOP, and their number; traced, not compiled."""
    alone = configs.change(config, ["model.batch_norm_size=None", "model.remat=False"])
    model = components.build_model(alone, num_classes=2)
    lowered = _lower(model, image_shape, lambda *given: model.features(*given, True))
    return float(lowered.cost_analysis()["flops"]), lowered.out_info[0].shape[-1]


def _whole(config: ConfigDict, image_shape: Sequence[int], num_classes: int) -> tuple[float, int]:
    """Returns the arithmetic of an image up to the logits, FLOP, for a network that need not have features; and 0."""
    model, key = components.build_model(config, num_classes), jax.random.key(0)
    try:
        lowered = _lower(
            model, image_shape, lambda params, stats, images: model.apply(params, stats, images, True, key=key)
        )
    except CodeError as error:
        raise configs.ConfigError(f"model.name={config.model.name!r}: {error}") from error
    return float(lowered.cost_analysis()["flops"]), 0


def _lower(model: Model, image_shape: Sequence[int], function: Callable[..., Any]) -> Any:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.jit(function).lower(params, batch_stats, images)
