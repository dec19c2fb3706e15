"""Training for class-imbalanced recognition: class-balanced and difficulty-balanced losses on JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cbjax import config, data, difficulty, landscape, losses, metrics, models, optim, report, weights
    from cbjax.training.restore import load
    from cbjax.training.run import train
    from cbjax.types import Run, TrainState

__all__ = [
    "Run",
    "TrainState",
    "config",
    "data",
    "difficulty",
    "landscape",
    "load",
    "losses",
    "metrics",
    "models",
    "optim",
    "report",
    "train",
    "weights",
]
_TRAIN = {"config", "landscape", "load", "report", "train"}  # need the packages of the extra of that name
_PLACES = {
    "Run": "cbjax.types",
    "TrainState": "cbjax.types",
    "load": "cbjax.training.restore",
    "train": "cbjax.training.run",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: a user of the losses alone pays for nothing else.
    if name in _TRAIN:
        importlib.import_module("cbjax.host.installed").check(f"cbjax.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    if name in __all__:
        return importlib.import_module(f"cbjax.{name}")
    raise AttributeError(f"module 'cbjax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
