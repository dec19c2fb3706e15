"""Random crops, flips, colours and the crop of evaluation, against Pillow and plain arithmetic."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from cbjax.data import crops
from cbjax.data import resize as resizing
from cbjax.data.crops import EvalTransform, TrainTransform, jitter, random_box, uniform

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8))
PIXELS = np.asarray(NOISE.resize((500, 375), Image.Resampling.BICUBIC))


def encode(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG, JPEG = encode(PIXELS, "PNG"), encode(PIXELS, "JPEG", quality=95)
sides = st.integers(1, 700)


@given(sides, sides, st.sampled_from([0.05, 0.08, 0.5, 1.0]), st.integers(0, 2**40))
def test_a_box_lies_within_the_image(height, width, area, position):
    draws = uniform(7, position, 40)
    top, left, box_height, box_width = random_box(draws, (height, width), area)
    assert 0 <= top <= top + box_height <= height and 0 <= left <= left + box_width <= width
    assert box_height > 0 and box_width > 0


@pytest.mark.parametrize("area", [0.05, 0.08])
def test_boxes_have_the_areas_and_ratios_asked_for(area):
    boxes = np.array([random_box(uniform(0, position, 40), (1000, 1000), area) for position in range(3000)])
    shares = boxes[:, 2] * boxes[:, 3] / 1e6
    ratios = boxes[:, 3] / boxes[:, 2]
    assert shares.min() >= area - 0.002 and shares.max() <= 1
    assert shares.min() < area + 0.01 and shares.max() > 0.97
    assert ratios.min() >= 3 / 4 - 0.005 and ratios.max() <= 4 / 3 + 0.005
    assert abs(np.log(ratios).mean()) < 0.01
    # Every corner is reached: a box of half the side starts anywhere up to the other half.
    small = boxes[shares < 0.3]
    assert small[:, 0].min() < 10 and (small[:, 0] + small[:, 2]).max() > 990
    assert small[:, 1].min() < 10 and (small[:, 1] + small[:, 3]).max() > 990


def test_what_never_fits_is_the_largest_box_in_the_middle():
    draws = np.zeros(40)
    assert random_box(draws, (10, 1000), 1.0) == (0, 493, 10, 13)
    assert random_box(draws, (1000, 10), 1.0) == (493, 0, 13, 10)
    assert random_box(draws, (90, 100), 1.0) == (0, 0, 90, 100)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**62))
def test_random_numbers_are_a_function_of_seed_and_place(seed, position):
    draws = np.array(uniform(seed, position, 45))
    assert ((draws >= 0) & (draws < 1)).all()
    np.testing.assert_array_equal(uniform(seed, position, 10), draws[:10])
    for other in (uniform(seed + 1, position, 45), uniform(seed, position + 1, 45)):
        assert len(np.intersect1d(draws, other)) == 0


def test_random_numbers_do_not_change_between_versions():
    # Bits that NumPy promises to keep: a run may go on under another version.
    expected = np.random.Generator(np.random.Philox(key=3, counter=5 << 64)).random(4)
    np.testing.assert_array_equal(uniform(3, 5, 4), expected)


@pytest.mark.parametrize("by", ["cykooz", "pillow"])
@pytest.mark.parametrize("box", [(0, 0, 375, 500), (10, 20, 300, 260), (3.25, 7.5, 31.5, 40.25), (100, 100, 8, 9)])
def test_resizing_is_that_of_pillow(by, box):
    resize = {"cykooz": resizing._by_cykooz(), "pillow": resizing._by_pillow}[by]
    top, left, height, width = box
    expected = Image.fromarray(PIXELS).resize(
        (64, 64), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    found = resize(PIXELS, box, 64)
    assert found.shape == (64, 64, 3)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= (1 if by == "cykooz" else 0)


@pytest.mark.parametrize("position", range(6))
def test_a_training_image_is_its_box_resized_and_perhaps_mirrored(position):
    transform = TrainTransform(64, seed=5)
    draws = uniform(5, position, 45)
    top, left, height, width = random_box(draws, (375, 500), 0.08)
    part = Image.fromarray(PIXELS[top : top + height, left : left + width])
    expected = np.asarray(part.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    if draws[40] < 0.5:
        expected = expected[:, ::-1]
    assert np.abs(transform(PNG, position) - expected).max() <= 1
    # A JPEG is decoded at a half, a quarter or an eighth of its size if the box is large enough.
    assert np.abs(transform(JPEG, position) - expected).mean() < 3
    assert transform(JPEG, position).dtype == np.uint8


def test_half_of_the_images_are_mirrored():
    mirrored = 0
    ramp = encode(np.tile(np.arange(250, dtype=np.uint8)[None, :, None], (200, 1, 3)), "PNG")
    for position in range(400):
        image = TrainTransform(16, seed=1)(ramp, position)
        mirrored += int(image[0, 0, 0] > image[0, -1, 0])
    assert 160 < mirrored < 240
    plain = [TrainTransform(16, seed=1, flip=False)(ramp, position) for position in range(20)]
    assert all(image[0, 0, 0] < image[0, -1, 0] for image in plain)


def test_smallest_area_one_takes_the_whole_of_a_square():
    square = PIXELS[:300, :300]
    image = TrainTransform(300, seed=0, smallest_area=1.0, flip=False)(encode(square, "PNG"), 3)
    assert image.shape == (300, 300, 3)
    assert np.abs(image.astype(int) - square).max() <= 1


@pytest.mark.parametrize(("image_size", "resize"), [(224, 256), (320, 366), (32, 36), (224, 224)])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (40, 31)])
def test_the_crop_of_evaluation_is_pillows_resize_and_centre(image_size, resize, shape):
    pixels = np.asarray(Image.fromarray(PIXELS).resize(shape[::-1]))
    height, width = shape
    # torchvision's Resize and CenterCrop.
    size = (resize, int(resize * width / height)) if height <= width else (int(resize * height / width), resize)
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    top, left = round((size[0] - image_size) / 2.0), round((size[1] - image_size) / 2.0)
    expected = np.asarray(resized)[top : top + image_size, left : left + image_size]
    assert expected.shape == (image_size, image_size, 3)
    np.testing.assert_array_equal(EvalTransform(image_size, resize)(encode(pixels, "PNG")), expected)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("factors", [(0.6, 1.4, 0.7), (1.4, 0.6, 1.4), (1.0, 1.0, 1.0)])
def test_colours_change_as_by_pillow(order, factors):
    image = PIXELS[:50, :60]
    draws = np.array([(factor - 0.6) / 0.8 for factor in factors] + [(order + 0.5) / 6])
    found = jitter(image, draws, 0.4).astype(int)
    changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    rest = [0, 1, 2]
    ordered = [rest.pop(order % 3), rest.pop(order // 3), *rest]
    expected = Image.fromarray(image)
    for change in ordered:
        expected = changes[change](expected).enhance(factors[change])
    # Pillow rounds to whole levels after each change.
    assert np.abs(found - np.asarray(expected)).max() <= 3
    assert sorted(ordered) == [0, 1, 2]


def test_all_orders_of_colours_occur():
    orders = set()
    for order in range(6):
        rest = [0, 1, 2]
        orders.add((rest.pop(order % 3), rest.pop(order // 3), *rest))
    assert len(orders) == math.factorial(3)


def test_a_square_crop_is_as_large_as_fits_at_a_random_place():
    for size in ((48, 64), (64, 48), (50, 50)):
        boxes = {crops.random_square(crops.uniform(0, place, crops.DRAWS), size, 0.1) for place in range(300)}
        assert {box[2:] for box in boxes} == {(min(size),) * 2}
        assert {box[:2] for box in boxes} == {
            (top, left) for top in range(size[0] - min(size) + 1) for left in range(size[1] - min(size) + 1)
        }


def test_colours_depend_on_the_place_alone():
    transform = TrainTransform(32, seed=0, color_jitter=0.4)
    np.testing.assert_array_equal(transform(JPEG, 9), transform(JPEG, 9))
    assert (transform(JPEG, 9) != TrainTransform(32, seed=0)(JPEG, 9)).any()
    assert crops.DRAWS == 45


@pytest.mark.parametrize("turned", [False, True])
def test_a_thin_image_takes_its_middle_and_little_memory(turned):
    """One row of 60,000 pixels, whose shorter side would be resized to 256: 15 million columns, 12 GB."""
    row = np.random.default_rng(0).integers(0, 256, 60_000)
    pixels = np.repeat(row.astype(np.uint8)[:, None], 3, axis=1)
    found = EvalTransform(224, 256).of_pixels(pixels[:, None] if turned else pixels[None])
    centres = 30_000 + (np.arange(224) + 0.5 - 112) / 256  # of the result's columns, in columns of the image
    expected = np.interp(centres - 0.5, np.arange(60_000), row)
    assert found.shape == (224, 224, 3)
    across = found.swapaxes(0, 1) if turned else found
    assert np.abs(across - expected[None, :, None]).max() <= 1
