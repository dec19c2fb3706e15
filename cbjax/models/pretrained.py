"""Weights of ImageNet's and video's ResNets from files that other libraries wrote, by torchvision's names for them.

A file holds a state dict, tensor by tensor, as `.safetensors` or as `.npz`, under the names that torchvision and timm
share, as does 3D-ResNets-PyTorch (i from 0, k from 1):

    conv1.weight [O, I, 7, 7] · bn1.weight · bn1.bias · bn1.running_mean · bn1.running_var
    layer{1-4}.{i}.conv{k}.weight · layer{1-4}.{i}.bn{k}.{weight, bias, running_mean, running_var}
    layer{1-4}.{i}.downsample.0.weight · layer{1-4}.{i}.downsample.1.{weight, bias, running_mean, running_var}
    fc.weight [C, D] · fc.bias [C]

torchvision's video networks have `stem.0`, `stem.1`, `conv{k}.0` and `conv{k}.1` for `conv1`, `bn1`, `conv{k}` and
`bn{k}`. `num_batches_tracked` is not used. Prefixes that wrappers put before names, `module.` or `_orig_mod.model.`,
are dropped.

Kernels of clips are [O, I, T, H, W]. If the file's are [O, I, H, W], as those of an ImageNet network of the same
layers, each is repeated over its T time steps and divided by T ("inflation"). A convolution then gives a clip of equal
frames what the 2D one gives a frame, but for the T // 2 frames at each end, where it sees zeros of the padding.
torchvision's `resnext50_32x4d` so becomes `resnext3d50`, `resnet18` becomes `resnet3d18`.

Source of the inflation: Carreira and Zisserman 2017, section 2.4.
"""

import io
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from cbjax.host import machine, npz
from cbjax.host.storage import is_remote, why_no_path, why_out_of_reach

LAYERS = {
    "stem": "conv1",
    "stem_norm": "bn1",
    "projection": "downsample.0",
    "projection_norm": "downsample.1",
    "head": "fc",
}
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Layers of torchvision's video networks -> names of its others.
VIDEO_NAMES = {
    r"\bstem\.0\.": "conv1.",
    r"\bstem\.1\.": "bn1.",
    r"\bconv(\d)\.0\.": r"conv\1.",
    r"\bconv(\d)\.1\.": r"bn\1.",
}
HEAD = ("fc.weight", "fc.bias")
# A file has a network under a prefix if both of these names follow it. A block alone has only the first.
FIRST = ("conv1.weight", "layer1.0.conv1.weight")
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
CONVERT = (
    "cbjax reads no pickle, which may run code: write its tensors with safetensors.torch.save_file("
    "torch.load(FILE, map_location='cpu', weights_only=True), 'weights.safetensors'); a checkpoint has them in its "
    "['state_dict']"
)
SHOWN = 3  # the most tensors of a kind that a message names


