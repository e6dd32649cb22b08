"""CLEVRTex (or any pictures with object masks) at training resolution, decoded once; scenes drawn here as the default.

dataset = load_clevrtex(ClevrtexData(path="clevrtex", image_size=128))
pixels_of(dataset["train"][:32]).shape, masks_of(dataset["val"][:32]).shape
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import DatasetDict, Features, Value
from PIL import Image
from transformers import BitImageProcessor

from . import birds
from .birds import pixels_of
from .dataset_cache import built, cache_root
from .image_decoding import BadImage, decode, read_file
from .image_folder import SPLITS, DataError
from .image_rows import in_order, prepared
from .mask_decoding import CODINGS, central_square, read_mask, resized_mask
from .scene_archive import read_archive
from .scene_folder import SceneFiles, list_scenes, scene_ids, split_scenes
from .scenes import DIFFICULTIES, MAX_OBJECTS, SCENES_VERSION, render_scene
from .split_store import save_splits, write_rows

__all__ = ["ClevrtexData", "crop_of", "image_processor", "left_out", "load_clevrtex", "masks_of", "pixels_of", "square"]

# Part of every cache's key: raise it when decoding, cropping or the layout of the cache changes.
PREPROCESSING_VERSION = 1
_ORIGINAL_SIZE, _ORIGINAL_CROP = (320, 240), 0.8
_MAX_METADATA_BYTES = 2**20
_SHARD = 250  # scenes that a process draws in one go: about a second at 64x64
_MOST_LISTED = 20  # unusable scenes after which reading stops
logger = logging.getLogger(__name__)


@dataclass
class ClevrtexData:
    """Which scenes, and how they are prepared: the `data:` group of a recipe.

    path: a folder of pictures with or without masks (the layouts are those of `data/scene_folder.py`), or an .npz file
        with `image` and `mask`, which is an evaluation set. None draws scenes instead (`data/scenes.py`), as the
        fields `difficulty`, `num_*`, `*_drawn`, `min_objects` and `seed` say.
    image_size: side of the square that the model sees. centre_crop: the side of the central square that is scaled to
        it, as a fraction of the short side; None means 0.8 for pictures of 320x240, as CLEVRTex is used, and else 1.
    max_objects: K, the highest id that a mask may hold; where a recipe with a path leaves it out and its model has
        fewer than 11 slots, it becomes one less than these. too_many: "refuse" stops at scenes beyond it, "skip" leaves
        them out. missing_masks: likewise, and "allow" keeps pictures without a mask. bad_files: likewise for files
        that cannot be decoded, and masks of another size than their picture.
    mask_coding: "index" (the stored number is the id), "colour" (one colour per object), "auto" (by the file's kind).
    val_fraction, test_fraction, split_seed: how pictures without split folders are divided; a val_fraction of 1 makes
        everything val.
    """

    path: str | None = None
    image_size: int = 128
    centre_crop: float | None = None
    max_objects: int = 10
    too_many: str = "refuse"
    missing_masks: str = "refuse"
    bad_files: str = "refuse"
    mask_coding: str = "auto"
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    split_seed: int = 0
    difficulty: str = "textured"
    min_objects: int = 3
    max_objects_drawn: int = 10
    num_train: int = 2000
    num_val: int = 500
    num_test: int = 500
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self):
        ranges = {
            "image_size": (8, 1024),
            "max_objects": (1, 255),
            "split_seed": (0, 2**31 - 1),
            "min_objects": (1, MAX_OBJECTS),
            "max_objects_drawn": (1, MAX_OBJECTS),
            "num_train": (0, 10_000_000),
            "num_val": (0, 10_000_000),
            "num_test": (0, 10_000_000),
            "seed": (0, 2**31 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"data field {name} must be an integer in [{low}, {high}], not {value!r}")
        for name in ("val_fraction", "test_fraction", "centre_crop"):
            value = getattr(self, name)
            if name == "centre_crop" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"data field {name} must be a number in [0, 1], not {value!r}")
        if self.centre_crop == 0:
            raise ValueError("data field centre_crop must be above 0: it is a fraction of the short side")
        if self.val_fraction + self.test_fraction >= 1 and self.val_fraction != 1:
            raise ValueError(f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave no train")
        choices = {
            "too_many": ("refuse", "skip"),
            "missing_masks": ("refuse", "skip", "allow"),
            "bad_files": ("refuse", "skip"),
            "mask_coding": CODINGS,
            "difficulty": DIFFICULTIES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"data field {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.path is None and not self.min_objects <= self.max_objects_drawn <= self.max_objects:
            raise ValueError(
                "data fields must keep min_objects <= max_objects_drawn <= max_objects, "
                f"not {self.min_objects}, {self.max_objects_drawn}, {self.max_objects}"
            )
        if self.path is None and not self.num_train + self.num_val + self.num_test:
            raise ValueError("data fields num_train, num_val and num_test are all 0: there is nothing to draw")
        for name in ("path", "cache_dir"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                raise ValueError(f"data field {name} must be a path or null, not {getattr(self, name)!r}")


class _Unusable(Exception):
    """A scene that the data set cannot take; `field` is what says whether that stops everything."""

    def __init__(self, field: str, reason: str):
        super().__init__(reason)
        self.field = field


@dataclass
class _Scene:
    """One scene as it was stored, before cropping and scaling. Masks hold ids, [H, W]."""

    image: Image.Image
    mask: np.ndarray | None = None
    predicted_mask: np.ndarray | None = None
    metadata: str = ""


def image_processor(image_size: int, centre_crop: float = 1.0) -> BitImageProcessor:
    """The library's processor for these data: the central square, whose side is `centre_crop` of the short side, to
    `image_size` (antialiased bilinear), [0, 255] -> [-1, 1]. The cache is filled by it, after `square`; a saved run
    carries it with the crop of its training pictures.
    """
    processor = birds.image_processor(image_size, round(image_size / centre_crop))
    processor.resample = Image.Resampling.BILINEAR
    return processor


def crop_of(fields: ClevrtexData) -> float:
    """The share of the short side that the square of the data's first picture takes, in (0, 1]."""
    if fields.centre_crop is not None or fields.path is None or Path(fields.path).expanduser().is_file():
        return fields.centre_crop or 1.0
    root = Path(fields.path).expanduser()
    with Image.open(root / list_scenes(root)[0][0].image.path) as image:
        return _ORIGINAL_CROP if image.size == _ORIGINAL_SIZE else 1.0


def square(image: Image.Image, centre_crop: float | None = None) -> Image.Image:
    """The central square of a picture, as the field `centre_crop` says."""
    return image.crop(_box(image.size, centre_crop))


def _box(size: tuple[int, int], centre_crop: float | None) -> tuple[int, int, int, int]:
    if centre_crop is None:
        centre_crop = _ORIGINAL_CROP if size == _ORIGINAL_SIZE else 1.0
    return central_square(size, centre_crop)


def masks_of(rows: Mapping | Iterable[Mapping], column: str = "mask") -> np.ndarray:
    """The masks of a batch (`dataset[:32]`), of one row or of a list of rows: uint8 [B, S, S].

    Raises `ValueError` where a row has none.
    """
    if isinstance(rows, Mapping):
        stored = rows[column]
        stored = [stored] if isinstance(stored, bytes) or stored is None else list(stored)
    else:
        stored = [row[column] for row in rows]
    if not stored:
        raise ValueError("masks_of was given no rows")
    if None in stored:
        raise ValueError(f"row {stored.index(None)} of {len(stored)} has no {column}: see the column has_mask")
    side = round(len(stored[0]) ** 0.5)
    return np.frombuffer(b"".join(stored), dtype=np.uint8).reshape(len(stored), side, side)


def load_clevrtex(fields: ClevrtexData, need: Iterable[str] = ("train", "val")) -> DatasetDict:
    """The splits train, val and test, as far as there are any, from the cache or decoded (drawn) now.

    Columns: `pixels` (read them with `pixels_of`), `mask` (`masks_of`; 0 is the background, k the object k; null where
    `has_mask` is false), `id` (int64, unique over the splits, the same in every run on the same files), `path`
    (relative to the data folder), `metadata` (JSON, "" where there is none), and `predicted_mask` where an .npz file
    brings it. Raises `DataError` on data that cannot be used, as the fields say, and where a split of `need` does not
    exist; what was left out instead is logged.
    """
    folder = _built(fields)
    dataset = DatasetDict.load_from_disk(str(folder / "splits"))
    if missing := [split for split in need if split not in dataset]:
        have = f"no {missing[0]} split, only {', '.join(dataset)}"
        if fields.path is None:
            raise DataError(f"the drawn data have {have}: set num_{missing[0]} to at least 1")
        raise DataError(f"{fields.path} has {have}")
    if skipped := _left_out(folder):
        kept = sum(map(len, dataset.values()))
        message = "%s: %d left out, such as %s (%s); %d scenes kept"
        logger.warning(message, fields.path, len(skipped), *skipped[0], kept)
    return dataset


def left_out(fields: ClevrtexData) -> list[tuple[str, str]]:
    """(path, reason) of every scene or mask that is not in the data set, because the fields say "skip"."""
    return _left_out(_built(fields))


def _left_out(folder: Path) -> list[tuple[str, str]]:
    return [tuple(entry) for entry in json.loads((folder / "left_out.json").read_text())]


def _built(fields: ClevrtexData) -> Path:
    """The folder of the cache, named after the fields; and what it is built from, which may change under it."""
    used = dataclasses.asdict(fields)
    used.pop("cache_dir")
    drawing = ("difficulty", "min_objects", "max_objects_drawn", "num_train", "num_val", "num_test", "seed")
    reading = ("centre_crop", "too_many", "missing_masks", "bad_files", "mask_coding", "max_objects")
    reading += ("val_fraction", "test_fraction", "split_seed")
    for name in reading if fields.path is None else drawing:
        used.pop(name)
    if fields.path is None:
        name, source = f"scenes-{fields.difficulty}", {"scenes": SCENES_VERSION}
    else:
        path = Path(fields.path).expanduser().resolve()
        used["path"], name, source = str(path), path.name, {"listing": _digest(path)}
    key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]
    description = {"version": PREPROCESSING_VERSION, "fields": used, "source": source}
    folder = cache_root(fields.cache_dir) / f"{name}-{fields.image_size}-{key}"
    return built(folder, description, lambda staging: _build(fields, staging))


