"""Crop, flip and normalisation against NumPy, and equal however a batch is split over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from cbjax.data import DataError, normalization
from cbjax.data.augment import crop_flip, normalize

MODES = {"zero": "constant", "reflect": "reflect"}


def make_batch(batch_size=16, shape=(6, 5, 3), dtype=np.uint8):
    images = np.random.default_rng(0).integers(1, 256, (batch_size, *shape)).astype(dtype)
    return jax.random.split(jax.random.key(1), batch_size), images


def windows(image, padding, padding_mode, flip):
    """Yields every crop, and its mirror image where flips are on."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=MODES[padding_mode])
    height, width, _ = image.shape
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            window = padded[row : row + height, column : column + width]
            yield (row, column, False), window
            if flip:
                yield (row, column, True), window[:, ::-1]


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_image_is_a_window_of_its_padded_self(padding_mode, flip, padding, dtype):
    keys, images = make_batch(dtype=dtype)
    result = np.asarray(crop_flip(keys, images, padding, flip, padding_mode))
    assert result.dtype == dtype
    assert result.shape == images.shape
    for image, out in zip(images, result, strict=True):
        assert any(np.array_equal(out, window) for _, window in windows(image, padding, padding_mode, flip))


def test_every_shift_and_flip_comes_equally_often():
    count = 1800
    keys = jax.random.split(jax.random.key(0), count)
    image = np.arange(1, 26, dtype=np.uint8).reshape(5, 5, 1)
    result = np.asarray(crop_flip(keys, np.broadcast_to(image, (count, 5, 5, 1)), 1, True, "zero"))
    found = {window.tobytes(): 0 for _, window in windows(image, 1, "zero", True)}
    assert len(found) == 18
    for out in result:
        found[out.tobytes()] += 1
    frequencies = np.array(list(found.values()))
    # Chi-square with 17 degrees of freedom; its 0.9999 quantile is 46.
    assert np.sum((frequencies - count / 18) ** 2) / (count / 18) < 46


def test_an_image_depends_on_its_own_key_alone():
    keys, images = make_batch()
    whole = np.asarray(crop_flip(keys, images, 2, True, "zero"))
    for i in (0, 7, 15):
        np.testing.assert_array_equal(crop_flip(keys[i : i + 1], images[i : i + 1], 2, True, "zero")[0], whole[i])
    np.testing.assert_array_equal(crop_flip(keys[::-1], images[::-1], 2, True, "zero"), whole[::-1])


def test_flips_do_not_depend_on_the_crop():
    keys, images = make_batch()
    plain = np.asarray(crop_flip(keys, images, 0, True))
    cropped = np.asarray(crop_flip(keys, images, 2, True))
    unflipped = np.asarray(crop_flip(keys, images, 2, False))
    mirrored = np.array([not np.array_equal(a, b) for a, b in zip(plain, images, strict=True)])
    assert 0 < mirrored.sum() < 16
    expected = np.where(mirrored[:, None, None, None], unflipped[:, :, ::-1], unflipped)
    np.testing.assert_array_equal(cropped, expected)


def test_jit_vmap_and_every_split_over_devices_agree():
    keys, images = make_batch()

    def augment(keys, images):
        return normalize(crop_flip(keys, images, 2, True, "reflect"), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))

    expected = np.asarray(jax.jit(augment)(keys, images))
    halves = jax.jit(jax.vmap(augment))(keys.reshape(2, 8), jnp.asarray(images).reshape(2, 8, *images.shape[1:]))
    np.testing.assert_array_equal(halves.reshape(expected.shape), expected)
    for devices in (2, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        split = PartitionSpec("data")
        sharded = jax.jit(jax.shard_map(augment, mesh=mesh, in_specs=(split, split), out_specs=split))
        np.testing.assert_array_equal(sharded(keys, images), expected)
    shards = jax.pmap(augment)(keys.reshape(8, 2), images.reshape(8, 2, *images.shape[1:]))
    np.testing.assert_array_equal(np.asarray(shards).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((16, 6, 5))}, r"needs images \[B, H, W, channels\] .* got images \(16, 6, 5\)"),
        ({"keys": jax.random.key(0)}, r"and keys \[B\] .* and keys \(\)"),
        ({"keys": jax.random.split(jax.random.key(0), 3)}, r"and keys \(3,\)"),
        ({"padding": -1}, "padding must be at least 0.* got -1"),
        (
            {"padding": 5, "padding_mode": "reflect"},
            r"below the image's side if it reflects, got 5 for \(16, 6, 5, 3\)",
        ),
        ({"padding_mode": "edge"}, "'edge' is unknown; it is one of zero, reflect"),
    ],
)
def test_crop_flip_refuses(arguments, message):
    keys, images = make_batch()
    with pytest.raises(ValueError, match=message):
        crop_flip(**{"keys": keys, "images": images, **arguments})


@pytest.mark.parametrize("name", [*normalization.NORMALIZATIONS, "standardize"])
def test_normalisations_against_their_definitions(name):
    _, images = make_batch()
    pixels = images.astype(np.float64)
    by_channel = {
        "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "kinetics_torchvision": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "kinetics700": ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
    }
    if name in by_channel:
        mean, std = by_channel[name]
        expected = (pixels / 255 - mean) / std
    else:
        expected = {
            "none": pixels,
            "kinetics": pixels - (114.7748, 107.7354, 99.475),
            "unit": pixels / 255,
            "symmetric": pixels / 128 - 1,
            "standardize": (pixels - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2)),
        }[name]
    mean, std = normalization.resolve(name, images)
    assert len(mean) == len(std) == 3
    result = normalize(images, mean, std)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_mean_and_std_of_many_blocks():
    images = np.random.default_rng(0).normal(1e4, 1.0, (50, 4, 4, 2)).astype(np.float32)
    mean, std = normalization.mean_and_std(images, block=7)
    np.testing.assert_allclose(mean, images.astype(np.float64).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.astype(np.float64).std(axis=(0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("zscore", np.zeros((2, 4, 4, 3), np.uint8), "'zscore' is unknown; it is one of 'standardize', 'none', 'unit'"),
        (
            "unit",
            np.zeros((2, 4, 4, 3), np.float32),
            "expects uint8 images of 0 to 255, got float32",
        ),
        ("cifar", np.zeros((2, 4, 4, 1), np.uint8), "has 3 channels, but the images have 1"),
        ("standardize", np.ones((2, 4, 4, 3), np.uint8), "channel 0 is constant over all training images"),
    ],
)
def test_normalisations_refuse(name, images, message):
    with pytest.raises(DataError, match=message):
        normalization.resolve(name, images)


def test_normalize_refuses():
    _, images = make_batch()
    with pytest.raises(ValueError, match=r"mean must have one value for each of the 3 channels, got shape \(1,\)"):
        normalize(images, (0.0,), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"std must be above 0 in every channel, got \[1.0, 0.0, 1.0\]"):
        normalize(images, (0.0,) * 3, (1.0, 0.0, 1.0))
