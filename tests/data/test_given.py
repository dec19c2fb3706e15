"""Images of any size and kind, brought to what a network was trained on."""

import warnings

import numpy as np
import pytest
from PIL import Image

from cbjax.data import DataError
from cbjax.data.crops import EvalTransform
from cbjax.data.given import Fit
from tests.photos import photo

PHOTOS = Fit((24, 24, 3), "uint8", (0, 255), EvalTransform(24, 28))
GREY = Fit((8, 8, 1), "uint8", (0, 255), None)
FLOATS = Fit((8, 8, 2), "float32", (-1.0, 1.0), None)


def fitted(fit, images):
    return list(fit.all(images))


def test_a_photo_goes_the_way_of_evaluation_whatever_holds_it(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(photo(1, 3, "PNG"))
    expected = EvalTransform(24, 28)(path.read_bytes())
    with Image.open(path) as image:
        pixels = np.asarray(image)
        for given in ([path, str(path), image, pixels, pixels.astype(np.int64)], path, image, pixels[None]):
            for found in fitted(PHOTOS, given):
                np.testing.assert_array_equal(found, expected)


def test_images_of_different_sizes_come_in_a_list():
    first, second = np.zeros((30, 40, 3), np.uint8), np.full((50, 20), 255, np.uint8)
    for found in (fitted(PHOTOS, [first, second]), fitted(PHOTOS, (first, second))):
        assert [image.shape for image in found] == [(24, 24, 3)] * 2
        assert found[0].max() == 0 and found[1].min() == 255


def test_an_array_of_the_networks_size_is_taken_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(fitted(PHOTOS, images), images)
    np.testing.assert_array_equal(fitted(PHOTOS, list(images)), images)
    floats = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 2))
    np.testing.assert_array_equal(fitted(FLOATS, floats), floats.astype(np.float32))
    assert fitted(GREY, np.zeros((0, 8, 8), np.uint8)) == []


def test_images_that_are_one_pixel_wide_are_many():
    images = np.arange(32, dtype=np.uint8).reshape(4, 8, 1) * 8
    found = fitted(Fit((8, 1, 1), "uint8", (0, 255), None), images)
    np.testing.assert_array_equal(found, images[..., None])


def test_images_of_one_size_are_resized_to_it():
    grey = np.random.default_rng(0).integers(0, 256, (16, 12), np.uint8)
    expected = np.asarray(Image.fromarray(grey).resize((8, 8), Image.Resampling.BILINEAR))[..., None]
    np.testing.assert_array_equal(fitted(GREY, grey[None])[0], expected)
    colour = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colour).convert("L").resize((8, 8), Image.Resampling.BILINEAR))[..., None]
    np.testing.assert_array_equal(fitted(GREY, [colour])[0], expected)
    halves = np.stack([np.full((16, 16), 0.5), np.full((16, 16), -0.25)], axis=-1)
    np.testing.assert_allclose(fitted(FLOATS, [halves])[0], halves[:8, :8])


@pytest.mark.parametrize(
    ("fit", "images", "message"),
    [
        (GREY, np.zeros((2, 8, 8), np.float32), r"must be uint8.*0 to 255.*got float32.*\(255 \* images\)"),
        (GREY, np.full((2, 8, 8), 256), "got int64 of 256 to 256"),
        (GREY, np.full((2, 8, 8), -1), "got int64 of -1 to -1"),
        (GREY, np.zeros((2, 8, 8), bool), "got bool"),
        (FLOATS, np.zeros((2, 8, 8, 2), np.uint8), r"must be float32.*\(-1 to 1\); got uint8 of 0 to 0"),
        (FLOATS, np.full((2, 8, 8, 2), np.nan), "must be finite"),
        (FLOATS, np.full((2, 8, 8, 2), 4.0), "pixels are 4 to 4, but the training's were -1 to 1: convert them"),
        (FLOATS, [photo], "must be an array"),
        (PHOTOS, np.zeros((2, 3, 32, 32), np.uint8), r"channels last; got \[3, 32, 32\]"),
        (PHOTOS, np.zeros((40, 50, 3), np.uint8), r"one image of shape \[40, 50, 3\]: give it in a list"),
        (GREY, np.zeros((8, 8, 1), np.uint8), r"one image of shape \[8, 8, 1\]: give it in a list"),
        (PHOTOS, 3, "got numbers of int64"),
        (PHOTOS, "nowhere.jpg", r"nowhere\.jpg: there is no such file"),
    ],
)
def test_what_is_not_an_image_of_the_training_is_refused(fit, images, message):
    with pytest.raises(DataError, match=message):
        fitted(fit, images)


def test_a_photo_for_a_run_on_arrays_in_other_units_is_refused(tmp_path):
    """The digits of scikit-learn have pixels of 0 to 16; a photo has 0 to 255."""
    digits, pixels = Fit((8, 8, 1), "uint8", (0, 16), None), np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as image:
        for given in (tmp_path / "photo.png", image, pixels[None]):
            with pytest.raises(DataError, match="pixels are 0 to 252, but the training's were 0 to 16: convert them"):
                fitted(digits, given)
            assert fitted(GREY, given)[0].max() == 252


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg: it cannot be read"):
        fitted(PHOTOS, [path])
    path.write_bytes(photo(0, 0))
    with pytest.raises(DataError, match="trained on float32 arrays of -1 to 1, but a photo has pixels of 0 to 255"):
        fitted(FLOATS, [path])


def test_pixels_of_a_narrow_range_bring_a_warning():
    digits = np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    with pytest.warns(UserWarning, match="pixels are 0 to 16, but the training's were 0 to 255: predictions"):
        fitted(GREY, digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(GREY, digits * 2)  # 0 to 32
        fitted(GREY, np.zeros((2, 8, 8), np.uint8))  # an image of one colour says nothing
        fitted(Fit((8, 8, 1), "uint8", None, None), digits)
