"""The input path of a run: which images a step takes, how they reach the devices, what is done to them there."""

import concurrent.futures
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax.config import class_groups, schema
from cbjax.data import DataError, Dataset, Encoded, samplers
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.given import Fit
from cbjax.data.sampling import Batches
from cbjax.data.stream import Reading, make_image
from cbjax.host import machine
from cbjax.host.output import say
from cbjax.parallel import processes
from cbjax.training import resident, streaming
from cbjax.training.evaluate import Evaluation, make_evaluate, make_streamed_evaluate
from cbjax.training.programs import Programs
from cbjax.types import TrainState

ReportBad = Callable[[str, str], None]  # (name of an image, reason why it was skipped)


def is_streamed(dataset: Dataset) -> bool:
    """Says whether the images are read as they are needed; else they lie on the devices."""
    return isinstance(dataset.train.images, Encoded)


def build_batches(config: ConfigDict, dataset: Dataset) -> Batches:
    """Returns the order of the training images."""
    order = samplers.make_order(
        config.data.sampler,
        dataset.train.labels,
        config.seed,
        images_per_class=config.data.images_per_class,
        num_epochs=config.num_epochs,
    )
    return Batches(len(dataset.train), config.batch_size, config.seed, order=order)


def build_advance(
    config: ConfigDict, dataset: Dataset, batches: Batches, programs: Programs, mesh: Mesh, report: ReportBad
) -> Callable[..., Any]:
    """Returns (state, first, last) -> (state, metrics), as `loop.Plan` wants it."""
    data = config.data
    if is_streamed(dataset):
        return streaming.make_advance(
            programs.train,
            dataset.train,
            batches,
            TrainTransform(data.image_size, config.seed, data.crop_area, data.flip, data.color_jitter, data.max_pixels),
            _reading(config, report),
            num_steps=batches.epoch_end(config.num_epochs),
            mesh=mesh,
        )
    streams = build_streams(config, dataset, batches)
    return resident.make_advance(programs.train, streams, steps_per_dispatch=programs.steps_per_dispatch, mesh=mesh)


def build_streams(config: ConfigDict, dataset: Dataset, batches: Batches) -> resident.Streams:
    """Returns what a step takes images from: the training images, and the meta images where the config has some.

    Images that are read as they are needed come another way, and are the only stream.
    """
    if is_streamed(dataset):
        return {}
    streams = {resident.TRAIN: (dataset.train, batches)}
    if dataset.meta is not None:
        order = Batches(len(dataset.meta), config.meta.batch_size, config.seed, order=_meta_order(config, dataset))
        streams["meta"] = (dataset.meta, order)
    return streams


def _meta_order(config, dataset):
    # Each class as often as the others, whatever was held out of it.
    return samplers.make_order("class_aware", dataset.meta.labels, config.seed + 1, images_per_class=1)


def build_evaluate(
    config: ConfigDict, dataset: Dataset, program: Callable[..., Any], mesh: Mesh, report: ReportBad
) -> Callable[[str], Callable[[TrainState], Evaluation]]:
    """Returns split -> state -> Evaluation, made at the first use of a split."""

    @functools.cache
    def evaluate(split):
        examples = dataset.validation if split == "validation" else dataset.test
        assert examples is not None, "`has_validation` says whether there is something to evaluate"
        batch_size = config.evaluation.batch_size or config.batch_size
        options = {
            "counts": dataset.counts,
            "groups": class_groups.resolve(config.evaluation.groups, dataset.class_names),
            "batch_size": batch_size,
            "mesh": mesh,
        }
        if not isinstance(examples.images, Encoded):
            return make_evaluate(program, examples.images, examples.labels, **options)
        transform = evaluation_transform(config)
        assert transform is not None, "encoded images come from a streamed source"
        measured = make_streamed_evaluate(program, examples, transform, _reading(config, report), **options)
        return _told(measured, split, examples.labels, dataset.class_names)

    return evaluate


def check_readable(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Looks, before training, for an image of each class that can be read in the splits that are evaluated.

    Returns:
      Lines to note: the classes of which no image can be read, where bad images are skipped.

    Raises:
      DataError: if no image of a split can be read, or a bad one is met and such are not skipped.
    """
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
            """Returns what is wrong with the first image, where all are bad or one is and none is to be."""
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


def evaluation_transform(config: ConfigDict) -> EvalTransform | None:
    """Returns encoded image -> the network's input size; None where images were of one size from the start."""
    if not schema.is_streamed(config.data.name):
        return None
    return EvalTransform(config.data.image_size, evaluation_resize(config), config.data.max_pixels)


def fit_given(config: ConfigDict, facts: Mapping[str, Any]) -> Fit:
    """Returns what brings given images to those of a run, from what `workdir.describe_data` said of its data."""
    dtype, span = facts["image_dtype"], facts.get("image_span")
    if span is None and dtype == "uint8":
        span = (0, 255)
    transform = evaluation_transform(config)
    shape = tuple(facts["image_shape"]) if transform is None else (transform.image_size, transform.image_size, 3)
    return Fit(shape, dtype, span and tuple(span), transform)


def evaluation_resize(config: ConfigDict) -> int:
    """Returns the shorter side in pixels that an image is resized to before its centre is cropped."""
    return config.data.resize or round(config.data.image_size * 256 / 224)


def _reading(config, report):
    data = config.data
    return Reading(data.threads, data.workers, data.on_bad_image, report)