class Pretrained(NamedTuple):
    """Weights read from a file.

    Attributes:
      params: as the model's; without "head" if the head starts fresh.
      batch_stats: as the model's.
      notes: lines for the user.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    notes: tuple[str, ...]


def load(path: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> Pretrained:
    """Reads the weights of a ResNet of `models.resnet_imagenet` or `models.resnet_video`.

    Args:
      path: a `.safetensors` or `.npz` file, local or at a URL that etils.epath opens, such as gs://.
      params: the model's parameters, or their shapes.
      batch_stats: the model's running statistics, or their shapes.

    Returns:
      The weights, float32. The head is left out if the file has none, one for another number of classes, or a linear
      one for a network whose head is cosines.

    Raises:
      ValueError: if the file cannot be read; if its tensors, except the head's, are not those of the model; or if a
        tensor has whole numbers, numbers that are not finite, or variances below 0. The message names the first of
        them.
    """
    tensors, dropped = _without_prefix(path, _by_shared_names(read(path)))
    wanted = {**flatten_dict(params), **flatten_dict(batch_stats)}
    expected = {_name_of(where): (where, leaf) for where, leaf in wanted.items()}
    notes: tuple[str, ...] = dropped
    if why := _why_no_head(params["head"], tensors):
        notes = (*notes, f"{path} has {why} starts fresh")
        expected = {name: entry for name, entry in expected.items() if name not in HEAD}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in HEAD}
    shapes = {name: _torch_shape(leaf.shape) for name, (_, leaf) in expected.items()}
    # Name -> time steps over which a kernel of images is repeated.
    steps = {name: shape[2] for name, shape in shapes.items() if len(shape) == 5 and np.ndim(tensors.get(name, 0)) == 4}
    if steps:
        notes = (*notes, f"{path} has kernels of images: each is repeated over its time steps and divided by them")
    shapes |= {name: (*shapes[name][:2], *shapes[name][3:]) for name in steps}
    _refuse_misfits(path, shapes, tensors)
    _refuse_values(path, {name: tensors[name] for name in expected})
    values = {where: _from_torch(tensors[name], steps.get(name)) for name, (where, _) in expected.items()}
    statistics = {where: value for where, value in values.items() if where[-1] in ("mean", "var")}
    return Pretrained(
        unflatten_dict({where: value for where, value in values.items() if where not in statistics}),
        unflatten_dict(statistics),
        notes,
    )


def _why_no_head(head, tensors):
    """Returns why the file's head cannot be the network's, as part of a note; "" if it can or is refused later."""
    given, num_classes = [name for name in HEAD if name in tensors], head["kernel"].shape[-1]
    rows = {tensors[name].shape[:1] for name in given}
    if not given:
        return f"no head: the head for {num_classes} classes"
    if "bias" not in head and len(given) == 2:
        return "a linear head: the head of cosines"
    if len(given) == len(head) and len(rows) == 1 and rows.isdisjoint({(), (num_classes,)}):
        return f"a head for {rows.pop()[0]} classes: the head for {num_classes} classes"
    return ""


def read(path: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a file by name; raises ValueError if it cannot."""
    content = _content(path)
    if content[:2] == b"PK" and not epath.Path(path).suffix == ".npz":
        raise ValueError(f"{path} is a zip archive, as torch.save writes; {CONVERT}")
    try:
        tensors = npz.read(io.BytesIO(content)) if epath.Path(path).suffix == ".npz" else _safetensors(content)
    except npz.NpzError as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # the reader's own kinds, and those of a damaged file header
        raise ValueError(f"{path} is not readable as .safetensors: {error}") from None
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _content(path):
    if problem := why_no_path(path) or why_out_of_reach(path):
        raise ValueError(f"{path} {problem}")
    file = epath.Path(path).expanduser()
    if file.suffix in PICKLES:
        raise ValueError(f"{path} must end in .safetensors or .npz; {CONVERT}")
    if file.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"{path} must end in .safetensors or .npz; safetensors.torch.save_file writes a PyTorch state dict so"
        )
    try:
        if not is_remote(path) and file.exists() and not os.path.isfile(file):  # epath calls a device a file
            raise ValueError(f"{path} must be a file, and is a folder, a pipe or a device")
        size, free = file.stat().length, machine.free_bytes()
        if size > free:
            raise ValueError(f"{path} has {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free")
        return file.read_bytes()
    except ValueError:
        raise
    except Exception as error:  # each kind of bucket raises its own
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _safetensors(content):
    import ml_dtypes
    import safetensors  # only here: few runs start from a file

    # Its own reader for NumPy fails for types that NumPy lacks.
    kinds = {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "BOOL": np.bool_,
        "C64": np.complex64,
        **{f"{kind}{bits}": f"{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)},
    }
    tensors = {}
    for name, tensor in safetensors.deserialize(content):
        if tensor["dtype"] not in kinds:
            raise ValueError(f"{name} is of the type {tensor['dtype']}; save it as float32")
        kind = np.dtype(kinds[tensor["dtype"]])
        values = np.frombuffer(tensor["data"], kind.newbyteorder("<") if kind.kind != "V" else kind)
        # float32 holds the types that NumPy lacks without a loss.
        tensors[name] = (values.astype(np.float32) if kind.kind == "V" else values).reshape(tensor["shape"])
    return tensors


def _by_shared_names(tensors):
    """Returns the tensors of torchvision's video networks under the names of its others; other tensors as they are."""
    if not any(name.endswith("stem.0.weight") for name in tensors):
        return tensors

    def shared(name: str) -> str:
        for there, here in VIDEO_NAMES.items():
            name = re.sub(there, here, name)
        return name

    return {shared(name): tensor for name, tensor in tensors.items()}


def _without_prefix(path, tensors):
    """Returns the network's tensors, their names without the prefix of a wrapper, and notes."""
    prefixes = [name.removesuffix(FIRST[0]) for name in tensors if name.endswith(FIRST[0])]
    prefixes = [prefix for prefix in prefixes if f"{prefix}{FIRST[1]}" in tensors]
    if "" in prefixes or not prefixes:
        return tensors, ()
    if len(prefixes) > 1:
        raise ValueError(
            f"{path} has several networks, below {', '.join(sorted(prefixes)[:SHOWN])}: write the tensors of one alone"
        )
    prefix = prefixes[0]
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix)]
    notes = [f"{path}: the names of its tensors begin with {prefix}, which is dropped"]
    if others:
        notes.append(f"{path}: tensors with other names are not used: {_first(others)}")
    return inside, tuple(notes)


def _refuse_values(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError, with the first names, if tensors are no real numbers, not finite, or negative variances."""
    kinds = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype.kind != "f"]
    if kinds:
        raise ValueError(f"{path}: weights must be real numbers, such as float32; others are {_first(kinds)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        wrong = {name: ~np.isfinite(tensor.astype(np.float32)) for name, tensor in tensors.items()}
    if not_finite := [f"{name} ({mask.sum()} of {mask.size} values)" for name, mask in wrong.items() if mask.any()]:
        raise ValueError(f"{path}: weights must be finite in float32; NaN or infinite are {_first(not_finite)}")
    negative = [
        f"{name} (smallest {tensor.min():g})"
        for name, tensor in tensors.items()
        if name.endswith("running_var") and tensor.size and tensor.min() < 0
    ]
    if negative:
        raise ValueError(f"{path}: variances must be at least 0; below are {_first(negative)}")


def _first(names):
    return f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if names[SHOWN:] else ''}"


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


def _from_torch(tensor: np.ndarray, steps: int | None = None) -> np.ndarray:
    """Turns [O, I, ...] into [..., I, O], float32; with time steps [O, I, H, W] into [T, H, W, I, O]."""
    if steps:
        tensor = np.repeat(np.asarray(tensor, np.float64)[:, :, None] / steps, steps, axis=2)
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
    wrong = [f"it {what} {_first(names)}" for what, names in misfits if names]
    if wrong:
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong)}")
