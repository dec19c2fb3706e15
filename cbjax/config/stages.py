"""Second stages of training: the finished run that one begins from, and the keys that the papers' methods have."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cbjax.config.schema import KEYS, ConfigError
from cbjax.host.storage import PathError, as_path

# What a first stage may have had and no second stage has.
_PLAIN = (
    *("model.pretrained", "evaluation.tau", "weights.name", "weights.start"),
    *("stage.batch_norm", "stage.tau", "stage.similarity"),
)
# Decoupling trains again with cross entropy, each class as often as the others, and the cosine from its full rate.
_PLAIN_TRAINING = (
    *("loss.name", "loss.mean", "loss.options", "model.head", "sharpness.name"),
    *(
        "meta.name",
        "data.meta",
        "data.sampler_start",
        "data.synthesis",
        "optim.warmup",
        "optim.warmup_epochs",
        "optim.warmup_steps",
    ),
    *("optim.warmup_from", "mix.name", "mix.start_epochs", "mix.end_epochs"),
)
_BALANCED = {"data.sampler": "class_aware", "optim.schedule": "cosine"}
# The authors' epochs for ImageNet-LT, where the first stage has 90. Class means are over each training image once.
_RECIPES: dict[str, dict[str, Any]] = {
    "crt": {**_BALANCED, "num_epochs": 10},
    "lws": {**_BALANCED, "num_epochs": 5},
    "ncm": {"data.sampler": "instance"},
    # OLTR's authors' settings: twice the first stage's epochs, and the rate x 0.1 after each third. BatchNorm goes on.
    "oltr": {
        "num_epochs": 60,
        "data.sampler": "class_aware",
        "data.images_per_class": 4,
        "stage.batch_norm": "train",
        "optim.schedule": "step",
        "optim.decay_at": (1 / 3, 2 / 3),
        "optim.decay_factor": 0.1,
    },
}


def second_stage(first: Mapping[str, Any], method: str, source: str) -> dict[str, Any]:
    """Returns the keys of a second stage, combinations unchecked.

    Args:
      first: dotted key -> value, of the finished run.
      method: a `stage.name`.
      source: the work directory of the finished run.

    Source: Kang et al. 2020 and Liu et al. 2019 (OLTR), and the authors' settings for ImageNet-LT.
    """
    plain = [*_PLAIN, *(_PLAIN_TRAINING if method in _RECIPES else ())]
    if method in ("lws", "ncm") and first["loss.name"] == "ldam":  # the head stays, and it gives cosines
        plain = [key for key in plain if key not in ("loss.name", "loss.mean", "model.head")]
    values = {**first, **{key: KEYS[key].default for key in plain}, **_RECIPES.get(method, {})}
    return {**values, "stage.name": method, "stage.source": source, "stage.checksum": None}


def find_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the SHA-256 of the results of the run that a second stage begins from.

    The results stand for its network: two networks that differ have other losses in their last digits. So a first
    stage that is trained again to the bit is the same source.

    Raises:
      ConfigError: if there is no finished run, or the given SHA-256 is another one's.
    """
    found, source = dict(values), values["stage.source"]
    if source is None:
        found["stage.checksum"] = None
        return found
    found["stage.checksum"] = _sha256(source)
    if values["stage.checksum"] not in (None, found["stage.checksum"]):
        raise ConfigError(
            f"stage.checksum is filled in by cbjax; got {values['stage.checksum']}, which is not the SHA-256 of the "
            f"results of {source}: that run has changed, or is another one; set the key to none to take it as it is"
        )
    return found


def _sha256(source: str) -> str:
    try:
        results = json.loads((as_path(source) / "results.json").read_bytes())
        # The same training takes another time when it is repeated.
        what = {key: value for key, value in results.items() if key != "seconds"}
    except (OSError, PathError, ValueError, AttributeError):
        raise ConfigError(
            f"stage.source must be the work directory of a finished run, with its results.json; got {source}: "
            "`cbjax train` with that --workdir finishes it"
        ) from None
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
