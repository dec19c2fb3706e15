"""Reads, writes and checks a work directory's files, except checkpoints and reports: config, data, results …"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.config.compare import SOURCE_KEYS
from cbjax.data import DataError, Dataset, Encoded
from cbjax.host import checked_json
from cbjax.host.checked_json import RecordError
from cbjax.host.locks import locked
from cbjax.host.storage import with_absolute_paths
from cbjax.host.writers import EVENTS, remove_remains, replace
from cbjax.types import Row
from cbjax.workdir import environment, own_code
from cbjax.workdir.logs import is_log_of

# The facts about the data that a loaded run needs.
FACTS = {"class_names": list, "sizes": dict, "image_shape": list, "image_dtype": str, "mean": list, "std": list}


class WorkdirError(ValueError):
    """A work directory cannot be used as asked: it holds no run, or another process is training there."""


class BusyError(WorkdirError):
    """Another process is training in the work directory."""


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a local directory (see `locks.locked`).

    For a directory in a bucket it locks only this process's local copy, so it keeps nobody out.

    Raises:
      BusyError: if another process holds the lock.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(workdir / ".lock", wait=False))
        except BlockingIOError:
            raise BusyError(
                f"{workdir}: another process is training here; wait for it or choose another --workdir"
            ) from None
        remove_remains(workdir)
        yield


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file and its checksum, whole or not at all; numbers that are not finite become null."""
    checked_json.write(path, value)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; raises WorkdirError, with the path, if the file is missing, damaged or edited."""
    try:
        return checked_json.read(path)
    except RecordError as error:
        raise WorkdirError(str(error)) from error


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads the config of the run in a work directory.

    Raises:
      WorkdirError: if there is no run, or the file is damaged or was edited.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise WorkdirError(
            f"{workdir} holds no run: there is no config.json; `cbjax train --config=… --workdir={workdir}` makes one"
        )
    try:
        return configs.from_json(json.dumps(read_json(path)))
    except ConfigError as error:
        raise WorkdirError(f"{path}: {error}") from error


def read_facts(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the facts about a run's data that `describe_data` gave."""
    path = workdir / "data.json"
    facts = read_json(path)
    wrong = [key for key, kind in FACTS.items() if not isinstance(facts.get(key), kind)]
    if wrong:
        raise WorkdirError(f"{path} is damaged: {wrong[0]} is missing or of the wrong kind; restore the file")
    return facts


def read_final_metrics(workdir: pathlib.Path) -> dict[str, float]:
    """Reads the metrics of a finished run, under the names that `train` uses; returns {} for an unfinished run."""
    path = workdir / "results.json"
    if not path.exists():
        return {}
    try:
        results = checked_json.read(path)
    except RecordError as error:
        if not path.exists():  # a run that goes on has just removed it
            return {}
        raise WorkdirError(f"{error}; or run the same `cbjax train` command again, which makes a new one") from error
    final: dict[str, float] = {}
    try:
        for name in ("last", "best"):
            for split, values in (results[name] or {}).items():
                if split in ("validation", "test"):
                    final |= {f"{split}/{name}/{key}": value for key, value in values.items()}
                else:
                    final[f"{name}/{split}"] = values
    except (KeyError, AttributeError) as error:
        raise WorkdirError(f"{path} is damaged: it lacks the last and the best figures") from error
    return final


def lacks(workdir: pathlib.Path, history: Mapping[str, Sequence[Row]], tensorboard: bool) -> list[str]:
    """Returns the names of a finished run's files that are missing, damaged, or do not fit its history."""
    lost = [
        name
        for name in ("config.json", "data.json", "environment.json", "results.json")
        if not checked_json.is_sound(workdir / name)
    ]
    for name in ("indices.npz", "parameters.txt"):
        with contextlib.suppress(OSError):
            if (workdir / name).stat().st_size and checked_json.is_unchanged(workdir / name):
                continue
        lost.append(name)
    for name, rows in history.items():
        log = workdir / f"{name}.jsonl"
        if not (is_log_of(log, rows) and checked_json.is_unchanged(log)):
            lost.append(log.name)
    if tensorboard and not any(path.stat().st_size for path in workdir.glob(EVENTS)):
        lost.append(EVENTS)
    return lost


def check_resume(workdir: pathlib.Path, config: ConfigDict, extend: bool = False) -> list[str]:
    """Checks that a run in a work directory, if any, may go on under `config`; returns lines to print.

    Raises:
      ConfigError: if the run has other settings.
    """
    if not (workdir / "config.json").exists():
        return []
    try:
        return configs.check_resume(read_config(workdir), config, extend)
    except WorkdirError:
        if checked_json.was_written(workdir / "config.json", json.loads(configs.to_json(config))):
            return []  # the file is damaged, but once said the same
        raise
    except ConfigError as error:
        raise ConfigError(f"{workdir}: {error}") from error


