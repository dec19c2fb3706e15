"""Surfaces of the loss around finished runs: random slices, lines and planes between runs, a run's trajectory."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbjax.config import ConfigError
from cbjax.host.counting import counted
from cbjax.host.output import say
from cbjax.landscape import directions, folder, grid, pictures, trajectories
from cbjax.landscape.directions import Directions
from cbjax.landscape.points import STATISTICS, Way
from cbjax.landscape.subject import Subject, differences, open_run
from cbjax.landscape.surface import Surface
from cbjax.types import Run
from cbjax.workdir import environment

MOST_POINTS = 10**6
Source = Run | str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Options:
    """What all surfaces take.

    Attributes:
      split: "train" (without augmentation), "validation" or "test".
      checkpoint: "last" or "best", of each run that is given as a work directory.
      points: along each direction.
      statistics: of BatchNorm: "keep" those at the origin, "interpolate" along with the parameters, or "recompute" from
        the training images at each point. None: interpolate between runs, else keep.
      name: of the folder in the work directory, landscape/NAME; None for the kind of the surface.
      out: another folder.
      overrides: "data.data_dir=…" and the like, as for `cbjax eval`.
      trust_code: as for `cbjax.load`.
      points_at_once: points side by side on each device; None to measure what is fastest.
      images_at_once: images of a batch; None to choose.
      pictures: whether to draw.
      progress: "auto", "on", "lines" or "off".
    """

    split: str = "train"
    checkpoint: str = "last"
    points: int = 51
    statistics: str | None = None
    name: str | None = None
    out: str | os.PathLike | None = None
    overrides: Sequence[str] = ()
    trust_code: bool = False
    points_at_once: int | None = None
    images_at_once: int | None = None
    pictures: bool = True
    progress: str = "auto"

    def __post_init__(self):
        for name, least in (("points", 2), ("points_at_once", 1), ("images_at_once", 1)):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < least):
                raise ConfigError(f"{name} must be a whole number of at least {least}; got {value}")
        if self.statistics not in (None, *STATISTICS):
            raise ConfigError(f"statistics must be one of {', '.join(STATISTICS)}; got {self.statistics!r}")

    def open(self, run: Source) -> Subject:
        """Reads a run and its data."""
        given: dict[str, Any] = {"split": self.split, "checkpoint": self.checkpoint}
        return open_run(run, **given, overrides=self.overrides, trust_code=self.trust_code)


@environment.in_float32
def random(
    run: Source,
    *,
    dimensions: int = 2,
    span: tuple[float, float] = (-1.0, 1.0),
    seed: int = 123,
    normalization: str = "filter",
    biases: str = "zero",
    batch_norm: str = "zero",
    **options: Any,
) -> Surface:
    """Measures the loss along random directions around a run's network, which have the lengths of its filters.

    Args:
      run: a work directory, or a run from `cbjax.train` or `cbjax.load`.
      dimensions: 1 or 2.
      span: of the coordinates; at 1 each filter has moved by its own length.
      seed, normalization, biases, batch_norm: as for `directions.random`.
      options: of `Options`.

    Returns:
      The surface, which is also kept in the work directory. The same call reads it, or goes on with it.

    Raises:
      ConfigError: if an option is wrong, or the folder holds a landscape with other settings.
      Stopped: after SIGINT or SIGTERM, once all that is measured is saved.

    Source: Li et al. 2018.
    """
    chosen = Options(**options)
    subject = chosen.open(run)
    choices: dict[str, Any] = {"normalization": normalization, "biases": biases, "batch_norm": batch_norm}
    line_or_plane = _checked(lambda: directions.random(subject.network, dimensions, seed, **choices))
    axes = (_axis(span, chosen.points),) * dimensions
    return _measured("random", [subject], line_or_plane, axes, chosen, "keep")


@environment.in_float32
def line(run: Source, other: Source, *, span: tuple[float, float] = (-0.5, 1.5), **options: Any) -> Surface:
    """Measures the loss on the line through two runs, the first of which is at 0 and the second at 1.

    Args:
      run, other: work directories or runs, of the same network and classes. The images and the loss are those of the
        first.
      span: of the line.
      options: of `Options`.

    Returns, raises: as `random`.
    """
    chosen = Options(**options)
    subjects = _opened(chosen, (run, other))
    found = directions.line(subjects[0].network, subjects[1].network, _names(subjects))
    return _measured("line", subjects, found, (_axis(span, chosen.points),), chosen, "interpolate")


@environment.in_float32
def plane(run: Source, second: Source, third: Source, *, margin: float = 0.25, **options: Any) -> Surface:
    """Measures the loss on the plane through three runs.

    Args:
      run, second, third: as for `line`.
      margin: how far the plane goes beyond the runs, as a share of their extent.
      options: of `Options`.

    Returns, raises: as `random`.
    """
    chosen = Options(**options)
    subjects = _opened(chosen, (run, second, third))
    found = _checked(lambda: directions.plane([one.network for one in subjects], _names(subjects)))
    return _measured("plane", subjects, found, _around([*found.marks.values()], margin, chosen), chosen, "interpolate")


@environment.in_float32
def trajectory(run: Source, *, margin: float = 0.25, **options: Any) -> Surface:
    """Measures the loss on the principal directions of a run's way through training, and draws that way on it.

    Args:
      run: as for `random`; trained with checkpoint.keep=all, so that it has checkpoints of several epochs.
      margin: how far the plane goes beyond the way, as a share of its extent.
      options: of `Options`.

    Returns, raises: as `random`.
    """
    chosen = Options(**options)
    subject = chosen.open(run)
    networks, steps = trajectories.networks_of(subject)
    found = _checked(lambda: directions.principal(networks, [f"step {steps[0]}", f"step {steps[-1]}"]))
    found = dataclasses.replace(found, facts={**found.facts, "steps": steps})
    return _measured("trajectory", [subject], found, _around(found.path, margin, chosen), chosen, "keep")


def _measured(
    kind: str,
    subjects: Sequence[Subject],
    found: Directions,
    axes: tuple[np.ndarray, ...],
    chosen: Options,
    usual: str,
) -> Surface:
    subject, statistics = subjects[0], chosen.statistics or usual
    if len(axes[0]) ** len(axes) > MOST_POINTS:
        raise ConfigError(f"a surface has at most {MOST_POINTS} points; got {chosen.points} along each direction")
    out = None if chosen.out is None else pathlib.Path(chosen.out).expanduser().absolute()
    where = folder.place(subject, chosen.name or kind, out)
    facts = {name: value for name, value in found.facts.items() if name not in ("cosine", "distance", "explained")}
    settings = {
        "kind": kind,
        "runs": [one.about["workdir"] for one in subjects],
        "steps": [one.about["step"] for one in subjects],
        "split": chosen.split,
        "points": chosen.points,
        "from": [float(axis[0]) for axis in axes],
        "to": [float(axis[-1]) for axis in axes],
        "statistics": statistics,
        "directions": facts,
        "data": subject.about["data_sha256"],
        "networks": folder.digest(found),
        # Not the groups: their figures are made from those of the classes.
        **{key: value for key, value in subject.changed.items() if key != "evaluation.groups"},
    }
    earlier = folder.begin(where, settings)
    before = folder.read_figures(where) if earlier else None
    known = earlier["way"] if earlier and before is not None else None
    about = {"kind": kind, "runs": [one.about for one in subjects], "statistics": statistics, **found.facts}
    noted = {
        "settings": settings,
        "about": about,
        "axes": [axis.tolist() for axis in axes],
        "marks": found.marks,
        "path": found.path,
        "class_names": list(subject.run.class_names),
        "counts": subject.counts,
        "groups": dict(subject.groups),
        "way": known,
    }
    folder.write_about(where, noted)
    if before is None:
        folder.write_directions(where, found)
    places = np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], axis=1)
    done = 0 if before is None else int(before.done.sum())
    if 0 < done < len(places):
        say(f"going on in {where}: {done} of {len(places)} points are done")

    def save(sums, way):
        folder.write_figures(where, sums)
        if noted["way"] != list(way):
            noted["way"] = list(way)
            folder.write_about(where, noted)

    with counted(len(places), done, "points", chosen.progress, say) as progress:
        sums, _ = grid.measure(
            subject,
            found,
            places,
            batch_norm_statistics=statistics,
            way=_way(chosen, known, subject.devices),
            images_at_once=chosen.images_at_once,
            before=before,
            save=save,
            progress=progress,
        )
    surface = folder.to_surface(where, noted, sums)
    folder.write_table(where, surface)
    if chosen.pictures:
        pictures.draw(surface, where)
    return surface


def _way(chosen: Options, known: list[int] | None, devices: int) -> Way | None:
    """Returns how points are to be spread, or None to measure what is fastest."""
    if chosen.points_at_once is not None:
        return Way(devices, chosen.points_at_once)
    # Goes on the way it began, so that last bits do not depend on a kill.
    return Way(*known) if known is not None and known[0] <= devices else None


def _opened(chosen: Options, runs: Sequence[Source]) -> list[Subject]:
    subjects = [chosen.open(run) for run in runs]
    first, names = subjects[0], _names(subjects)
    for one, name in zip(subjects[1:], names[1:], strict=True):
        if one.run.class_names != first.run.class_names:
            raise ConfigError(f"runs to draw a line or a plane through must have the same classes; {name} has others")
        if other := differences(first, one):
            say(f"{name} has another {', '.join(other)} than {names[0]}: what {names[0]} has is taken for all points")
    _checked(lambda: directions.check_alike([one.network for one in subjects], names))
    return subjects


def _names(subjects: Sequence[Subject]) -> list[str]:
    """Returns short names that differ: the last parts of the paths."""
    parts = [pathlib.PurePath(one.about["workdir"]).parts for one in subjects]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part[-1:])} ({place + 1})" for place, part in enumerate(parts)]


def _around(path, margin: float, chosen: Options) -> tuple[np.ndarray, ...]:
    """Returns axes that hold all coordinates [E, 2] and a margin."""
    path = np.asarray(path)
    room = margin * np.ptp(path, axis=0).max()
    spans = zip(path.min(axis=0) - room, path.max(axis=0) + room, strict=True)
    return tuple(_axis(span, chosen.points) for span in spans)


def _axis(span: tuple[float, float], count: int) -> np.ndarray:
    if not (np.isfinite(span).all() and span[0] < span[1]):
        raise ConfigError(f"span must be two finite numbers, the smaller one first; got {span[0]} and {span[1]}")
    if max(map(abs, span)) > float(np.finfo(np.float32).max):
        raise ConfigError(f"span must be within the range of float32; got {span[0]} and {span[1]}")
    return np.linspace(span[0], span[1], count)


def _checked(make):
    try:
        return make()
    except ValueError as error:
        raise ConfigError(str(error)) from error
