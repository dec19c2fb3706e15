"""Reads and checks a sweep's file: what its `get_sweep()` returns, and the runs that follow from it."""

import contextlib
import dataclasses
import functools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax import variants
from cbjax.config import ConfigError, files, methods, own_code, rules
from cbjax.config.schema import accept, entry, show
from cbjax.host.storage import with_absolute_paths
from cbjax.report import sweep_table
from cbjax.report.sweep_table import Table
from cbjax.variants import Sweep

LONGEST_NAME = 200  # most bytes of a folder's name; disks take 255


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its folder below the sweep's, its name on each axis, and its resolved configuration."""

    name: str
    labels: Mapping[str, str]
    config: ConfigDict

    @functools.cached_property
    def identity(self) -> str:
        """The hash of its whole resolved configuration; rows of results hold it."""
        # With absolute paths, since a relative path names other data in another folder.
        return configs.fingerprint(with_absolute_paths(self.config))[:16]


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[PlannedRun]]:
    """Reads a sweep: a file whose `get_sweep()` returns a `Sweep`.

    Args:
      name_or_path: "digits_lt" (a file among the package's sweeps), or a path. A recipe may follow a colon.
      overrides: changes for every run, such as "num_epochs=2"; they win over the file.

    Returns:
      The sweep and its runs, in order.

    Raises:
      ConfigError: if the file or one of its runs is wrong.
    """
    path, sweep = files.call(name_or_path, "get_sweep", folder="sweeps")
    sweep = _check(path, sweep)
    for_all = configs.read_overrides(overrides)
    _check_folders(path, [one.labels for one in sweep.variants])
    read = functools.cache(functools.partial(configs.read, beside=path))
    values: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # run -> (its configuration, its own changes)
    for variant in sweep.variants:
        name = folder(variant.labels)
        with _of_run(path, name):
            changes = methods.expand(variant.overrides)
            base = read(changes.pop("config", sweep.config))
            values[name] = base, own_code.look_beside(accept(changes), path)
    _check_overrides(path, values, for_all)
    runs = []
    for variant, (name, (base, changes)) in zip(sweep.variants, values.items(), strict=True):
        with _of_run(path, name):
            runs.append(PlannedRun(name, dict(variant.labels), configs.combine(base, changes, for_all)))
    same: dict[str, str] = {}
    for run in runs:
        if run.identity in same:
            raise ConfigError(
                f"{path}: runs must differ in what they compute; {same[run.identity]} and {run.name} do not"
            )
        same[run.identity] = run.name
    _check_groups(path, sweep.table, runs)
    return sweep, runs


def sweep_name(name_or_path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Returns the name of a sweep in its rows: its file, its recipe and the changes for every run.

    Args:
      name_or_path: as for `load`.
      overrides: as for `load`.

    Returns:
      A text such as "cdb_table1:short --config.batch_size=50", or "mine.py:short" for a user's file. As arguments of
      the command it gives the same runs; for a user's file, in that file's folder.
    """
    path, recipe = files.find(str(name_or_path), "sweeps")
    known = files.named("sweeps").get(path.stem)
    name = path.stem if known is not None and known.samefile(path) else path.name
    return shlex.join([f"{name}:{recipe}" if recipe else name, *(f"--config.{one}" for one in overrides)])


def table_as_json(sweep: Sweep) -> dict[str, Any] | None:
    """Returns the layout of a sweep's table as JSON values (`sweep_table.as_json`); None if it has no table."""
    return None if sweep.table is None else sweep_table.as_json(sweep.table, [one.labels for one in sweep.variants])


def shard(runs: Sequence[PlannedRun], index: int, count: int) -> list[PlannedRun]:
    """Returns every `count`-th run, beginning with the `index`-th (from 1). All shards together have each run once.

    Raises:
      ConfigError: if the shard has no run.
    """
    if index > len(runs):
        raise ConfigError(
            f"shard {index} of {count} has none of the {len(runs)} runs; use I/N with N at most {len(runs)}"
        )
    return list(runs[index - 1 :: count])


def folder(labels: Mapping[str, str]) -> str:
    """Returns the folder of a run: its names on the axes, in order and without empty ones; a seed becomes seed_N."""
    parts = [f"seed_{name}" if axis == "seed" else name for axis, name in labels.items() if name]
    return "/".join(re.sub(r"[^\w.+-]+", "_", part).strip("._") or "_" for part in parts)


def _check(path: Path, sweep: Any) -> Sweep:
    """Checks that a file returned a sweep and returns it, its variants as a list; raises ConfigError."""
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"{path}: get_sweep() must return a cbjax.variants.Sweep; got {type(sweep).__name__}")
    if not isinstance(sweep.config, str | Path) or not isinstance(sweep.table, Table | None):
        raise ConfigError(
            f"{path}: a Sweep takes a config's name, a list of variants and a Table or None, in this order; its "
            f"config is {type(sweep.config).__name__}, its table {type(sweep.table).__name__}"
        )
    try:
        listed = variants.listed(sweep.variants)
    except ValueError as error:
        raise ConfigError(f"{path}: the second argument of a Sweep {error}") from error
    if not listed:
        raise ConfigError(f"{path}: a sweep needs at least one run; got none")
    for one in listed:
        if not all(isinstance(text, str) for text in (*one.labels, *one.labels.values())):
            raise ConfigError(f"{path}: axes and names on them must be texts; got {show(dict(one.labels))}")
        if not all(isinstance(key, str) for key in one.overrides):
            raise ConfigError(f"{path}: the keys that a run changes must be texts; got {show(dict(one.overrides))}")
        if not isinstance(one.overrides.get("config", ""), str | Path):
            raise ConfigError(
                f"{path}: the config of a run must be a config's name; got {show(one.overrides['config'])} in "
                f"{dict(one.labels)}"
            )
    known = ("num_classes", "num_images", "image_size")
    sizes: Any = sweep.sizes  # a user may have written anything
    if not isinstance(sizes, Mapping) or not all(key in known and _is_size(size) for key, size in sizes.items()):
        raise ConfigError(
            f"{path}: the sizes of a sweep are {', '.join(known)}, whole numbers from 1 to 10**10; got {show(sizes)}"
        )
    if sweep.table is not None:
        sweep_table.check(path, sweep.table, [one.labels for one in listed])
    return dataclasses.replace(sweep, variants=listed)


