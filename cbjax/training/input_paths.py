"""The two ways by which images reach the devices, each with its programs and what feeds them: resident and streamed.

Resident images lie on the devices, where a dispatch of steps chooses and augments them. Streamed ones are read, decoded
and cropped on the host, batch by batch. Which way a run goes is asked once, of its images (`of`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbjax import models
from cbjax.config import image_sources
from cbjax.data import Dataset, Encoded, Split, augment, samplers
from cbjax.data.batches import Batches, Partners
from cbjax.data.clips.transforms import EvalClip, TrainClip
from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.stream import Reading
from cbjax.objectives.mixing import PARTNER
from cbjax.parallel import sharding
from cbjax.training import evaluate, resident, streaming

ReportBad = Callable[[str, str], None]  # (name of an image, reason why it was skipped)
# Added to the seed for the order of a stream, and for its crops where it has some of its own: else the order and the
# crops could be those of the training images.
_META, _PARTNERS = 1, 2


class InputPath(NamedTuple):
    """A way by which images reach the devices.

    Attributes:
      name: of it.
      steps_per_dispatch: (config, batches, mesh) -> how many steps one call of the training program takes at most.
      train_program: (train_step, config, steps per dispatch, mesh, kind) -> the compiled training program.
      streams: (config, dataset, batches) -> the images that a step takes and their order, by the names of streams.
      advance: (config, dataset, batches, training program, steps per dispatch, mesh, report) -> (state, first, last) ->
        (state, metrics), as `loop.Plan` wants it; `report` is told of images that are skipped.
      visit: (config, evaluation program, examples, report, batch size, mesh) -> `evaluate.Visit`, a pass over them.
    """

    name: str
    steps_per_dispatch: Callable[[ConfigDict, Batches, Mesh], int]
    train_program: Callable[..., Any]
    streams: Callable[[ConfigDict, Dataset, Batches], resident.Streams]
    advance: Callable[..., Any]
    visit: Callable[..., evaluate.Visit]


def of(images: Any) -> InputPath:
    """Returns the way of these images: streamed where they are encoded, else resident."""
    return STREAMED if isinstance(images, Encoded) else RESIDENT


def augmentation(config: ConfigDict) -> Callable[..., Any]:
    """Returns (settings, keys [B], images) -> the network's input, for images on the device."""
    data = config.data

    def prepare(given, keys, images):
        if data.crop_padding or data.flip:
            images = augment.crop_flip(keys, images, data.crop_padding, data.flip, data.padding_mode)
        return normalize(given, images)

    return prepare


def normalize(given: Any, images: Any) -> Any:
    """Returns the network's input, by the mean and the deviation in the settings."""
    return augment.normalize(images, given.mean, given.std)


def evaluation_transform(config: ConfigDict) -> EvalTransform | EvalClip | None:
    """Returns encoded image or clip -> the network's input size; None where images were of one size from the start."""
    if not image_sources.is_streamed(config.data.name):
        return None
    data = config.data
    image = EvalTransform(data.image_size, evaluation_resize(config), data.max_pixels)
    if not data.frames:
        return image
    return EvalClip(data.frames, image, config.seed if data.evaluation_frames == "random" else None)


def evaluation_resize(config: ConfigDict) -> int:
    """Returns the shorter side in pixels that an image is resized to before its centre is cropped."""
    return config.data.resize or round(config.data.image_size * 256 / 224)


def _resident_steps(config: ConfigDict, batches: Batches, mesh: Mesh) -> int:
    if config.steps_per_dispatch is not None:
        return config.steps_per_dispatch
    # One dispatch an epoch saves the host's time, but not with XLA's convolutions on CPU, which are slow inside a loop.
    loops = sharding.on_accelerator(mesh) or config.model.name in models.OF_MATRIX_PRODUCTS
    return batches.epoch_end(1) if loops else 1


def _resident_program(train_step, config, steps_per_dispatch, mesh, kind):
    prepare = augmentation(config)
    return resident.make_program(train_step, prepare, steps_per_dispatch=steps_per_dispatch, mesh=mesh, kind=kind)


def _streams(config: ConfigDict, dataset: Dataset, batches: Batches) -> resident.Streams:
    """Returns what a step takes images from: training images, and meta images and partners where there are some."""
    streams: dict[str, tuple[Split, Batches | Partners]] = {resident.TRAIN: (dataset.train, batches)}
    if dataset.meta is not None:
        order = Batches(len(dataset.meta), config.meta.batch_size, config.seed, order=_meta_order(config, dataset))
        streams["meta"] = (dataset.meta, order)
    if config.mix.name != "none":
        streams[PARTNER] = (dataset.train, _partners(config, dataset, batches))
    return streams


def _partners(config, dataset, batches):
    """Returns the order of the images that are mixed into the training images."""
    if config.mix.name != "cmo":
        return Partners(batches, config.seed)
    # Classes come equally often.
    order = samplers.make_order("oversample", dataset.train.labels, config.seed + _PARTNERS)
    return Batches(len(dataset.train), batches.batch_size, config.seed, order=order)


def _meta_order(config, dataset):
    # Classes come equally often, however many meta images each has.
    return samplers.make_order("class_aware", dataset.meta.labels, config.seed + _META, images_per_class=1)


def _resident_advance(config, dataset, batches, program, steps_per_dispatch, mesh, report):
    streams = _streams(config, dataset, batches)
    return resident.make_advance(program, streams, steps_per_dispatch=steps_per_dispatch, mesh=mesh)


def _resident_visit(config, program, examples, report, batch_size, mesh):
    return evaluate.make_visit(program, examples.images, examples.labels, batch_size, mesh)


def _streamed_program(train_step, config, steps_per_dispatch, mesh, kind):
    return streaming.make_program(train_step, normalize, mesh, kind)


def _streamed_advance(config, dataset, batches, program, steps_per_dispatch, mesh, report):
    of_stream = {resident.TRAIN: 0, "meta": _META, PARTNER: _PARTNERS}
    streams = {
        # Partners from the same batch have the crops that they have there.
        name: (examples, order, _crops(config, 0 if isinstance(order, Partners) else of_stream[name]))
        for name, (examples, order) in _streams(config, dataset, batches).items()
    }
    last = batches.epoch_end(config.num_epochs)
    return streaming.make_advance(program, streams, reading(config, report), num_steps=last, mesh=mesh)


def _crops(config, more):
    """Returns (encoded image or clip, place in its stream) -> the network's input size; `more` is added to the seed."""
    data = config.data
    image = TrainTransform(
        data.image_size, config.seed + more, data.crop_area, data.flip, data.color_jitter, data.max_pixels, data.crop
    )
    return TrainClip(data.frames, image, data.rotation) if data.frames else image


def _streamed_visit(config, program, examples, report, batch_size, mesh):
    transform = evaluation_transform(config)
    assert transform is not None, "encoded images come from a streamed source"
    return evaluate.make_streamed_visit(program, examples, transform, reading(config, report), batch_size, mesh)


def reading(config: ConfigDict, report: ReportBad) -> Reading:
    """Returns how the run reads images; `report` is told of each that is skipped."""
    data = config.data
    return Reading(data.threads, data.workers, data.on_bad_image, report)


RESIDENT = InputPath(
    name="resident",
    steps_per_dispatch=_resident_steps,
    train_program=_resident_program,
    streams=_streams,
    advance=_resident_advance,
    visit=_resident_visit,
)
STREAMED = InputPath(
    name="streamed",
    steps_per_dispatch=lambda config, batches, mesh: 1,
    train_program=_streamed_program,
    streams=_streams,
    advance=_streamed_advance,
    visit=_streamed_visit,
)
