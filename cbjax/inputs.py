"""The input path of a run: which images a step takes, how they reach the devices, what is done to them there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import config_schema, groups, resident, streaming
from cbjax.data import Dataset, Encoded, samplers
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.given import Fit
from cbjax.data.sampling import Batches
from cbjax.data.stream import Reading
from cbjax.evaluate import Evaluation, make_evaluate, make_streamed_evaluate
from cbjax.programs import Programs
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
    return resident.make_advance(
        programs.train, dataset.train, batches, steps_per_dispatch=programs.steps_per_dispatch, mesh=mesh
    )


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
            "groups": groups.resolve(config.evaluation.groups, dataset.class_names),
            "batch_size": batch_size,
            "mesh": mesh,
        }
        if not isinstance(examples.images, Encoded):
            return make_evaluate(program, examples.images, examples.labels, **options)
        transform = evaluation_transform(config)
        assert transform is not None, "encoded images come from a streamed source"
        return make_streamed_evaluate(program, examples, transform, _reading(config, report), **options)

    return evaluate


def evaluation_transform(config: ConfigDict) -> EvalTransform | None:
    """Returns encoded image -> the network's input size; None where images were of one size from the start."""
    if not config_schema.is_streamed(config.data.name):
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
