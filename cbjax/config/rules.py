"""Checks which configuration values go together, as far as this can be said without data and devices."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cbjax.config import batch_rules, method_rules, streamed_rules
from cbjax.config.image_sources import OF_CLIPS, SOURCES, STREAMED, is_streamed
from cbjax.config.parts import (
    CIFAR_RESNETS,
    COUNT_WEIGHTS,
    DEEP_RESNETS,
    FITTED,
    MIXES,
    MODELS,
    OLTR_NUMBERS,
    STAGES,
    SYNTHESES,
    VIDEO_MODELS,
)
from cbjax.config.schema import KEYS, REQUIRED, show
from cbjax.host.code import FORM, is_own

OWN = (FORM,)
SOME = ("above 0",)
# Samplers that can begin late. "progressive" begins with the images' frequencies anyway.
DEFERRED = ("class_aware", "square_root", "oversample", "undersample", "class_balanced")
# A key in the first column has an effect only if the key in the second has one of the values in the third.
EFFECTS = (
    ("loss.gamma", "loss.name", ("focal", "softmax_focal")),
    ("loss.epsilon", "loss.name", ("poly",)),
    ("loss.max_margin", "loss.name", ("ldam",)),
    ("loss.scale", "loss.name", ("ldam",)),
    ("loss.tau", "loss.name", ("logit_adjusted", "vs")),
    ("loss.divisor_power", "loss.name", ("vs",)),
    ("loss.rare_below", "loss.name", ("eql", "softmax_eql")),
    ("loss.mask_chance", "loss.name", ("eql", "softmax_eql")),
    ("loss.bins", "loss.name", ("ghm", "ghm_softmax")),
    ("loss.momentum", "loss.name", ("ghm", "ghm_softmax")),
    ("meta.batch_size", "meta.name", ("l2rw", "mw_net")),
    ("data.meta", "meta.name", ("l2rw", "mw_net")),
    ("meta.variant", "meta.name", ("mw_net",)),
    ("meta.network_optimizer", "meta.name", ("mw_net",)),
    ("meta.network_rate", "meta.name", ("mw_net",)),
    ("meta.network_decay", "meta.name", ("mw_net",)),
    ("sharpness.radius", "sharpness.name", ("sam", "imbsam")),
    ("sharpness.tail_below", "sharpness.name", ("imbsam",)),
    ("mix.alpha", "mix.name", MIXES[1:]),
    ("mix.kappa", "mix.name", ("remix",)),
    ("mix.tau", "mix.name", ("remix",)),
    ("mix.chance", "mix.name", MIXES[1:]),
    ("mix.start_epochs", "mix.name", MIXES[1:]),
    ("mix.end_epochs", "mix.name", MIXES[1:]),
    ("stage.source", "stage.name", STAGES[1:]),
    ("stage.tau", "stage.name", ("tau",)),
    ("stage.similarity", "stage.name", ("ncm",)),
    ("stage.batch_norm", "stage.name", ("crt", "lws", "oltr")),
    *((key, "stage.name", ("oltr",)) for key in ("oltr.form", "oltr.backbone", *OLTR_NUMBERS)),
    ("weights.beta", "weights.name", ("class_balanced",)),
    ("weights.zero_count", "weights.name", COUNT_WEIGHTS),
    ("weights.start", "weights.name", (*COUNT_WEIGHTS, "difficulty")),
    ("difficulty.tau", "weights.name", ("difficulty",)),
    ("difficulty.formula", "weights.name", ("difficulty",)),
    ("difficulty.formula", "difficulty.tau", ("dynamic",)),
    ("difficulty.floor", "weights.name", ("difficulty",)),
    ("difficulty.smoothing", "weights.name", ("difficulty",)),
    ("difficulty.scale", "weights.name", ("difficulty",)),
    ("data.file", "data.name", ("arrays",)),
    ("data.root", "data.name", OF_CLIPS),
    ("data.frames", "data.name", OF_CLIPS),
    ("data.rotation", "data.frames", SOME),
    ("data.evaluation_frames", "data.frames", SOME),
    ("data.egtea_split", "data.name", ("egtea",)),
    ("data.train_list", "data.name", ("list", "csv")),
    ("data.validation_list", "data.name", ("list", "csv")),
    ("data.test_list", "data.name", ("list", "csv")),
    ("data.padding_mode", "data.crop_padding", SOME),
    ("data.image_size", "data.name", STREAMED),
    ("data.resize", "data.name", STREAMED),
    ("data.crop", "data.name", STREAMED),
    ("data.crop_area", "data.name", STREAMED),
    ("data.crop_area", "data.crop", ("area",)),
    ("data.color_jitter", "data.name", STREAMED),
    ("data.on_bad_image", "data.name", STREAMED),
    ("data.max_pixels", "data.name", STREAMED),
    ("data.threads", "data.name", STREAMED),
    ("data.workers", "data.name", STREAMED),
    ("data.images_per_class", "data.sampler", ("class_aware",)),
    ("data.sampler_beta", "data.sampler", ("class_balanced",)),
    ("data.sampler_start", "data.sampler", DEFERRED),
    ("data.imbalance", "data.longtail", ("exponential", "step")),
    ("data.counts", "data.longtail", ("counts",)),
    ("data.majority_ratio", "data.longtail", ("majority",)),
    ("data.train_size", "data.longtail", ("majority",)),
    ("data.synthesis_neighbours", "data.synthesis", SYNTHESES[1:]),
    ("loss.label_smoothing", "loss.name", ("softmax",)),
    ("model.options", "model.name", OWN),
    ("loss.options", "loss.name", OWN),
    ("model.initialization", "model.name", tuple(MODELS)),
    ("model.shortcut", "model.name", CIFAR_RESNETS),
    ("model.batch_norm_size", "model.name", (*CIFAR_RESNETS, *DEEP_RESNETS)),
    ("model.zero_last_scale", "model.name", DEEP_RESNETS),
    ("model.channels", "model.name", VIDEO_MODELS),
    ("model.dtype", "model.name", DEEP_RESNETS),
    ("model.remat", "model.name", DEEP_RESNETS),
    ("model.pretrained", "model.name", DEEP_RESNETS),
    ("optim.decay_at", "optim.schedule", ("step",)),
    ("optim.decay_factor", "optim.schedule", ("step",)),
)
# Keys whose default means "off". Any other value asks for something, so it is refused if it has no effect, wherever it
# was set. All other keys may keep a value that has no effect: a recipe's beta stays when weights.name=uniform is given.
# They are refused only if they are given for this very run.
STATEMENTS = (
    "weights.start",
    "data.sampler_start",
    "data.file",
    "data.root",
    "data.frames",
    "data.rotation",
    "data.evaluation_frames",
    "data.egtea_split",
    "data.train_list",
    "data.validation_list",
    "data.test_list",
    "data.color_jitter",
    "data.imbalance",
    "data.counts",
    "data.majority_ratio",
    "data.train_size",
    "loss.label_smoothing",
    "model.batch_norm_size",
    "model.channels",
    "model.options",
    "loss.options",
    "model.pretrained",
    "stage.source",
)
# Beginnings of keys that say how a network is trained.
OF_TRAINING = ("num_epochs", "optim.", "mix.", "meta.", "sharpness.", "data.sampler")
# Groups must not have these names: NAME_accuracy and NAME_precision are already names of other figures.
TAKEN_GROUPS = ("many", "medium", "few", "balanced", "worst", "top5", "macro", "mean_average")
WARMUPS = ("optim.warmup", "optim.warmup_epochs", "optim.warmup_steps")


def problems(values: Mapping[str, Any], given: Collection[str] = ()) -> list[str]:
    """Lists what is wrong with a combination of values, each of which is right alone.

    Args:
      values: dotted key -> value, for every key.
      given: keys that were set for this one run, on the command line or in a sweep.

    Returns:
      One line for each problem, with the key, the rule and the value.
    """
    missing = [f"{key} must be set: {KEYS[key].kind.rule}; got None" for key in REQUIRED if values[key] is None]
    return missing or [
        *_without_effect(values, given),
        *_data(values),
        *streamed_rules.problems(values),
        *_optim(values),
        *method_rules.problems(values),
        *_groups(values),
        *_batch_sizes(values),
    ]


def without_effect(key: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yields why a key has no effect together with the other values; nothing if it has one."""
    for one, on, where in EFFECTS:
        if one == key and not _applies(values[on], where):
            yield (
                f"{key} must stay at {KEYS[key].default} unless {on} is {' or '.join(where)}: it has no effect "
                f"when {on} is {_shown(values[on])}; got {_shown(values[key])}"
            )


