"""What the runs of a sweep differ in: lists of variants, combined by `product`, `zipped` and `chain`, and their file.

A variant is a set of config keys with their values, and a name on one or more axes ("method", "imbalance", "seed"), by
which tables, folders and messages speak of it. A file in `configs/sweeps` returns a `Sweep` of them.
"""

import dataclasses
import functools
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError

METRICS = ("accuracy", "error", "balanced_accuracy", "top5_error", "macro_recall", "macro_precision")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One choice.

    Attributes:
      labels: axis -> the variant's name on it.
      overrides: dotted config key -> value; "config" names the configuration that they change, if not the sweep's.
    """

    labels: Mapping[str, str]
    overrides: Mapping[str, Any]


def choices(axis: str, options: Mapping[str, Mapping[str, Any]]) -> list[Variant]:
    """Lists variants given by name: {"CE": {}, "CDB": {"weights.name": "difficulty"}} on the axis "method"."""
    return [Variant({axis: str(name)}, dict(overrides)) for name, overrides in options.items()]


def values(axis: str, key: str, numbers: Iterable[Any], label: str = "{}") -> list[Variant]:
    """Lists variants of one key, each named by its value as `label` writes it: "beta {}" gives "beta 0.999"."""
    return [Variant({axis: label.format(number)}, {key: number}) for number in numbers]


def seeds(count: int, first: int = 0) -> list[Variant]:
    """Lists `count` variants of the key "seed" on the axis "seed", from `first` on."""
    return values("seed", "seed", range(first, first + count))


def product(*lists: Sequence[Variant]) -> list[Variant]:
    """Combines every variant of each list with every one of the others; the last list changes fastest.

    Raises:
      ValueError: if two lists name the same axis or the same key.
    """
    return [_together(variants) for variants in itertools.product(*lists)]


def zipped(*lists: Sequence[Variant]) -> list[Variant]:
    """Combines the first variant of each list, the second ones, and so on.

    Raises:
      ValueError: if the lists are not equally long, or two of them name the same axis or the same key.
    """
    if len({len(one) for one in lists}) > 1:
        raise ValueError(f"zipped lists must be equally long; got lengths {', '.join(str(len(one)) for one in lists)}")
    return [_together(variants) for variants in zip(*lists, strict=True)]


def chain(*lists: Sequence[Variant]) -> list[Variant]:
    """Lists the variants of one list behind those of the one before it."""
    return list(itertools.chain(*lists))


@dataclasses.dataclass(frozen=True)
class Table:
    """How the figures of a sweep are laid out, and what the paper prints there.

    Attributes:
      title: a line above it.
      rows: axes whose names make a row, in order, such as ("method", "setting").
      columns: the axis across.
      metric: one of METRICS, of the test split, in per cent.
      paper: row (the names, in the order of `rows`) -> column -> (mean, standard deviation or None), in per cent.
      notes: lines below it.
    """

    title: str
    rows: tuple[str, ...]
    columns: str
    metric: str = "accuracy"
    paper: Mapping[tuple[str, ...], Mapping[str, tuple[float, float | None]]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a file in `configs/sweeps` returns.

    Attributes:
      config: the configuration that every run begins with, as for `config.load`.
      variants: what each run changes, from `cbjax.variants`.
      table: the layout of the results; None for the comparison of methods that any runs get.
      sizes: "num_classes" and "num_images" (of training) for the estimate of a dry run, where `data.name` says neither.
    """

    config: str
    variants: Sequence[Variant]
    table: Table | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its folder below the sweep's, its name on each axis, and its resolved configuration."""

    name: str
    labels: Mapping[str, str]
    config: ConfigDict

    @functools.cached_property
    def identity(self) -> str:
        """The hash of its whole resolved configuration, by which its row of results is known."""
        return configs.fingerprint(self.config)[:16]


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[PlannedRun]]:
    """Reads a sweep: a file whose `get_sweep()` returns a `Sweep`.

    Args:
      name_or_path: "digits_lt" (a file of the package's sweeps), or a path; with a recipe behind a colon where the file
        has some.
      overrides: "num_epochs=2", for every run; they come last.

    Returns:
      The sweep and its runs, in order.

    Raises:
      ConfigError: if the file or one of its runs is wrong.
    """
    path, sweep = configs.call(name_or_path, "get_sweep", folder="sweeps")
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"{path}: get_sweep() must return a cbjax.variants.Sweep; got {type(sweep).__name__}")
    _check_table(path, sweep)
    for_all = configs.read_overrides(overrides)
    read = functools.cache(configs.read)
    runs: dict[str, PlannedRun] = {}
    for variant in sweep.variants:
        name = folder(variant.labels)
        if not name or name in runs:
            known = f"; so has {dict(runs[name].labels)}" if name in runs else ""
            raise ConfigError(
                f"{path}: each run needs a folder of its own, made of its names on the axes; {dict(variant.labels)} "
                f"has {name or 'none'!r}{known}"
            )
        try:
            changes = dict(variant.overrides)
            config = configs.combine(read(changes.pop("config", sweep.config)), changes, for_all)
        except ConfigError as error:
            raise ConfigError(f"run {name} of {path}: {error}") from error
        runs[name] = PlannedRun(name, dict(variant.labels), config)
    if not runs:
        raise ConfigError(f"{path}: a sweep needs a run; got none")
    same: dict[str, str] = {}
    for run in runs.values():
        if run.identity in same:
            raise ConfigError(
                f"{path}: runs must differ in what they compute; {same[run.identity]} and {run.name} are the same"
            )
        same[run.identity] = run.name
    return sweep, list(runs.values())


