"""3D ResNets: parameters, PyTorch's logits, grouped convolutions, what each option does, and messages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import torch_resnet_video as oracle

from cbjax import models
from cbjax.models import meta_embedding, pretrained, two_stages
from cbjax.models.layers import INITIALIZATIONS, convolution
from cbjax.models.resnet_video import NETWORKS, resnet_video

# With 400 classes; option A lacks three projections. torchvision documents the first.
PROJECTIONS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)
PARAMETERS = {
    "r3d18": 33_371_472,
    "resnet3d18": 33_409_104,
    "resnet3d18_a": 33_409_104 - PROJECTIONS,
    "resnext3d50": 26_685_264,
    "resnext3d101": 48_340_816,
}


def shape_of(frames=4, side=32, batch=2):
    return jax.ShapeDtypeStruct((batch, frames, side, side, 3), jnp.float32)


def small(name="resnext", num_classes=5, **options):
    return resnet_video(num_classes, **oracle.SMALL[name], **options)


def shapes(model, clips=None):
    return jax.eval_shape(model.init, jax.random.key(0), clips or shape_of())


def published(name):
    """Returns the shapes of the tensors of a published file with 400 classes."""
    return dict(oracle.names(**NETWORKS[name], width=64, cardinality=32, num_classes=400))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "resnext3d101" else []) for name in NETWORKS]
)
def test_number_of_parameters_and_published_names(name):
    params, batch_stats = shapes(models.build(name, 400))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS[name]
    leaves = {**pretrained.flatten_dict(params), **pretrained.flatten_dict(batch_stats)}
    named = {pretrained._name_of(where): pretrained._torch_shape(leaf.shape) for where, leaf in leaves.items()}
    assert named == published(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_number_of_published_parameters(name):
    assert PARAMETERS[name] == sum(
        math.prod(shape) for tensor, shape in published(name).items() if ".running_" not in tensor
    )


@pytest.mark.parametrize("stride", [1, (1, 2, 2), 2])
def test_grouped_convolutions_and_their_gradients_are_numpys(stride):
    rng = np.random.default_rng(0)
    clips, kernel = rng.normal(size=(2, 3, 5, 4, 4)), rng.normal(size=(3, 3, 3, 2, 6))
    strides = stride if isinstance(stride, tuple) else (stride,) * 3
    truth = oracle.convolution(clips, kernel, strides, groups=2)
    layer = convolution(6, stride=stride, axes=3, groups=2, kernel_init=INITIALIZATIONS["he"], name="one")
    weight = rng.normal(size=truth.shape)

    def loss(kernel, clips):
        outputs = layer.apply({"params": {"kernel": kernel}}, clips)
        return jnp.sum(outputs * weight.astype(np.float32)), outputs

    given = (kernel.astype(np.float32), clips.astype(np.float32))
    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*given)
    np.testing.assert_allclose(outputs, truth, rtol=1e-4, atol=1e-4)
    # The layer is linear in both, so differences of any length are exact.
    for axis, (array, grad) in enumerate(zip((kernel, clips), grads, strict=True)):
        for place in [tuple(rng.integers(0, array.shape)) for _ in range(12)]:
            one = np.zeros_like(array)
            one[place] = 1
            change = oracle.convolution(*((clips, one) if axis == 0 else (one, kernel)), strides, groups=2)
            np.testing.assert_allclose(grad[place], np.sum(change * weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "frames", "side", "expected"),
    [
        ("resnext", 10, 224, (1, 7, 7, 128)),
        ("resnext", 33, 113, (3, 4, 4, 128)),
        ("basic", 1, 32, (1, 1, 1, 32)),
        ("plain", 10, 112, (2, 7, 7, 32)),
    ],
)
def test_any_number_of_frames_and_any_size_from_32_on(name, frames, side, expected):
    model, clips, seen = small(name), shape_of(frames, side), []

    def features(params, batch_stats, clips):
        return model.features(params, batch_stats, clips, True, attend=lambda maps: seen.append(maps.shape) or maps)[0]

    outputs = jax.eval_shape(features, *shapes(model, clips), clips)
    assert outputs.shape == (2, expected[-1]) and outputs.dtype == jnp.float32
    assert seen == [(2, *expected)]


def convolutions(model):
    """Returns the lines of a training gradient's program that are convolutions; nothing is run."""

    def loss(params, batch_stats, clips):
        return jnp.sum(model.apply(params, batch_stats, clips, True)[0])

    program = str(jax.make_jaxpr(jax.grad(loss))(*shapes(model), shape_of()))
    return [line for line in program.splitlines() if "conv_general_dilated[" in line]


def test_options_change_what_they_say():
    assert all(":bf16[" in line for line in convolutions(small(dtype="bfloat16")))
    inside = 5 * 3 + 4  # convolutions of five blocks, and four projections
    outside = 1 + 5 * 3 + 4  # forward; each again for the kernel's gradient and, but for the stem, for the inputs'
    assert len(convolutions(small(remat=True))) == 3 * outside - 1 + inside
    for zero in (True, False):
        init = small(zero_last_scale=zero).init
        # Only the scale is computed.
        scale = jax.jit(lambda key, init=init: init(key, shape_of())[0]["stage1_block1"]["norm3"]["scale"])
        assert (scale(jax.random.key(0)) == (not zero)).all()


def test_heads_and_second_stages_are_those_of_every_network():
    model = small(head="normalized")
    params, batch_stats = shapes(model)
    assert jax.tree.map(np.shape, params["head"]) == {"kernel": (128, 5)}
    logits, _ = jax.eval_shape(lambda *given: model.apply(*given, True), params, batch_stats, shape_of())
    assert logits.shape == (2, 5)
    model = small()
    params, batch_stats = shapes(model)
    head = two_stages.head_of(model, params, batch_stats, shape_of().shape[1:])
    assert all(on == (path[0].key == "head") for path, on in jax.tree_util.tree_leaves_with_path(head))
    clips = shape_of(20, 64)
    with_memory = meta_embedding.with_memory(model, 5)
    params, batch_stats = shapes(with_memory, clips)
    assert params["attention"]["spatial"]["kernel"].shape == (2 * 2 * 2 * 128, 8)
    logits, _ = jax.eval_shape(lambda *given: with_memory.apply(*given, True), params, batch_stats, clips)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "bottle"}, "block must be one of resnext, basic, basic_a, not 'bottle'"),
        ({"stem": "large"}, "stem must be one of pooled, plain, not 'large'"),
        ({"cardinality": 3}, "cardinality must divide 8, twice the width; got 3"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, not 'float16'"),
        ({"channels": "gbr"}, "channels must be one of rgb, bgr, not 'gbr'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resnet_video(5, **{"blocks": (1, 1, 1, 1), "block": "resnext", "width": 4, "cardinality": 4, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 31, 40, 3), "ResNets for video need frames of at least 32x32, not 31x40"),
        ((2, 32, 32, 3), r"clips must have shape \[B, T, H, W, channels\], not \[2, 32, 32, 3\]"),
    ],
)
def test_other_clips_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(small(), jax.ShapeDtypeStruct(shape, jnp.float32))
