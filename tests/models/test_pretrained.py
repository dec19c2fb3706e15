"""Weights from files under torchvision's names: equal logits, a head that starts fresh, and messages."""

import functools
import json
import os

import jax
import numpy as np
import pytest
from oracles import torch_resnet
from safetensors import numpy as safetensors

import cbjax
from cbjax import config as configs
from cbjax import models
from cbjax.models import pretrained
from cbjax.models.resnet_imagenet import DEPTHS, resnet_imagenet
from cbjax.parallel import sharding
from cbjax.workdir.files import is_finished

CLASSES = 5
SIZE = (2, 37, 32, 3)  # an odd size shows where padding stands


def small(depth, num_classes=CLASSES, **options):
    return resnet_imagenet(num_classes, depth=depth, width=4, **options)


def draw(depth, num_classes=CLASSES, **options):
    blocks, bottleneck = DEPTHS[depth]
    return torch_resnet.draw(blocks=blocks, bottleneck=bottleneck, width=4, num_classes=num_classes, **options)


def shapes(model, size=SIZE):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(size, np.float32))


@functools.cache
def of_ten():
    return shapes(small(10))


def save(tensors, folder, name):
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        path.write_bytes(safetensors.save(tensors))
    return str(path)


@pytest.mark.parametrize(("depth", "name"), [(10, "mine.npz"), (18, "mine.safetensors"), (50, "mine.safetensors")])
def test_a_file_gives_equal_logits(tmp_path, depth, name):
    tensors, model = draw(depth), small(depth)
    found = pretrained.load(save(tensors, tmp_path, name), *shapes(model))
    assert found.notes == ()
    params, batch_stats = shapes(model)
    assert jax.tree.map(np.shape, found.params) == jax.tree.map(np.shape, params)
    assert jax.tree.map(np.shape, found.batch_stats) == jax.tree.map(np.shape, batch_stats)
    images = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    logits, _ = jax.jit(model.apply, static_argnums=3)(found.params, found.batch_stats, images, False)
    truth = torch_resnet.logits(tensors, images)
    np.testing.assert_allclose(logits, truth, atol=2e-5 * np.abs(truth).max())


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=[pytest.mark.slow] if depth > 50 else []) for depth in DEPTHS]
)
def test_every_depth_has_torchvisions_names_and_shapes(depth):
    blocks, bottleneck = DEPTHS[depth]
    tensors = {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in torch_resnet.names(blocks, bottleneck, 4, CLASSES)
        if not name.endswith("num_batches_tracked")
    }
    params, batch_stats = shapes(small(depth))
    expected = {**pretrained.flatten_dict(params), **pretrained.flatten_dict(batch_stats)}
    named = {pretrained._name_of(where): pretrained._torch_shape(leaf.shape) for where, leaf in expected.items()}
    assert named == {name: tensor.shape for name, tensor in tensors.items()}


def test_half_precision_and_the_prefix_of_data_parallel(tmp_path):
    tensors = {f"module.{name}": tensor.astype(np.float16) for name, tensor in draw(10).items()}
    found = pretrained.load(save(tensors, tmp_path, "half.safetensors"), *of_ten())
    assert {leaf.dtype for leaf in jax.tree.leaves(found[:2])} == {np.dtype(np.float32)}
    kernel = tensors["module.conv1.weight"]
    np.testing.assert_array_equal(found.params["stem"]["kernel"][1, 2, 0], kernel[:, 0, 1, 2].astype(np.float32))