def sweep_name(name_or_path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Returns what the rows of a sweep bear: its file, its recipe and what was changed for every run.

    Args:
      name_or_path: as for `load`.
      overrides: as for `load`.

    Returns:
      Such as "cdb_table1:short --config.seed=3", which as arguments of the command gives the same runs.
    """
    path, recipe = configs.find(str(name_or_path), "sweeps")
    return shlex.join([f"{path.stem}:{recipe}" if recipe else path.stem, *(f"--config.{one}" for one in overrides)])


def table_as_json(sweep: Sweep) -> dict[str, Any] | None:
    """Returns the layout of a sweep's table as JSON values, the paper's rows and columns first; None without one."""
    table = sweep.table
    if table is None:
        return None
    own = [tuple(one.labels[axis] for axis in table.rows) for one in sweep.variants]
    row_names = list(dict.fromkeys([*table.paper, *own]))
    # The settings of a method side by side.
    methods = list(dict.fromkeys(names[0] for names in row_names))
    row_names.sort(key=lambda names: methods.index(names[0]))
    printed = [column for cells in table.paper.values() for column in cells]
    paper = [
        {"row": list(row), "column": column, "mean": mean, "std": std}
        for row, cells in table.paper.items()
        for column, (mean, std) in cells.items()
    ]
    return {
        "title": table.title,
        "rows": list(table.rows),
        "columns": table.columns,
        "metric": table.metric,
        "row_names": [list(names) for names in row_names],
        "column_names": list(dict.fromkeys([*printed, *(one.labels[table.columns] for one in sweep.variants)])),
        "paper": paper,
        "notes": list(table.notes),
    }


def shard(runs: Sequence[PlannedRun], index: int, count: int) -> list[PlannedRun]:
    """Returns every `count`-th run from the `index`-th on (from 1): the shards of 1 … count are all runs, each once."""
    return list(runs[index - 1 :: count])


def folder(labels: Mapping[str, str]) -> str:
    """Returns the folder of a run: the names on its axes in order, empty ones left out, that of "seed" as seed_N."""
    parts = [f"seed_{name}" if axis == "seed" else name for axis, name in labels.items() if name]
    return "/".join(re.sub(r"[^\w.+-]+", "_", part).strip("._") or "_" for part in parts)


def _together(variants: Sequence[Variant]) -> Variant:
    labels: dict[str, str] = {}
    overrides: dict[str, Any] = {}
    for variant in variants:
        for known, new, what in ((labels, variant.labels, "axis"), (overrides, variant.overrides, "key")):
            if twice := sorted(known.keys() & new.keys()):
                raise ValueError(f"two of the combined lists give the {what} {twice[0]}: leave it in one of them")
            known.update(new)
    return Variant(labels, overrides)


def _check_table(path: Path, sweep: Sweep) -> None:
    if sweep.table is None:
        return
    if sweep.table.metric not in METRICS:
        raise ConfigError(f"{path}: the table's metric must be one of {', '.join(METRICS)}; got {sweep.table.metric!r}")
    axes: Any = (*sweep.table.rows, sweep.table.columns)
    if not sweep.table.rows or "seed" in axes:
        raise ConfigError(
            f"{path}: the table's rows must be one axis or more, its columns another, and none of them the seed; got "
            f"rows {list(sweep.table.rows)}, columns {sweep.table.columns!r}"
        )
    cells: dict[Any, Variant] = {}
    for variant in sweep.variants:
        if missing := [axis for axis in axes if axis not in variant.labels]:
            raise ConfigError(
                f"{path}: each run needs a name on the axes of the table; {dict(variant.labels)} has "
                f"none on {', '.join(missing)}"
            )
        place = (*(variant.labels[axis] for axis in axes), variant.labels.get("seed"))
        other = cells.setdefault(place, variant)
        if other is not variant:
            raise ConfigError(
                f"{path}: runs of one seed must stand in different cells of the table; {dict(other.labels)} and "
                f"{dict(variant.labels)} do not: name the axis in which they differ in its rows"
            )