def _digest(path: Path) -> str:
    """Of the names, sizes and times of all the files that the data are made of."""
    if path.is_file():
        return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
    scenes, orphans = list_scenes(path)
    files = [file for scene in scenes for file in (scene.image, scene.mask, scene.metadata) if file]
    lines = [f"{file.path}\0{file.num_bytes}\0{file.mtime_ns}\n" for file in files] + orphans
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _build(fields: ClevrtexData, staging: Path) -> None:
    """Fills the empty folder: splits/ and left_out.json."""
    skipped: list[tuple[str, str]] = []
    shards: list[tuple[str, range]] = []
    if fields.path is None:
        rows, columns, shards = functools.partial(_drawn_rows, fields), {}, _shards(fields)
        if fields.num_train + fields.num_val + fields.num_test <= _SHARD:  # a moment's work: no processes for it
            rows, shards = functools.partial(rows, shards), []
    elif Path(fields.path).expanduser().is_file():
        stored, columns = _archived_rows(fields, skipped)
        rows = functools.partial(iter, stored)
    else:
        rows, columns = functools.partial(_file_rows, fields, skipped), {}
    features = Features(
        pixels=Value("large_binary"),
        mask=Value("large_binary"),
        has_mask=Value("bool"),
        id=Value("int64"),
        path=Value("string"),
        metadata=Value("string"),
        split=Value("string"),
        **columns,
    )
    everything = write_rows(rows, features, 4 * fields.image_size**2, staging, shards)
    save_splits(everything.remove_columns("split"), everything["split"][:], staging)
    (staging / "left_out.json").write_text(json.dumps(skipped, indent=0))