def test_a_head_of_other_classes_starts_fresh(tmp_path):
    path = save(draw(10, num_classes=7), tmp_path, "mine.npz")
    params, _, notes = pretrained.load(path, *of_ten())
    assert notes == (f"{path} has a head for 7 classes: the head for 5 classes starts fresh",)
    assert "head" not in params and set(params) | {"head"} == set(shapes(small(10))[0])
    headless = {name: tensor for name, tensor in draw(10).items() if not name.startswith("fc.")}
    found = pretrained.load(save(headless, tmp_path, "headless.npz"), *of_ten())
    assert found.notes[0].endswith("headless.npz has no head: the head for 5 classes starts fresh")
    assert "head" not in found.params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.weight": None, "fc.bias": None}, r"does not fit the network: it lacks .*bn1.weight.*$"),
        ({"fc.bias": None}, r"it lacks fc\.bias$"),
        (
            {"conv1.weight": np.zeros((4, 1, 7, 7))},
            r"it has conv1.weight \[4, 1, 7, 7\] where the network has \[4, 3, 7",
        ),
        ({"fc.weight": np.zeros((5, 9))}, r"it has fc.weight \[5, 9\] where the network has \[5, 32\]$"),
        ({"fc.weight": np.zeros((6, 32))}, r"it has fc.weight \[6, 32\] where the network has \[5, 32\]$"),
        ({"fc.weight": np.zeros(()), "fc.bias": np.zeros(())}, r"it has fc.bias \[\] where"),
        (
            {f"conv{i}.0.weight": np.zeros(1) for i in range(5)},
            r"unknown conv0.0.weight, conv1.0.\w+, conv2.0.\w+ and 2 more$",
        ),
    ],
)
def test_a_misfit_names_the_first_tensors(tmp_path, change, message):
    tensors = {name: tensor for name, tensor in {**draw(10), **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        pretrained.load(save(tensors, tmp_path, "mine.npz"), *of_ten())


def test_another_depth_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it lacks layer1\.1\.\S+, \S+, \S+ and \d+ more$"):
        pretrained.load(save(draw(10), tmp_path, "mine.npz"), *shapes(small(18)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "missing.npz cannot be read: No such file"),
        ("state.pth", b"", r"must end in .safetensors or .npz; cbjax reads no pickle, .* safetensors.torch.save_file"),
        ("model.bin", b"", r"must end in .safetensors or .npz; cbjax reads no pickle"),
        ("state.h5", b"", r"must end in .safetensors or .npz; safetensors.torch.save_file writes"),
        ("renamed.safetensors", b"PK\x03\x04", "is a zip archive, as torch.save writes; cbjax reads no pickle"),
        ("cut.npz", b"PK\x03\x04", "cut.npz cannot be read as .npz "),
        ("long.safetensors", b"\xff" * 8 + b"{}", "long.safetensors is not readable as .safetensors: "),
        (
            "overlap.safetensors",
            b'\x71\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}       ' + bytes(6),
            "overlap.safetensors is not readable as .safetensors: ",
        ),
        ("empty.safetensors", b"", "empty.safetensors is not readable as .safetensors: "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pretrained.load(str(tmp_path / name), *of_ten())


def file_of(tensors, kind):
    """Returns a .safetensors file, byte for byte, whose tensors are of one of its own types."""
    head, data = {}, b""
    for name, tensor in tensors.items():
        content = tensor.tobytes()
        head[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(("kind", "written"), [("bfloat16", "BF16"), ("float8_e4m3fn", "F8_E4M3")])
def test_narrow_kinds_of_numbers_are_read(tmp_path, kind, written):
    tensors = {name: tensor.astype(kind) for name, tensor in draw(10).items() if "num_batches" not in name}
    (tmp_path / "narrow.safetensors").write_bytes(file_of(tensors, written))
    found = pretrained.load(str(tmp_path / "narrow.safetensors"), *of_ten())
    kernel = tensors["conv1.weight"].astype(np.float32)
    np.testing.assert_array_equal(found.params["stem"]["kernel"], kernel.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "backbone.", "module._orig_mod.net.encoder_q."])
def test_what_wrappers_put_before_the_names_is_dropped_and_said(tmp_path, prefix):
    tensors = draw(10)
    path = save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path, "mine.safetensors")
    found = pretrained.load(path, *of_ten())
    assert found.notes == (f"{path}: the names of its tensors begin with {prefix}, which is dropped",)
    np.testing.assert_array_equal(found.params["head"]["bias"], tensors["fc.bias"])


def test_other_tensors_beside_a_network_with_a_prefix_are_said_and_two_networks_refused(tmp_path):
    tensors = {f"model.{name}": tensor for name, tensor in draw(10).items()}
    path = save({**tensors, "criterion.weight": np.ones(5, np.float32)}, tmp_path, "mine.npz")
    found = pretrained.load(path, *of_ten())
    assert found.notes[1] == f"{path}: tensors with other names are not used: criterion.weight"
    both = tensors | {f"teacher.{name}": tensor for name, tensor in draw(10).items()}
    with pytest.raises(ValueError, match=r"has several networks, below model\., teacher\.: write the tensors of one"):
        pretrained.load(save(both, tmp_path, "mine.npz"), *of_ten())


def changed(tensor, value):
    tensor = tensor.copy()
    tensor.flat[1] = value
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bn1.running_var", lambda x: changed(x, np.nan), r"infinite are bn1\.running_var \(1 of 4 values\)$"),
        ("layer1.0.conv1.weight", lambda x: changed(x, -np.inf), r"infinite are layer1\.0\.conv1\.weight \(1 of 144"),
        ("fc.bias", lambda x: changed(x.astype(np.float64), 1e300), r"infinite are fc\.bias \(1 of 5"),
        ("bn1.running_var", lambda x: changed(x, -0.5), r"at least 0; below are bn1\.running_var \(smallest -0\.5\)$"),
        ("conv1.weight", lambda x: x.astype(np.int8), r"real numbers, .* others are conv1\.weight \(int8\)$"),
        ("conv1.weight", lambda x: x > 0, r"others are conv1\.weight \(bool\)$"),
        ("conv1.weight", lambda x: x * 1j, r"others are conv1\.weight \(complex64\)$"),
    ],
)
def test_weights_that_are_no_finite_real_numbers_are_refused_by_name(tmp_path, name, change, message):
    tensors = draw(10)
    tensors[name] = change(tensors[name])
    for ending in ("npz", "safetensors"):
        with pytest.raises(ValueError, match=message):
            pretrained.load(save(tensors, tmp_path, f"mine.{ending}"), *of_ten())


def test_weights_of_no_file_are_refused_before_anything_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    os.symlink("/dev/zero", tmp_path / "zero.safetensors")
    for path, message in (
        ("https://example.org/w.npz", "begins with https://"),
        *((str(tmp_path / name), "must be a file, and is") for name in ("pipe.npz", "folder.npz", "zero.safetensors")),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.load(path, *of_ten())
    with open(tmp_path / "huge.safetensors", "wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ValueError, match=r"has 4096\.0 GiB, and .* of memory are free"):
        pretrained.load(str(tmp_path / "huge.safetensors"), *of_ten())
    objects = save({"conv1.weight": np.array([None])}, tmp_path, "objects.npz")
    with pytest.raises(ValueError, match=r"an array of Python objects, .* the member 'conv1\.weight\.npy'"):
        pretrained.load(objects, *of_ten())


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Overrides of a run of four small steps of a narrow ResNet-10 from a file with seven classes."""
    monkeypatch.setitem(models.MODELS, "resnet10", functools.partial(resnet_imagenet, depth=10, width=4))
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(40) % CLASSES)
    path = save(draw(10, num_classes=7), tmp_path, "mine.npz")
    return [
        "data.name=arrays",
        f"data.file={tmp_path / 'images.npz'}",
        "data.longtail=natural",
        "data.imbalance=1",
        "data.validation=0",
        "data.test=2",
        "data.crop_padding=0",
        "data.normalization=imagenet",
        "weights.name=uniform",
        "model.name=resnet10",
        f"model.pretrained={path}",
        "num_epochs=1",
        "batch_size=8",
        "devices=1",
        "optim.learning_rate=1e-20",
        "log.tensorboard=false",
        "log.report=false",
    ]


def test_a_run_starts_from_the_file_and_goes_on_without_it(tmp_path, settings, monkeypatch, capsys):
    config, workdir = configs.load("cifar_lt:cdb", settings), tmp_path / "run"
    done = cbjax.train(config, workdir)
    assert "mine.npz has a head for 7 classes: the head for 5 classes starts fresh\n" in capsys.readouterr().out
    tensors = draw(10, num_classes=7)
    np.testing.assert_array_equal(
        done.state.params["stage4_block1"]["convolution2"]["kernel"],
        tensors["layer4.0.conv2.weight"].transpose(2, 3, 1, 0),
    )
    assert done.state.params["head"]["kernel"].shape == (32, CLASSES)
    assert not np.array_equal(done.state.batch_stats["stem_norm"]["var"], tensors["bn1.running_var"])  # four steps on
    (tmp_path / "mine.npz").unlink()
    # The same file and data, from another folder.
    monkeypatch.chdir(tmp_path)
    relative = configs.change(config, ["model.pretrained=mine.npz"])
    assert is_finished(workdir, relative)
    again = cbjax.train(relative, workdir)
    assert "finished" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, again.state.params, done.state.params)
    cbjax.load(workdir)


def test_a_run_refuses_a_file_that_does_not_fit(tmp_path, settings, monkeypatch):
    save(draw(18), tmp_path, "mine.npz")
    monkeypatch.setattr(sharding, "replicate", lambda *args: pytest.fail("the first state is made before"))
    config = configs.load("cifar_lt:cdb", settings)
    with pytest.raises(configs.ConfigError, match=r"^model.pretrained: .*mine.npz does not fit the network: it"):
        cbjax.train(config, tmp_path / "run")
