"""Training for class-imbalanced recognition: class-balanced (CB) and difficulty-balanced (CDB) losses on JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cbjax import config, data, difficulty, losses, metrics, models, optim, weights
    from cbjax.build import load, train
    from cbjax.types import Run, TrainState

_MODULES = ("config", "data", "difficulty", "losses", "metrics", "models", "optim", "report", "weights")
_NAMES = {"train": "cbjax.build", "load": "cbjax.build", "Run": "cbjax.types", "TrainState": "cbjax.types"}
__all__ = sorted([*_MODULES, *_NAMES])


def __getattr__(name: str) -> Any:
    # Imported at first use: a user of the losses alone pays for nothing else.
    if name in _MODULES:
        return importlib.import_module(f"cbjax.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'cbjax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
