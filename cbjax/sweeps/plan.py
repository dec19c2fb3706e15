"""Decides which runs of a sweep are trained together, and how; once, and written down before the first run.

Runs that are trained side by side are a cohort. In the files of a sweep, and in `--group-size`, it is called a group.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.config.image_sources import is_streamed
from cbjax.config.parts import FITTED
from cbjax.data import Source
from cbjax.parallel import processes, sharding
from cbjax.sweeps import modes
from cbjax.sweeps.file import PlannedRun
from cbjax.sweeps.modes import Choice
from cbjax.training import programs
from cbjax.workdir import files as workdirs


def plan(
    path: pathlib.Path,
    mine: Sequence[PlannedRun],
    left: Sequence[PlannedRun],
    mode: str,
    group_size: int | None,
    sizes: Mapping[str, Sequence[int]],
    load: Callable[..., Source],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Reads how runs are trained, or decides it and writes it down.

    A cohort with a checkpoint keeps all its runs, also finished ones, so that it can go on from there. Any other cohort
    keeps the runs that are left, and is cut where these do not share a program. Runs that the plan lacks are added, in
    cohorts of its size.

    Args:
      path: path of the plan, a JSON file.
      mine: all runs of this shard of the sweep.
      left: the runs that are not over.
      mode: one of `modes.MODES`.
      group_size: number of runs in a cohort; None to choose.
      sizes: for each run that is left, name -> images of each split, training first, and number of classes.
      load: reads a data source.
      tell: called with a line for each event.

    Returns:
      The content of the file. "asked": the mode and group size of the command. "mode", "group_size" and "measured": as
      in `modes.Choice`. "groups": the names of the runs in each cohort.

    Raises:
      ConfigError: if the plan was made for another mode or group size, or no cohort can be made of the runs.
      WorkdirError: if the file is damaged.
    """
    asked, step_bytes = {"mode": mode, "group_size": group_size}, dict[str, int]()
    known = check(path, mode, group_size)
    if known is None:
        if not left:
            return {"asked": asked, "mode": "loop", "groups": []}
        shapes = _by_shape(left, sizes)
        choice = _choose(shapes, sizes, mode, group_size, load, step_bytes, tell)
        cohorts = _cohorts(shapes, left, choice, load, step_bytes, tell)
        return _write(path, {"asked": asked, **choice._asdict(), "groups": cohorts})
    by_name, waiting = {run.name: run for run in mine}, {run.name for run in left}
    cohorts = []
    for cohort in known["groups"]:
        rest = [by_name[name] for name in cohort if name in waiting]
        # Another version may have put runs together whose programs differ. Such a checkpoint has wrong figures.
        parts = len(_by_program(by_name[name] for name in cohort if name in by_name))
        begun = is_begun(path.parent / folder(cohort)) and by_name.keys() >= {*cohort} and parts == 1
        if rest and parts > 1:
            tell(f"the runs of the group of {cohort[0]} share no program: they are trained anew in smaller groups")
        cohorts += [cohort] if begun or not rest else [[run.name for run in same] for same in _by_program(rest)]
    planned = {name for cohort in cohorts for name in cohort}
    new = [run for run in left if run.name not in planned]
    choice = Choice(known["mode"], known["group_size"], known["measured"])
    cohorts += _cohorts(_by_shape(new, sizes), new, choice, load, step_bytes, tell)
    return known if cohorts == known["groups"] else _write(path, {**known, "groups": cohorts})


def check(path: pathlib.Path, mode: str, group_size: int | None) -> dict[str, Any] | None:
    """Reads a plan; None if there is none.

    Raises:
      ConfigError: if it was made for another mode or group size.
      WorkdirError: if the file is damaged.
    """
    if not path.exists():
        return None
    known, asked = workdirs.read_json(path), {"mode": mode, "group_size": group_size}
    if (mode != "auto" or group_size is not None) and known["asked"] != asked:
        raise ConfigError(
            f"{path}: these runs were begun with {_as_options(known['asked'])}; got {_as_options(asked)}: go on with "
            "the first, or use another --workdir"
        )
    return known


def path_of(place: pathlib.Path, part: tuple[int, int]) -> pathlib.Path:
    """Returns the path of the plan of a sweep's part (i, n)."""
    return place / f"plan{suffix(part)}.json"


def suffix(part: tuple[int, int]) -> str:
    """Returns the end of the file names of a part (i, n)."""
    return "" if part[1] == 1 else f"_{part[0]}_of_{part[1]}"


