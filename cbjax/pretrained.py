"""Weights of ImageNet's ResNets from files that other libraries wrote, by torchvision's names for them.

A file holds a state dict, tensor by tensor, as `.safetensors` or as `.npz`, under the names that torchvision and timm
share (i from 0, k from 1):

    conv1.weight [O, I, 7, 7] · bn1.weight · bn1.bias · bn1.running_mean · bn1.running_var
    layer{1-4}.{i}.conv{k}.weight · layer{1-4}.{i}.bn{k}.{weight, bias, running_mean, running_var}
    layer{1-4}.{i}.downsample.0.weight · layer{1-4}.{i}.downsample.1.{weight, bias, running_mean, running_var}
    fc.weight [C, D] · fc.bias [C]

`num_batches_tracked` is not used; a `module.` before every name, which DataParallel adds, is dropped.
"""

import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

LAYERS = {
    "stem": "conv1",
    "stem_norm": "bn1",
    "projection": "downsample.0",
    "projection_norm": "downsample.1",
    "head": "fc",
}
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
SHOWN = 3  # tensors that a message names of each kind of misfit


class Pretrained(NamedTuple):
    """Weights read from a file.

    Attributes:
      params: as the model's, without "head" where that starts fresh.
      batch_stats: as the model's.
      notes: lines for the user.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    notes: tuple[str, ...]


def load(path: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> Pretrained:
    """Reads the weights of a ResNet of `models.resnet_imagenet`.

    Args:
      path: a `.safetensors` or `.npz` file, local or at a URL that etils.epath opens, such as gs://.
      params: the model's parameters, or their shapes.
      batch_stats: the same of its running statistics.

    Returns:
      The weights, float32. The head is left out if the file has none or one for another number of classes.

    Raises:
      ValueError: if the file cannot be read, or its tensors are not those of the model but for the head; the message
        names the first of them.
    """
    tensors = read(path)
    wanted = {**flatten_dict(params), **flatten_dict(batch_stats)}
    expected = {_name_of(where): (where, leaf) for where, leaf in wanted.items()}
    notes: tuple[str, ...] = ()
    heads = [name for name, (where, _) in expected.items() if where[0] == "head"]
    num_classes = params["head"]["bias"].shape[0]
    rows = {tensors[name].shape[:1] for name in heads if name in tensors}
    other = set(heads) <= set(tensors) and len(rows) == 1 and rows.isdisjoint({(), (num_classes,)})
    if other or not rows:
        has = f"a head for {rows.pop()[0]} classes" if rows else "no head"
        notes = (f"{path} has {has}: the head for {num_classes} classes starts fresh",)
        expected = {name: entry for name, entry in expected.items() if name not in heads}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    _refuse_misfits(path, {name: _torch_shape(leaf.shape) for name, (_, leaf) in expected.items()}, tensors)
    values = {where: _from_torch(tensors[name]) for name, (where, _) in expected.items()}
    statistics = {where: value for where, value in values.items() if where[-1] in ("mean", "var")}
    return Pretrained(
        unflatten_dict({where: value for where, value in values.items() if where not in statistics}),
        unflatten_dict(statistics),
        notes,
    )


def read(path: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a file by name; raises ValueError if it cannot."""
    file = epath.Path(path).expanduser()
    if file.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"{path} must end in .safetensors or .npz; safetensors.torch.save_file writes a PyTorch state dict so"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        if file.suffix == ".safetensors":
            from safetensors import numpy as safetensors  # only here: few runs start from a file

            tensors = safetensors.load(content)
        else:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                tensors = dict(archive)
    except KeyError as error:
        raise ValueError(f"{path} holds tensors of type {error.args[0]}; save them as float32") from error
    except Exception as error:  # the two readers raise a dozen kinds, from EOFError to one of their own
        raise ValueError(f"{path} is not readable as {file.suffix}: {error}") from error
    prefixed = all(name.startswith("module.") for name in tensors)
    tensors = {name.removeprefix("module.") if prefixed else name: tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}


def _name_of(where: tuple[str, ...]) -> str:
    """Translates the path of a parameter or statistic, ("stage1_block1", "norm1", "scale"), to torchvision's name."""
    *modules, leaf = where
    block = re.fullmatch(r"stage(\d+)_block(\d+)", modules[0])
    prefix = f"layer{block[1]}.{int(block[2]) - 1}." if block else ""
    layer = LAYERS.get(modules[-1]) or re.sub(r"^convolution", "conv", re.sub(r"^norm", "bn", modules[-1]))
    return f"{prefix}{layer}.{LEAVES.get(leaf, leaf)}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in PyTorch's order: output and input channels first."""
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    """Turns [O, I, ...] into [..., I, O], float32."""
    if tensor.ndim > 1:
        tensor = np.moveaxis(tensor, (1, 0), (-2, -1))
    return np.ascontiguousarray(tensor, np.float32)


def _refuse_misfits(path: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError, with the first names of each kind of misfit, unless the tensors have just these shapes."""
    others = [
        f"{name} {list(tensors[name].shape)} where the network has {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    misfits = (
        ("lacks", [name for name in shapes if name not in tensors]),
        ("has unknown", [name for name in tensors if name not in shapes]),
        ("has", others),
    )
    wrong = [
        f"it {what} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if names[SHOWN:] else ''}"
        for what, names in misfits
        if names
    ]
    if wrong:
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong)}")
