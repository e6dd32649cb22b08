"""Mask files of every kind -> ids, exactly; crops and nearest-pixel scaling against formulas written out here."""

import io

import numpy as np
import pytest
from PIL import Image

from data.image_decoding import BadImage
from data.mask_decoding import central_square, decode_mask, read_mask, resized_mask

IDS = np.random.default_rng(0).integers(0, 11, (12, 17))
# A palette whose colours mislead: index 3 is black, and no colour is grey.
PALETTE = [[(37 * k) % 256, (91 * k + 5) % 256, (13 * k + 200) % 256] for k in range(11)]
PALETTE[3] = [0, 0, 0]


def stored(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def palette_image():
    image = Image.fromarray(IDS.astype(np.uint8)).convert("P")
    image.putpalette(np.ravel(PALETTE).tolist())
    return image


@pytest.mark.parametrize("coding", ["auto", "index"])
@pytest.mark.parametrize(
    "image",
    [
        palette_image(),
        Image.fromarray(IDS.astype(np.uint8)),
        Image.fromarray(IDS.astype(np.uint16)),
        Image.fromarray(IDS.astype(np.int32)),
        Image.fromarray(np.stack([IDS.astype(np.uint8), np.full(IDS.shape, 255, np.uint8)], axis=-1)),
        Image.fromarray(np.repeat(IDS[..., None], 3, axis=-1).astype(np.uint8)),
        Image.fromarray(np.dstack([np.repeat(IDS[..., None], 3, axis=-1), IDS * 0 + 255]).astype(np.uint8)),
    ],
    ids=["palette", "L", "16 bit", "32 bit", "LA", "grey RGB", "grey RGBA"],
)
def test_indices_are_the_ids(image, coding):
    got = decode_mask(stored(image, format="TIFF" if image.mode == "I" else "PNG"), coding)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, IDS)


def test_a_palette_is_never_read_as_colour():
    """The palette's own colours say nothing: the same indices under two palettes are the same mask."""
    image = palette_image()
    other = palette_image()
    other.putpalette(np.ravel(PALETTE[::-1]).tolist())
    assert image.convert("RGB").tobytes() != other.convert("RGB").tobytes()
    np.testing.assert_array_equal(decode_mask(stored(image)), decode_mask(stored(other)))


def test_one_bit_masks():
    image = Image.fromarray((IDS > 5).astype(np.uint8) * 255).convert("1")
    for coding in ("auto", "index", "colour"):
        np.testing.assert_array_equal(decode_mask(stored(image), coding), IDS > 5)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_are_numbered_in_order(alpha):
    colours = np.array(PALETTE, dtype=np.uint8)[IDS]  # [H, W, 3]
    if alpha:
        colours = np.dstack([colours, np.where(IDS == 7, 0, 255).astype(np.uint8)])
    background = [3, 7] if alpha else [3]  # black, and what is fully transparent
    objects = sorted((colour, k) for k, colour in enumerate(PALETTE) if k not in background)
    want = np.zeros_like(IDS)
    for number, (_, k) in enumerate(objects, start=1):
        want[k == IDS] = number
    for coding in ("auto", "colour"):
        np.testing.assert_array_equal(decode_mask(stored(Image.fromarray(colours)), coding), want)


def test_without_black_every_colour_is_an_object():
    colours = np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(stored(Image.fromarray(colours))), [[2, 1]])


def test_levels_of_grey_and_palettes_can_mean_colours():
    levels = Image.fromarray((IDS * 23).astype(np.uint8))
    np.testing.assert_array_equal(decode_mask(stored(levels)), IDS * 23)
    np.testing.assert_array_equal(decode_mask(stored(levels), "colour"), IDS)
    colours = palette_image().convert("RGB")
    np.testing.assert_array_equal(decode_mask(stored(palette_image()), "colour"), decode_mask(stored(colours)))


@pytest.mark.parametrize(
    ("content", "coding", "message"),
    [
        (b"", "auto", "empty"),
        (b"not an image", "auto", "^not an image that Pillow can identify$"),
        (stored(palette_image())[:90], "auto", "unreadable"),
        (stored(Image.fromarray(IDS.astype(np.uint8)), format="JPEG"), "auto", "JPEG"),
        (stored(Image.fromarray(IDS.astype(np.float32)), format="TIFF"), "auto", "floating-point"),
        (stored(palette_image().convert("RGB")), "index", 'mask_coding to "colour"'),
        (
            stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8))),
            "auto",
            "900 colours",
        ),
        (stored(Image.fromarray(IDS.astype(np.int32) - 5), format="TIFF"), "auto", "ids from -5"),
    ],
)
def test_what_is_no_mask(content, coding, message):
    with pytest.raises(BadImage, match=message):
        decode_mask(content, coding)


def test_bomb_sized_masks_are_refused(monkeypatch):
    monkeypatch.setattr("data.mask_decoding.MAX_MASK_PIXELS", 100)
    with pytest.raises(BadImage, match="bomb-sized"):
        decode_mask(stored(palette_image()))


def test_a_mask_of_another_size_than_its_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    width, height = IDS.shape[::-1]
    with pytest.raises(BadImage, match=f"a mask of {width}x{height}, its picture is {width + 1}x{height}"):
        decode_mask(stored(palette_image()), size=(width + 1, height))


def test_read_mask(tmp_path):
    palette_image().save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), IDS)
    with pytest.raises(BadImage, match="no such file"):
        read_mask(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("size", "fraction", "box"),
    [
        ((320, 240), 0.8, (64, 24, 256, 216)),
        ((320, 240), 1.0, (40, 0, 280, 240)),
        ((50, 70), 1.0, (0, 10, 50, 60)),
        ((101, 100), 0.7, (15, 15, 85, 85)),  # 0.7 * 100 is 69.99... in binary
        ((5, 9), 0.01, (2, 4, 3, 5)),
    ],
)
def test_central_square(size, fraction, box):
    assert central_square(size, fraction) == box


@pytest.mark.parametrize("size", [4, 11, 12, 30])
def test_nearest_takes_the_pixel_under_the_centre(size):
    left, upper, side = 3, 1, 11
    centre = [int((i + 0.5) * side / size) for i in range(size)]
    want = [[IDS[upper + row, left + column] for column in centre] for row in centre]
    got = resized_mask(IDS, (left, upper, left + side, upper + side), size)
    np.testing.assert_array_equal(got, want)


def test_large_ids_survive_scaling():
    ids = np.array([[0, 40000], [65535, 7]])
    np.testing.assert_array_equal(resized_mask(ids, (0, 0, 2, 2), 4), ids.repeat(2, axis=0).repeat(2, axis=1))