def _shards(fields: ClevrtexData) -> list[tuple[str, range]]:
    """The scenes to draw, in pieces that take some seconds."""
    counts = {"train": fields.num_train, "val": fields.num_val, "test": fields.num_test}
    return [
        (split, range(start, min(start + _SHARD, count)))
        for split, count in counts.items()
        for start in range(0, count, _SHARD)
    ]


def _drawn_rows(fields: ClevrtexData, shards: list[tuple[str, range]]) -> Iterator[dict]:
    """Scene i of a split depends on (seed, split, i) and the fields of the drawing alone."""
    numbers = fields.difficulty, fields.min_objects, fields.max_objects_drawn
    for split, indices in shards:
        for index in indices:
            scene = render_scene(split, index, fields.seed, fields.image_size, *numbers)
            yield {
                "pixels": scene.image.tobytes(),
                "mask": scene.mask.tobytes(),
                "has_mask": True,
                "id": SPLITS.index(split) * 10_000_000 + index,
                "path": f"{split}/{index:06d}",
                "metadata": json.dumps(scene.metadata, separators=(",", ":")),
                "split": split,
            }


def _archived_rows(fields: ClevrtexData, skipped: list) -> tuple[Iterator[dict], dict]:
    """The rows of an .npz file, all of them val, and the features that they have besides."""
    path = Path(fields.path).expanduser()
    if path.suffix.casefold() != ".npz":
        raise DataError(f"{path} is neither a folder nor an .npz file: unpack it and give its folder as `path`")
    stored = read_archive(path)
    predicted = stored.predicted_mask

    def read(k: int) -> _Scene:
        mask = None if stored.mask is None else stored.mask[k]
        return _Scene(Image.fromarray(stored.image[k]), mask, None if predicted is None else predicted[k])

    items = [(number, f"{path.name}/{k}", "val", k) for k, number in enumerate(stored.ids)]
    columns = {} if predicted is None else {"predicted_mask": Value("large_binary")}
    return _usable_rows(fields, items, read, skipped), columns


