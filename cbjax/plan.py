"""Which runs of a sweep are trained together and how: decided once, and written down before the first run."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from cbjax import abstract_data, modes, processes, programs, sharding
from cbjax import config as configs
from cbjax import workdir as workdirs
from cbjax.config import ConfigError
from cbjax.config_schema import is_streamed
from cbjax.data import Source
from cbjax.modes import Choice
from cbjax.variants import PlannedRun


def plan(
    path: pathlib.Path,
    left: Sequence[PlannedRun],
    mode: str,
    group_size: int | None,
    load: Callable[..., Source],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Reads how runs are trained, or decides it and writes it down.

    Args:
      path: of the plan, a JSON file.
      left: the runs that are not over; those that the plan lacks join it, in groups of its size.
      mode: one of `modes.MODES`.
      group_size: runs of a group; None to choose.
      load: reads a data source.
      tell: called with a line for each event.

    Returns:
      What the file has: "asked", the mode and group size of the command; "mode", "group_size" and "measured" as in
      `modes.Choice`; "groups", the names of the runs of each.

    Raises:
      ConfigError: if the plan was made for another mode or group size, or no group can be made of the runs.
      WorkdirError: if the file is damaged.
    """
    asked = {"mode": mode, "group_size": group_size}
    if not path.exists():
        if not left:
            return {"asked": asked, "mode": "loop", "groups": []}
        choice = _choose(left, mode, group_size, load, tell)
        return _write(path, {"asked": asked, **choice._asdict(), "groups": _groups(left, choice)})
    known = workdirs.read_json(path)
    if (mode != "auto" or group_size is not None) and known["asked"] != asked:
        raise ConfigError(
            f"{path}: these runs were begun with {known['asked']}; go on with that, or use another --workdir"
        )
    planned = {name for names in known["groups"] for name in names}
    new = [run for run in left if run.name not in planned]
    if not new:
        return known
    choice = Choice(known["mode"], known["group_size"], known["measured"])
    return _write(path, {**known, "groups": [*known["groups"], *_groups(new, choice)]})


def _choose(left, mode, group_size, load, tell) -> Choice:
    # Of the shapes with the most runs the one with the most images, which takes the most memory.
    largest = max(_by_shape(left), key=lambda same: (len(same), _num_images(same[0])))
    alone = len(largest) == 1 or any(is_streamed(run.config.data.name) for run in left) or processes.count() > 1
    if alone and mode in ("vmap", "devices"):
        raise ConfigError(
            f"mode={mode!r} needs several runs that differ in settings alone, of images that fit on the "
            "devices, and one process; use mode=loop"
        )
    if alone or mode == "loop":
        return Choice("loop", 1, [])
    tell(f"choosing how to train {len(left)} runs" if mode == "auto" else f"measuring groups of runs, {mode}")
    choice = modes.choose(largest, mode, group_size, load)
    tell(f"mode {choice.mode}, {choice.group_size} runs at a time")
    return choice


def _groups(runs: Sequence[PlannedRun], choice: Choice) -> list[list[str]]:
    groups = [
        [run.name for run in group] for same in _by_shape(runs) for group in _cut(same, choice.group_size, choice.mode)
    ]
    # In the order of the sweep, which puts the most telling runs first.
    place = {run.name: number for number, run in enumerate(runs)}
    return sorted(groups, key=lambda names: place[names[0]])


def _cut(runs, size, mode):
    """Cuts runs into groups; what is left of the last one still fills the devices, as far as it goes."""
    devices = sharding.count_devices() if mode == "devices" else 1
    while runs:
        if len(runs) < size:
            size = len(runs) // devices * devices or len(runs)
        yield runs[:size]
        runs = runs[size:]


def _by_shape(runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Returns the runs whose programs and data have the same shapes."""
    shapes: dict[str, list[PlannedRun]] = {}
    for run in runs:
        flat = json.loads(configs.to_json(run.config))
        for key in programs.ARGUMENTS:
            section, _, key_name = key.rpartition(".")
            if section != "data" or key_name == "seed":
                (flat[section] if section else flat).pop(key_name)
        shapes.setdefault(json.dumps(flat), []).append(run)
    return list(shapes.values())


def _num_images(run: PlannedRun) -> int:
    try:
        return int(abstract_data.describe(run.config).counts.sum())
    except ConfigError:  # not known before the data are read
        return 0


def _write(path, found):
    workdirs.write_json(path, found)
    return found
