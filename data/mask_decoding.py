"""One mask file -> object ids; and the central square of a picture and its mask, brought to the model's size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .image_decoding import BadImage, read_file

CODINGS = ("auto", "index", "colour")
MAX_MASK_PIXELS = 2**24  # colours take some 40 bytes a pixel to tell apart, on every core at once
MAX_MASK_ID = 65535
MAX_COLOURS = 256  # a flat mask of one byte per pixel can hold no more ids


def decode_mask(content: bytes, coding: str = "auto", size: tuple[int, int] | None = None) -> np.ndarray:
    """The bytes of a mask file -> ids, int32 [H, W], 0 for the background; `size` (width, height) is its picture's,
    which it has to have.

    index: the stored number is the id: the index of a palette image (never its colour), or the level of a grey one of
    1, 8 or 16 bits; a colour image counts if its channels are equal everywhere. colour: every flat colour is an
    object, numbered from 1 in the order of (R, G, B); black and full transparency are the background. auto: colour
    for colour images whose channels differ, else index. Raises `BadImage` with the reason.
    """
    if not content:
        raise BadImage("empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_MASK_PIXELS:
                raise BadImage(f"bomb-sized ({image.width}x{image.height}, more than {MAX_MASK_PIXELS} pixels)")
            if size is not None and image.size != size:  # before it is decoded
                raise BadImage(f"a mask of {image.width}x{image.height}, its picture is {size[0]}x{size[1]}")
            if image.format in ("JPEG", "MPO"):
                raise BadImage("a JPEG, which changes ids: masks must be stored without loss, as PNG")
            image.load()
            return _ids(image, coding)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image that Pillow can identify") from None
    except Exception as error:  # a damaged file reaches deep into Pillow's decoders, which answer with anything
        raise BadImage(f"unreadable ({type(error).__name__}: {error})") from error


def read_mask(path: Path, coding: str = "auto", size: tuple[int, int] | None = None) -> np.ndarray:
    """`decode_mask` of a file."""
    return decode_mask(read_file(path), coding, size)


def _ids(image: Image.Image, coding: str) -> np.ndarray:
    if image.mode in ("LA", "La"):
        image = image.getchannel(0)
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16L", "I;16B") and (coding != "colour" or image.mode == "1"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > MAX_MASK_ID):
            raise BadImage(f"ids from {values.min()} to {values.max()}, outside 0 to {MAX_MASK_ID}")
        return values.astype(np.int32)
    if image.mode == "F":
        raise BadImage("a floating-point image: ids are whole numbers")
    if image.mode != "RGB":
        image = image.convert("RGBA")
    channels = np.asarray(image)  # uint8 [H, W, 3 or 4]
    red, green, blue = (channels[..., i].astype(np.int32) for i in range(3))
    packed = (red << 16) | (green << 8) | blue
    if channels.shape[2] == 4:
        packed[channels[..., 3] == 0] = 0
    grey = (packed >> 16 == packed & 255) & (packed >> 8 & 255 == packed & 255)
    if coding == "index" or (coding == "auto" and grey.all()):
        if not grey.all():
            raise BadImage('a colour image, not one of indices: set mask_coding to "colour" if colours mean objects')
        return packed & 255
    colours, ids = np.unique(packed, return_inverse=True)
    if len(colours) > MAX_COLOURS:
        raise BadImage(f"{len(colours)} colours: one flat colour per object is wanted, without smooth edges")
    return ids.reshape(packed.shape).astype(np.int32) + (colours[0] != 0)


def central_square(size: tuple[int, int], fraction: float) -> tuple[int, int, int, int]:
    """The box (left, upper, right, lower) of the square in the middle whose side is `fraction` of the short side.

    Rounded down as in the CLEVRTex evaluation code: 192 of 320x240 at 0.8, from (64, 24).
    """
    width, height = size
    side = max(1, int(fraction * min(size) + 1e-9))
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def resized_mask(ids: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The part of a mask inside `box` at size x size by the nearest pixel (that under the centre), int32; ids as
    `read_mask` gives them."""
    left, upper, right, lower = box
    part = Image.fromarray(np.ascontiguousarray(ids[upper:lower, left:right], dtype=np.int32))
    return np.asarray(part.resize((size, size), Image.Resampling.NEAREST))
