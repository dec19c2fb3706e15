"""Groups runs into methods, and names the methods by their folders or by the settings that differ."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cbjax.config import HOW_KEYS
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

    If a path ends in METHOD/seed_N, the method is named by its folders. If that is not enough, the config keys that
    differ are added. Other runs are named by the keys that differ; if these are many, by the runs' folders.
    """
    groups: dict[str, list[RunRecord]] = {}
    left_out = []
    for run in runs:
        members = groups.setdefault(json.dumps([run.folders[-1:], _method_settings(run)], sort_keys=True), [])
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


def _shared(runs: Sequence[RunRecord]) -> str:
    """Returns the innermost folders that all runs have in common."""
    levels = zip(*(run.folders[::-1] for run in runs), strict=False)
    same = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return "/".join(same[::-1])


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Returns a distinct name for each method; methods are given by their runs."""
    runs, names = [members[0] for members in groups], [_shared(members) for members in groups]
    labels = []
    for run, name in zip(runs, names, strict=True):
        settings = [_method_settings(other) for other, same in zip(runs, names, strict=True) if same == name]
        own = _method_settings(run)
        differences = ", ".join(f"{key}={own.get(key)}" for key in differing(settings))
        if name:
            labels.append(f"{name} ({differences})" if differences else name)
        else:
            labels.append(differences or _alone(run))
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
