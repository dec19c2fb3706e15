"""The curvature of the loss at a run's network: its Hessian's eigenvalues, overall, by group and by class."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.config import ConfigError
from cbjax.host.counting import counted
from cbjax.host.interrupts import Interrupts
from cbjax.host.output import say
from cbjax.host.writers import plain
from cbjax.landscape import curvature_pictures, folder, images, lanczos, products
from cbjax.landscape.directions import Directions
from cbjax.landscape.grid import SAVE_SECONDS, Stopped
from cbjax.landscape.lanczos import Ritz
from cbjax.landscape.spectrum import Curvature, Spectrum
from cbjax.landscape.subject import Subject
from cbjax.landscape.surfaces import Options, Source
from cbjax.parallel import sharding
from cbjax.workdir import environment

PARTS = ("all", "group", "class")


@environment.in_float32
def curvature(
    run: Source,
    *,
    by: Sequence[str] = ("all", "group"),
    steps: int = 30,
    probes: int = 4,
    seed: int = 123,
    **options: Any,
) -> Curvature:
    """Finds the outer eigenvalues, the trace and the density of the Hessian of a run's loss.

    The loss is the mean over the images of a part, not weighted by classes, with BatchNorm's statistics kept. Each part
    takes steps * probes products, of some two to three gradients each.

    Args:
      run: a work directory, or a run from `cbjax.train` or `cbjax.load`.
      by: which parts: "all" images, each "group" of classes, each "class".
      steps: of Lanczos from each start vector; more find more eigenvalues, and the outer ones more exactly.
      probes: random start vectors of ±1, the same for all parts; more make trace and density more exact.
      seed: of the start vectors.
      options: split, checkpoint, name, out, overrides, trust_code, images_at_once, pictures and progress of `Options`.

    Returns:
      The curvature, which is also kept in the work directory. The same call reads it, or goes on with it.

    Raises:
      ConfigError: if an option is wrong, or the folder holds a landscape with other settings.
      Stopped: after SIGINT or SIGTERM; start vectors that are done are saved.

    Source: Yao et al. 2020 (PyHessian) for the quantities; Rangwani et al. 2022 for those of each class. They
    measure augmented images, so their figures scatter.
    """
    chosen = Options(**options)
    if not by or not set(by) <= set(PARTS):
        raise ConfigError(f"by must name some of {', '.join(PARTS)}; got {', '.join(by) or 'nothing'}")
    for name, value in (("steps", steps), ("probes", probes)):
        if value != int(value) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1; got {value}")
    for name in ("points_at_once", "statistics"):
        if getattr(chosen, name) is not None:
            raise ConfigError(f"{name} is for surfaces; the Hessian is of one point and keeps BatchNorm's statistics")
    subject = chosen.open(run)
    parts = _parts(subject, by)
    out = None if chosen.out is None else pathlib.Path(chosen.out).expanduser().absolute()
    where = folder.place(subject, chosen.name or "curvature", out)
    settings = {
        "kind": "curvature",
        "run": subject.about["workdir"],
        "step": subject.about["step"],
        "split": chosen.split,
        "by": [part for part in PARTS if part in by],
        "steps": steps,
        "probes": probes,
        "seed": seed,
        "data": subject.about["data_sha256"],
        "networks": folder.digest(Directions(subject.network, ())),
        **{key: value for key, value in subject.changed.items() if key != "evaluation.groups" or "group" in by},
    }
    noted = folder.begin(where, settings)
    classes = {name: plain(some) for name, (some, _) in _classes(subject, by).items()}
    found: dict[str, list[Ritz]] = {name: [] for name in parts}
    if noted is not None:
        # Files of earlier versions lack evaluation.groups, so the classes tell whether a group is the same.
        same = [name for name in parts if noted["classes"].get(name) == classes[name]]
        found |= {name: [_ritz(one) for one in noted["found"].get(name, ())] for name in same}
    mesh = sharding.make_mesh(1 if _on_cpu() else subject.devices)
    compiled = products.build(subject, mesh, chosen.images_at_once)
    noted = {
        "settings": settings,
        "about": {"kind": "curvature", "runs": [subject.about], "parameters": compiled.size},
        "class_names": list(subject.run.class_names),
        "counts": subject.counts,
        "images": {name: len(positions) for name, positions in parts.items()},
        "classes": classes,
        "found": {},
    }
    _measure(subject, compiled, parts, found, (steps, probes, seed), where, noted, chosen)
    result = _record(noted, found, where)
    curvature_pictures.write_table(result, where)
    if chosen.pictures:
        curvature_pictures.draw(result, where)
    return result


def read_curvature(where: str | pathlib.Path) -> Curvature:
    """Reads a curvature from its folder; parts that are not measured yet are left out.

    Raises:
      ConfigError: if it is a surface.
      WorkdirError: if there is none.
    """
    path = pathlib.Path(where)
    noted = folder.read_about(path)
    if noted["settings"]["kind"] != "curvature":
        raise ConfigError(f"{path} holds a surface, not a curvature: landscape.read reads it")
    return _record(noted, {name: [_ritz(one) for one in some] for name, some in noted["found"].items()}, path)


def _measure(subject, compiled, parts, found, numbers, where, noted, chosen):
    steps, probes, seed = numbers
    total = len(parts) * steps * probes
    done = sum(len(some) for some in found.values()) * steps
    if 0 < done < total:
        say(f"going on in {where}: {done} of {total} products are done")

    def save():
        noted["found"] = {one: [dataclasses.asdict(ritz) for ritz in some] for one, some in found.items()}
        folder.write_about(where, noted)

    with counted(total, done, "products", chosen.progress, say) as progress, Interrupts() as interrupts:
        saved = time.perf_counter()
        try:
            for name, positions in parts.items():
                if len(found[name]) >= probes:
                    continue
                hessian = compiled.of(images.some(subject.examples, positions)).hessian
                for number in range(len(found[name]), probes):
                    product = _told(hessian, interrupts, progress, done, total)
                    found[name].append(_ritz_of(product, lanczos.rademacher(compiled.size, seed, number), steps, name))
                    done += steps
                    # The file holds all that is found, so with many classes it is written now and then.
                    if time.perf_counter() - saved > SAVE_SECONDS:
                        save()
                        saved = time.perf_counter()
        finally:
            save()


def _ritz_of(product, start, steps, name):
    try:
        return lanczos.lanczos(product, start, steps)
    except ValueError as error:
        raise ConfigError(f"the Hessian of {name} is not finite: the network diverged, or its loss does") from error


def _told(product, interrupts, progress, done, total):
    """Returns the product, which counts its calls and ends the work after a signal."""
    calls = itertools.count(done + 1)

    def told(vector):
        if interrupts.signum is not None:
            raise Stopped(interrupts.signum, done, total, "products")
        found = product(vector)
        progress(next(calls))
        return found

    return told


def _parts(subject: Subject, by: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns name -> positions of its images; parts without images are left out."""
    named = {name: positions for name, (_, positions) in _classes(subject, by).items()}
    return {name: positions for name, positions in named.items() if len(positions)}