def asked_mode(place: pathlib.Path, part: tuple[int, int], mode: str) -> str:
    """Returns the mode that a sweep was begun with; for a new sweep, `mode`.

    Raises:
      WorkdirError: if its plan is damaged.
    """
    known = check(path_of(place, part), "auto", None)
    return mode if known is None else known["asked"]["mode"]


def folder(names: Sequence[str]) -> str:
    """Returns the folder of a cohort's checkpoints, below the sweep's folder."""
    return f"groups/{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}"


def is_begun(place: pathlib.Path) -> bool:
    """Returns whether a cohort's folder has a checkpoint."""
    return any((place / "checksums").glob("*.json"))


def _as_options(asked):
    size = asked["group_size"]
    return f"--mode={asked['mode']}" + (f" --group-size={size}" if size is not None else "")


def _choose(shapes, sizes, mode, group_size, load, step_bytes, tell) -> Choice:
    if mode == "loop":
        return Choice("loop", 1, [])
    # The shape with the most runs; if several have as many, the one with the most images, as it takes the most memory.
    largest = max(shapes, key=lambda same: (len(same), *sizes.get(same[0].name, ())))
    left = [run for same in shapes for run in same]
    if any(is_streamed(run.config.data.name) for run in left) or processes.count() > 1:
        if mode in ("vmap", "devices"):
            raise ConfigError(f"mode={mode!r} needs images that fit on the devices, and one process; use mode=loop")
        return Choice("loop", 1, [])
    if any(run.config.stage.name in FITTED for run in left):
        if mode in ("vmap", "devices"):
            raise ConfigError(f"mode={mode!r} needs runs that train; stage.name {' or '.join(FITTED)} does not")
        return Choice("loop", 1, [])
    if len(largest) == 1:  # for example if only one run is left
        if mode != "auto":
            tell("no two runs that are left have programs of equal shapes: each is trained alone")
        return Choice("loop", 1, [])
    tell(f"choosing how to train {len(left)} runs" if mode == "auto" else f"measuring runs side by side, {mode}")
    choice = modes.choose(largest, mode, group_size, load, step_bytes)
    tell(f"mode {choice.mode}, {choice.group_size} run{'s' if choice.group_size > 1 else ''} at a time")
    return choice


def _cohorts(shapes, runs, choice, load, step_bytes, tell) -> list[list[str]]:
    cohorts = []
    for same in shapes:
        size = 1 if _is_alone(same[0]) else choice.group_size
        if size > 1 and len(same) > 1:
            devices = sharding.count_devices() if choice.mode == "devices" else 1
            most = modes.runs_that_fit(same[0], devices, load, step_bytes)
            size = min(size, most // devices * devices or most)  # equally many on each device
            if size < min(choice.group_size, len(same)):
                tell(f"{len(same)} runs like {same[0].name}: {size} at a time, as more would not fit into memory")
        cohorts += [[run.name for run in cohort] for cohort in _cut(same, size, choice.mode)]
    # In the order of the sweep's file, which puts the most informative runs first.
    place = {run.name: number for number, run in enumerate(runs)}
    return sorted(cohorts, key=lambda names: place[names[0]])


def _cut(runs, size, mode):
    """Cuts runs into cohorts; the rest makes cohorts that still fill the devices, as far as possible."""
    devices = sharding.count_devices() if mode == "devices" else 1
    while runs:
        if len(runs) < size:
            size = len(runs) // devices * devices or len(runs)
        yield runs[:size]
        runs = runs[size:]


def _by_shape(runs: Sequence[PlannedRun], sizes: Mapping[str, Sequence[int]]) -> list[list[PlannedRun]]:
    """Puts runs together whose programs and data have the same shapes."""
    shapes: dict[str, list[PlannedRun]] = {}
    for run in runs:
        of_data = json.loads(configs.to_json(run.config))["data"]
        # If data could not be read just now, equal settings are taken to give equal sizes.
        shape = [programs.static_part(run.config), sizes.get(run.name, {**of_data, "seed": None})]
        shapes.setdefault(json.dumps(shape), []).append(run)
    return list(shapes.values())


def _by_program(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """Puts runs together whose configs give one program, whatever the sizes of their data."""
    found: dict[str, list[PlannedRun]] = {}
    for run in runs:
        key = run.name if _is_alone(run) else json.dumps(programs.static_part(run.config))
        found.setdefault(key, []).append(run)
    return list(found.values())


def _is_alone(run: PlannedRun) -> bool:
    """Returns whether a run is never in a cohort: its images are streamed, or its stage takes no step."""
    return is_streamed(run.config.data.name) or run.config.stage.name in FITTED


def _write(path, found):
    workdirs.write_json(path, found)
    return found
