"""Weights for clips: PyTorch's logits from a file, inflation of 2D weights, and heads that start fresh."""

import jax
import numpy as np
import pytest
from oracles import torch_resnet
from oracles import torch_resnet_video as oracle
from oracles.networks import convolution
from safetensors import numpy as safetensors

from cbjax.models import pretrained
from cbjax.models.resnet_imagenet import resnet_imagenet
from cbjax.models.resnet_video import resnet_video

CLIPS = jax.ShapeDtypeStruct((2, 4, 32, 32, 3), np.float32)


def network(name, num_classes=5, **options):
    return resnet_video(num_classes, **oracle.SMALL[name], **options)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), CLIPS)


def save(tensors, folder):
    path = folder / "kinetics.safetensors"
    path.write_bytes(safetensors.save(tensors))
    return str(path)


@pytest.mark.parametrize("name", oracle.SMALL)
def test_a_file_gives_pytorchs_logits(tmp_path, name):
    tensors, clips, truth = oracle.draw(**oracle.SMALL[name]), oracle.clips(), np.load(oracle.TORCH)[name]
    np.testing.assert_allclose(oracle.logits(tensors, clips, oracle.SMALL[name]["cardinality"]), truth, rtol=1e-9)
    # The network that sees blue first gets its colours the other way round.
    model = network(name, channels="bgr") if name == "basic_a" else network(name)
    params, batch_stats, notes = pretrained.load(save(tensors, tmp_path), *shapes(model))
    assert notes == ()
    given = clips[..., ::-1] if name == "basic_a" else clips
    logits, _ = jax.jit(model.apply, static_argnums=3)(params, batch_stats, given, False)
    np.testing.assert_allclose(logits, truth, atol=2e-5 * np.abs(truth).max())


def test_names_of_data_parallel_and_of_torchvision(tmp_path):
    tensors = oracle.draw(**oracle.SMALL["resnext"])
    path = save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path)
    params, _, notes = pretrained.load(path, *shapes(network("resnext")))
    assert notes == (f"{path}: the names of its tensors begin with module., which is dropped",)
    kernel = tensors["layer2.0.conv2.weight"]  # [O, I / groups, T, H, W]
    np.testing.assert_array_equal(params["stage2_block1"]["convolution2"]["kernel"], kernel.transpose(2, 3, 4, 1, 0))

    tensors = oracle.draw(**oracle.SMALL["plain"])
    shared = pretrained.load(save(tensors, tmp_path), *shapes(network("plain")))
    others = {"conv1": "stem.0", "bn1": "stem.1"}
    for block in (f"layer{stage}.0" for stage in range(1, 5)):
        others |= {f"{block}.conv{k}": f"{block}.conv{k}.0" for k in (1, 2)}
        others |= {f"{block}.bn{k}": f"{block}.conv{k}.1" for k in (1, 2)}
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        renamed[f"{others.get(layer, layer)}.{leaf}"] = tensor
    assert "layer2.0.downsample.1.running_var" in renamed and "layer4.0.conv2.1.weight" in renamed
    found = pretrained.load(save(renamed, tmp_path), *shapes(network("plain")))
    jax.tree.map(np.testing.assert_array_equal, found[:2], shared[:2])
    assert found.notes == ()


def test_shortcuts_of_another_kind_are_refused(tmp_path):
    path = save(oracle.draw(**oracle.SMALL["basic_a"]), tmp_path)
    with pytest.raises(ValueError, match=r"it lacks layer2\.0\.downsample\.0\.weight, "):
        pretrained.load(path, *shapes(network("basic")))
    assert pretrained.load(path, *shapes(network("basic_a"))).notes == ()


@pytest.mark.parametrize(
    ("num_classes", "head", "note"),
    [
        (7, "linear", "has a head for 5 classes: the head for 7 classes starts fresh"),
        (5, "normalized", "has a linear head: the head of cosines starts fresh"),
        (7, "normalized", "has a linear head: the head of cosines starts fresh"),
    ],
)
def test_other_heads_start_fresh(tmp_path, num_classes, head, note):
    path = save(oracle.draw(**oracle.SMALL["basic"]), tmp_path)
    found = pretrained.load(path, *shapes(network("basic", num_classes, head=head)))
    assert "head" not in found.params and found.notes == (f"{path} {note}",)


def test_cosines_from_cosines(tmp_path):
    tensors = oracle.draw(**oracle.SMALL["basic"])
    del tensors["fc.bias"]
    found = pretrained.load(save(tensors, tmp_path), *shapes(network("basic", head="normalized")))
    assert found.notes == ()
    np.testing.assert_array_equal(found.params["head"]["kernel"], tensors["fc.weight"].T)


@pytest.fixture(scope="module")
def inflated(tmp_path_factory):
    """Tensors of a narrow 2D ResNet of half precision, and what a 3D network makes of them."""
    tensors = torch_resnet.draw(blocks=(1, 1, 1, 1), bottleneck=False, width=4, num_classes=5)
    tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items() if "num_batches" not in name}
    path = save(tensors, tmp_path_factory.mktemp("weights"))
    return tensors, pretrained.load(path, *shapes(network("basic")))


def test_2d_kernels_are_repeated_over_time_and_divided(inflated):
    tensors, found = inflated
    assert [note.partition(" has ")[2] for note in found.notes] == [
        "kernels of images: each is repeated over its time steps and divided by them"
    ]
    names = {"stem": "conv1", "stage2_block1/projection": "layer2.0.downsample.0", "stage3_block1/convolution2": ""}
    names["stage3_block1/convolution2"] = "layer3.0.conv2"
    for (where, name), steps in zip(names.items(), (7, 1, 3), strict=True):
        kernel = pretrained.flatten_dict(found.params, sep="/")[f"{where}/kernel"]
        flat = tensors[f"{name}.weight"].transpose(2, 3, 1, 0).astype(np.float64)
        assert kernel.shape == (steps, *flat.shape) and kernel.dtype == np.float32
        np.testing.assert_allclose(kernel, np.broadcast_to(flat / steps, kernel.shape), rtol=1e-7)
    np.testing.assert_array_equal(found.params["head"]["kernel"], tensors["fc.weight"].T.astype(np.float32))


def test_a_still_clip_gives_the_2d_layers_answer_away_from_its_ends(inflated):
    tensors, found = inflated
    image = np.random.default_rng(0).normal(size=(1, 12, 10, 3))
    still = np.broadcast_to(image[:, None], (1, 11, *image.shape[1:]))
    flat = convolution(image, tensors["conv1.weight"].transpose(2, 3, 1, 0), 2, 3)
    outputs = oracle.convolution(still, found.params["stem"]["kernel"], (1, 2, 2))
    for frame in range(11):
        seen = min(frame, 3) + 1 + min(10 - frame, 3)  # of the seven steps; the others fall on zeros
        np.testing.assert_allclose(outputs[:, frame], flat * seen / 7, rtol=1e-5, atol=1e-6)


def test_3d_kernels_do_not_fit_a_2d_network(tmp_path):
    model = resnet_imagenet(5, depth=10, width=4)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"conv1\.weight \[4, 4, 3, 3, 3\] where the network has \[4, 4, 3, 3\], "):
        pretrained.load(save(oracle.draw(**oracle.SMALL["basic"]), tmp_path), *params)


def test_2d_kernels_of_another_size_are_refused(tmp_path, inflated):
    tensors = {**inflated[0], "conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}
    with pytest.raises(ValueError, match=r"it has conv1\.weight \[4, 3, 3, 3\] where the network has \[4, 3, 7, 7\]$"):
        pretrained.load(save(tensors, tmp_path), *shapes(network("basic")))
