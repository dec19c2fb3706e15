"""Checks of a configuration whose images are read as they are needed, and of one whose data are clips."""

from collections.abc import Iterator, Mapping
from typing import Any

from cbjax.config.image_sources import CLIPS_ALONE, OF_CLIPS, is_streamed
from cbjax.config.parts import MODELS, VIDEO_MODELS
from cbjax.host.code import FORM


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong; arguments and lines as in `rules.problems`."""
    yield from _streamed(values)
    yield from _clips(values)


def _streamed(values):
    name = values["data.name"]
    if not is_streamed(name):
        return
    if name in ("list", "csv") and values["data.train_list"] is None:
        yield f"data.train_list must be the file that lists the training images when data.name is {name}; got None"
    if name == "folder" and values["data.root"] is None:
        file = "CLASS/*.mp4" if values["data.frames"] else "CLASS/*.jpg"
        yield f"data.root must be a folder with {file} or train/{file} when data.name is folder; got None"
    if name in CLIPS_ALONE and values["data.root"] is None:
        yield f"data.root must be the folder of the data as published when data.name is {name}; got None"
    if values["data.normalization"] == "standardize":
        yield (
            f"data.normalization must not be standardize when data.name is {name}, whose images are read as they are "
            "needed; got standardize: try data.normalization=imagenet"
        )
    if values["data.crop_padding"]:
        yield (
            f"data.crop_padding must be 0 when data.name is {name}, whose images are cropped by data.crop_area; "
            f"got {values['data.crop_padding']}"
        )
    if values["data.resize"] is not None and values["data.resize"] < values["data.image_size"]:
        yield (
            f"data.resize must be at least data.image_size, {values['data.image_size']}, as the crop is cut from it; "
            f"got {values['data.resize']}"
        )
    if values["data.synthesis"] != "none":
        yield (
            f"data.synthesis must be none when data.name is {name}, whose images do not lie in memory; "
            f"got {values['data.synthesis']}: try data.sampler=class_aware"
        )
    if values["steps_per_dispatch"] not in (None, 1):
        yield (
            f"steps_per_dispatch must be 1 or none when data.name is {name}, whose images come batch by batch; "
            f"got {values['steps_per_dispatch']}"
        )


def _clips(values):
    name, model, frames = values["data.name"], values["model.name"], values["data.frames"]
    if name in CLIPS_ALONE and not frames:
        yield f"data.frames must be above 0 when data.name is {name}, whose data are clips; got 0: try data.frames=10"
    if model in MODELS and (name in OF_CLIPS or not frames) and (model in VIDEO_MODELS) != bool(frames):
        what = "clips" if frames else "images"
        known = ", ".join([*takers(values), FORM]) if frames else ", ".join(takers(values))
        advice = "" if frames or name not in OF_CLIPS else ": or set data.frames=10 if these are clips"
        yield f"model.name must be a network for {what} when data.frames is {frames} ({known}); got {model}{advice}"


def takers(values):
    """Returns the networks that take images, or clips if the data are such."""
    return [model for model in MODELS if (model in VIDEO_MODELS) == bool(values["data.frames"])]
