"""Split your own pictures into slots: masks, reconstructions and slots of a trained run of slotattn or slotdiff.

    python -m evaluation.segment runs/slotattn/plain64 picture.png --out masks
    python -m evaluation.segment runs/slotattn/plain64 *.jpg --out masks --num-slots 8

The central square of a picture is looked at, cropped and scaled as the pictures of training were. For each picture is
written

    NAME_slots.png    a palette image of the picture's size; its index is the slot, 255 is what was not looked at
    NAME_slots.npz    slots [K, D], masks [K, S, S] (they sum to 1), contents [K, S, S, 3] (of slotdiff the picture),
                      reconstruction [S, S, 3], segments [S, S], box (left, upper, right, lower of the square)
    NAME_sheet.png    the square, its masks, the reconstruction, and each slot by itself
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything needed lies in the run folder

import numpy as np
import torch
from PIL import Image
from transformers import BitImageProcessor
from transformers.utils import logging

from data.clevrtex import image_processor, square
from data.image_decoding import BadImage, open_rgb
from training.scene_pictures import PALETTE, paint, sheet

from .families import family_module
from .options import Options
from .runs import Run, RunError, load_checkpoint, write_atomically
from .scene_gallery import slot_pictures
from .scene_model import SceneModel, Segmentation, picture_id

SLOT_FAMILIES = ("slotattn", "slotdiff")
OUTSIDE = 255  # index of a mask where the picture was not looked at
LARGEST = 1024  # masks are interpolated up to this side, and enlarged by whole pixels beyond


@dataclass
class Square:
    """The part of a picture that the model looks at: `pixels` uint8 [S, S, 3] from `box` of a picture of `size`."""

    pixels: np.ndarray
    box: tuple[int, int, int, int]
    size: tuple[int, int]


def read_square(path: Path, image_size: int, centre_crop: float | None = None) -> Square:
    """The central square of a picture file scaled to `image_size` as the training pictures were; `centre_crop` is its
    side as a share of the short side, None as `data/clevrtex.py` has it. RunError for a file that is no usable picture.
    """
    try:
        picture = open_rgb(path)
    except BadImage as error:
        raise RunError(f"{path}: no usable picture: {error}.") from None
    central = square(picture, centre_crop)
    left, upper = ((whole - central.width) // 2 for whole in picture.size)
    values = image_processor(image_size)(central, return_tensors="np", do_rescale=False, do_normalize=False)
    pixels = np.ascontiguousarray(values["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8))
    return Square(pixels, (left, upper, left + central.width, upper + central.height), picture.size)


def crop_of_training(run: Run) -> float | None:
    """The share of the short side that the processor of a run looks at, None where it is all of it."""
    try:
        processor = BitImageProcessor.from_pretrained(run.folder)
    except OSError:  # a checkpoint that carries none
        return None
    share = processor.crop_size["height"] / processor.size["shortest_edge"]
    return share if share < 1 else None


class Segmenter:
    """A run's model, and what it makes of pictures.

    Args:
        run: of the family slotattn or slotdiff.
        options: device and batch size.
        num_slots: K, where another than in training; only with sampled slots.
        centre_crop: side of the central square as a share of a picture's short side, in (0, 1]; default that of the
            training pictures, or as in `data/clevrtex.py` where that was all of them.
    """

    def __init__(self, run: Run, options: Options, num_slots: int | None = None, centre_crop: float | None = None):
        if run.family not in SLOT_FAMILIES:
            known = " or ".join(SLOT_FAMILIES)
            raise RunError(f"{run.folder}: is a run of the family {run.family!r}; masks come from one of {known}.")
        self.model: SceneModel = family_module(run).scene_model(run, options)
        self.num_slots, self.centre_crop = num_slots, centre_crop or crop_of_training(run)

    def __call__(self, path: Path) -> tuple[Square, Segmentation]:
        """What is looked at of a picture file, and its segmentation (a batch of one), a function of its pixels."""
        part = read_square(path, self.model.config.image_size, self.centre_crop)
        image = part.pixels[None]
        return part, self.model.segment(image, [picture_id(image)], self.num_slots, details=True)


def full_mask(part: Square, masks: np.ndarray) -> np.ndarray:
    """The slot of each pixel of the whole picture, uint8 [height, width], 255 outside the square.

    Masks [K, S, S] are interpolated to the square's size, and the largest wins.
    """
    left, upper, right, lower = part.box
    side = right - left
    fine = min(side, LARGEST)
    winner, highest = np.zeros((fine, fine), np.uint8), np.full((fine, fine), -1.0, np.float32)
    for slot, mask in enumerate(masks):  # one by one: K masks of this size may not fit into memory
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(mask)[None, None], size=(fine, fine), mode="bilinear", antialias=fine < mask.shape[0]
        )[0, 0].numpy()
        better = enlarged > highest
        winner[better], highest[better] = slot, enlarged[better]
    width, height = part.size
    whole = np.full((height, width), OUTSIDE, np.uint8)
    scaled = Image.fromarray(winner).resize((side, lower - upper), Image.Resampling.NEAREST)
    whole[upper:lower, left:right] = np.asarray(scaled)
    return whole


def write_outputs(folder: Path, name: str, part: Square, found: Segmentation) -> list[Path]:
    """Write mask, slots and sheet of one picture; returns their paths."""
    mask = Image.fromarray(full_mask(part, found.masks[0]))
    mask.putpalette(np.concatenate([PALETTE[1:], np.full((1, 3), 255, np.uint8)]).tobytes())  # slot k as `paint(k + 1)`
    slots = {
        "slots": found.slots[0],
        "masks": found.masks[0],
        "contents": found.contents[0],
        "reconstruction": found.pixels[0],
        "segments": found.segments[0],
        "box": np.asarray(part.box),
    }
    alone = [slot.picture for slot in slot_pictures(found, 0)]
    tiles = [part.pixels, paint(found.segments[0] + 1), found.pixels[0], *alone]
    written = []
    for ending, content in (
        ("slots.png", _png(mask)),  # an ending that makes no folder of pictures one with true masks
        ("slots.npz", _npz(slots)),
        ("sheet.png", _png(Image.fromarray(sheet([tile[None] for tile in tiles])))),
    ):
        path = folder / f"{name}_{ending}"
        write_atomically(path, content)
        written.append(path)
    return written


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.segment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="a run folder of the family slotattn or slotdiff")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="picture files")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where masks and slots go")
    parser.add_argument("--num-slots", type=int, metavar="K", help="another number of slots than in training")
    parser.add_argument(
        "--centre-crop",
        type=float,
        metavar="SHARE",
        help="side of the square that is looked at, of the short side (default: as in training)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    options = parser.parse_args(arguments)
    if options.num_slots is not None and not 1 <= options.num_slots < OUTSIDE:
        parser.error(f"--num-slots must be from 1 to {OUTSIDE - 1}, not {options.num_slots}")
    if options.centre_crop is not None and not 0 < options.centre_crop <= 1:
        parser.error(f"--centre-crop must be above 0 and at most 1, not {options.centre_crop}")
    stems = Counter(path.stem for path in options.pictures)
    if twice := [stem for stem, count in stems.items() if count > 1]:
        parser.error(f"{stems[twice[0]]} pictures are called {twice[0]}: their masks would have the same name")
    if beside := [path for path in options.pictures if path.parent.resolve() == options.out.resolve()]:
        parser.error(f"--out {options.out} is the folder of {beside[0].name}: what is written would count as pictures")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns 0, or 1 where a picture could not be used (the others are done all the same)."""
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = 0
    try:
        run = load_checkpoint(options.run)
        segmenter = Segmenter(run, Options(device=options.device), options.num_slots, options.centre_crop)
    except (RunError, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for path in options.pictures:
        try:
            part, found = segmenter(path)
            written = write_outputs(options.out, path.stem, part, found)
        except (RunError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            failed += 1
            continue
        used = len(np.unique(found.segments))
        print(f"{written[0]}: {used} of {len(found.masks[0])} slots win a pixel")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
