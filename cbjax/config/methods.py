"""Methods by name, `--config.method=NAME`: each is nothing but ordinary keys, whose later values win."""

from collections.abc import Mapping
from typing import Any

from cbjax.config.parts import STAGES, SYNTHESES
from cbjax.config.schema import ConfigError, did_you_mean

KEY = "method"
# Every method sets these, so that it is the same method whatever the config's file has.
PLAIN: dict[str, Any] = {
    "loss.name": "softmax",
    "loss.mean": "batch",
    "weights.name": "uniform",
    "weights.start": 0.0,
    "data.sampler": "instance",
    "data.sampler_start": 0.0,
    "mix.name": "none",
    "meta.name": "none",
    "data.meta": 0,
    "sharpness.name": "none",
    "evaluation.tau": 0.0,
}
_DEFERRED = 0.8  # of training: 160 of 200 epochs in LDAM-DRW's code
# Name -> what it sets besides. Numbers that are not here keep the config's values.
METHODS: dict[str, dict[str, Any]] = {
    "ce": {},
    "inverse_frequency": {"weights.name": "inverse_frequency"},
    "inverse_sqrt": {"weights.name": "inverse_sqrt_frequency"},
    "cb_softmax": {"weights.name": "class_balanced"},
    "cb_sigmoid": {"loss.name": "sigmoid", "weights.name": "class_balanced"},
    "cb_focal": {"loss.name": "focal", "weights.name": "class_balanced"},
    "focal": {"loss.name": "focal"},
    "softmax_focal": {"loss.name": "softmax_focal"},
    "cdb": {"weights.name": "difficulty"},
    "cdb_focal": {"loss.name": "focal", "weights.name": "difficulty"},
    "ldam": {"loss.name": "ldam"},
    "ldam_drw": {
        "loss.name": "ldam",
        "loss.mean": "weight_sum",
        "weights.name": "class_balanced",
        "weights.beta": 0.9999,
        "weights.start": _DEFERRED,
    },
    "eql": {"loss.name": "eql"},
    "softmax_eql": {"loss.name": "softmax_eql"},
    "ghm": {"loss.name": "ghm"},
    "logit_adjustment": {"evaluation.tau": 1.0},
    "balanced_softmax": {"loss.name": "logit_adjusted", "loss.tau": 1.0},
    "vs": {"loss.name": "vs"},
    "poly": {"loss.name": "poly"},
    "oversample": {"data.sampler": "oversample"},
    "undersample": {"data.sampler": "undersample"},
    "class_aware": {"data.sampler": "class_aware"},
    "sqrt_sampling": {"data.sampler": "square_root"},
    "progressive": {"data.sampler": "progressive"},
    "deferred_resampling": {"data.sampler": "class_balanced", "data.sampler_start": _DEFERRED},
    "l2rw": {"meta.name": "l2rw", "data.meta": 10},
    "mw_net": {"meta.name": "mw_net", "data.meta": 10},
    "mixup": {"mix.name": "mixup"},
    "remix": {"mix.name": "remix"},
    "cutmix": {"mix.name": "cutmix", "mix.chance": 0.5},
    "cmo": {"mix.name": "cmo", "mix.chance": 0.5, "mix.start_epochs": 4, "mix.end_epochs": 3},
    "sam": {"sharpness.name": "sam"},
    "imbsam": {"sharpness.name": "imbsam"},
}
# Methods on the pages that are no name of `config.method` -> how each is asked for.
ELSEWHERE = {
    **{name: f"data.synthesis={name}, with any method" for name in SYNTHESES[1:]},
    **{name: f"a second stage, `cbjax stage2 --from=DIR --method={name}`" for name in STAGES[1:]},
    **{name: f"for a finished run, `cbjax eval --calibrate={name}`" for name in ("temperature", "thresholds")},
    "cdb_smoothed": "method=cdb with difficulty.smoothing=0.8",
    # Other names of methods, in small letters.
    **dict.fromkeys(("cb", "class_balanced", "cb_loss"), "method=cb_focal, cb_softmax or cb_sigmoid"),
    **dict.fromkeys(("cross_entropy", "softmax", "erm", "baseline"), "method=ce"),
}


def keys_of(name: str) -> Mapping[str, Any]:
    """Returns the keys and values that a method sets; raises ConfigError with the nearest name for an unknown one."""
    if not isinstance(name, str) or name not in METHODS:
        other = ELSEWHERE.get(name.lower().replace("-", "_")) if isinstance(name, str) else None
        hint = did_you_mean(name, METHODS) if other is None else f"; {name} is {other}"
        raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {name!r}{hint}")
    return PLAIN | METHODS[name]


def expand(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the keys of a method in the place of "method"; the other keys win over them. Raises ConfigError."""
    others = {key: value for key, value in changes.items() if key != KEY}
    return {**keys_of(changes[KEY]), **others} if KEY in changes else others
