"""Which keys of a method go together: its loss, its head, its meta images, the adjustment of its answers."""

import fractions
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cbjax.config.batch_rules import divisible
from cbjax.config.image_sources import is_streamed
from cbjax.config.parts import COUNT_WEIGHTS, FITTED, ONE_VS_REST
from cbjax.config.schema import KEYS
from cbjax.host.code import is_own

PRIOR_LOSSES = ("logit_adjusted", "vs")  # whose loss.tau adds the classes' shares to the logits
EQUALIZED = {"eql": "sigmoid cross entropy", "softmax_eql": "softmax cross entropy"}  # without a rare class
OLTR_LOSSES = ("softmax", "softmax_focal", "poly")


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the keys of a method, a line each."""
    loss, head, tau, meta = (values[key] for key in ("loss.name", "model.head", "evaluation.tau", "meta.name"))
    if head != "auto" and (head == "normalized") != (loss == "ldam"):
        needed = "normalized" if loss == "ldam" else "linear"
        yield f"model.head must be {needed}, or auto, when loss.name is {loss}; got {head}"
    if loss in ("ghm", "ghm_softmax") and (mean := values["loss.mean"]) != "batch":
        yield f"loss.mean must be batch when loss.name is {loss}, which has weights of its own; got {mean}"
    if tau and loss in ONE_VS_REST:
        yield f"evaluation.tau must be 0 when loss.name is {loss}, whose answers are one-vs-rest; got {tau}"
    if tau and loss in PRIOR_LOSSES and (taught := values["loss.tau"]):
        yield (
            f"evaluation.tau must be 0 when loss.name is {loss} and loss.tau is {taught}: training has balanced the "
            f"answers already, and they would be balanced twice; got {tau}"
        )
    for key in ("weights.start", "data.sampler_start"):
        epochs = values["num_epochs"]
        if math.ceil(fractions.Fraction(str(values[key])) * epochs) >= epochs and values[key]:
            yield (
                f"{key} must leave a whole epoch at the end, or nothing would begin; got {values[key]} of {epochs} "
                f"epochs: use at least {math.ceil(1 / (1 - fractions.Fraction(str(values[key]))))} epochs"
            )
    if meta != "none":
        yield from _meta(values, meta)
    if values["mix.name"] != "none":
        yield from _mix(values, values["mix.name"])
    if (stage := values["stage.name"]) != "none":
        yield from _stage(values, stage)


def cautions(values: Mapping[str, Any], counts: Sequence[int] = ()) -> list[str]:
    """Lists what is allowed and seldom meant, a line each.

    These are classes that are balanced by their counts more than once, and an equalization loss without a rare class.

    Args:
      values: dotted key -> value; they may lack keys, as those of an old run do.
      counts: training images of each class; () if they are not known.
    """
    values = {key: known.default for key, known in KEYS.items()} | dict(values)
    return [*_balanced_twice(values), *_without_rare(values, counts)]


def _without_rare(values, counts):
    loss, below, chance = (values[key] for key in ("loss.name", "loss.rare_below", "loss.mask_chance"))
    if loss not in EQUALIZED:
        return
    if not chance or not below:
        key = "loss.rare_below" if chance else "loss.mask_chance"
        yield f"loss.name={loss} is {EQUALIZED[loss]} when {key} is 0"
    elif len(counts) and min(counts) >= (least := below * sum(counts) / len(counts)):
        yield (
            f"loss.name={loss} is {EQUALIZED[loss]} here, because no class is rare: each has at least {min(counts)} "
            f"training images, and a rare class has fewer than {least:.4g}, loss.rare_below={below} times the mean"
        )


def _balanced_twice(values):
    by = [key for key in ("data.sampler", "data.synthesis", "evaluation.tau") if values[key] != KEYS[key].default]
    if values["weights.name"] in COUNT_WEIGHTS:
        by.append("weights.name")
    if values["loss.name"] in PRIOR_LOSSES and values["loss.tau"]:
        by.append("loss.name")
    if len(by) > 1:
        shown = " and ".join(f"{key}={values[key]}" for key in by)
        yield f"classes are balanced by their counts {len(by)} times, by {shown}: rare classes may get too much weight"


def _mix(values, mix):
    if (loss := values["loss.name"]) in ("ghm", "ghm_softmax"):
        yield f"mix.name must be none when loss.name is {loss}, whose histogram counts each image once; got {mix}"
    if values["meta.name"] != "none":
        yield f"mix.name must be none when meta.name is {values['meta.name']}, which weights single images; got {mix}"
    if values["sharpness.name"] == "imbsam":
        yield f"mix.name must be none when sharpness.name is imbsam, which parts images by class; got {mix}"
    apart = values["mix.start_epochs"] + values["mix.end_epochs"]
    if apart >= values["num_epochs"]:
        yield (
            f"mix.start_epochs + mix.end_epochs must be below num_epochs, {values['num_epochs']}, or nothing is mixed; "
            f"got {apart}"
        )


def _meta(values, meta):
    if not values["data.meta"]:
        yield f"data.meta must be above 0 when meta.name is {meta}, which needs meta images; got 0: try data.meta=10"
    loss = values["loss.name"]
    if loss not in ("softmax", "sigmoid", "focal") and not is_own(loss):
        yield f"loss.name must be softmax, sigmoid, focal or your own function when meta.name is {meta}; got {loss}"
    if values["loss.mean"] != "batch":
        yield f"loss.mean must be batch when meta.name is {meta}, with a mean of its own; got {values['loss.mean']}"
    if values["optim.accumulation"] > 1:
        yield f"optim.accumulation must be 1 when meta.name is {meta}; got {values['optim.accumulation']}"
    if values["devices"]:
        yield from divisible("meta.batch_size", values["meta.batch_size"], values["devices"])


def _stage(values, stage):
    if values["stage.source"] is None:
        yield f"stage.source must be the work directory of a finished run when stage.name is {stage}; got None"
    if stage in FITTED and (weights := values["weights.name"]) != "uniform":
        yield f"weights.name must be uniform when stage.name is {stage}, which trains nothing; got {weights}"
    if stage == "ncm" and (loss := values["loss.name"]) not in ("softmax", "ldam"):
        yield f"loss.name must be softmax, or ldam as in the first stage, when stage.name is ncm; got {loss}"
    if stage == "tau":
        if (loss := values["loss.name"]) == "ldam":
            yield f"stage.name must not be tau when loss.name is {loss}, whose head is normalised already; got tau"
        known = values["stage.tau"] is not None or values["data.name"] == "arrays" or is_streamed(values["data.name"])
        if not known and not values["data.validation"]:
            yield (
                "data.validation must be above 0 when stage.name is tau, whose power is chosen on held-out images; "
                "got 0: try data.validation=20 for both stages, or give stage.tau"
            )
    if stage == "oltr":
        yield from _oltr(values)
    if (path := values["model.pretrained"]) is not None:
        yield f"model.pretrained must be none when stage.name is {stage}, whose network comes from a run; got {path}"


def _oltr(values):
    if is_own(name := values["model.name"]):
        yield (
            "model.name must be a network of cbjax when stage.name is oltr, whose attention needs the activations "
            f"before the pooling; got {name}"
        )
    if (loss := values["loss.name"]) not in OLTR_LOSSES:
        yield f"loss.name must be {' or '.join(OLTR_LOSSES)} when stage.name is oltr; got {loss}"
    for key in ("loss.mean", "meta.name", "mix.name", "sharpness.name"):
        if values[key] != (needed := KEYS[key].default):
            yield f"{key} must be {needed} when stage.name is oltr, which has a loss of the features; got {values[key]}"
