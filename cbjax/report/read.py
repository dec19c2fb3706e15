"""Reads work directories into records of runs, and lists those that cannot be read."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cbjax.config import class_groups
from cbjax.data.records import noun_of
from cbjax.host import checked_json
from cbjax.host.code import is_own
from cbjax.host.writers import read_regular, read_rows

# A directory with any of these files is a run's: a kill may have come before the others were written.
LOOKED_IN = 200  # folders behind a link, to find a run there
RUN_FILES = ("config.json", "data.json", "metrics.jsonl", "results.json")
CHECKPOINTS = ("last", "best")
SEED_FOLDER = r"seed[_-]?\d+"  # the name of a run's folder below that of its method
# What a method may have besides its loss and its class weights -> the value of cross entropy.
AROUND = {
    "data.sampler": "instance",
    "evaluation.tau": 0.0,
    **dict.fromkeys(("data.synthesis", "mix.name", "meta.name", "sharpness.name", "stage.name"), "none"),
}


class ReportError(ValueError):
    """There is nothing to report on."""


class LeftOut(NamedTuple):
    """A work directory that is left out of all means, and why."""

    path: pathlib.Path
    reason: str


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One work directory.

    Attributes:
      path: the directory.
      settings: the config with dotted keys.
      data: data.json: class names, counts, sizes, notes.
      environment: environment.json; empty if it is missing.
      rows: the epochs' rows of metrics.
      weights: the rows of class weights.
      results: results.json, or None while the run is unfinished.
      folders: the name that was given with the directory; else, if the directory is called seed_N, the folders between
        the given directory and it; else empty.
    """

    path: pathlib.Path
    settings: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    weights: list[dict[str, Any]]
    results: dict[str, Any] | None
    folders: tuple[str, ...] = ()

    @property
    def around(self) -> dict[str, Any]:
        """What the method has besides its loss and its class weights: key -> value. An old run may lack the keys."""
        values = {key: self.settings.get(key, plain) for key, plain in AROUND.items()}
        return {key: value for key, value in values.items() if value != AROUND[key]}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.data["class_names"])

    @property
    def counts(self) -> np.ndarray:
        """[C] training images of each class."""
        return np.asarray(self.data["counts"], dtype=np.int64)

    @property
    def multi_label(self) -> bool:
        return bool(self.data.get("multi_label", False))

    @property
    def noun(self) -> str:
        """What the run was trained on: "image" or "clip"."""
        return noun_of(self.data.get("image_shape", ()))

    @property
    def seeds(self) -> tuple[Any, Any]:
        return self.settings.get("seed"), self.settings.get("data.seed")

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """The classes of each group that the config names."""
        return class_groups.resolve(self.settings.get("evaluation.groups") or (), self.class_names)

    @property
    def test_counts(self) -> tuple[int, ...]:
        """Test images of each class; empty if they are not known."""
        return tuple(self.data.get("test_counts") or ())

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is a user's own function, of which nobody knows the unit."""
        return is_own(self.settings.get("loss.name"))

    def is_balanced(self, split: str) -> bool:
        """Whether all classes of a split have equally many images; then overall accuracy is balanced accuracy."""
        counts = self.data.get(f"{split}_counts") or [0]
        return not self.multi_label and min(counts) == max(counts) > 0

    def stopped(self) -> str:
        """Returns how far an unfinished run came, as text."""
        if not self.rows:
            return "not finished: stopped before the end of its first epoch"
        epoch, step = self.rows[-1].get("epoch"), self.rows[-1].get("step")
        return f"not finished: stopped at step {step} (epoch {epoch} of {self.settings.get('num_epochs', '?')})"

    def test_metrics(self, checkpoint: str) -> dict[str, float]:
        """The test metrics of the "last" or the "best" checkpoint; empty if there are none."""
        return dict(((self.results or {}).get(checkpoint) or {}).get("test") or {})

    def per_class(self, checkpoint: str) -> np.ndarray | None:
        """[C] test accuracy of each class, NaN for a class without test images; None if nothing was tested."""
        values = ((self.results or {}).get("per_class") or {}).get(checkpoint)
        return None if values is None else np.asarray(values, dtype=np.float64)

    def confusion(self, checkpoint: str) -> np.ndarray | None:
        """[C, C] share of each true class's test images by predicted class; NaN for a class without test images."""
        table = ((self.results or {}).get("confusion") or {}).get(checkpoint)
        if table is None:
            return None
        table = np.asarray(table, dtype=np.float64)
        totals = table.sum(axis=1, keepdims=True)
        return np.divide(table, totals, out=np.full_like(table, np.nan), where=totals > 0)

    def calibration(self, checkpoint: str) -> np.ndarray | None:
        """[3, bins] sums over each bin of confidence: test images, their confidences, images predicted right."""
        sums = ((self.results or {}).get("calibration") or {}).get(checkpoint)
        return None if sums is None else np.asarray(sums, dtype=np.float64)

    def class_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """[E] epochs, and [E, C] the class weights in each of them."""
        epochs = np.asarray([row["epoch"] for row in self.weights], dtype=np.float64)
        return epochs, np.asarray([row["class_weights"] for row in self.weights], dtype=np.float64)

    def curve(self, key: str) -> dict[float, float]:
        """The values of a metric by epoch; epochs without a value are left out."""
        return {row["epoch"]: row[key] for row in self.rows if row.get(key) is not None}


