"""Data to measure what JPEG costs a classifier: a copy of a .tar of pictures, each compressed once more.

    python benchmarks/jpeg_generation.py cifar10_train.tar cifar10_again.tar --quality 75
    accelerate launch train.py --recipe recipes/resnet/cifar10.yaml --path cifar10_train.tar --name once …
    accelerate launch train.py --recipe recipes/resnet/cifar10.yaml --path cifar10_again.tar --name twice …

Compressing a JPEG again with the same tables and the same grid of 8x8 blocks changes next to nothing. So the picture is
moved by half a block first (its edge repeated), and moved back after; colours are stored at half resolution, as JPEG
has it by default. The copies are PNG files under the same names, so that nothing else is lost.
"""

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

HALF_BLOCK = 4
SUFFIXES = {".jpg", ".jpeg", ".png"}


def compressed_again(picture: Image.Image, quality: int) -> Image.Image:
    """The RGB picture after JPEG with colours at half resolution, its block grid moved by four pixels."""
    pixels = np.asarray(picture.convert("RGB"))
    moved = np.pad(pixels, ((HALF_BLOCK, HALF_BLOCK), (HALF_BLOCK, HALF_BLOCK), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    Image.fromarray(moved).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(buffer))
    return Image.fromarray(decoded[HALF_BLOCK:-HALF_BLOCK, HALF_BLOCK:-HALF_BLOCK])


def write_copy(source: tarfile.TarFile, target: tarfile.TarFile, quality: int) -> tuple[int, float]:
    """Copy every picture; returns how many, and their mean squared difference (pixels in [0, 1])."""
    count, squared = 0, 0.0
    for member in source:
        path = Path(member.name)
        if not member.isfile() or path.suffix.lower() not in SUFFIXES:
            continue
        picture = Image.open(source.extractfile(member)).convert("RGB")
        again = compressed_again(picture, quality)
        squared += float(np.square((np.asarray(picture, np.float64) - np.asarray(again)) / 255).mean())
        buffer = io.BytesIO()
        again.save(buffer, "PNG")
        entry = tarfile.TarInfo(str(path.with_suffix(".png")))
        entry.size = buffer.tell()
        buffer.seek(0)
        target.addfile(entry, buffer)
        count += 1
    return count, squared / max(count, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a .tar of pictures")
    parser.add_argument("target", type=Path, help="the .tar to write; must not exist")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEG, 1 to 95")
    options = parser.parse_args()
    if not 1 <= options.quality <= 95:
        parser.error(f"--quality must be in [1, 95], not {options.quality}")
    try:
        with tarfile.open(options.source) as source, tarfile.open(options.target, "x") as target:
            count, error = write_copy(source, target, options.quality)
    except (OSError, tarfile.TarError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(f"{count} pictures, compressed at quality {options.quality}: mean squared difference {error:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