def _classes(subject: Subject, by: Sequence[str]) -> dict[str, tuple[Any, np.ndarray]]:
    examples, names = subject.examples, subject.run.class_names
    chosen: dict[str, Any] = {}
    if "all" in by:
        chosen["all images"] = np.arange(len(names))
    if "group" in by:
        chosen |= subject.groups
    if "class" in by:
        order = np.argsort(-subject.counts, kind="stable")
        chosen |= {f"class {names[c]}": np.array([c]) for c in order}
    return {
        name: (classes, np.arange(len(examples)) if name == "all images" else products.of_classes(examples, classes))
        for name, classes in chosen.items()
    }


def _record(noted: Mapping[str, Any], found: Mapping[str, Sequence[Ritz]], where: pathlib.Path) -> Curvature:
    size = noted["about"]["parameters"]
    parts = [
        Spectrum(name, noted["images"][name], np.asarray(noted["classes"][name]), size, tuple(some))
        for name, some in found.items()
        if some
    ]
    return Curvature(tuple(parts), tuple(noted["class_names"]), np.asarray(noted["counts"]), noted["about"], where)


def _ritz(noted: Mapping[str, Any]) -> Ritz:
    return Ritz(**{name: np.asarray(values, np.float64) for name, values in noted.items()})


def _on_cpu() -> bool:
    return not sharding.on_accelerator(sharding.make_mesh(1))