def _file_rows(fields: ClevrtexData, skipped: list) -> Iterator[dict]:
    root = Path(fields.path).expanduser().resolve()
    scenes, orphans = list_scenes(root)
    if orphans and fields.missing_masks == "refuse":
        raise DataError(
            f"{root}: {len(orphans)} masks have no picture, such as {orphans[0]}: "
            'add the pictures, or set missing_masks to "skip" or "allow"'
        )
    skipped += [(path, "a mask without a picture") for path in orphans]
    splits = split_scenes(scenes, fields.val_fraction, fields.test_fraction, fields.split_seed)
    ids = scene_ids([scene.name for scene in scenes])
    items = [(number, scene.image.path, split, scene) for number, split, scene in zip(ids, splits, scenes, strict=True)]
    return _usable_rows(fields, items, lambda scene: _read(root, scene, fields.mask_coding), skipped)


def _read(root: Path, files: SceneFiles, coding: str) -> _Scene:
    """Decodes the files of one scene. Raises `_Unusable` naming the file that is to blame."""
    at = files.image
    try:
        scene = _Scene(decode(read_file(root / at.path))[0])
        if at := files.mask:
            scene.mask = read_mask(root / at.path, coding, scene.image.size)
        if at := files.metadata:
            if at.num_bytes > _MAX_METADATA_BYTES:
                raise BadImage(f"of {at.num_bytes} bytes, more than {_MAX_METADATA_BYTES}")
            scene.metadata = json.dumps(json.loads(read_file(root / at.path)), separators=(",", ":"))
    except (BadImage, ValueError, RecursionError) as error:
        raise _Unusable("bad_files", str(error) if at is files.image else f"its {at.path}: {error}") from error
    return scene


def _row(scene: _Scene, fields: ClevrtexData, processor: BitImageProcessor) -> dict:
    """Crops and scales a scene. Raises `_Unusable` on a mask that is missing, or holds ids beyond K."""
    if scene.mask is None and fields.missing_masks != "allow":
        raise _Unusable("missing_masks", "no mask")
    box, size = _box(scene.image.size, fields.centre_crop), fields.image_size
    row = {"pixels": prepared(scene.image.crop(box), processor), "metadata": scene.metadata}
    row |= {"mask": None, "has_mask": scene.mask is not None}
    for name, mask, most in (("mask", scene.mask, fields.max_objects), ("predicted_mask", scene.predicted_mask, 255)):
        if mask is not None:
            ids = resized_mask(mask, box, size)
            if ids.min() < 0 or ids.max() > most:
                raise _Unusable("too_many", f"{name} has ids from {ids.min()} to {ids.max()}, allowed are 0 to {most}")
            row[name] = ids.astype(np.uint8).tobytes()
    return row


def _usable_rows(fields: ClevrtexData, items: list, read: Callable[[object], _Scene], skipped: list) -> Iterator[dict]:
    """Rows of the scenes (id, path, split, what `read` takes) that can be used; `skipped` is told of the others."""
    processor = image_processor(fields.image_size)
    refused: list[tuple[str, str, str]] = []

    def work(item: tuple) -> dict | _Unusable:
        number, path, split, source = item
        try:
            return _row(read(source), fields, processor) | {"id": number, "path": path, "split": split}
        except _Unusable as error:
            return error

    kept = 0
    for (_, path, _, _), row in zip(items, in_order(work, items), strict=False):
        if not isinstance(row, _Unusable):
            kept += 1
            yield row
        elif getattr(fields, row.field) == "skip":
            skipped.append((path, str(row)))
        else:
            refused.append((path, str(row), row.field))
            if len(refused) == _MOST_LISTED:
                break
    if refused:
        raise DataError(_refusal(fields, refused, len(items)))
    if not kept:
        raise DataError(f"{fields.path}: none of {len(items)} scenes can be used; {skipped[0][0]}: {skipped[0][1]}")


def _refusal(fields: ClevrtexData, refused: list[tuple[str, str, str]], total: int) -> str:
    listed = "; ".join(f"{path}: {reason}" for path, reason, _ in refused[:5])
    more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
    count = f"{len(refused)} or more" if len(refused) == _MOST_LISTED else str(len(refused))
    remedies = {
        "bad_files": 'set bad_files to "skip"',
        "missing_masks": 'set missing_masks to "skip" or "allow"',
        "too_many": 'raise max_objects (of a slot model num_slots too, to one more), or set too_many to "skip"; where '
        'levels of grey are colours, mask_coding to "colour"',
    }
    remedy = "; ".join(remedies[field] for field in remedies if field in {field for _, _, field in refused})
    return f"{fields.path}: {count} of {total} scenes cannot be used ({listed}{more}).\nRepair them, or {remedy}."
