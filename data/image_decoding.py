"""One image file -> an upright RGB picture, or the reason why not; and the fingerprints that find duplicates."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's own warning level, here a refusal: 89.5 megapixels are 268 MB once decoded.
MAX_PIXELS = 89_478_485
MAX_ASPECT = 50
MAX_FILE_BYTES = 512 * 2**20
THUMBNAIL = 16


class BadImage(ValueError):
    """A file that cannot be used as a picture; the message is the reason in a few words."""


@dataclass
class ImageRecord:
    """What the audit knows of one file. `error` is empty for a good one; the fingerprints are set only then."""

    path: str
    width: int = 0
    height: int = 0
    mode: str = ""
    error: str = ""
    sha256: str = ""
    dhash: int = 0
    thumbnail: bytes = b""  # THUMBNAIL x THUMBNAIL x 3


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Scales 16- and 32-bit greys to 8 bits; Pillow's own conversion would clip all above 255 to white.

    16 bit: 65535 -> 255. 32-bit integers count as 16 bit unless they go beyond (then their maximum is white). Floats
    count as [0, 1] unless they go beyond, then as [0, 255].
    """
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values)
        values = values * (255.0 if values.max(initial=0.0) <= 1.0 else 1.0)
    else:
        values = values * (255.0 / max(65535.0, values.max(initial=0.0)))
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB, turned upright by its EXIF orientation.

    Transparency (RGBA, LA, PA, or a transparent palette entry or colour) is composited on white, as transformers'
    image processors do. 16-bit greys are scaled, CMYK and the others are converted by Pillow.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey_to_8_bit(image)
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode(content: bytes) -> tuple[Image.Image, str]:
    """The bytes of a file -> (upright RGB picture, mode it was stored in). Raises `BadImage` with the reason."""
    if not content:
        raise BadImage("empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"bomb-sized ({image.width}x{image.height}, more than {MAX_PIXELS} pixels)")
            if max(image.size) > MAX_ASPECT * min(image.size):  # would grow without bound when the short side is scaled
                raise BadImage(f"strip-shaped ({image.width}x{image.height}, longer than {MAX_ASPECT}:1)")
            mode = image.mode
            image.load()
            return to_rgb(image), mode
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image that Pillow can identify") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"bomb-sized ({error})") from error
    except Exception as error:  # a damaged file reaches deep into Pillow's decoders, which answer with anything
        word = "truncated" if "truncated" in str(error).lower() or isinstance(error, EOFError) else "unreadable"
        raise BadImage(f"{word} ({type(error).__name__}: {error})") from error


def open_rgb(path: str | Path) -> Image.Image:
    """The picture at `path` as the cache sees it: upright RGB. Raises `BadImage` with the reason.

    A transformers pipeline given a file name drops transparency and clips 16-bit greys; give it this picture instead.
    """
    return decode(read_file(Path(path)))[0]


def read_file(path: Path) -> bytes:
    """The content of a regular file of at most MAX_FILE_BYTES. Raises `BadImage` with the reason."""
    try:
        if not path.is_file():
            raise BadImage(
                "no such file" if not path.exists() else "a folder" if path.is_dir() else "not a regular file"
            )
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise BadImage(f"file of {size >> 20} MiB, more than {MAX_FILE_BYTES >> 20}")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"unreadable ({error.strerror})") from error


def dhash(grey: Image.Image) -> int:
    """64-bit difference hash: is each of 8x8 cells darker than its right neighbour? Robust to scale, gain, recoding."""
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def inspect(root: Path, path: str) -> tuple[ImageRecord, Image.Image | None]:
    """Reads, decodes and fingerprints one file; (record, None) with `record.error` set where it is bad."""
    record = ImageRecord(path)
    try:
        content = read_file(root / path)
        image, record.mode = decode(content)
    except BadImage as error:
        record.error = str(error)
        return record, None
    record.width, record.height = image.size
    record.sha256 = hashlib.sha256(content).hexdigest()
    record.dhash = dhash(image.convert("L"))
    record.thumbnail = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
    return record, image
