"""The input path of a run: which images a step takes, how they reach the devices, what is done to them there."""

import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import groups, resident, sharding, streaming
from cbjax.config_schema import STREAMED
from cbjax.data import Dataset, Encoded, augment, samplers
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.sampling import Batches
from cbjax.data.stream import Reading
from cbjax.evaluate import Evaluation, make_evaluate, make_streamed_evaluate
from cbjax.types import Array

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


def steps_per_dispatch(config: ConfigDict, dataset: Dataset, batches: Batches, mesh: Mesh) -> int:
    """Returns how many steps a dispatch takes at most."""
    return 1 if is_streamed(dataset) else steps_per_resident_dispatch(config, batches, mesh)


def steps_per_resident_dispatch(config: ConfigDict, batches: Batches, mesh: Mesh) -> int:
    """Returns how many steps a dispatch takes at most where the images lie on the devices."""
    if config.steps_per_dispatch is not None:
        return config.steps_per_dispatch
    # XLA's convolutions inside a loop are about ten times slower on CPU; elsewhere one dispatch an epoch saves the
    # host's time.
    return batches.epoch_end(1) if sharding.on_accelerator(mesh) else 1


def build_advance(
    config: ConfigDict, dataset: Dataset, batches: Batches, train_step: Callable, mesh: Mesh, report: ReportBad
) -> Callable[..., Any]:
    """Returns (state, first, last) -> (state, metrics), as `loop.Plan` wants it."""
    data = config.data
    normalize = _normalize(dataset)
    if is_streamed(dataset):
        return streaming.make_advance(
            train_step,
            normalize,
            dataset.train,
            batches,
            TrainTransform(data.image_size, config.seed, data.crop_area, data.flip, data.color_jitter),
            _reading(config, report),
            num_steps=batches.epoch_end(config.num_epochs),
            mesh=mesh,
            kind=config.parallel,
        )
    return resident.make_advance(
        train_step,
        build_augmentation(config, normalize),
        dataset.train,
        batches,
        steps_per_dispatch=steps_per_dispatch(config, dataset, batches, mesh),
        mesh=mesh,
        kind=config.parallel,
    )


def build_augmentation(config: ConfigDict, normalize: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """Returns (keys [B], raw images) -> the network's input, for images that lie on the devices."""
    data = config.data

    def prepare(keys, images):
        if data.crop_padding or data.flip:
            images = augment.crop_flip(keys, images, data.crop_padding, data.flip, data.padding_mode)
        return normalize(images)

    return prepare


def build_evaluate(
    config: ConfigDict, dataset: Dataset, eval_step: Callable, mesh: Mesh, report: ReportBad
) -> Callable[[str], Callable[[Any, Any], Evaluation]]:
    """Returns split -> (params, batch_stats) -> Evaluation, made at the first use of a split."""

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
            "kind": config.parallel,
        }
        normalize = _normalize(dataset)
        if not isinstance(examples.images, Encoded):
            return make_evaluate(eval_step, normalize, examples.images, examples.labels, **options)
        transform = evaluation_transform(config)
        assert transform is not None, "encoded images come from a streamed source"
        return make_streamed_evaluate(eval_step, normalize, examples, transform, _reading(config, report), **options)

    return evaluate


def evaluation_transform(config: ConfigDict) -> EvalTransform | None:
    """Returns encoded image -> the network's input size; None where images were of one size from the start."""
    if config.data.name not in STREAMED and not config.data.name.startswith("tfds:"):
        return None
    return EvalTransform(config.data.image_size, evaluation_resize(config))


def evaluation_resize(config: ConfigDict) -> int:
    """Returns the shorter side in pixels that an image is resized to before its centre is cropped."""
    return config.data.resize or round(config.data.image_size * 256 / 224)


def _normalize(dataset):
    return functools.partial(augment.normalize, mean=dataset.mean, std=dataset.std)


def _reading(config, report):
    data = config.data
    return Reading(data.threads, data.workers, data.on_bad_image, report)
