"""Messages about unknown keys and names, with the one that was probably meant."""

import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any

LONGEST_NAME = 60  # characters of a word that may be a misspelt name; comparing longer words takes long
# Name of a key in other libraries, in small letters -> its name here.
ELSEWHERE = {
    **dict.fromkeys(("lr", "base_lr", "initial_lr"), "optim.learning_rate"),
    **dict.fromkeys(("epochs", "n_epochs", "max_epochs", "num_train_epochs"), "num_epochs"),
    **dict.fromkeys(("bs", "batch", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("gpus", "gpu", "num_gpus", "ngpus", "num_devices"), "devices"),
    **dict.fromkeys(("wd", "decay", "l2"), "optim.weight_decay"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule"), "optim.schedule"),
    **dict.fromkeys(("milestones", "lr_steps"), "optim.decay_at (fractions of num_epochs)"),
    **dict.fromkeys(("dataset", "dataset_name"), "data.name"),
    **dict.fromkeys(("data_path", "data_root"), "data.root (a folder of images) or data.data_dir (of TFDS)"),
    **dict.fromkeys(("img_size", "imgsz", "input_size", "resolution"), "data.image_size"),
    **dict.fromkeys(("num_workers", "n_workers"), "data.workers"),
    **dict.fromkeys(("imb_factor", "imbalance_ratio", "imbalance_factor"), "data.imbalance"),
    **dict.fromkeys(("arch", "backbone", "network", "model_name"), "model.name"),
    **dict.fromkeys(("amp", "fp16", "bf16", "precision"), "model.dtype"),
    **dict.fromkeys(("criterion", "loss_fn", "loss_type"), "loss.name"),
    "method": "the override method=NAME, which stands for several keys, as in config.load('digits_lt', ['method=cdb'])",
    **dict.fromkeys(("workdir", "output_dir", "save_dir", "log_dir"), "the option --workdir"),
}


def show(value: Any) -> str:
    """Writes a value for a message, and cuts a long one."""
    try:
        text = repr(value)
    except Exception:  # Python refuses to write a whole number of more than 4,300 digits
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(word: Any, names: Iterable[str]) -> str:
    """Returns the end of a message: the name most similar to the word, or nothing if none is similar.

    Capital letters and hyphens count as small ones and underscores: CB-focal is nearer to cb_focal than to focal.
    """
    if not isinstance(word, str) or len(word) > LONGEST_NAME:
        return ""
    known = {_plain(name): name for name in reversed(list(names))}  # of equal ones the first
    nearest = difflib.get_close_matches(_plain(word), known, n=1)
    return f"; did you mean {known[nearest[0]]}?" if nearest else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def unknown_key(key: Any, value: Any, keys: Collection[str]) -> str:
    """Returns the message for an unknown key: the key probably meant, else the keys of its group, else the groups."""
    sections = tuple(dict.fromkeys(known.split(".")[0] for known in keys if "." in known))
    if key in sections:
        return f"{key} is a group of keys, {_keys_of(key, keys)}; got {show(value)}"
    if not isinstance(key, str) or not re.fullmatch(r"[\w.-]+", key) or len(key) > LONGEST_NAME:
        return f"{show(key)} is not a key; got {show(value)}"
    section, _, leaf = key.rpartition(".")
    if section in sections:
        group: str | None = section
        own = [known for known in keys if known.startswith(f"{section}.")]
        meant = difflib.get_close_matches(key, own, n=1, cutoff=0.8) or _meant(leaf, keys, near=False)
        meant = meant if len(meant) == 1 else []  # for optim.name there are four: other groups have a name
    else:
        group = next(iter(difflib.get_close_matches(section or leaf, sections, n=1, cutoff=0.7)), None)
        meant = [f"{group}.{leaf}"] if f"{group}.{leaf}" in keys else _meant(leaf, keys, near=True)
    if meant:
        hint = f"did you mean {' or '.join(meant)}?"
    elif group:
        hint = f"{group} has {_keys_of(group, keys)}"
    else:
        hint = f"the groups of keys are {', '.join(sections)}; without a group: {_keys_of('', keys)}"
    return f"{key} is not a key; got {show(value)}; {hint}"


def keys_meant(word: str, keys: Collection[str]) -> str:
    """Returns the keys with this end or this name in other libraries, for a message; "" if there is none."""
    return " or ".join(_meant(word, keys, near=False))


def _meant(word: str, keys: Collection[str], near: bool) -> list[str]:
    """Returns the keys that end in a word or have this name in other libraries; with `near`, also similar keys."""
    leaves = {known: known.rpartition(".")[2] for known in keys}
    nearest = difflib.get_close_matches(word, {*leaves.values(), "method"}, n=1, cutoff=0.8) if near else []
    for wanted in (word, *nearest):
        if wanted in keys:
            return [wanted]
        if wanted in leaves.values():
            return [known for known in keys if leaves[known] == wanted]
        if wanted.lower() in ELSEWHERE:
            return [ELSEWHERE[wanted.lower()]]
    return []


def _keys_of(section: str, keys: Collection[str]) -> str:
    return ", ".join(key for key in keys if key.rpartition(".")[0] == section)