def _is_size(size: Any) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and 1 <= int(size) <= 10**10


@contextlib.contextmanager
def _of_run(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"run {name} of {path}: {error}") from error


def _check_folders(path: Path, labels: Iterable[Mapping[str, str]]) -> None:
    """Raises ConfigError unless each run has its own folder."""
    runs: dict[str, Mapping[str, str]] = {}
    for one in labels:
        name = folder(one).casefold()  # CE and ce are the same folder on some disks
        if not name or name in runs:
            known = f"; so has {dict(runs[name])}" if name in runs else ""
            raise ConfigError(
                f"{path}: each run needs its own folder, made of its names on the axes; upper and lower case are the "
                f"same; {dict(one)} has {folder(one) or 'none'!r}{known}"
            )
        if max(len(os.fsencode(part)) for part in name.split("/")) > LONGEST_NAME:
            raise ConfigError(
                f"{path}: a run's name on an axis names a folder, so it can have at most {LONGEST_NAME} bytes; got "
                f"{show(dict(one))}"
            )
        runs[name] = one
    for name, one in runs.items():
        if outer := [str(folder) for folder in Path(name).parents if str(folder) in runs]:
            raise ConfigError(
                f"{path}: the folder of a run must not lie in another run's; the folder of {dict(one)} would lie in "
                f"that of {dict(runs[outer[0]])}: give the second run a name on each axis, or put the seeds last"
            )


def _check_groups(path: Path, table: Table | None, runs: Sequence[PlannedRun]) -> None:
    """Raises ConfigError if the table has the metric of a group of classes that a run does not name."""
    metrics = [] if table is None else [metric for metric, _ in sweep_table.cells_of(table.metric, table.columns, {})]
    for metric in metrics:
        for run in runs:
            group, named = sweep_table.group_of(metric), dict(run.config.evaluation.groups)
            if group is not None and group not in named:
                raise ConfigError(
                    f"{path}: the table's metric {metric} needs a group {group} in evaluation.groups of each run; "
                    f"{run.name} has {', '.join(named) or 'none'}"
                )


def _check_overrides(
    path: Path, runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]], for_all: Mapping[str, Any]
) -> None:
    """Checks changes for every run: each must have an effect in some run, and runs must not differ in its key.

    If runs differ in a key, their names say so. With one value for all, the names would be wrong. This holds for a
    baseline too, which keeps its configuration's value.

    Raises:
      ConfigError: if a change breaks a rule.
    """
    for key, for_each in for_all.items():
        idle = {name: list(rules.without_effect(key, {**base, **own, **for_all})) for name, (base, own) in runs.items()}
        if for_each != entry(key).default and all(idle.values()):
            raise ConfigError(f"{path}: {next(iter(idle.values()))[0]}; the same holds in every run")
        by_value: dict[str, str] = {}
        for name, (base, own) in runs.items():
            if key in own or not idle[name]:
                by_value.setdefault(repr(own.get(key, base.get(key))), name)
        if len(by_value) > 1 and any(key in own for _, own in runs.values()):
            raise ConfigError(
                f"{path}: {key} cannot be changed for every run, because runs differ in it: it is "
                f"{' and '.join(f'{value} in {name}' for value, name in list(by_value.items())[:2])}; "
                "change the file, or a copy of it"
            )