def read_runs(
    workdirs: Sequence[str | os.PathLike | tuple[str, str | os.PathLike]], out: str | os.PathLike | None = None
) -> tuple[list[RunRecord], list[LeftOut]]:
    """Reads the runs in and below the given directories, and lists the directories that cannot be read.

    Links are followed; a run counts once, under its own name if a link leads to it too.

    Runs come in the order of the arguments. Within one argument, the baseline (softmax cross entropy with equal class
    weights, and nothing around it) comes first, then the others by name; numbers in names are sorted by value.

    Args:
      workdirs: the directories; (name, directory) names the method of the runs there.
      out: directory of the report; a single run below it is named by the folders from there on.

    Raises:
      ReportError: if no directory is given, or one of them holds no run.
    """
    if not workdirs:
        raise ReportError("a report needs at least one directory; give the --workdir of a training run or of a sweep")
    runs: list[RunRecord] = []
    left_out: list[LeftOut] = []
    seen = set()
    for given in workdirs:
        name, workdir = given if isinstance(given, tuple) else ("", given)
        found: list[RunRecord] = []
        paths, unread = _find(pathlib.Path(workdir))
        left_out += [one for one in unread if one not in left_out]
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                folders = (name,) if name else _folders(path, workdir, out)
                found.append(dataclasses.replace(read_run(path), folders=folders))
            except (OSError, ValueError) as error:
                left_out.append(LeftOut(path, f"cannot be read: {error}"))
        runs += sorted(found, key=_baseline_first)
    return runs, left_out


def read_run(path: pathlib.Path) -> RunRecord:
    """Reads one work directory, finished or not.

    Raises:
      OSError, ValueError: if a file that every run has from its start is missing, or a file is damaged.
    """
    data = _read_checked(path / "data.json")
    if not data.get("class_names") or len(data["class_names"]) != len(data.get("counts", ())):
        raise ValueError(f"{path / 'data.json'} needs class_names and as many counts")
    results = _read_checked(path / "results.json") if (path / "results.json").exists() else None
    logs = {name: path / f"{name}.jsonl" for name in ("metrics", "class_weights")}
    for log in logs.values() if results else ():  # an unfinished run still adds to them
        try:
            checked_json.check(log)
        except FileNotFoundError:
            continue
        except checked_json.RecordError as error:
            raise ValueError(f"{error}; or run the same `cbjax train` command again, which makes a new one") from error
    environment = path / "environment.json"
    return RunRecord(
        path=path,
        settings=flatten(_read_checked(path / "config.json")),
        data=data,
        environment=_read_checked(environment) if environment.exists() else {},
        rows=_rows(logs["metrics"]),
        weights=_rows(logs["class_weights"]),
        results=results if results and results.get("finished") else None,
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns a nested config into one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _find(root: pathlib.Path) -> tuple[list[pathlib.Path], list[LeftOut]]:
    """Returns the work directories in and below a folder, and the folders there that cannot be listed."""
    found: list[pathlib.Path] = []
    unread: list[LeftOut] = []
    seen: set[str] = set()

    def failed(error):
        unread.append(LeftOut(pathlib.Path(error.filename or root), f"cannot be read: {error.strerror}"))

    waiting = [os.fspath(root)]
    while waiting:
        links = []  # after all that are no links: a run keeps its own name
        for folder, folders, files in (step for top in waiting for step in os.walk(top, onerror=failed)):
            if (real := os.path.realpath(folder)) in seen:  # a link may lead to a folder that contains it
                folders.clear()
                continue
            seen.add(real)
            if any(name in files for name in RUN_FILES):
                found.append(pathlib.Path(folder))
                folders.clear()
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [path for path in (os.path.join(folder, name) for name in folders) if os.path.islink(path)]
        waiting = [link for link in links if _leads_to_runs(link, root)]
    if not found:
        what, but = "holds no run" if root.is_dir() else "is not a directory", ""
        if unread and root.is_dir():
            but = f"; not in {unread[0].path}, which {unread[0].reason}"
        raise ReportError(
            f"{root} {what}: looked in it and below for work directories (with {', '.join(RUN_FILES)}){but}; "
            "give the --workdir of a training run or of a sweep"
        )
    return found, unread


def _leads_to_runs(link: str, root: pathlib.Path) -> bool:
    """Returns whether to follow a link: not to a folder of images, nor to one that contains the given folder."""
    if root.resolve().is_relative_to(os.path.realpath(link)):
        return False
    walk = itertools.islice(os.walk(link), LOOKED_IN)
    return any(name in files for _, _, files in walk for name in RUN_FILES)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; raises ValueError, with the file's name, if it cannot."""
    try:
        value = json.loads(read_regular(path))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} must hold a JSON object; got {type(value).__name__}")
    return value


def _read_checked(path: pathlib.Path) -> dict[str, Any]:
    value = read_json(path)
    checked_json.check(path)
    return value


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    return read_rows(path) if path.exists() else []


def _baseline_first(run: RunRecord) -> tuple:
    plain = run.settings.get("weights.name") == "uniform" and run.settings.get("loss.name") == "softmax"
    baseline = plain and not run.around
    return not baseline, [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(run.path))]


def _folders(path: pathlib.Path, given: str | os.PathLike, out: str | os.PathLike | None) -> tuple[str, ...]:
    """Returns the folders between the given directory and a run called seed_N; if there are none, its parent."""
    root = pathlib.Path(given)
    if path == root:
        path, root = path.resolve(), root.resolve()
    if not re.fullmatch(SEED_FOLDER, path.name):
        return ()
    if root == path and out is not None and path.is_relative_to(above := pathlib.Path(out).resolve()):
        root = above
    # Below the given directory the names are those that the user sees, also where a link leads elsewhere.
    return path.relative_to(root).parts[:-1] or (path.parent.resolve().name,)
