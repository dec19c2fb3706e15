"""ResNets for ImageNet: parameters, blocks that start as identities, bfloat16, rematerialisation, messages."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import losses, models
from cbjax.models.resnet_imagenet import DEPTHS, resnet_imagenet
from cbjax.objectives import weighted
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import TrainState

# With 1,000 classes; torchvision's numbers for the networks that it has.
PARAMETERS = {
    10: 5_418_792,
    18: 11_689_512,
    34: 21_797_672,
    50: 25_557_032,
    101: 44_549_160,
    152: 60_192_808,
}


def shape_of(side=64, batch=2):
    return jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)


def small(**options):
    """A narrow network of ten layers, its parameters, drawn by NumPy for speed, and images."""
    model = resnet_imagenet(5, depth=10, width=4, **options)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=leaf.shape).astype(np.float32) * np.sqrt(2 / math.prod(leaf.shape[:-1]))
        return np.full(leaf.shape, name in ("scale", "var"), np.float32)

    params, batch_stats = jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(model.init, jax.random.key(0), shape_of())
    )
    return model, params, batch_stats, rng.normal(size=(8, 64, 64, 3)).astype(np.float32)


def scales(model):
    """Returns path -> first value of every BatchNorm's scale."""
    # All that is random is left out of the program.
    init = jax.jit(lambda key: leaves(model.init(key, shape_of())[0], "scale"))
    return init(jax.random.key(0))


@functools.cache
def traced(depth, **options):
    """Writes the program of a training gradient, without running it."""
    model = resnet_imagenet(5, depth=depth, width=4, **options)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), shape_of())
    return str(jax.make_jaxpr(jax.value_and_grad(objective(model), has_aux=True))(params, batch_stats, shape_of()))


def objective(model):
    def loss(params, batch_stats, images):
        logits, stats = model.apply(params, batch_stats, images, True)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 1]), (logits, stats)

    return loss


@functools.cache
def gradient(**options):
    """Returns logits, running statistics and the gradient of a loss in training, of ten layers."""
    model, *arguments = small(**options)
    (_, (logits, stats)), grads = jax.jit(jax.value_and_grad(objective(model), has_aux=True))(*arguments)
    return logits, stats, grads


def leaves(tree, name):
    """Returns path -> leaf for the leaves whose path ends with `name`."""
    found = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {path: leaf for path, leaf in found.items() if path.endswith(name)}


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=[pytest.mark.slow] if depth > 50 else []) for depth in DEPTHS]
)
def test_number_of_parameters(depth):
    model = models.build(f"resnet{depth}", 1000)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), shape_of())
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS[depth]
    assert len(jax.tree.leaves(batch_stats)) == len(leaves(params, "scale")) * 2
    # As many layers with weights as the name says, projections not counted; no bias but BatchNorm's and the head's.
    kernels = len(leaves(params, "kernel")) - len(leaves(params, "projection/kernel"))
    assert kernels == depth
    assert len(leaves(params, "bias")) == len(leaves(params, "scale")) + 1


@pytest.mark.parametrize(("depth", "features", "side"), [(10, 512, 32), (10, 512, 225), (50, 2048, 33)])
def test_any_size_from_32_on(depth, features, side):
    model = models.build(f"resnet{depth}", 7)
    images = shape_of(side)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, _ = jax.eval_shape(lambda p, s, x: model.features(p, s, x, True), params, batch_stats, images)
    assert outputs.shape == (2, features)


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    model = models.build("resnet50", 7)
    images = shape_of(224)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), images)
    text = str(jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x, False))(params, batch_stats, images))
    # The 1x1 convolution before it still sees the whole height and width.
    for size, width in ((56, 128), (28, 256), (14, 512)):
        assert f"f32[2,{size},{size},{width}]" in text


@pytest.mark.parametrize("depth", [10, 50])
@pytest.mark.parametrize("zero", [True, False])
def test_the_last_scale_of_each_block_starts_at_zero(depth, zero):
    last = "norm3/scale" if depth == 50 else "norm2/scale"
    for name, scale in scales(resnet_imagenet(5, depth=depth, width=4, zero_last_scale=zero)).items():
        assert (scale == (0 if zero and name.endswith(last) else 1)).all(), name