def has_effect(key: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a key has an effect together with the other values, which may lack some keys."""
    return all(_applies(values[on], where) for one, on, where in EFFECTS if one == key and on in values)


def _applies(value: Any, where: tuple[Any, ...]) -> bool:
    if where == SOME:
        return value > 0
    return value in where or (where == STREAMED and is_streamed(value)) or (where == OWN and is_own(value))


def scaled_learning_rate(values: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the learning rate after the warm-up and the one at step 0, both for this batch size."""
    base, reference = values["optim.learning_rate"], values["optim.reference_batch_size"]
    rate = base if reference is None else base * values["batch_size"] / reference
    warmup_from = values["optim.warmup_from"]
    return rate, min(base, rate) if warmup_from == "base" else warmup_from


def _without_effect(values, given):
    for key in dict.fromkeys(key for key, _, _ in EFFECTS):
        if values[key] != KEYS[key].default and (key in given or key in STATEMENTS):
            yield from without_effect(key, values)
    # These come from other keys that are given. A run that was trained with them can still be read.
    if "meta.name" in given and values["data.meta"]:
        yield from without_effect("data.meta", values)
    bias = values["model.final_bias"]
    if values["loss.name"] == "ldam" and bias != "auto" and {"loss.name", "model.final_bias"} & {*given}:
        yield f"model.final_bias must be auto when loss.name is ldam, whose head has no bias; got {bias}"
    if (stage := values["stage.name"]) in FITTED:
        for key in KEYS:
            if key in given and key.startswith(OF_TRAINING) and values[key] != KEYS[key].default:
                yield f"{key} has no effect when stage.name is {stage}, which trains nothing; got {_shown(values[key])}"


def _data(values):
    name, classes, longtail = values["data.name"], values["data.classes"], values["data.longtail"]
    source_classes, image_size = SOURCES.get(name, (None, None))
    if name == "arrays" and values["data.file"] is None:
        yield "data.file must be the .npz file to read when data.name is arrays; got None"
    may_bring_validation = name == "arrays" or is_streamed(name)
    if name == "digits" and not values["data.test"]:
        yield "data.test must be above 0 when data.name is digits, which brings no test images; got 0"
    if values["weights.name"] == "difficulty" and not values["data.validation"] and not may_bring_validation:
        yield (
            "data.validation must be above 0 when weights.name is difficulty, which is measured on held-out images; "
            "got 0: try data.validation=20"
        )
    if is_streamed(name):
        image_size = (values["data.image_size"],) * 2
    needed = MODELS.get(values["model.name"])
    takers = streamed_rules.takers(values)
    if needed and image_size and needed != image_size and values["model.name"] in takers:
        fitting = [model for model in takers if MODELS[model] in (None, image_size)]
        yield (
            f"model.name must be a network for {_size(image_size)} images when data.name is {name} "
            f"({', '.join(fitting)}); got {values['model.name']}, which needs {_size(needed)}"
            + (f": or set data.image_size={needed[0]}" if is_streamed(name) else "")
        )
    if classes and (len(classes) == 1 or len(set(classes)) < len(classes)):
        yield f"data.classes must be at least two different classes; got {show(classes)}"
    too_large = [label for label in classes if isinstance(label, int) and source_classes and label >= source_classes]
    if too_large:
        yield f"data.classes must be below {source_classes}, the number of classes of {name}; got {too_large[0]}"
    num_classes = len(classes) or source_classes
    if longtail == "counts":
        counts = values["data.counts"]
        if not counts or (num_classes and len(counts) != num_classes):
            yield (
                f"data.counts must have a number for each of the {num_classes or 'C'} classes when data.longtail is "
                f"counts; got {len(counts)} of them"
            )
        if 0 in counts and values["weights.name"] in COUNT_WEIGHTS and values["weights.zero_count"] == "error":
            yield (
                f"data.counts must be above 0 for {values['weights.name']} weights; got 0 for class {counts.index(0)}: "
                "or set weights.zero_count=ignore"
            )
    if longtail == "majority":
        if values["data.majority_ratio"] is None:
            yield "data.majority_ratio must be set when data.longtail is majority; got None"
        if num_classes not in (2, None):
            yield (
                f"data.classes must be two when data.longtail is majority, the larger first; got {num_classes} "
                "classes: try data.classes=9,4"
            )


def _optim(values):
    warmups = [key for key in WARMUPS if values[key]]
    if len(warmups) > 1:
        listed = " and ".join(f"{key}={values[key]}" for key in warmups)
        yield f"at most one of {', '.join(WARMUPS)} may be set, the others must be 0; got {listed}"
    rate, rate_from = scaled_learning_rate(values)
    if values["optim.warmup_from"] and not warmups:
        yield f"optim.warmup_from must stay at 0 without a warm-up; got {values['optim.warmup_from']}"
    if rate_from > rate:
        yield f"optim.warmup_from must be at most optim.learning_rate, {rate:g} for this batch; got {rate_from}"
    # A warm-up in steps is not checked here: the number of steps in an epoch is known only with the data.
    fraction = values["optim.warmup"] or (values["optim.warmup_epochs"] or 0) / values["num_epochs"]
    end, what = (
        (values["optim.decay_at"][0], "the first of optim.decay_at")
        if values["optim.schedule"] == "step"
        else (1.0, "the end of training")
    )
    if fraction > end or fraction == 1:
        yield f"{warmups[0]} must end by {what}, {end} of num_epochs={values['num_epochs']}; got {values[warmups[0]]}"
    if values["optim.nesterov"] and not values["optim.momentum"]:
        yield "optim.nesterov must be false when optim.momentum is 0; got True"


def _groups(values):
    groups = values["evaluation.groups"]
    names = [name for name, _ in groups]
    for name in dict.fromkeys(names):
        if name in TAKEN_GROUPS:
            yield f"evaluation.groups must not be named {', '.join(TAKEN_GROUPS)}: other figures are; got {name}"
        if names.count(name) > 1:
            yield f"evaluation.groups must have different names; got {name} {names.count(name)} times"
    for name, members in groups:
        if twice := [member for member in dict.fromkeys(members) if members.count(member) > 1]:
            yield f"evaluation.groups must name each class once in a group; got {show(twice[0])} again in {name}"


def _batch_sizes(values):
    # A batch that one device cannot cut, several cannot cut either.
    yield from batch_rules.shares(values, values["devices"] or 1)
    if values["devices"] and values["evaluation.batch_size"]:
        yield from batch_rules.divisible("evaluation.batch_size", values["evaluation.batch_size"], values["devices"])


def _size(image_size):
    return "x".join(map(str, image_size))


def _shown(value):
    return value if isinstance(value, str) and len(value) <= 80 else show(value)
