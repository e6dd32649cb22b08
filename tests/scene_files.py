"""Scenes as files on disk, and what has to be read from them, for the tests of `data/clevrtex.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.clevrtex import ClevrtexData

SIZE = (48, 32)  # width, height
COLOURS = np.random.default_rng(9).integers(1, 256, (16, 3))
COLOURS[0] = 0


def picture(seed, size=SIZE):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def true_mask(seed, size=SIZE, objects=4):
    """Every pixel an id of its own, so that whatever is scaled otherwise than by the nearest pixel shows."""
    return np.random.default_rng([1, seed]).integers(0, objects + 1, size[::-1]).astype(np.uint8)


def save_mask(ids, path, coding="index"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if coding == "colour":
        return Image.fromarray(COLOURS[ids].astype(np.uint8)).save(path)
    image = Image.fromarray(ids)
    if coding == "palette":
        image = image.convert("P")
        image.putpalette(COLOURS[::-1].ravel().tolist())
    image.save(path, compress_level=1)


def save_scene(folder, split, number, mask=None, coding="index", size=SIZE):
    image, name = folder / "images" / split / f"{number}.png", folder / "masks" / split / f"{number}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    picture(number, size).save(image)
    save_mask(true_mask(number, size) if mask is None else mask, name, coding)


def coursework_folder(root: Path) -> Path:
    """The coursework's layout: four scenes to train on, numbered from 0, and three to validate on, from 40000."""
    for split, numbers in {"train": range(4), "val": range(40000, 40003)}.items():
        for number in numbers:
            save_scene(root, split, number)
    return root


def small_fields(folder: Path, tmp_path: Path, **changes) -> ClevrtexData:
    """Pictures of 16x16 from `folder`, cached below `tmp_path`."""
    return ClevrtexData(**{"path": str(folder), "image_size": 16, "cache_dir": str(tmp_path / "cache"), **changes})


def caches(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")


def middle(ids, fraction=1.0, size=16):
    """The nearest pixels of the central square, by the formula."""
    height, width = ids.shape
    side = int(fraction * min(height, width))
    rows, columns = ((extent - side) // 2 + (np.arange(size) + 0.5) * side // size for extent in (height, width))
    return ids[np.ix_(rows.astype(int), columns.astype(int))]
