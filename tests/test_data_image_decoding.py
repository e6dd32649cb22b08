"""Every mode of picture, and every kind of damage."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from data import image_decoding
from data.image_decoding import BadImage, decode, dhash, inspect, open_rgb, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def pixels(content):
    return np.asarray(decode(content)[0])


def test_rgb_is_unchanged():
    image, mode = decode(encoded(Image.fromarray(RGB)))
    assert image.mode == mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), RGB)


# Where the first row and column of the stored picture lie in the upright one: EXIF 2.3, tag 0x0112.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(pixels(content), UPRIGHT[orientation](RGB))


def test_exif_orientation_of_a_jpeg():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise: the left half comes to the top
    upright = pixels(encoded(image, format="JPEG", quality=95, exif=exif))
    assert upright.shape == (40, 20, 3)
    assert upright[5, 10, 2] > 200
    assert upright[35, 10, 0] > 200


def test_transparency_is_composited_on_white():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]  # opaque, transparent, a fifth
    got = pixels(encoded(Image.fromarray(rgba)))
    np.testing.assert_allclose(got[0], [(200, 100, 0), (255, 255, 255), (244, 224, 204)], atol=1)


def test_grey_with_alpha():
    la = np.array([[(100, 255), (100, 0)]], dtype=np.uint8)
    content = encoded(Image.fromarray(la))
    assert decode(content)[1] == "LA"
    np.testing.assert_array_equal(pixels(content)[0], [(100,) * 3, (255,) * 3])


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    np.testing.assert_array_equal(pixels(encoded(image))[0], [(10, 20, 30), (40, 50, 60), (70, 80, 90)])
    content = encoded(image, transparency=1)
    assert decode(content)[1] == "P"
    np.testing.assert_array_equal(pixels(content)[0], [(10, 20, 30), (255, 255, 255), (70, 80, 90)])
    content = encoded(image, transparency=bytes([255, 0, 128]))
    np.testing.assert_allclose(pixels(content)[0], [(10, 20, 30), (255, 255, 255), (162, 167, 172)], atol=1)


def test_rgb_with_a_transparent_colour():
    image = Image.fromarray(np.array([[(1, 2, 3), (4, 5, 6)]], dtype=np.uint8))
    np.testing.assert_array_equal(pixels(encoded(image, transparency=(1, 2, 3)))[0], [(255, 255, 255), (4, 5, 6)])


def test_grey_and_one_bit():
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey)))[0], np.repeat(grey[0, :, None], 3, axis=1))
    content = encoded(Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1"))
    assert decode(content)[1] == "1"
    np.testing.assert_array_equal(pixels(content)[0], [(0,) * 3, (255,) * 3])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    content = encoded(Image.fromarray(values))
    assert decode(content)[1].startswith("I")
    np.testing.assert_array_equal(pixels(content)[0, :, 0], [0, 1, 128, 255])
    content = encoded(Image.fromarray(values), format="TIFF")
    np.testing.assert_array_equal(pixels(content)[0, :, 1], [0, 1, 128, 255])


def test_32_bit_integers_and_floats():
    def grey(values, dtype):
        return np.asarray(to_rgb(Image.fromarray(np.array([values], dtype=dtype))))[0, :, 0].tolist()

    assert grey([0, 257, 65535], np.int32) == [0, 1, 255]
    assert grey([0, 2**20], np.int32) == [0, 255]
    assert grey([0, 0.5, 1], np.float32) == [0, 128, 255]
    assert grey([0, 127, 255, 300], np.float32) == [0, 127, 255, 255]
    assert grey([np.nan, 1.0], np.float32) == [0, 255]


def test_cmyk():
    cmyk = np.array([[(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)]], dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    for options in ({"format": "TIFF"}, {"format": "JPEG", "quality": 100}):
        content = encoded(Image.fromarray(cmyk, mode="CMYK"), **options)
        assert decode(content)[1] == "CMYK"
        got = pixels(content)[8, 8::16]
        np.testing.assert_allclose(got, [(255, 255, 255), (0, 255, 255), (0, 0, 0)], atol=6)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels(content)[0, 0], (255, 0, 0))


JPEG = encoded(Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), dtype=np.uint8))), format="JPEG")
PNG = encoded(Image.fromarray(RGB))


def png_header(width, height):
    """A well-formed PNG of a few bytes that claims to be this large."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"some notes, no picture", "not an image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated|unreadable"),
        (PNG[:-300] + bytes(300), "truncated|unreadable"),
        (png_header(10_000, 10_000), "bomb-sized"),  # Pillow would only warn
        (png_header(60_000, 60_000), "bomb-sized"),  # Pillow refuses
        (png_header(1, 6_000), "strip-shaped"),
    ],
    ids=["empty", "text", "half-jpeg", "half-png", "zeroed-png", "bomb", "big-bomb", "strip"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_have_a_reason(tmp_path, content, reason):
    with pytest.raises(BadImage, match=reason):
        decode(content)
    (tmp_path / "x.jpg").write_bytes(content)
    record, image = inspect(tmp_path, "x.jpg")
    assert image is None
    assert record.error
    assert "\n" not in record.error


def test_a_bomb_is_refused_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImage, match="bomb-sized"):
            decode(png_header(10_000, 10_000))


def test_what_is_no_file(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "folder": "a folder",
        "dangling": "no such file",
        "nowhere": "no such file",
        "pipe": "not a regular file",
    }
    assert {name: inspect(tmp_path, name)[0].error for name in reasons} == reasons
    monkeypatch.setattr(image_decoding, "MAX_FILE_BYTES", 10)
    (tmp_path / "large.png").write_bytes(PNG)
    with pytest.raises(BadImage, match="more than"):
        open_rgb(tmp_path / "large.png")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.data())
def test_damage_gives_pixels_or_a_reason(content, data):
    damaged = bytearray(content[: data.draw(st.integers(1, len(content)))])
    for _ in range(data.draw(st.integers(0, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        image, _ = decode(bytes(damaged))
    except BadImage as error:
        assert str(error)
    else:
        assert image.mode == "RGB"
        assert min(image.size) > 0


def test_record_of_a_good_file(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    record, image = inspect(tmp_path, "a.png")
    assert (record.width, record.height, record.mode, record.error) == (20, 12, "RGB", "")
    assert len(record.sha256) == 64
    assert len(record.thumbnail) == 16 * 16 * 3
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_dhash_bits():
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (80, 1)))
    assert dhash(ramp) == 2**64 - 1
    assert dhash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    assert dhash(ramp.resize((45, 40))) == 2**64 - 1
