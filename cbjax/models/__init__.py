"""Networks as records of pure functions: `build(name, num_classes, **options) -> Model`.

Only this room knows Linen. Training is in `training/`. Begin with `linen.py`, which turns a module into a `Model`, and
`layers.py`, which has the parts of networks. `own.py` makes a `Model` from a user's function.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from cbjax.host import code
from cbjax.models import own
from cbjax.models.digits_cnn import digits_cnn
from cbjax.models.lenet import lenet5
from cbjax.models.linear import linear
from cbjax.models.resnet_cifar import resnet_cifar
from cbjax.models.resnet_imagenet import DEPTHS, resnet_imagenet
from cbjax.models.resnet_video import NETWORKS, resnet_video
from cbjax.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "digits_cnn": digits_cnn,
    "lenet5": lenet5,
    "linear": linear,
    **{f"resnet{depth}": functools.partial(resnet_cifar, depth=depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}": functools.partial(resnet_imagenet, depth=depth) for depth in DEPTHS},
    **{name: functools.partial(resnet_video, **arguments) for name, arguments in NETWORKS.items()},
}
# Networks that use no XLA convolution: on CPU it is some ten times slower inside a loop of steps.
OF_MATRIX_PRODUCTS = ("digits_cnn", "lenet5", "linear")


def build(name: str, num_classes: int, **options: Any) -> Model:
    """Builds a network.

    Args:
      name: one of MODELS, or "FILE.py:function" or "package.module:function", whose file is run (`own.build`).
      num_classes: C, at least 2.
      **options: keyword options of that network; see its function and `options_of`.

    Returns:
      The model: init, features, head, apply (`cbjax.types.Model`).

    Raises:
      ValueError: for an unknown name or option (the message lists the known ones) or an option's value out of range.
    """
    if code.is_own(name):
        return own.build(name, num_classes, options)
    known = options_of(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return MODELS[name](num_classes, **options)


def options_of(name: str) -> dict[str, Any]:
    """Returns the options of the network called `name` with their defaults; a ValueError lists the known names."""
    if code.is_own(name):
        return own.options_of(name)
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}, and {code.FORM}")
    builder = MODELS[name]
    fixed = builder.keywords if isinstance(builder, functools.partial) else {}
    parameters = inspect.signature(builder).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in fixed}
