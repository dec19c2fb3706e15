"""How kernels start."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

# "glorot": TensorFlow's default for convolutions and dense layers, which the CB authors' CIFAR code keeps; uniform.
# "he": PyTorch's kaiming_normal_ with its defaults (fan-in, a normal that is not truncated), which the LDAM and CDB
# authors apply to convolutions and dense layers.
INITIALIZATIONS: dict[str, Callable[..., Any]] = {
    "glorot": nn.initializers.glorot_uniform(),
    "he": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
}


def initializer(name: str) -> Callable[..., Any]:
    """Returns the initialiser (key, shape, dtype) -> kernel of that name; a ValueError lists the known ones."""
    if name not in INITIALIZATIONS:
        raise ValueError(f"initialization must be one of {', '.join(INITIALIZATIONS)}, not {name!r}")
    return INITIALIZATIONS[name]
