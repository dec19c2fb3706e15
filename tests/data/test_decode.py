"""Decoding: every odd kind of image file gives the pixels that Pillow makes of it; damaged ones are refused."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from cbjax.data.crops import EvalTransform, TrainTransform
from cbjax.data.decode import DecodeError, decode, decode_at_least, jpeg_head

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8))
SMOOTH = np.asarray(NOISE.resize((53, 41), Image.Resampling.BICUBIC))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgba():
    alpha = np.linspace(0, 255, 53).astype(np.uint8)[None].repeat(41, 0)
    return Image.fromarray(np.dstack([SMOOTH, alpha]))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(text):
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {text}</rdf:Description></x:xmpmeta>'.encode()


def part_at_least(data, *needed):
    head = jpeg_head(data)
    return (decode(data), 1) if head is None else decode_at_least(data, head, *needed)


COLOUR = Image.fromarray(SMOOTH)
FILES = {
    "jpeg": encode(COLOUR, "JPEG", quality=90),
    "jpeg 4:4:4": encode(COLOUR, "JPEG", quality=95, subsampling=0),
    "jpeg 4:2:2": encode(COLOUR, "JPEG", quality=80, subsampling=1),
    "progressive jpeg": encode(COLOUR, "JPEG", progressive=True),
    "grey jpeg": encode(COLOUR.convert("L"), "JPEG"),
    "cmyk jpeg": encode(COLOUR.convert("CMYK"), "JPEG", quality=90),
    "rgb jpeg": encode(COLOUR, "JPEG", keep_rgb=True),
    "png": encode(COLOUR, "PNG"),
    "grey png": encode(COLOUR.convert("L"), "PNG"),
    "grey and alpha png": encode(rgba().convert("LA"), "PNG"),
    "rgba png": encode(rgba(), "PNG"),
    "palette png": encode(COLOUR.quantize(16), "PNG"),
    "palette png with a transparent colour": encode(COLOUR.quantize(16), "PNG", transparency=3),
    "palette png with alphas": encode(COLOUR.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "bilevel png": encode(COLOUR.convert("1"), "PNG"),
    "webp": encode(COLOUR, "WEBP"),
    "gif": encode(COLOUR, "GIF"),
    "bmp": encode(COLOUR, "BMP"),
    "tiff": encode(COLOUR, "TIFF"),
    "cmyk tiff": encode(COLOUR.convert("CMYK"), "TIFF"),
    "ycbcr tiff": encode(COLOUR.convert("YCbCr"), "TIFF"),
    **{f"jpeg turned {turn}": encode(COLOUR, "JPEG", exif=exif(turn)) for turn in range(1, 9)},
    "jpeg turned 6 in XMP": encode(COLOUR, "JPEG", xmp=xmp('tiff:Orientation="6"/>')),
    "jpeg turned 3 in XMP": encode(COLOUR, "JPEG", xmp=xmp("><tiff:Orientation>3</tiff:Orientation>")),
    "jpeg turned 8 in EXIF, 6 in XMP": encode(COLOUR, "JPEG", exif=exif(8), xmp=xmp('tiff:Orientation="6"/>')),
    "jpeg with other XMP": encode(COLOUR, "JPEG", xmp=xmp('xmp:CreatorTool="camera"/>')),
    "png turned 6": encode(COLOUR, "PNG", exif=exif(6)),
    "jpeg with thumbnail and comment": encode(COLOUR, "JPEG", comment=b"Exif\0", exif=exif(1)),
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_of_pillow(kind):
    with Image.open(io.BytesIO(FILES[kind])) as image:
        upright = ImageOps.exif_transpose(image)
        if "alphas" in kind:
            upright = upright.convert("RGBA")  # Pillow's own advice
        expected = np.asarray(upright.convert("RGB"))
    pixels = decode(FILES[kind])
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)
    head = jpeg_head(FILES[kind])
    assert head is None or head[:2] == pixels.shape[:2]


def test_a_ycck_jpeg_is_decoded_as_by_pillow():
    # What Photoshop writes: CMYK, inverted, with Adobe's marker; Pillow's own CMYK files have the same marker.
    data = FILES["cmyk jpeg"]
    assert b"Adobe" in data
    marker = data.index(b"Adobe") + 11
    ycck = data[:marker] + b"\x02" + data[marker + 1 :]
    with Image.open(io.BytesIO(ycck)) as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(decode(ycck), np.asarray(image.convert("RGB")))
    assert jpeg_head(ycck) is None


def test_a_jpeg_of_rare_sampling_is_decoded_as_by_pillow():
    tall = simplejpeg.encode_jpeg(SMOOTH, colorsubsampling="411").replace(b"\x01\x41\0", b"\x01\x14\0")
    with Image.open(io.BytesIO(tall)) as image:
        np.testing.assert_array_equal(decode(tall), np.asarray(image))
    assert jpeg_head(tall) is None


def test_plain_jpegs_take_the_fast_path():
    for kind in (
        "jpeg",
        "jpeg 4:2:2",
        "progressive jpeg",
        "grey jpeg",
        "rgb jpeg",
        "jpeg turned 1",
        "jpeg with other XMP",
    ):
        assert jpeg_head(FILES[kind])[:2] == (41, 53)
    for kind in ("cmyk jpeg", "png", "jpeg turned 6", "jpeg turned 6 in XMP"):
        assert jpeg_head(FILES[kind]) is None


def test_sixteen_bits_are_scaled_to_eight():
    values = np.array([[0, 128, 129, 257, 32767], [32768, 40000, 65279, 65407, 65535]], np.uint16)
    expected = np.round(values / 257)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(Image.fromarray(values), kind))
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=-1))
    assert decode(encode(Image.fromarray(values), "PNG")).max() == 255


def sixteen_bit_rgb_png(values):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_of_colour_keep_the_upper_eight():
    values = RNG.integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    np.testing.assert_array_equal(decode(sixteen_bit_rgb_png(values)), values >> 8)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "grey jpeg", "cmyk jpeg", "png", "webp", "gif", "tiff"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind, share):
    data = FILES[kind]
    with pytest.raises(DecodeError):
        decode(data[: int(share * len(data))])
    with pytest.raises(DecodeError):
        part_at_least(data[: int(share * len(data))], 1, 1)
    with pytest.raises(DecodeError):
        part_at_least(data[: int(share * len(data))], 41, 53, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image of the kinds JPEG"),
        (b"\xff\xd8\xff", "it begins as JPEG, but its head is cut off or damaged"),
        (encode(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "floating point"),
        (encode(Image.fromarray(np.full((3, 3), 70000, np.int32)), "TIFF"), "70000 to 70000, do not fit into 16 bits"),
    ],
)
def test_what_is_no_image_is_refused(data, message):
    with pytest.raises(DecodeError, match=message):
        decode(data)


def test_stray_bytes_that_libjpeg_forgives_are_forgiven():
    data = FILES["jpeg"]
    np.testing.assert_array_equal(decode(data + b"trailing"), decode(data))
    stray = data[:-2] + b"\x00" + data[-2:]
    np.testing.assert_array_equal(decode(stray), np.asarray(Image.open(io.BytesIO(stray))))


def fast(data):
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=True)


def test_what_is_read_for_training_is_about_a_level_from_the_exact_pixels():
    for data in (FILES["jpeg"], encode(COLOUR.resize((530, 410)), "JPEG")):
        pixels, _ = part_at_least(data, 10**4, 10**4)
        difference = np.abs(pixels.astype(int) - decode(data))
        assert 0 < difference.mean() < 2 and difference.max() < 30


def test_a_smaller_scale_is_large_enough():
    large = np.asarray(COLOUR.resize((801, 603), Image.Resampling.BICUBIC))
    data = encode(Image.fromarray(large), "JPEG")
    for height, width in ((603, 801), (302, 401), (302, 402), (303, 1), (151, 201), (150, 200), (1, 1), (5000, 1)):
        pixels, reduced = part_at_least(data, height, width)
        assert pixels.shape == (-(-603 // reduced), -(-801 // reduced), 3)
        assert pixels.shape[0] >= min(height, 603) and pixels.shape[1] >= min(width, 801)
        assert reduced == 8 or -(-pixels.shape[0] // 2) < height or -(-pixels.shape[1] // 2) < width
        expected = Image.fromarray(large).resize(pixels.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 4
    assert part_at_least(data, 302, 401)[1] == 2
    pixels, reduced = part_at_least(FILES["png"], 1, 1)
    assert pixels.shape == (41, 53, 3) and reduced == 1


@pytest.mark.parametrize("kind", ["444", "422", "420", "440", "411", "Gray", "rgb", "turned 1"])
def test_the_rows_that_are_needed_do_not_depend_on_the_others(kind):
    noise = RNG.integers(0, 256, (203, 119, 3), np.uint8)
    options = {"rgb": {"keep_rgb": True}, "turned 1": {"exif": exif(1)}}.get(kind)
    if options:
        data = encode(Image.fromarray(noise), "JPEG", **options)
    else:
        data = simplejpeg.encode_jpeg(noise, colorsubsampling=kind)
    assert jpeg_head(data).height_at
    for scale in (1, 2, 4, 8):
        whole, reduced = part_at_least(data, 203 // scale, 119 // scale)
        whole = whole.copy()
        assert reduced == scale
        for bottom in (1, 2, 15, 16, 17, 31, 64, 100, 150, 187, 190, 202, 203):
            part, reduced = part_at_least(data, 203 // scale, 119 // scale, bottom)
            rows = -(-bottom // scale)
            assert reduced == scale and len(part) >= rows
            assert len(part) <= -(-(bottom + 8 * scale) // scale)
            np.testing.assert_array_equal(part[:rows], whole[:rows])


def test_rows_are_not_left_out_of_files_whose_pixels_are_in_another_order():
    large = COLOUR.resize((530, 410))
    assert jpeg_head(encode(large, "JPEG")).height_at
    for options in ({"progressive": True}, {"restart_marker_rows": 4}):
        data = encode(large, "JPEG", **options)
        assert jpeg_head(data).height_at == 0
        np.testing.assert_array_equal(part_at_least(data, 410, 530, 30)[0], fast(data))


def test_damage_above_the_last_row_that_is_needed_is_found():
    data = encode(Image.fromarray(RNG.integers(0, 256, (200, 160, 3), np.uint8)), "JPEG")
    # A marker that stands among the pixels: libjpeg warns, Pillow forgives.
    damaged = data[: len(data) // 4] + b"\xff\xd9" + data[len(data) // 4 :]
    with Image.open(io.BytesIO(damaged)) as image:
        np.testing.assert_array_equal(part_at_least(damaged, 200, 160, 100)[0], np.asarray(image))


def test_threads_do_not_share_their_memory():
    small, large = FILES["jpeg"], encode(COLOUR.resize((530, 410)), "JPEG")
    first = part_at_least(large, 410, 530)[0].copy()
    for data in (small, large, small):
        pixels, _ = part_at_least(data, 10**4, 10**4)
        np.testing.assert_array_equal(pixels, fast(data))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: part_at_least(large, 410, 530)[0].sum(), range(40)))
    assert set(found) == {first.sum()}


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "cmyk jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_a_limit_of_pixels_is_the_same_for_all_kinds(kind):
    data = FILES[kind]
    np.testing.assert_array_equal(decode(data, max_pixels=41 * 53), decode(data))
    with pytest.raises(DecodeError, match=r"it has 41 × 53 = 2173 pixels, but data.max_pixels allows 2172"):
        decode(data, max_pixels=41 * 53 - 1)
    for transform in (TrainTransform(8, 0, max_pixels=2172), EvalTransform(8, 8, max_pixels=2172)):
        with pytest.raises(DecodeError, match=r"data.max_pixels allows 2172"):
            transform(data, 0)


def png_head(width, height):
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def test_a_large_image_is_refused_by_its_header_and_a_limit_above_pillows_holds(monkeypatch):
    jpeg = bytearray(FILES["jpeg"])
    at = jpeg_head(bytes(jpeg)).height_at
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    bomb = png_head(2**31 - 1, 2**31 - 1) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    for data in (bytes(jpeg), bomb):
        with pytest.raises(DecodeError, match=r"data.max_pixels allows 178956970"):
            decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(FILES["png"]).shape == (41, 53, 3)


def test_kinds_that_are_not_meant_are_refused():
    for kind in ("EPS", "PDF", "TGA", "ICO", "PCX", "SGI"):
        data = encode(COLOUR, kind)
        with pytest.raises(DecodeError, match=r"its content is not an image of the kinds JPEG, PNG"):
            decode(data)


def test_the_first_of_several_pictures_is_taken():
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encode(COLOUR, kind, save_all=True, append_images=[NOISE.resize(COLOUR.size)], lossless=True)
        first = np.asarray(COLOUR.quantize().convert("RGB")) if kind == "GIF" else SMOOTH
        assert np.abs(decode(data).astype(int) - first).mean() < 8
