"""Every configuration key in one table: its type and range, its default, and what it is for."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cbjax.config.image_sources import SOURCES, TFDS_PREFIX
from cbjax.config.kinds import (
    BrokenRule,
    Kind,
    boolean,
    choice,
    either,
    integer,
    named_groups,
    number,
    option,
    options,
    own_code,
    place_or_name,
    prefixed,
    several,
    text,
)
from cbjax.config.parts import (
    LONGTAILS,
    LOSSES,
    META_METHODS,
    MIXES,
    MODELS,
    NORMALIZATIONS,
    SAMPLERS,
    SHARPNESS,
    SHORTCUTS,
    SIMILARITIES,
    STAGES,
    SYNTHESES,
    TAU_FORMULAS,
    WEIGHTS,
)
from cbjax.config.unknown import did_you_mean, show, unknown_key


class ConfigError(ValueError):
    """A configuration cannot be used; the message says all that its author needs to know."""


class Key(NamedTuple):
    """A configuration key. A default of None means "not given"; such a key also accepts None."""

    default: Any
    kind: Kind
    doc: str


_COUNT_OR_FRACTION = either(integer(0), number(above=0, below=1))
_CLASS = place_or_name("a class name")

# Ranges end beyond what anybody means: a slip of the finger gives a message at once, not a full memory or an overflow.
KEYS: dict[str, Key] = {
    "seed": Key(0, integer(0, 2**32 - 1), "random seed of the run"),
    "num_epochs": Key(100, integer(1, 10**6), "passes over the training images; schedules are fractions of it"),
    "batch_size": Key(128, integer(1, 10**6), "images in a step, a multiple of the number of devices"),
    "parallel": Key("shard_map", choice("shard_map", "pmap"), "how a step runs on several devices; equal results"),
    "devices": Key(None, integer(1, 10**6), "number of local devices to use (none: all)"),
    "deterministic": Key(False, boolean(), "repeat a run to the bit on a GPU, somewhat slower"),
    "steps_per_dispatch": Key(
        None, integer(1, 10**5), "steps in one dispatch (none: an epoch; 1 on CPU with convolutions)"
    ),
    "data.name": Key(None, either(choice(*SOURCES), prefixed(TFDS_PREFIX, "NAME")), "data set"),
    "data.data_dir": Key(None, text("a folder"), "TFDS folder (none: CBJAX_DATA_DIR, else TFDS's own)"),
    "data.file": Key(None, text("a .npz file"), "the user's file (arrays)"),
    "data.root": Key(None, text("a folder"), "folder of the images (list, csv; none: the list's folder)"),
    "data.train_list": Key(None, text("a file"), "training images, `path label` a line (list) or a table (csv)"),
    "data.validation_list": Key(None, text("a file"), "the same for validation images"),
    "data.test_list": Key(None, text("a file"), "the same for test images"),
    "data.seed": Key(None, integer(0, 2**32 - 1), "seed of splits and subsets (none: seed)"),
    "data.classes": Key((), several(_CLASS), "classes to keep, in order; () for all"),
    "data.longtail": Key("natural", choice(*LONGTAILS), "how training images are made imbalanced"),
    "data.imbalance": Key(1.0, number(low=1, high=1e9), "largest over smallest class (exponential, step)"),
    "data.counts": Key((), several(integer(0)), "training images of each class (counts)"),
    "data.majority_ratio": Key(None, number(low=0.5, below=1), "share of class 0 among two classes (majority)"),
    "data.train_size": Key(None, integer(2), "training images in total (majority; none: as many as possible)"),
    "data.validation": Key(0, _COUNT_OR_FRACTION, "training images held out per class, a number or a fraction"),
    "data.test": Key(0, _COUNT_OR_FRACTION, "test images per class, a number or a fraction (0: the whole test split)"),
    "data.meta": Key(0, _COUNT_OR_FRACTION, "meta images held out per class, a number or a fraction"),
    "data.synthesis": Key(
        "none", choice(*SYNTHESES), "images made up between those of rare classes; needs pip install 'cbjax[smote]'"
    ),
    "data.synthesis_neighbours": Key(
        5, integer(1, 10**6), "an image is moved towards one of so many nearest images of its class (synthesis)"
    ),
    "data.normalization": Key("standardize", choice(*NORMALIZATIONS), "how pixels are scaled"),
    "data.crop_padding": Key(0, integer(0, 4096), "pixels of padding before a random crop (0: no crop)"),
    "data.padding_mode": Key("zero", choice("zero", "reflect"), "what the padding holds"),
    "data.flip": Key(False, boolean(), "random horizontal flips"),
    "data.image_size": Key(224, integer(1, 4096), "side of the network's input (images read as they are needed)"),
    "data.resize": Key(
        None, integer(1, 8192), "shorter side before the centre crop of evaluation (none: 8/7 image_size)"
    ),
    "data.frames": Key(
        0, integer(0, 10**4), "frames taken from each clip (list, csv, folder, egtea); 0: the data are images"
    ),
    "data.rotation": Key(0.0, number(low=0, high=180), "most degrees by which a clip is turned, either way (frames)"),
    "data.evaluation_frames": Key(
        "middle", choice("middle", "random"), "frames of each segment of a clip in evaluation (frames)"
    ),
    "data.egtea_split": Key(1, integer(1, 3), "which of EGTEA's three splits (egtea)"),
    "data.crop": Key("area", choice("area", "square"), "random crop; square: as large as fits"),
    "data.crop_area": Key(0.08, number(above=0, high=1), "least share of the area in a random crop; 1: all, to 4:3"),
    "data.color_jitter": Key(0.0, number(low=0, high=1), "most change of brightness, contrast, saturation; 0 for none"),
    "data.on_bad_image": Key("error", choice("error", "skip"), "what to do with an image that cannot be read"),
    "data.max_pixels": Key(178_956_970, integer(1, 2**40), "most pixels of an image file; a larger one is a bad image"),
    "data.threads": Key(None, integer(1, 256), "threads that decode images, in each worker (none: one a core in all)"),
    "data.workers": Key(0, integer(0, 256), "processes that decode images, about one for 4 cores (0: threads only)"),
    "data.sampler": Key("instance", choice(*SAMPLERS), "which images an epoch holds"),
    "data.images_per_class": Key(4, integer(1, 10**6), "images taken from a class in a row (class_aware)"),
    "data.sampler_beta": Key(0.9999, number(low=0, high=1), "beta of the effective number (sampler class_balanced)"),
    "data.sampler_start": Key(0.0, number(low=0, below=1), "fraction of training with the sampler instance first"),
    "model.name": Key(None, either(choice(*MODELS), own_code()), "network"),
    "model.options": Key((), options("model.options.width=2"), "keyword arguments of your own network"),
    "model.code": Key(None, text("a SHA-256"), "checksum of the file of your own network; cbjax fills it in"),
    "model.shortcut": Key("average", choice(*SHORTCUTS), "shortcuts in CIFAR's ResNets when the size changes"),
    "model.initialization": Key("glorot", choice("glorot", "he"), "first values of the kernels"),
    "model.head": Key(
        "auto", choice("auto", "linear", "normalized"), "normalized: cosines of features; auto: that for ldam"
    ),
    "model.final_bias": Key(
        "auto", choice("auto", "zero", "prior"), "last bias; prior is -log(C-1), auto is zero for softmax"
    ),
    "model.batch_norm_size": Key(
        None,
        either(choice("all"), integer(1, 10**6)),
        "images that share BatchNorm's statistics (none: those of a device; all: the batch)",
    ),
    "model.zero_last_scale": Key(True, boolean(), "blocks of ImageNet's and 3D ResNets start as identities"),
    "model.channels": Key("rgb", choice("rgb", "bgr"), "order in which the network sees the colours (3D ResNets)"),
    "model.dtype": Key("float32", choice("float32", "bfloat16"), "type of activations; parameters stay float32"),
    "model.remat": Key(False, boolean(), "compute blocks twice, to save memory"),
    "model.pretrained": Key(None, text("a .safetensors or .npz file"), "first weights, named as torchvision's"),
    "loss.name": Key("softmax", either(choice(*LOSSES), own_code()), "loss"),
    "loss.options": Key((), options("loss.options.margin=2"), "keyword arguments of your own loss"),
    "loss.code": Key(None, text("a SHA-256"), "checksum of the file of your own loss; cbjax fills it in"),
    "loss.gamma": Key(1.0, number(low=0, high=100), "focusing power (focal, softmax_focal)"),
    "loss.epsilon": Key(2.0, number(low=-1, high=100), "how much 1 - p of the true class adds (poly)"),
    "loss.max_margin": Key(0.5, number(low=0, high=100), "margin of the rarest class (ldam)"),
    "loss.scale": Key(30.0, number(above=0, high=1e4), "what the cosines are multiplied by (ldam)"),
    "loss.tau": Key(1.0, number(low=0, high=100), "power of the classes' shares (logit_adjusted, vs)"),
    "loss.divisor_power": Key(
        0.3, number(low=0, high=100), "power of largest count / count, which a class's logit is divided by (vs)"
    ),
    "loss.rare_below": Key(
        0.5, number(low=0, high=1e6), "a class is rare with fewer images than this times the mean (eql, softmax_eql)"
    ),
    "loss.mask_chance": Key(
        0.9, number(low=0, high=1), "chance that an image of another class does not teach a rare one (eql, softmax_eql)"
    ),
    "loss.bins": Key(30, integer(2, 10**4), "bins of the gradients' norms (ghm, ghm_softmax)"),
    "loss.momentum": Key(0.75, number(low=0, below=1), "share of a bin's earlier counts kept (ghm, ghm_softmax)"),
    "loss.label_smoothing": Key(0.0, number(low=0, below=1), "share of the label spread over all classes (softmax)"),
    "loss.mean": Key("batch", choice("batch", "weight_sum"), "what divides the sum of the losses"),
    "weights.name": Key("uniform", choice(*WEIGHTS), "class weights; difficulty is CDB"),
    "weights.beta": Key(0.9999, number(low=0, high=1), "beta of the effective number (class_balanced)"),
    "weights.zero_count": Key("error", choice("error", "ignore"), "what to do about a class without training images"),
    "weights.start": Key(0.0, number(low=0, below=1), "fraction of training with equal weights first (DRW)"),
    "difficulty.tau": Key("dynamic", either(choice("dynamic"), number(low=0, high=100)), "power of the difficulty"),
    "difficulty.formula": Key("paper", choice(*TAU_FORMULAS), "form of the dynamic tau"),
    "difficulty.floor": Key(0.01, number(low=0, below=1), "least difficulty (the paper: 0)"),
    "difficulty.smoothing": Key(0.0, number(low=0, below=1), "share of the last accuracies to keep, against swings"),
    "difficulty.scale": Key(True, boolean(), "scale the weights to sum to the number of classes"),
    "meta.name": Key("none", choice(*META_METHODS), "weights of each image from a step on meta images"),
    "meta.batch_size": Key(100, integer(1, 10**6), "meta images in a step, a multiple of the number of devices"),
    "meta.variant": Key("imbalance", choice("imbalance", "noise"), "published code that is followed (mw_net)"),
    "meta.network_optimizer": Key("sgd", choice("sgd", "adam"), "sgd has Nesterov's momentum of 0.9 (mw_net)"),
    "meta.network_rate": Key(1e-5, number(low=0, high=1e6), "constant learning rate of the weighting network (mw_net)"),
    "meta.network_decay": Key(5e-4, number(low=0, high=1e6), "weight decay of the weighting network (mw_net)"),
    "sharpness.name": Key("none", choice(*SHARPNESS), "gradients where the loss is higher, for a flat minimum"),
    "sharpness.radius": Key(0.05, number(low=0, high=1e3), "how far from the parameters that gradient is taken"),
    "sharpness.tail_below": Key(
        20, integer(1, 10**9), "a class with fewer training images is a tail class, the only ones to flatten (imbsam)"
    ),
    "mix.name": Key("none", choice(*MIXES), "how training images are mixed in pairs"),
    "mix.alpha": Key(1.0, number(low=1e-3, high=1e3), "the share of an image is drawn from Beta(alpha, alpha)"),
    "mix.kappa": Key(3.0, number(low=1, high=1e9), "a class is rare if the other has so many times its images (remix)"),
    "mix.tau": Key(0.5, number(low=0, high=1), "a rare label takes all if the other's share is below this (remix)"),
    "mix.chance": Key(1.0, number(low=0, high=1), "probability that a batch is mixed"),
    "mix.start_epochs": Key(0, integer(0, 10**6), "first epochs without mixing"),
    "mix.end_epochs": Key(0, integer(0, 10**6), "last epochs without mixing"),
    "stage.name": Key("none", choice(*STAGES), "second stage of training, from the network of a finished run"),
    "stage.source": Key(None, text("a work directory"), "the finished run"),
    "stage.checksum": Key(None, text("a SHA-256"), "checksum of the finished run's results; cbjax fills it in"),
    "stage.batch_norm": Key("eval", choice("eval", "train"), "the frozen layers' mode; train: statistics move"),
    "stage.tau": Key(None, number(low=0, high=100), "power of the norms (none: the best of 0, 0.1 … 2 on validation)"),
    "stage.similarity": Key(
        "cosine", choice(*SIMILARITIES), "how near an image's features are to a class's mean (ncm)"
    ),
    "oltr.form": Key("authors_code", choice("authors_code", "paper"), "form of the meta-embedding"),
    "oltr.backbone": Key("trained", choice("trained", "frozen"), "whether the network of the first stage goes on"),
    "oltr.backbone_rate": Key(0.1, number(low=0, high=1e3), "learning rate of the features over the classifier's"),
    "oltr.memory_rate": Key(0.1, number(low=0, high=1e3), "learning rate of the centroids over the classifier's"),
    "oltr.feature_weight": Key(0.01, number(low=0, high=1e6), "what the loss of the features is multiplied by"),
    "oltr.repulsion": Key(0.01, number(low=0, high=1e6), "weight of the distance to other classes in that loss"),
    "oltr.margin": Key(10.0, number(low=0, high=1e9), "mean squared distance from which other classes do not repel"),
    "optim.learning_rate": Key(0.1, number(low=1e-30, high=1e30), "base learning rate"),
    "optim.reference_batch_size": Key(
        None,
        integer(1, 10**6),
        "batch size that learning_rate is meant for; the rate is scaled to batch_size (none: not scaled)",
    ),
    "optim.accumulation": Key(
        1, integer(1, 10**6), "parts of a batch that a step computes one after another, to save memory"
    ),
    "optim.momentum": Key(0.9, number(low=0, below=1), "momentum of SGD"),
    "optim.nesterov": Key(False, boolean(), "Nesterov's momentum"),
    "optim.weight_decay": Key(2e-4, number(low=0, high=1e6), "L2 added to the gradient"),
    "optim.decay_rule": Key("all", choice("all", "kernels"), "parameters that decay; kernels: no BatchNorm, no bias"),
    "optim.schedule": Key("step", choice("step", "cosine", "constant"), "learning rate over training"),
    "optim.decay_at": Key((0.8, 0.9), several(number(above=0, high=1), increasing=True), "when it drops (step)"),
    "optim.decay_factor": Key(0.01, number(above=0, high=1), "factor of each drop (step)"),
    "optim.warmup": Key(0.0, number(low=0, below=1), "linear warm-up, as a fraction of num_epochs"),
    "optim.warmup_epochs": Key(None, number(low=0, high=1e6), "the same in epochs"),
    "optim.warmup_steps": Key(None, integer(0), "the same in steps"),
    "optim.warmup_from": Key(
        0.0,
        either(choice("base"), number(low=0, high=1e6)),
        "learning rate at step 0 of the warm-up; base: learning_rate, not scaled",
    ),
    "evaluation.batch_size": Key(None, integer(1, 10**6), "images in a step of evaluation (none: batch_size)"),
    "evaluation.test_every": Key(
        0, integer(0, 10**6), "epochs between test evaluations, for curves only (0: at the end)"
    ),
    "evaluation.tau": Key(
        0.0, number(low=0, high=100), "power of the classes' shares that answers are divided by (0: none)"
    ),
    "evaluation.groups": Key((), named_groups(_CLASS), "groups of classes whose recall and precision are given"),
    "checkpoint.every_epochs": Key(1, integer(1, 10**6), "epochs between checkpoints of a run alone"),
    "checkpoint.every_minutes": Key(
        10.0, number(above=0), "minutes between checkpoints within an epoch, and of runs trained at once"
    ),
    "checkpoint.keep": Key(
        "newest", choice("newest", "all"), "all: every checkpoint of a run alone, for its trajectory (cbjax landscape)"
    ),
    "log.tensorboard": Key(True, boolean(), "write TensorBoard event files"),
    "log.report": Key(True, boolean(), "write report.md and its pictures at the end"),
    "log.progress": Key(
        "auto",
        choice("auto", "on", "lines", "off"),
        "on: a bar; lines: a line an epoch, at most every 5 s; auto: a bar at a terminal, lines elsewhere",
    ),
}
SECTIONS = tuple(dict.fromkeys(key.split(".")[0] for key in KEYS if "." in key))
OPTIONS = ("model.options", "loss.options")  # keys of names with values, each of which can also be given by itself
REQUIRED = ("data.name", "model.name")  # these have no default: no guess would fit the user's data


def accept(values: Mapping[str, Any], as_text: bool = False) -> dict[str, Any]:
    """Checks values and gives each its key's type.

    Args:
      values: dotted key -> value.
      as_text: whether the values are text of the command line.

    Returns:
      Dotted key -> value in the form in which it is kept.

    Raises:
      ConfigError: lists every unknown key and every value that breaks its key's rule.
    """
    accepted: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        if key not in KEYS and not is_option(key):
            problems.append(unknown_key(key, value, KEYS))
            continue
        default, kind, _ = entry(key)
        if default is None and (value is None or (as_text and value.lower() in ("none", "null"))):
            accepted[key] = None
            continue
        try:
            accepted[key] = kind.accept(kind.read(value) if as_text else _plain(value))
        except (ValueError, OverflowError) as error:
            reason = f"; {error}" if isinstance(error, BrokenRule) else did_you_mean(value, kind.names)
            problems.append(f"{key} must be {rule(key)}; got {show(value)}{reason}")
    refuse(problems)
    return accepted


def is_option(key: str) -> bool:
    """Says whether a key is that of one option, "model.options.width"."""
    section, _, name = key.rpartition(".") if isinstance(key, str) else ("", "", "")
    return section in OPTIONS and name.isidentifier()


def entry(key: str) -> Key:
    """Returns what is known of a key, also of that of one option."""
    return Key((), option(), "") if is_option(key) else KEYS[key]


def refuse(problems: Iterable[str]) -> None:
    """Raises ConfigError with all problems, a line each; does nothing if there are none."""
    lines = list(problems)
    if lines:
        raise ConfigError("\n".join(lines))


def rule(key: str) -> str:
    """Says what the value of the key must be."""
    default, kind, _ = entry(key)
    return f"{kind.rule}, or none" if default is None and key not in REQUIRED else kind.rule


def _plain(value: Any) -> Any:
    """Turns arrays and numbers of NumPy or JAX into lists and numbers of Python."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "shape") else value
