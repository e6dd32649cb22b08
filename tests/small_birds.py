"""Small class folders of pictures, as a user may have them."""

import numpy as np
from PIL import Image

from data.birds import BirdsData


def scene(seed, width=40, height=32):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def class_folders(root):
    """`root`/train with 10 pictures each of c1, c2, c10; sizes and formats vary."""
    for c, name in enumerate(("c10", "c2", "c1")):
        (root / "train" / name).mkdir(parents=True)
        for i in range(10):
            suffix = ("png", "jpg", "webp")[i % 3]
            scene(100 * c + i, 30 + 3 * i, 50 - 2 * c).save(root / "train" / name / f"{i}.{suffix}")
    return root


def small_fields(folder, tmp_path, **changes):
    return BirdsData(**{"path": str(folder), "image_size": 16, "cache_dir": str(tmp_path / "cache"), **changes})
