"""The files of a landscape: what it is of, its directions, its figures so far, and tables for people."""

import hashlib
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbjax.config import ConfigError
from cbjax.host import checked_json, npz
from cbjax.host.text import csv_line
from cbjax.host.writers import plain, replace
from cbjax.landscape.directions import Directions, flat
from cbjax.landscape.grid import Sums
from cbjax.landscape.subject import Subject
from cbjax.landscape.surface import Surface
from cbjax.workdir.files import WorkdirError

ABOUT = "landscape.json"
FIGURES = "points.npz"
DIRECTIONS = "directions.npz"
TABLE = "points.csv"
OWN = "as in training"  # of a key that only an override puts among the settings
PLACES = ("run", "runs")  # where runs were; a moved run is the same, which the digest of its network tells


def place(subject: Subject, name: str, out: pathlib.Path | None) -> pathlib.Path:
    """Returns the folder of a landscape: `out`, or landscape/NAME in the run's work directory.

    Raises:
      ConfigError: if the name is not one of a folder, or the run is in a bucket and `out` is not given.
    """
    if out is not None:
        return out
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"name must be that of a folder; got {name!r}")
    if subject.root is None:
        raise ConfigError(f"{subject.about['workdir']} is in a bucket, so out=DIR must say where the landscape is kept")
    return subject.root / "landscape" / name


def begin(folder: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the folder, or returns what it notes of an earlier call with the same settings.

    Raises:
      ConfigError: if it holds a landscape with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ABOUT).exists():
        return None
    noted = read_about(folder)
    former, now = noted["settings"], _plain(settings)
    differing = [key for key in {**former, **now} if former.get(key, OWN) != now.get(key, OWN)]
    if former["kind"] != now["kind"]:
        differing = ["kind"]
    if not set(differing) <= set(PLACES):
        sides = ((key, _short(former.get(key, OWN)), _short(now.get(key, OWN))) for key in differing)
        told = "; ".join(f"{key} {there} there, {here} here" for key, there, here in sides)
        raise ConfigError(
            f"{folder} holds a landscape with other settings ({told}): give this one another name, or remove that one"
        )
    return noted


def read_about(folder: pathlib.Path) -> dict[str, Any]:
    """Reads what a landscape is of; raises WorkdirError if it is missing or damaged."""
    try:
        return checked_json.read(folder / ABOUT)
    except checked_json.RecordError as error:
        raise WorkdirError(str(error)) from error


def write_about(folder: pathlib.Path, noted: Mapping[str, Any]) -> None:
    """Writes what a landscape is of."""
    checked_json.write(folder / ABOUT, noted)


def write_directions(folder: pathlib.Path, directions: Directions) -> None:
    """Writes the directions, array by array: "0/params/dense/kernel" is of the first."""
    arrays = {f"{k}/{name}": leaf for k, one in enumerate(directions.along) for name, leaf in flat(one).items()}
    _write_arrays(folder / DIRECTIONS, arrays)


def digest(directions: Directions) -> str:
    """Returns a digest of the network at the origin and the directions: equal ones have equal figures."""
    total = hashlib.sha256()
    for network in (directions.center, *directions.along):
        for name, leaf in flat(network).items():
            total.update(name.encode())
            total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def write_figures(folder: pathlib.Path, sums: Sums) -> None:
    """Writes what is measured so far."""
    _write_arrays(folder / FIGURES, vars(sums))


def read_figures(folder: pathlib.Path) -> Sums | None:
    """Reads what was measured; None if there is nothing, or its file is damaged: it is then measured again."""
    try:
        with open(folder / FIGURES, "rb") as file:
            found = npz.read(file)
        count = int(found.pop("count"))
        return Sums(**found, count=count)  # type: ignore[arg-type]
    except (FileNotFoundError, npz.NpzError, TypeError, KeyError):
        return None


def to_surface(folder: pathlib.Path | None, noted: Mapping[str, Any], sums: Sums) -> Surface:
    """Returns the record of what was measured."""
    axes = tuple(np.asarray(axis, np.float64) for axis in noted["axes"])
    shape = tuple(len(axis) for axis in axes)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = np.where(sums.done, sums.loss / max(sums.count, 1), np.nan)
        there = np.where(sums.class_count > 0, sums.class_count, np.nan)
        class_loss = np.where(sums.done[:, None], sums.class_loss / there, np.nan)
        class_accuracy = np.where(sums.done[:, None], sums.correct / there, np.nan)
    return Surface(
        axes,
        loss.reshape(shape),
        class_loss.reshape(*shape, -1),
        class_accuracy.reshape(*shape, -1),
        np.asarray(sums.class_count),
        tuple(noted["class_names"]),
        np.asarray(noted["counts"]),
        {name: np.asarray(classes, np.int64) for name, classes in noted["groups"].items()},
        {name: tuple(at) for name, at in noted["marks"].items()},
        None if noted["path"] is None else np.asarray(noted["path"], np.float64),
        noted["about"],
        folder,
    )


def read(folder: str | pathlib.Path) -> Surface:
    """Reads a landscape from its folder, DIR/landscape/NAME; points that are not measured yet are NaN.

    Raises:
      ConfigError: if it is a curvature.
      WorkdirError: if there is none.
    """
    where = pathlib.Path(folder)
    noted, sums = read_about(where), read_figures(where)
    if noted["settings"]["kind"] == "curvature":
        raise ConfigError(f"{where} holds a curvature, not a surface: landscape.read_curvature reads it")
    if "axes" not in noted or sums is None:
        raise WorkdirError(f"{where} holds no surface: {FIGURES} is missing or damaged")
    return to_surface(where, noted, sums)


def write_table(folder: pathlib.Path, surface: Surface) -> None:
    """Writes points.csv: a row for each point, with the loss and accuracy of all, of each group and of each class."""
    names = ("x", "y")[: len(surface.axes)]
    heads = [*names, "loss", "balanced_loss", "balanced_accuracy"]
    columns = [surface.loss, surface.balanced_loss, surface.balanced_accuracy]
    for group in surface.groups:
        heads += [f"loss of {group}", f"accuracy of {group}"]
        columns += [surface.group_loss(group), surface.group_accuracy(group)]
    for c, name in enumerate(surface.class_names):
        heads += [f"loss of class {name}", f"accuracy of class {name}"]
        columns += [surface.class_loss[..., c], surface.class_accuracy[..., c]]
    grids = np.meshgrid(*surface.axes, indexing="ij")
    table = np.stack([column.ravel() for column in (*grids, *columns)], axis=1)
    lines = [csv_line(heads), *(csv_line("" if np.isnan(cell) else f"{cell:.6g}" for cell in row) for row in table)]
    replace(folder / TABLE, ("\n".join(lines) + "\n").encode())


def _write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    replace(path, packed.getvalue())


def _plain(settings):
    return json.loads(json.dumps(plain(settings)))


def _short(value):
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
