"""The files of a work directory besides its checkpoints and its report: what was run, and on what."""

import contextlib
import fcntl
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
from cbjax.host.storage import with_absolute_paths
from cbjax.host.writers import EVENTS, remove_remains, replace
from cbjax.types import Row
from cbjax.workdir import environment
from cbjax.workdir.logs import is_log_of

# The facts of the data that a loaded run needs.
FACTS = {"class_names": list, "sizes": dict, "image_shape": list, "image_dtype": str, "mean": list, "std": list}


class WorkdirError(ValueError):
    """A work directory that cannot be used as asked: it holds no run, or another process is training there."""


class BusyError(WorkdirError):
    """Another process is training in the work directory."""


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a local directory; the lock ends with the process, however it ends.

    Of a directory in a bucket it locks this process's own copy, which keeps nobody out.

    Raises:
      BusyError: if another process holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                f"{workdir}: another process is training here; wait for it or choose another --workdir"
            ) from None
        remove_remains(workdir)
        yield


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file, with its checksum, whole or not at all; numbers that are not finite become null."""
    checked_json.write(path, value)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; raises WorkdirError, with its path, if it is missing, damaged, or not what was written."""
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
    """Reads what `describe_data` said of the data of the run in a work directory."""
    path = workdir / "data.json"
    facts = read_json(path)
    wrong = [key for key, kind in FACTS.items() if not isinstance(facts.get(key), kind)]
    if wrong:
        raise WorkdirError(f"{path} is damaged: {wrong[0]} is missing or of another kind; bring the former file back")
    return facts


def read_final_metrics(workdir: pathlib.Path) -> dict[str, float]:
    """Reads the metrics of a finished run, under the names that `train` returns them; empty for an unfinished one."""
    path = workdir / "results.json"
    if not path.exists():
        return {}
    try:
        results = checked_json.read(path)
    except RecordError as error:
        if not path.exists():  # removed just now, by a run that goes on
            return {}
        raise WorkdirError(f"{error}; `cbjax train` with the run's own command makes it again") from error
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
    """Returns the names of the files of a finished run that are missing, damaged or not those of its history."""
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
    """Checks that the run in a work directory, if there is one, may go on under `config`; returns lines to note.

    Raises:
      ConfigError: if its settings are others.
    """
    if not (workdir / "config.json").exists():
        return []
    try:
        return configs.check_resume(read_config(workdir), config, extend)
    except WorkdirError:
        if checked_json.was_written(workdir / "config.json", json.loads(configs.to_json(config))):
            return []  # damaged, and this is what it said
        raise
    except ConfigError as error:
        raise ConfigError(f"{workdir}: {error}") from error


def check_same_data(workdir: pathlib.Path, facts: Mapping[str, Any], on_bad_image: str = "error") -> None:
    """Checks that the data are those that the run in a work directory, if there is one, was started with.

    Args:
      workdir: of the run.
      facts: from `describe_data`, of the data at hand.
      on_bad_image: "error", or "skip" where single files may have gone or been repaired since.

    Raises:
      DataError: if an image, a label or a split is another.
    """
    if not (workdir / "config.json").exists():
        return
    try:
        former = read_facts(workdir)
    except WorkdirError:
        if checked_json.was_written(workdir / "data.json", facts):
            return  # damaged, and this is what it said
        raise
    if former["sha256"] != facts["sha256"]:
        raise DataError(
            f"the data are not those that the run in {workdir} was started with: an image, a label or a split differs; "
            "use the former data, or another work directory"
        )
    if on_bad_image == "error" and former.get("sizes_sha256", facts["sizes_sha256"]) != facts["sizes_sha256"]:
        raise DataError(
            f"the data are not those that the run in {workdir} was started with: image files are gone or have another "
            "size; use the former files, or another work directory, or where only bad ones were removed or repaired, "
            "data.on_bad_image=skip"
        )


def write_parameters(workdir: pathlib.Path, params: Any) -> None:
    """Writes a table of the parameters, with their shapes and first statistics."""
    table = parameter_overview.get_parameter_overview(params) + "\n"
    replace(workdir / "parameters.txt", table.encode())


def is_finished(workdir: pathlib.Path, config: ConfigDict) -> bool:
    """Says whether a work directory holds the finished run of this config; raises ConfigError for that of another.

    Of data that lie elsewhere now, which may be others, it says no: training reads them and tells.
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

    Results and report of a run that goes on, extended, are removed: they will be those of its new end.
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
    # The config comes last: it says that the others are there.
    write_json(workdir / "config.json", json.loads(configs.to_json(config)))


def read_environment(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads what is noted of the machine and software that the run in a work directory had; empty if nothing is."""
    try:
        noted = read_json(workdir / "environment.json")
    except WorkdirError:
        return {}
    return noted if isinstance(noted, dict) else {}


def check_environment(workdir: pathlib.Path, devices: str) -> list[str]:
    """Returns a line to note where the run in a work directory had another machine or other software until now."""
    path = workdir / "environment.json"
    if path.exists() and not checked_json.is_sound(path):
        return [f"{path} is damaged, so nobody knows whether the machine or the software changed; it is written anew"]
    return environment.note(read_environment(workdir), {**environment.describe(), "devices": devices})


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Returns what a report or a loaded model needs to know of the data without having them."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
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
    """Returns the smallest and the largest pixel; of encoded images those that there can be."""
    return [0, 255] if isinstance(images, Encoded) else [images.min().item(), images.max().item()]


def _counts(labels, num_classes):
    if labels.ndim == 1:
        return np.bincount(labels, minlength=num_classes).tolist()
    return labels.sum(axis=0).astype(int).tolist()


def _commit():
    """Returns the commit of cbjax's own repository; None where it is installed apart from one."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments):
        # Without the variables by which git's hooks name the repository that they run for.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", *arguments]
        done = subprocess.run(command, check=True, cwd=root, env=clean, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        # site-packages may lie in a repository of the user's.
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        git("ls-files", "--error-unmatch", "cbjax/workdir/files.py")
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, subprocess.SubprocessError):
        return None
