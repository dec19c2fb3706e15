"""Compares configurations: may a run go on under a changed one, and do two runs compute the same figures."""

import hashlib
import json
from typing import Any

from cbjax.config.own_code import CODE_KEYS, identities
from cbjax.config.parts import OLTR_NUMBERS
from cbjax.config.reading import Config, complete
from cbjax.config.schema import KEYS, ConfigError, show
from cbjax.host.storage import CODE

# Keys that say which images are read when `data.name` alone does not. A run may go on when they change, since a folder
# can move; its fingerprint holds them, since another folder usually holds other data.
SOURCE_KEYS = ("data.file", "data.root", "data.train_list", "data.validation_list", "data.test_list")
# Keys that say where images are and how they are read.
READING_KEYS = (
    "data.data_dir",
    *SOURCE_KEYS,
    "data.on_bad_image",  # both values do the same until the first bad image
    "data.max_pixels",  # an image that is too large is a bad one
    "data.threads",
    "data.workers",
)
# Keys that say where or how a run is computed, not what it computes: they may change when a run goes on.
HOW_KEYS = (
    "parallel",
    "devices",
    "deterministic",
    "steps_per_dispatch",
    *READING_KEYS,
    "stage.source",  # stage.checksum says what the run there found
    "evaluation.batch_size",
    "checkpoint.every_epochs",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    "log.tensorboard",
    "log.report",
    "log.progress",
)
# Keys added after figures were published. At its default such a key changes nothing, so fingerprints leave it out.
LATER_KEYS: tuple[str, ...] = (
    "difficulty.smoothing",
    *("model.options", "model.code", "loss.options", "loss.code"),
    *("model.head", "loss.max_margin", "loss.scale", "loss.tau", "loss.bins", "loss.momentum"),
    *("loss.epsilon", "loss.divisor_power", "loss.rare_below", "loss.mask_chance"),
    *("meta.name", "meta.batch_size", "data.meta", "evaluation.tau"),
    *("meta.variant", "meta.network_optimizer", "meta.network_rate", "meta.network_decay"),
    *("sharpness.name", "sharpness.radius", "sharpness.tail_below"),
    *("mix.name", "mix.alpha", "mix.kappa", "mix.tau", "mix.chance", "mix.start_epochs", "mix.end_epochs"),
    *("data.sampler_beta", "data.sampler_start", "data.synthesis", "data.synthesis_neighbours"),
    *("stage.name", "stage.checksum", "stage.batch_norm", "stage.tau", "stage.similarity"),
    *("oltr.form", "oltr.backbone", *OLTR_NUMBERS),
    *("data.frames", "data.rotation", "data.evaluation_frames", "data.egtea_split", "data.crop"),
    "model.channels",
)


def fingerprint(config: Config) -> str:
    """Returns the SHA-256, in hexadecimal, of all keys that say what is computed and from which data."""
    given = identities(complete(config))
    what = {key: value for key, value in given.items() if key not in HOW_KEYS}
    what |= {key: given[key] for key in SOURCE_KEYS if given[key] is not None}
    what = {key: value for key, value in what.items() if key not in LATER_KEYS or value != KEYS[key].default}
    return hashlib.sha256(json.dumps(what, sort_keys=True, allow_nan=False).encode()).hexdigest()


def difference(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Returns the keys that differ, in two lists: keys that say how a run is computed, and keys that say what."""
    before, after = identities(complete(old)), identities(complete(new))
    differing = [key for key in KEYS if before[key] != after[key]]
    return [key for key in differing if key in HOW_KEYS], [key for key in differing if key not in HOW_KEYS]


def of_all_processes(config: Config) -> dict[str, Any]:
    """Returns the keys and values that must be equal in all processes of a run; each may keep its data elsewhere."""
    own = {*READING_KEYS} - {"data.on_bad_image"}
    return {key: value for key, value in identities(complete(config)).items() if key not in own}


def check_resume(old: Config, new: Config, extend: bool = False) -> list[str]:
    """Checks that a run of configuration `old` may go on under `new`.

    Args:
      old: the configuration in the work directory.
      new: the configuration of the command.
      extend: whether `num_epochs` may grow. Warm-up, decay and deferral are fractions of it, so they move with it.

    Returns:
      A line to print for each allowed difference.

    Raises:
      ConfigError: lists every difference that is not allowed.
    """
    how, what = difference(old, new)
    before, after = complete(old), complete(new)
    lines = {key: f"{key}: {show(before[key])} there, {show(after[key])} here" for key in (*how, *what)}
    grows = after["num_epochs"] > before["num_epochs"]
    if grows and extend:
        what.remove("num_epochs")
        how.append("num_epochs")
    for key, code_key in CODE_KEYS.items():
        if code_key in what and key not in what:
            lines[code_key] += (
                f": the file of {key}={after[key]} has changed; the one of the run is kept in its folder {CODE}"
            )
    if "stage.checksum" in what:
        lines["stage.checksum"] += ": the results of the run in stage.source are others"
    if what:
        advice = "use another work directory, or the same settings"
        if what == ["num_epochs"]:
            advice = "add --extend to train for longer" if grows else "num_epochs may only grow"
        differences = "".join(f"\n  {lines[key]}" for key in what)
        raise ConfigError(f"the work directory holds a run with other settings; {advice}:{differences}")
    return [lines[key] for key in how]
