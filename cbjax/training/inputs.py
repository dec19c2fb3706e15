"""What a run takes in: the order of its training images, its evaluations, and images that a person hands over."""

import concurrent.futures
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax.config import class_groups
from cbjax.data import DataError, Dataset, Encoded, samplers
from cbjax.data.batches import Batches
from cbjax.data.clips.given import ClipFit
from cbjax.data.clips.transforms import EvalClip
from cbjax.data.given import Fit
from cbjax.data.records import noun_of
from cbjax.data.stream import make_image
from cbjax.host import machine
from cbjax.host.output import say
from cbjax.parallel import processes
from cbjax.training import components
from cbjax.training.evaluate import Evaluation, make_evaluate
from cbjax.training.input_paths import InputPath, ReportBad, evaluation_transform
from cbjax.types import TrainState


def build_batches(config: ConfigDict, dataset: Dataset) -> Batches:
    """Returns the order of the training images."""
    order = samplers.make_order(
        config.data.sampler,
        dataset.train.labels,
        config.seed,
        images_per_class=config.data.images_per_class,
        num_epochs=config.num_epochs,
        beta=config.data.sampler_beta,
        start_epoch=math.ceil(components.exactly(config.data.sampler_start) * config.num_epochs),
    )
    return Batches(len(dataset.train), config.batch_size, config.seed, order=order)


def build_evaluate(
    config: ConfigDict, dataset: Dataset, path: InputPath, program: Callable[..., Any], mesh: Mesh, report: ReportBad
) -> Callable[[str], Callable[[TrainState], Evaluation]]:
    """Returns split -> state -> Evaluation, made at the first use of a split."""

    @functools.cache
    def evaluate(split):
        examples = dataset.validation if split == "validation" else dataset.test
        assert examples is not None, "`has_validation` says whether there is something to evaluate"
        batch_size = config.evaluation.batch_size or config.batch_size
        visit = path.visit(config, program, examples, report, batch_size, mesh)
        groups = class_groups.resolve(config.evaluation.groups, dataset.class_names)
        found = make_evaluate(visit, examples.labels, counts=dataset.counts, groups=groups, mesh=mesh)
        return _told(found, split, examples.labels, dataset.class_names)

    return evaluate


def check_readable(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Looks, before training, for files that are not there, and in evaluated splits for a readable image of each class.

    Returns:
      Lines to note: the classes of which no image can be read, where bad images are skipped.

    Raises:
      DataError: if no image of a split can be read, or one is bad or not there and such are not skipped.
    """
    _check_there(config, dataset)
    notes, transform = [], evaluation_transform(config)
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        if split is None or transform is None or not isinstance(split.images, Encoded):
            continue
        labels = split.labels
        if labels.ndim == 1:
            ends = np.cumsum(np.bincount(labels, minlength=len(dataset.class_names)))
            members = np.split(np.argsort(labels, kind="stable"), ends[:-1])
        else:
            members = [np.flatnonzero(column) for column in labels.T]

        def look(positions, images=split.images):
            """Returns why the first image is bad if all are, else "". Raises at a bad image unless such are skipped."""
            first = ""
            for position in positions.tolist():
                reason, _ = make_image(images, transform, position)
                if not reason:
                    return ""
                first = first or f"{images.name(position)}: {reason}"
                if config.data.on_bad_image == "error":
                    raise DataError(f"{first}; repair it or leave it out, or set data.on_bad_image=skip")
            return first

        with concurrent.futures.ThreadPoolExecutor(config.data.threads or machine.cores()) as pool:
            found = list(pool.map(look, members))
        blind = [place for place, reason in enumerate(found) if reason]
        if blind and all(found[place] for place, some in enumerate(members) if some.size):
            raise DataError(
                f"none of the {len(split)} {name} images can be read, so the run would end without figures; "
                f"the first: {found[blind[0]]}"
            )
        if blind:
            names = ", ".join(dataset.class_names[place] for place in blind[:20])
            more = f" and {len(blind) - 20} more" if len(blind) > 20 else ""
            notes.append(f"no {name} image of {names}{more} can be read: such a class has no figure")
    return notes


def _check_there(config: ConfigDict, dataset: Dataset) -> None:
    """Raises DataError if a listed file is not there, which would end the run at the step that wants it."""
    if config.data.on_bad_image == "skip":
        return
    splits = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test, "meta": dataset.meta}
    for name, split in splits.items():
        if split is not None and isinstance(split.images, Encoded) and (missing := split.images.missing()):
            noun = noun_of(split.images.shape[1:])
            without = " or have no frames" if noun == "clip" else ""
            raise DataError(
                f"{len(missing)} of the {name} {noun}s are not there{without}, such as {missing[0]}: add them or take "
                "them off the list, or set data.on_bad_image=skip to leave them out"
            )


def fit_given(config: ConfigDict, facts: Mapping[str, Any]) -> Fit | ClipFit:
    """Returns what brings given images to those of a run, from what `data_facts.describe` said of its data."""
    dtype, span = facts["image_dtype"], facts.get("image_span")
    if span is None and dtype == "uint8":
        span = (0, 255)
    transform = evaluation_transform(config)
    if isinstance(transform, EvalClip):
        return ClipFit(transform)
    shape = tuple(facts["image_shape"]) if transform is None else (transform.image_size, transform.image_size, 3)
    return Fit(shape, dtype, span and tuple(span), transform)


def _told(evaluate: Callable[[TrainState], Evaluation], split: str, labels: np.ndarray, class_names: Sequence[str]):
    """Returns the evaluation, which says once how many images of each class were skipped."""
    told = False

    def evaluate_and_tell(state):
        nonlocal told
        found = evaluate(state)
        if not told and found.count < len(labels) and processes.is_first():
            every = np.bincount(labels, minlength=len(class_names)) if labels.ndim == 1 else (labels > 0).sum(axis=0)
            lost = every - found.class_count
            some = [f"{int(lost[c])} of {class_names[c]}" for c in np.argsort(-lost, kind="stable")[:20] if lost[c]]
            more = f" and of {np.sum(lost > 0) - 20} more classes" if np.sum(lost > 0) > 20 else ""
            missing = len(labels) - found.count
            say(f"{missing} of {len(labels)} {split} images are skipped and count nowhere: {', '.join(some)}{more}")
        told = True
        return found

    return evaluate_and_tell