def test_blocks_of_last_scale_zero_are_their_shortcuts():
    model, params, batch_stats, images = small()
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * 0 if path[-2].key == "norm2" else leaf, params)
    apply = jax.jit(model.apply, static_argnums=3)
    before, _ = apply(params, batch_stats, images, True)
    disturbed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 3 if path[-2].key.startswith("convolution") else leaf, params
    )
    np.testing.assert_array_equal(before, apply(disturbed, batch_stats, images, True)[0])
    assert np.ptp(before) > 0


def test_the_head_starts_small():
    init = resnet_imagenet(1000, depth=10, final_bias=-2.0).init
    head = jax.jit(lambda key: init(key, shape_of())[0]["head"])(jax.random.key(0))
    np.testing.assert_allclose(np.std(head["kernel"]), 0.01, rtol=0.02)
    assert (head["bias"] == -2).all()


def test_bfloat16_is_close_and_what_is_kept_is_float32():
    logits, stats, grads = gradient(dtype="bfloat16")
    exact_logits, exact_stats, exact_grads = gradient()
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, stats, grads))} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, stats, grads)))
    np.testing.assert_allclose(logits, exact_logits, atol=0.1 * np.abs(exact_logits).max())
    assert not np.allclose(logits, exact_logits, atol=1e-4 * np.abs(exact_logits).max())
    for ours, exact in zip(jax.tree.leaves(stats), jax.tree.leaves(exact_stats), strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.02 * np.abs(exact).max())
    ours, exact = (np.ravel(tree["stem"]["kernel"]) for tree in (grads, exact_grads))
    assert ours @ exact > 0.95 * np.linalg.norm(ours) * np.linalg.norm(exact)


@pytest.mark.parametrize("depth", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_every_convolution_is_in_bfloat16(depth):
    def convolutions(text):
        return [line for line in text.splitlines() if "conv_general_dilated[" in line]

    found = convolutions(traced(depth, dtype="bfloat16"))
    assert len(found) > 2 * depth
    assert all(":bf16[" in line for line in found)


def test_rematerialisation_changes_nothing():
    for ours, theirs in zip(jax.tree.leaves(gradient(remat=True)), jax.tree.leaves(gradient()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_rematerialisation_computes_the_blocks_again():
    plain, again = (traced(10, remat=remat).count("conv_general_dilated[") for remat in (False, True))
    inside = 10 - 2 + 3  # all but the stem and the head, and the projections
    assert again - plain == inside


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, "depth must be one of 10, 18, 34, 50, 101, 152, not 12"),
        ({"depth": 10, "dtype": "float16"}, "dtype must be one of float32, bfloat16, not 'float16'"),
        ({"depth": 10, "initialization": "xavier"}, "initialization must be one of glorot, he, not 'xavier'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resnet_imagenet(10, **options)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="need images of at least 32x32, not 31x31"):
        models.build("resnet18", 10).init(jax.random.key(0), shape_of(31))


@pytest.mark.slow  # other tests have each option alone
@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_all_options_together_over_devices(kind):
    model, params, batch_stats, images = small(dtype="bfloat16", remat=True, batch_norm_size=2)
    tx = optax.sgd(0.1)
    state = TrainState(jnp.int32(0), params, batch_stats, tx.init(params), jnp.ones(5), jax.random.key(0))
    mesh = sharding.make_mesh(2)
    objective = weighted(model, lambda *args: losses.softmax_cross_entropy(*args[:3]))  # without the settings
    step = make_train_step(objective, tx, accumulation=2)
    step = sharding.data_parallel(step, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    batch = {"image": images[:, :32, :32], "label": np.arange(8) % 5}
    after, metrics = step(sharding.replicate(state, mesh), batch)
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0 and metrics["count"] == 8
    # Statistics see only the two images of a group, so one device with the same groups takes the same step.
    alone = jax.jit(make_train_step(objective, tx, axis=None))(state, batch)[0]
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max() + 1e-3)
    for ours, theirs in zip(jax.tree.leaves(after.batch_stats), jax.tree.leaves(alone.batch_stats), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())
