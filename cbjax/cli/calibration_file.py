"""Says what a calibration changes, writes it to calibration.json, and reads it again for predictions."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cbjax.config import ConfigError
from cbjax.host.writers import plain, replace
from cbjax.training.calibrate import Calibration, Fitted, at_end
from cbjax.training.restore import Examined
from cbjax.types import Run

NAME = "calibration.json"
# Keys of an evaluation that change the logits.
MODEL_KEYS = ("evaluation.tau", "data.image_size", "data.resize", "data.evaluation_frames")


def check(facts: Mapping[str, Any], split: str) -> None:
    """Raises ConfigError, before anything compiles, if nothing can be fitted for a run.

    Args:
      facts: of the run's data (`data_facts.read`).
      split: that figures are asked for.
    """
    if split != "test":
        raise ConfigError("--calibrate is fitted on validation images and measured on others: it needs --split=test")
    if facts["multi_label"]:
        raise ConfigError("--calibrate needs one label an image; this run's labels are multi-hot")
    if not facts["sizes"].get("validation"):
        raise ConfigError("--calibrate needs a run that held out images for validation; this one did not")


def lines(kind: str, fitted: Fitted) -> list[str]:
    """Returns what was fitted, and the figures that it changes, before and after."""
    calibration, images = fitted.calibration, f"fitted on {fitted.images} held-out validation images"
    if kind == "temperature":
        said = [f"temperature {calibration.temperature:.4g}, {images}; the predicted classes stay"]
        if remark := at_end(calibration.temperature):
            said.append(remark)
        said.append("the figures above are those before it")
    else:
        said = [
            f"thresholds of the classes, {images}; the probabilities stay",
            "the figures above are those before them, but for accuracy_after",
        ]
    for split, before in fitted.before.items():
        after = fitted.after[split]
        changed = [name for name in before if before[name] != after[name] and not np.isnan(before[name])]
        said += [f"{split}/{name} {before[name]:.6g} before, {after[name]:.6g} after" for name in changed]
    return said


def write(kind: str, fitted: Fitted, found: Examined, out: pathlib.Path) -> str:
    """Writes calibration.json, for `read` and for people, to a folder; returns the file's name."""
    calibration, about = fitted.calibration, found.about
    content = {
        "kind": kind,
        "temperature": calibration.temperature,
        "thresholds": None if calibration.thresholds is None else calibration.thresholds.tolist(),
        "class_names": list(found.run.class_names),
        **{key: about[key] for key in ("workdir", "checkpoint", "step", "changes")},
        "network": _digest(found.run),
        "validation_images": fitted.images,
        "before": fitted.before,
        "after": fitted.after,
    }
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    replace(out / NAME, text.encode("utf-8", "surrogateescape"))
    return NAME


def read(path: pathlib.Path, run: Run) -> Calibration:
    """Reads the calibration of a run's checkpoint from the file that `cbjax eval --calibrate` wrote.

    Raises:
      ConfigError: if the file is missing or damaged, or belongs to another run or checkpoint.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        temperature, thresholds, names = (given[key] for key in ("temperature", "thresholds", "class_names"))
        calibration = Calibration(
            float(temperature), None if thresholds is None else np.asarray(thresholds, np.float64)
        )
        step, changes = int(given["step"]), [str(change) for change in given["changes"]]
        there, network = str(given["workdir"]), str(given["network"])
    except OSError as error:
        raise ConfigError(f"--calibration={path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"--calibration={path} is no file of `cbjax eval --calibrate`: {error!r}") from error
    values = [calibration.temperature] if calibration.thresholds is None else calibration.thresholds
    wrong = not np.all(np.isfinite(values)) or np.min(values) <= 0
    if wrong or calibration.temperature <= 0 or np.shape(values) not in ((1,), (len(run.class_names),)):
        raise ConfigError(f"--calibration={path}: it must hold a temperature, or a threshold a class, above 0")
    if list(names) != list(run.class_names) or step != run.memory.step:
        raise ConfigError(
            f"--calibration={path} was fitted to step {step} of a run of {len(names)} classes; this is step "
            f"{run.memory.step} of {run.workdir}: fit one with `cbjax eval --calibrate`, or give its --checkpoint"
        )
    if network != _digest(run):  # another seed of the same config has the same step and the same classes
        raise ConfigError(
            f"--calibration={path} was fitted to the network of {there}, and that of {run.workdir} is another one: fit "
            "one with `cbjax eval --calibrate`, or give its --checkpoint"
        )
    other = [change for change in changes if change.startswith(MODEL_KEYS)]
    if other:
        raise ConfigError(f"--calibration={path} was fitted with {'; '.join(other)}, which predictions cannot have")
    return calibration


def _digest(run: Run) -> str:
    """Returns the SHA-256 of the run's parameters and running statistics."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves((run.state.params, run.state.batch_stats)):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()
