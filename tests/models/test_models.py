"""Networks: parameters, values against NumPy, BatchNorm's gradient, transformations, and messages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import networks

from cbjax import models
from cbjax.models.layers import BatchNorm, relu
from cbjax.models.matrix_convolution import convolve_and_pool
from cbjax.models.resnet_cifar import resnet_cifar
from cbjax.models.resnet_video import NETWORKS

IMAGES = {
    "digits_cnn": (8, 8, 1),
    "lenet5": (28, 28, 1),
    **dict.fromkeys(NETWORKS, (4, 32, 32, 3)),
}  # all others: 32x32x3
DEEP = ("resnet44", "resnet56", "resnet101", "resnet110", "resnet152", "resnext3d50", "resnext3d101")
DATA = jax.sharding.PartitionSpec("data")
WHOLE = jax.sharding.PartitionSpec()


def shape_of(name, batch=2):
    return jax.ShapeDtypeStruct((batch, *IMAGES.get(name, (32, 32, 3))), jnp.float32)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def to_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def small_resnet(**options):
    """A ResNet of 8 layers, with parameters away from their symmetric start, and images."""
    model = resnet_cifar(5, depth=8, **options)
    images = draw((16, 8, 8, 3)).astype(np.float32)
    params, batch_stats = jax.jit(model.init)(jax.random.key(0), images)
    leaves, tree = jax.tree.flatten(params)
    params = jax.tree.unflatten(
        tree, [leaf + 0.1 * draw(leaf.shape, i).astype(np.float32) for i, leaf in enumerate(leaves)]
    )
    return model, params, batch_stats, images


def resnet_parameters(depth, num_classes, shortcut):
    blocks = (depth - 2) // 6
    total = 9 * 3 * 16 + 2 * 16
    before = 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += 9 * before * width + 9 * width * width + 4 * width
            if shortcut == "projection" and before != width:
                total += before * width + 2 * width
            before = width
    return total + 64 * num_classes + num_classes


# Parameters


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("resnet32", 10, 464_154),
        ("lenet5", 10, 61_706),
        ("linear", 10, 32 * 32 * 3 * 10 + 10),
        ("lenet5", 2, 25 * 6 + 6 + 25 * 6 * 16 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 2 + 2),
        ("digits_cnn", 10, 9 * 16 + 16 + 9 * 16 * 32 + 32 + 128 * 64 + 64 + 64 * 10 + 10),
    ],
)
def test_number_of_parameters(name, num_classes, expected):
    params, _ = jax.eval_shape(models.build(name, num_classes).init, jax.random.key(0), shape_of(name))
    assert count(params) == expected


@pytest.mark.parametrize("shortcut", ["average", "subsample", "projection"])
@pytest.mark.parametrize("depth", [20, 32, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (44, 56, 110))])
def test_number_of_parameters_of_resnets(depth, shortcut):
    name = f"resnet{depth}"
    model = models.build(name, 100, shortcut=shortcut)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), shape_of(name))
    assert count(params) == resnet_parameters(depth, 100, shortcut)
    assert count(batch_stats) == sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 1) - 100


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.slow] if name in DEEP else [],
        )
        for name in models.MODELS
    ],
)
def test_every_model_builds_with_the_agreed_shapes(name):
    model = models.build(name, 7)
    images = shape_of(name, batch=3)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), images)
    assert set(params["head"]) == {"kernel", "bias"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, batch_stats)))
    logits, stats = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, True), params, batch_stats, images)
    features, same = jax.eval_shape(lambda p, s, x: model.features(p, s, x, False), params, batch_stats, images)
    assert logits.shape == (3, 7)
    assert features.shape == (3, params["head"]["kernel"].shape[0])
    assert jax.tree.structure(stats) == jax.tree.structure(same) == jax.tree.structure(batch_stats)


def test_kernels_have_their_conventional_shapes():
    params, _ = jax.eval_shape(models.build("lenet5", 10).init, jax.random.key(0), shape_of("lenet5"))
    assert [params[f"convolution{i}"]["kernel"].shape for i in (1, 2)] == [(5, 5, 1, 6), (5, 5, 6, 16)]


def test_the_key_decides_the_parameters():
    model = resnet_cifar(10, depth=8)
    start = jax.jit(lambda seed: model.init(jax.random.key(seed), shape_of("resnet8"))[0])
    first, again, other = (start(seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["head"]["kernel"], other["head"]["kernel"])
    kernels = [leaf for leaf in jax.tree.leaves(first) if leaf.ndim > 1]
    assert len({float(kernel.ravel()[0]) for kernel in kernels}) == len(kernels)


@pytest.mark.parametrize("final_bias", [0.0, -math.log(9)])
def test_final_bias(final_bias):
    params, _ = models.build("digits_cnn", 10, final_bias=final_bias).init(jax.random.key(0), shape_of("digits_cnn"))
    np.testing.assert_array_equal(params["head"]["bias"], np.full(10, final_bias, np.float32))


def test_initializations():
    kernels = {}
    for name in ("glorot", "he"):
        model = resnet_cifar(100, depth=8, initialization=name)
        params, _ = jax.jit(lambda key, model=model: model.init(key, shape_of("resnet8")))(jax.random.key(0))
        kernels[name] = [params["stage3_block1"]["convolution2"]["kernel"], params["head"]["kernel"]]
    for kernel in kernels["glorot"]:
        fans = math.prod(kernel.shape[:-1]) + kernel.shape[-1] * math.prod(kernel.shape[:-2])
        assert 0.97 < float(jnp.max(jnp.abs(kernel))) / math.sqrt(6 / fans) <= 1
    for kernel in kernels["he"]:
        deviation = math.sqrt(2 / math.prod(kernel.shape[:-1]))
        np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.05)
        assert float(jnp.max(jnp.abs(kernel))) > 2.5 * deviation  # a normal that is not truncated


# Values against NumPy


@pytest.mark.parametrize("shortcut", ["average", "subsample", "projection"])
def test_resnet_agrees_with_numpy(shortcut):
    model, params, batch_stats, images = small_resnet(shortcut=shortcut)
    apply = jax.jit(model.apply, static_argnums=3)
    logits, new_stats = apply(params, batch_stats, images, True)
    oracle = networks.resnet(to_float64(params), to_float64(batch_stats), images, shortcut, train=True)
    np.testing.assert_allclose(logits, oracle, atol=2e-5 * np.abs(oracle).max())
    logits, same_stats = apply(params, new_stats, images, False)
    oracle = networks.resnet(to_float64(params), to_float64(new_stats), images, shortcut, train=False)
    np.testing.assert_allclose(logits, oracle, atol=2e-5 * np.abs(oracle).max())
    jax.tree.map(np.testing.assert_array_equal, new_stats, same_stats)


def test_lenet_agrees_with_numpy():
    model = models.build("lenet5", 10, initialization="he")
    images = draw((4, 28, 28, 1)).astype(np.float32)
    params, batch_stats = jax.jit(model.init)(jax.random.key(0), images)
    logits, _ = jax.jit(model.apply, static_argnums=3)(params, batch_stats, images, True)
    own = to_float64(params)
    outputs = networks.convolution(images, own["convolution1"]["kernel"], 1, 2) + own["convolution1"]["bias"]
    outputs = networks.pool(np.maximum(outputs, 0), np.max)
    outputs = networks.convolution(outputs, own["convolution2"]["kernel"]) + own["convolution2"]["bias"]
    outputs = networks.pool(np.maximum(outputs, 0), np.max).reshape(4, 400)
    for name in ("dense1", "dense2"):
        outputs = np.maximum(outputs @ own[name]["kernel"] + own[name]["bias"], 0)
    np.testing.assert_allclose(logits, outputs @ own["head"]["kernel"] + own["head"]["bias"], rtol=1e-4, atol=1e-5)


def test_apply_is_features_then_head():
    model, params, batch_stats, images = small_resnet()

    @jax.jit
    def both(params, batch_stats):
        features, _ = model.features(params, batch_stats, images, False)
        return model.head(params, features), model.apply(params, batch_stats, images, False)[0]

    np.testing.assert_array_equal(*both(params, batch_stats))


def native_convolve_and_pool(images, kernel, padding):
    pads = ((padding, padding), (padding, padding))
    layout = ("NHWC", "HWIO", "NHWC")
    outputs = jax.lax.conv_general_dilated(images, kernel, (1, 1), pads, dimension_numbers=layout)
    return nn.max_pool(outputs, (2, 2), (2, 2))


@pytest.mark.parametrize(
    ("image", "kernel", "padding"),
    [
        ((28, 28, 1), (5, 5, 1, 6), 2),
        ((14, 14, 6), (5, 5, 6, 16), 0),
        ((6, 10, 2), (3, 3, 2, 3), 1),
        ((4, 6, 2), (1, 1, 2, 3), 0),
    ],
)
def test_matrix_convolution_equals_the_native_one(image, kernel, padding):
    with jax.enable_x64(True):
        arguments = draw((3, *image)), draw(kernel, 1)
        value, vjp = jax.vjp(lambda x, k: convolve_and_pool(x, k, padding), *arguments)
        expected, expected_vjp = jax.vjp(lambda x, k: native_convolve_and_pool(x, k, padding), *arguments)
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
        cotangent = draw(value.shape, 2)
        for ours, theirs in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_resnet_takes_odd_sizes():
    for shortcut in ("average", "subsample", "projection"):
        model = resnet_cifar(3, depth=8, shortcut=shortcut)
        images = jax.ShapeDtypeStruct((2, 15, 9, 1), jnp.float32)
        outputs, _ = jax.eval_shape(lambda x, m=model: m.apply(*m.init(jax.random.key(0), x), x, True), images)
        assert outputs.shape == (2, 3)


# BatchNorm


def normalize(inputs, scale, bias):
    """What BatchNorm computes in training, as a function of its parameters."""
    running = {"mean": np.zeros(scale.shape), "var": np.ones(scale.shape)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": running}
    return BatchNorm().apply(variables, inputs, True, mutable=["batch_stats"])[0]


def plain_normalize(inputs, scale, bias, epsilon):
    mean = jnp.mean(inputs, (0, 1, 2), keepdims=True)
    variance = jnp.mean((inputs - mean) ** 2, (0, 1, 2), keepdims=True)
    return (inputs - mean) / jnp.sqrt(variance + epsilon) * scale[None, None, None] + bias[None, None, None]


def batch_norm_arguments():
    return draw((6, 3, 2, 4)) * 2 + 1, draw((4,), 1), draw((4,), 2)


def test_batch_norm_trains_on_the_batch_and_keeps_running_statistics():
    inputs, scale, bias = (value.astype(np.float32) for value in batch_norm_arguments())
    module = BatchNorm()
    batch_stats = {"mean": draw((4,), 3).astype(np.float32), "var": np.float32([0.5, 1, 2, 3])}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": batch_stats}
    outputs, updates = module.apply(variables, inputs, True, mutable=["batch_stats"])
    expected, mean, variance = networks.batch_norm(inputs.astype(np.float64), scale, bias)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.9 * batch_stats["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * batch_stats["var"] + 0.1 * variance, rtol=1e-5)
    expected = networks.batch_norm(inputs.astype(np.float64), scale, bias, batch_stats["mean"], batch_stats["var"])[0]
    np.testing.assert_allclose(module.apply(variables, inputs, False), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_survives_channels_without_variance():
    for value in (0.0, 1e4):
        inputs = jnp.full((64, 3, 3, 2), value)
        gradient = jax.grad(lambda x: jnp.sum(normalize(x, jnp.ones(2), jnp.zeros(2)) ** 2))(inputs)
        assert np.all(np.isfinite(gradient))


def test_batch_norm_gradient_is_that_of_the_plain_formula():
    with jax.enable_x64(True):
        arguments = batch_norm_arguments()
        value, vjp = jax.vjp(normalize, *arguments)
        expected, expected_vjp = jax.vjp(lambda *a: plain_normalize(*a, 1e-5), *arguments)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        cotangent = draw(value.shape, 4)
        for ours, theirs in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("group_size", "dtype"), [(2, jnp.float32), (3, jnp.float32), (6, jnp.float32), (2, jnp.bfloat16)]
)
def test_groups_have_statistics_of_their_own(group_size, dtype):
    inputs, scale, bias = (value.astype(np.float32) for value in batch_norm_arguments())
    inputs = inputs * np.arange(1, 7, dtype=np.float32)[:, None, None, None]  # groups differ
    batch_stats = {"mean": draw((4,), 3).astype(np.float32), "var": np.float32([0.5, 1, 2, 3])}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": batch_stats}
    given = jnp.asarray(inputs, dtype)
    module = BatchNorm(group_size=group_size)
    outputs, updates = module.apply(variables, given, True, mutable=["batch_stats"])
    exact = np.asarray(given, np.float64)
    parts = [networks.batch_norm(exact[i : i + group_size], scale, bias) for i in range(0, len(inputs), group_size)]
    expected, mean, variance = (np.stack([part[i] for part in parts]) for i in range(3))
    assert outputs.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2**-8, "atol": 1e-5}
    np.testing.assert_allclose(np.asarray(outputs, np.float64), expected.reshape(inputs.shape), **tolerance)
    found = updates["batch_stats"]
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(found["mean"], 0.9 * batch_stats["mean"] + 0.1 * mean.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.9 * batch_stats["var"] + 0.1 * variance.mean(0), rtol=1e-5)
    # Evaluation knows no groups, and takes any number of images.
    five = (variables, given[:5], False)
    np.testing.assert_array_equal(module.apply(*five), BatchNorm().apply(*five))


def test_groups_must_divide_the_batch():
    for module, message in [
        (BatchNorm(group_size=4), "must divide the 6 that a device takes at once; got 4"),
        (BatchNorm(group_size=0), "must divide the 6 that a device takes at once; got 0"),
        (BatchNorm(group_size=3, axis_name="data"), "over groups or over all devices, not both"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.init(jax.random.key(0), jnp.zeros((6, 2, 2, 3)), True)


@pytest.mark.parametrize("outer", [jax.jacrev, jax.jacfwd])
def test_batch_norm_has_second_derivatives(outer):
    weights = draw((6, 3, 2, 4), 5)

    def second(function):
        def objective(inputs, scale, bias):
            return jnp.sum(weights * function(inputs, scale, bias) ** 3)

        def directional(*arguments):
            return sum(jnp.sum(draw(g.shape, 6) * g) for g in jax.grad(objective, (0, 1, 2))(*arguments))

        return jax.jit(outer(directional, (0, 1, 2)))(*batch_norm_arguments())

    with jax.enable_x64(True):
        ours, theirs = second(normalize), second(lambda *a: plain_normalize(*a, 1e-5))
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("synchronised", [True, False])
def test_batch_norm_over_devices(synchronised):
    model, params, batch_stats, images = small_resnet(batch_norm_axis="data" if synchronised else None)
    labels = np.arange(16) % 5

    def loss(model, params, images, labels):
        logits, stats = model.apply(params, batch_stats, images, True)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 5), axis=1)), stats

    def share(params, images, labels):
        params = jax.lax.pcast(params, "data", to="varying")
        gradient, stats = jax.grad(lambda p: loss(model, p, images, labels), has_aux=True)(params)
        return jax.lax.pmean((gradient, stats), "data")

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(WHOLE, DATA, DATA), out_specs=(WHOLE, WHOLE)))
    gradient, stats = divided(params, images, labels)
    alone = resnet_cifar(5, depth=8)

    @jax.jit
    def whole(params, images, labels):
        return jax.grad(lambda p: loss(alone, p, images, labels), has_aux=True)(params)

    if synchronised:
        expected, expected_stats = whole(params, images, labels)
    else:
        parts = [whole(params, images[i : i + 2], labels[i : i + 2]) for i in range(0, 16, 2)]
        expected, expected_stats = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)
    for ours, theirs in zip(
        jax.tree.leaves((gradient, stats)), jax.tree.leaves((expected, expected_stats)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def test_relu_is_that_of_jax():
    inputs = jnp.array([-jnp.inf, -1.0, -0.0, 0.0, 1e-30, 2.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(relu(inputs), jax.nn.relu(inputs))
    ours, theirs = jax.vmap(jax.grad(relu))(inputs[:-1]), jax.vmap(jax.grad(jax.nn.relu))(inputs[:-1])
    np.testing.assert_array_equal(ours, theirs)


# Transformations


@pytest.mark.parametrize("name", ["digits_cnn", pytest.param("lenet5", marks=pytest.mark.slow)])
def test_models_map_over_parameters(name):
    model = models.build(name, 3)
    images = draw(shape_of(name).shape).astype(np.float32)
    start = jax.jit(lambda seed: model.init(jax.random.key(seed), images)[0])
    several = [start(seed) for seed in (0, 1)]
    gradient = jax.grad(lambda params: jnp.sum(model.apply(params, {}, images, True)[0] ** 2))
    mapped = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *several))
    one = jax.jit(gradient)
    for i, params in enumerate(several):
        for ours, alone in zip(jax.tree.leaves(mapped), jax.tree.leaves(one(params)), strict=True):
            np.testing.assert_allclose(ours[i], alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())


def test_the_linear_model_is_the_pixels_times_its_kernel():
    images = draw((3, 2, 4, 5)).astype(np.float32)
    model = models.build("linear", 6, final_bias=0.5)
    params, stats = model.init(jax.random.key(0), images)
    logits, _ = model.apply(params, stats, images, True)
    expected = images.reshape(3, 40).astype(np.float64) @ np.asarray(params["head"]["kernel"], np.float64) + 0.5
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert stats == {} and set(params) == {"head"}


def test_init_maps_over_keys():
    model = models.build("digits_cnn", 3)
    start = jax.jit(jax.vmap(lambda key: model.init(key, shape_of("digits_cnn"))))
    params, _ = start(jax.random.split(jax.random.key(0), 2))
    assert params["head"]["kernel"].shape == (2, 64, 3)
    assert not np.array_equal(*params["head"]["kernel"])


# Messages


@pytest.mark.parametrize(
    ("name", "num_classes", "options", "message"),
    [
        ("resnet33", 10, {}, r"unknown model 'resnet33'; known are digits_cnn, lenet5, linear, resnet20, .*resnet110"),
        ("lenet5", 10, {"shortcut": "average"}, r"lenet5 has no option shortcut; it has initialization, final_bias"),
        (
            "resnet20",
            10,
            {"depth": 8},
            r"resnet20 has no option depth; it has shortcut, initialization, final_bias, head, batch_",
        ),
        ("resnet20", 10, {"shortcut": "B"}, r"shortcut must be one of average, subsample, projection, not 'B'"),
        ("resnet20", 10, {"initialization": "xavier"}, r"initialization must be one of glorot, he, not 'xavier'"),
        ("lenet5", 10, {"initialization": ""}, r"initialization must be one of glorot, he, not ''"),
        ("digits_cnn", 1, {}, r"num_classes must be an integer of at least 2, not 1"),
        ("digits_cnn", 2.0, {}, r"num_classes must be an integer of at least 2, not 2.0"),
        ("digits_cnn", 2, {"final_bias": math.inf}, r"final_bias must be a finite number, not inf"),
    ],
)
def test_bad_calls_are_refused(name, num_classes, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, num_classes, **options)


@pytest.mark.parametrize("depth", [2, 18])
def test_bad_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2 with n at least 1, not {depth}"):
        resnet_cifar(10, depth=depth)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet5", (2, 32, 32, 1), r"lenet5 needs images \[B, 28, 28, channels\], not \[2, 32, 32, 1\]"),
        ("digits_cnn", (2, 28, 28, 1), r"digits_cnn needs images \[B, 8, 8, channels\], not \[2, 28, 28, 1\]"),
        ("resnet20", (32, 32, 3), r"images must have shape \[B, H, W, channels\], not \[32, 32, 3\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
    model = models.build(name, 10)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros(shape))
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), shape_of(name))
    with pytest.raises(ValueError, match=message):
        model.apply(params, batch_stats, jnp.zeros(shape), False)


def test_a_change_of_channels_is_refused():
    model = models.build("lenet5", 10)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), shape_of("lenet5"))
    with pytest.raises(ValueError, match=r"images of shape \(2, 28, 28, 3\) do not fit the parameters"):
        model.apply(params, batch_stats, jnp.zeros((2, 28, 28, 3)), False)


@pytest.mark.parametrize(("kernel", "message"), [((2, 2, 1, 1), "2, 7, 7"), ((5, 5, 1, 1), None), ((3, 3, 1, 1), None)])
def test_matrix_convolution_refuses_odd_outputs(kernel, message):
    images = jnp.zeros((1, 8, 8, 1)) if message else jnp.zeros((1, 9, 8, 1))
    with pytest.raises(ValueError, match=message or "must be odd and the output's height and width even"):
        convolve_and_pool(images, jnp.zeros(kernel), 0)
