"""Groups runs into methods, and names the methods by their folders or by the settings that differ."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cbjax.config import HOW_KEYS
from cbjax.config.compare import SOURCE_KEYS
from cbjax.report.read import SEED_FOLDER, LeftOut, RunRecord

LONGEST = 60  # characters of a name that is made of settings


@dataclasses.dataclass(frozen=True)
class Method:
    """Runs that differ only in their seed and in where they ran."""

    label: str
    settings: dict[str, Any]
    runs: tuple[RunRecord, ...]


def group(runs: Sequence[RunRecord]) -> tuple[list[Method], list[LeftOut]]:
    """Groups runs into methods, and leaves out a second run of the same method and seed.

    Runs on other data are another method, whatever their settings: other classes, or another number of images.

    If a path ends in METHOD/seed_N, the method is named by its folders. If that is not enough, the config keys that
    differ are added. Other runs are named by the keys that differ; if these are many, by the runs' folders. If methods
    differ in their data alone, the keys that say where the data are take part, or else the runs' directories.
    """
    groups: dict[str, list[RunRecord]] = {}
    left_out = []
    for run in runs:
        members = groups.setdefault(_text([run.folders[-1:], _method_settings(run), _data(run)]), [])
        twin = next((other for other in members if other.seeds == run.seeds), None)
        if twin is None:
            members.append(run)
        else:
            left_out.append(LeftOut(run.path, f"same method and seed as {twin.path}"))
    labels = _labels(list(groups.values()))
    methods = [
        Method(label, _method_settings(members[0]), tuple(members))
        for label, members in zip(labels, groups.values(), strict=True)
    ]
    return methods, left_out


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the dotted keys whose values are not equal in all settings."""
    keys = {key: None for one in settings for key in one}
    return [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]


def _method_settings(run: RunRecord) -> dict[str, Any]:
    """Returns the settings that make the method: all but the seeds and the keys that say where and how it runs.

    A second stage begins from another run for each seed. So the folder of that run says where it begins, without a last
    part seed_N.
    """
    apart = ("seed", "data.seed", *HOW_KEYS, "stage.checksum")
    found = {
        key: value
        for key, value in run.settings.items()
        if not any(key == other or key.startswith(f"{other}.") for other in apart)
    }
    source = run.settings.get("stage.source")
    return found if source is None else found | {"stage.source": re.sub(rf"/{SEED_FOLDER}/?$", "", source)}


def _data(run: RunRecord) -> list[Any]:
    """Returns what tells data apart and no seed changes: the class names, and the number of images of each split."""
    sizes = dict(run.data.get("sizes", {}))
    if run.around.get("data.synthesis"):
        sizes.pop("train", None)  # ADASYN makes more or fewer images by the seed
    return [run.class_names, sizes]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _telling(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Returns each run's settings, with as much of where its data or itself are as makes them differ."""
    found = [_method_settings(run) for run in runs]
    sources: list[dict[str, Any]] = [{key: run.settings.get(key) for key in SOURCE_KEYS} for run in runs]
    directories: list[dict[str, Any]] = [{"directory": str(run.path)} for run in runs]
    for more in (sources, directories):
        if len({_text(one) for one in found}) < len(found):
            found = [one | other for one, other in zip(found, more, strict=True)]
    return found


def _shared(runs: Sequence[RunRecord]) -> str:
    """Returns the innermost folders that all runs have in common."""
    levels = zip(*(run.folders[::-1] for run in runs), strict=False)
    same = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return "/".join(same[::-1])


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Returns a distinct name for each method; methods are given by their runs."""
    runs, names = [members[0] for members in groups], [_shared(members) for members in groups]
    labels = [""] * len(runs)
    for name in dict.fromkeys(names):
        places = [place for place, other in enumerate(names) if other == name]
        settings = _telling([runs[place] for place in places])
        keys = differing(settings)
        for place, own in zip(places, settings, strict=True):
            differences = ", ".join(f"{key}={own.get(key)}" for key in keys)
            if name:
                labels[place] = f"{name} ({differences})" if differences else name
            else:
                labels[place] = differences or _alone(runs[place])
    if any(len(label) > LONGEST for label, name in zip(labels, names, strict=True) if not name):
        shorter = [
            members[0].path.resolve().name if not name and len(members) == 1 else label
            for label, name, members in zip(labels, names, groups, strict=True)
        ]
        labels = shorter if len(set(shorter)) == len(shorter) else labels
    return labels


def _alone(run: RunRecord) -> str:
    """Returns the name of a method that is compared with no other."""
    loss = str(run.settings.get("loss.name")).rpartition("/")[2]  # a user's own without the folders of its file
    around = dict(run.around)
    if "stage.name" in around:
        around.pop("data.sampler", None)  # the stage's own
    said = {"data.sampler": "{} sampler", "evaluation.tau": "evaluation.tau={}"}
    parts = [said.get(key, "{}").format(value) for key, value in around.items()]
    return ", ".join([loss, f"{run.settings.get('weights.name')} weights", *parts])