def check_same_data(workdir: pathlib.Path, facts: Mapping[str, Any], on_bad_image: str = "error") -> None:
    """Checks that a run in a work directory, if any, was started with the same data.

    Args:
      workdir: work directory of the run.
      facts: from `describe_data`, about the present data.
      on_bad_image: "error", or "skip" if single files may have been removed or repaired since.

    Raises:
      DataError: if an image, a label or a split differs.
    """
    if not (workdir / "config.json").exists():
        return
    try:
        former = read_facts(workdir)
    except WorkdirError:
        if checked_json.was_written(workdir / "data.json", facts):
            return  # the file is damaged, but once said the same
        raise
    if former["sha256"] != facts["sha256"]:
        told = [note for note in facts["notes"] if note not in former.get("notes", ())]
        raise DataError(
            f"the run in {workdir} was started with other data: an image, a label or a split differs; use the former "
            f"data, or another work directory{''.join(f'; noted now: {note}' for note in told)}"
        )
    if on_bad_image == "error" and former.get("sizes_sha256", facts["sizes_sha256"]) != facts["sizes_sha256"]:
        raise DataError(
            f"the run in {workdir} was started with other data: image files are missing or have another size; use the "
            "former files, or another work directory; if only bad images were removed or repaired, set "
            "data.on_bad_image=skip"
        )


def write_parameters(workdir: pathlib.Path, params: Any) -> None:
    """Writes a table of the parameters, with their shapes and initial statistics."""
    table = parameter_overview.get_parameter_overview(params) + "\n"
    replace(workdir / "parameters.txt", table.encode())


def is_finished(workdir: pathlib.Path, config: ConfigDict) -> bool:
    """Returns whether a work directory holds the finished run of this config.

    If the data lie elsewhere now, the answer is no: training will read them and find out whether they are the same.

    Raises:
      ConfigError: if it holds a run of another config.
    """
    config = with_absolute_paths(config)
    check_resume(workdir, config)
    if not all(checked_json.is_sound(workdir / name) for name in ("results.json", "config.json", "environment.json")):
        return False
    return not set(configs.difference(read_config(workdir), config)[0]) & set(SOURCE_KEYS)


def write_start(
    workdir: pathlib.Path, config: ConfigDict, facts: Mapping[str, Any], indices: Mapping[str, np.ndarray], devices: str
) -> None:
    """Writes what is known before the first step: config, data, chosen indices and environment.

    If a finished run is extended, its results and report are removed; its new end writes new ones.
    """
    if (workdir / "results.json").exists():
        (workdir / "report.md").unlink(missing_ok=True)
        (workdir / "results.json").unlink()
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **indices)
    replace(workdir / "indices.npz", packed.getvalue())
    checked_json.vouch(workdir, ["indices.npz"])
    write_json(workdir / "data.json", facts)
    facts_here = {**environment.describe(), "commit": _commit(), "devices": devices}
    write_json(workdir / "environment.json", environment.added(read_environment(workdir), facts_here))
    own_code.keep(workdir, config)
    # The config comes last: it tells others that all files are there.
    write_json(workdir / "config.json", json.loads(configs.to_json(config)))


def read_environment(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the noted facts about a run's machine and software; {} if there are none."""
    try:
        noted = read_json(workdir / "environment.json")
    except WorkdirError:
        return {}
    return noted if isinstance(noted, dict) else {}


def check_environment(workdir: pathlib.Path, devices: str) -> list[str]:
    """Returns a line to print if a run goes on on another machine or with other software."""
    path = workdir / "environment.json"
    if path.exists() and not checked_json.is_sound(path):
        return [f"{path} is damaged, so a change of machine or software cannot be noticed; it is written again"]
    return environment.note(read_environment(workdir), {**environment.describe(), "devices": devices})


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Returns the facts that a report or a loaded model needs when the data are not there."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    if dataset.meta is not None:
        splits["meta"] = dataset.meta
    present = {name: split for name, split in splits.items() if split is not None}
    num_classes = len(dataset.class_names)
    digest, sizes = hashlib.sha256(), hashlib.sha256()
    for split in present.values():
        images = split.images
        digest.update(images.fingerprint() if isinstance(images, Encoded) else np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
        sizes.update(images.sizes() if isinstance(images, Encoded) else b"")
    return {
        "class_names": list(dataset.class_names),
        "counts": dataset.counts.tolist(),
        "sizes": {name: 0 if split is None else len(split.labels) for name, split in splits.items()},
        **{f"{name}_counts": _counts(split.labels, num_classes) for name, split in present.items() if name != "train"},
        "image_shape": list(dataset.train.images.shape[1:]),
        "image_dtype": str(dataset.train.images.dtype),
        "image_span": _span(dataset.train.images),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "multi_label": dataset.multi_label,
        "notes": list(dataset.notes),
        "sha256": digest.hexdigest(),
        "sizes_sha256": sizes.hexdigest(),
    }


def _span(images):
    """Returns the smallest and the largest pixel; for encoded images the possible ones."""
    return [0, 255] if isinstance(images, Encoded) else [images.min().item(), images.max().item()]


def _counts(labels, num_classes):
    if labels.ndim == 1:
        return np.bincount(labels, minlength=num_classes).tolist()
    return labels.sum(axis=0).astype(int).tolist()


def _commit():
    """Returns the commit of cbjax's own repository; None if it is installed without one."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments):
        # Git's hooks set variables that name another repository, so leave them out.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", *arguments]
        done = subprocess.run(command, check=True, cwd=root, env=clean, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        # site-packages may lie inside a repository of the user.
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        git("ls-files", "--error-unmatch", "cbjax/workdir/files.py")
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, subprocess.SubprocessError):
        return None
