"""Pictures and their masks on disk: which files belong together, and to which split.

Nothing here opens a picture. One rule covers the known layouts: folders called images, masks, train, val or test say
what the files below them are; so do the endings `_flat` and `_mask` of a file's name. What is left of the path is the
scene's name, and files of one name belong together:

    images/{train,val,test}/*.png and masks/{train,val,test}/*.png          the coursework
    <anything>/CLEVRTEX_full_000000.png, ..._flat.png, ....json             the original release of CLEVRTex
    *.png; or images/*.png and masks/*.png; or {train,val}/{images,masks}   a user's own
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .image_folder import SPLIT_FOLDERS, SPLITS, DataError, ImageFile, assign_splits, natural_key, walk

_ROLES = {"image": "image", "images": "image", "mask": "mask", "masks": "mask"}
_MASK_ENDING = re.compile(r"_(flat|mask)$", re.IGNORECASE)
_ORIGINAL = re.compile(r"(CLEVRTEX_[A-Za-z]+)_(\d{6})$")
_ORIGINAL_LAYER = re.compile(r"CLEVRTEX_[A-Za-z]+_\d{6}_(?!flat$)\w+$")  # depth, normals and the like of a scene
_LAST_NUMBER = re.compile(r"(\d+)$")
MAX_ID = 2**40  # ids are below it: draws are a function of (epoch, id), kept apart in 64 bits


@dataclass(frozen=True)
class SceneFiles:
    """One scene; paths are relative to the data folder, in posix form. `split` is None where the layout names none."""

    name: str
    image: ImageFile
    mask: ImageFile | None
    metadata: ImageFile | None
    split: str | None


def _all_files(root: Path) -> list[Path]:
    """Every file below `root` but hidden ones, relative to it."""
    if not root.is_dir():
        raise DataError(f"no data folder at {root}: give `path` a folder of pictures, or an .npz file")
    return [path.relative_to(root) for path in walk(root)]


def _classify(path: Path) -> tuple[str, str | None, str]:
    """(role: image, mask, metadata or other; split; the scene's name)"""
    role = split = None
    kept = []
    for folder in path.parts[:-1]:
        word = folder.casefold()
        if word in _ROLES and role is None:
            role = _ROLES[word]
        elif word in SPLIT_FOLDERS and split is None:
            split = SPLIT_FOLDERS[word]
        else:
            kept.append(folder)
    stem, suffix = path.stem, path.suffix.casefold()
    if suffix == ".json":
        role = "metadata"
    elif suffix not in Image.registered_extensions() or _ORIGINAL_LAYER.match(stem):
        role = "other"
    elif _MASK_ENDING.search(stem) and role != "image":
        role, stem = "mask", _MASK_ENDING.sub("", stem)
    return role or "image", split, "/".join([*kept, stem])


def _refuse_loose(root: Path, paths: list[Path]) -> None:
    """Where folders say which files are pictures, others are none for sure: label maps, by another name than masks."""
    pictures = [path for path in paths if _classify(path)[0] == "image"]
    loose = [path for path in pictures if not any(folder.casefold() in _ROLES for folder in path.parts[:-1])]
    if 0 < len(loose) < len(pictures):
        raise DataError(
            f"{root}: {len(loose)} pictures lie outside the folders called images, such as {loose[0].as_posix()}: call "
            "their folder masks where they are masks, or move them away"
        )


def list_scenes(root: Path) -> tuple[list[SceneFiles], list[str]]:
    """Finds the scenes below `root`, in natural order of their names within train, val and test.

    Returns (scenes, paths of masks without a picture). Raises `DataError` on a folder without pictures, on two
    pictures or masks of one name, and where only some of the pictures lie in split folders or in folders called images.
    """
    found: dict[str, dict[tuple[str | None, str], ImageFile]] = {"image": {}, "mask": {}, "metadata": {}}
    _refuse_loose(root, paths := _all_files(root))
    for path in paths:
        role, split, name = _classify(path)
        if role == "other":
            continue
        status = (root / path).stat() if (root / path).exists() else (root / path).lstat()
        file = ImageFile(path.as_posix(), name, split, status.st_size, status.st_mtime_ns)
        if other := found[role].get((split, name)):
            raise DataError(f"{root}: {other.path} and {file.path} are both the {role} of {name!r}: keep one of them")
        found[role][split, name] = file
    images, masks = found["image"], found["mask"]
    if not images:
        raise DataError(f"{root} holds no picture: give `path` a folder of pictures, or one with images/ and masks/")
    outside = [file.path for (split, _), file in images.items() if split is None]
    if outside and len(outside) < len(images):
        raise DataError(f"{root}: {len(outside)} pictures lie outside the split folders, such as {outside[0]}")
    scenes = [
        SceneFiles(name, file, masks.get((split, name)), found["metadata"].get((split, name)), split)
        for (split, name), file in images.items()
    ]
    scenes.sort(key=lambda scene: (SPLITS.index(scene.split or "train"), natural_key(scene.name)))
    orphans = sorted((file.path for key, file in masks.items() if key not in images), key=natural_key)
    return scenes, orphans


def scene_ids(names: list[str]) -> list[int]:
    """A whole number in [0, 2^40) for every scene: the one that its name ends with, where those are all there, all in
    range and all different (then it does not change as files come and go), else its position."""
    numbers = [_LAST_NUMBER.search(name) for name in names]
    ids = [int(number.group()) for number in numbers if number and len(number.group()) < 19]
    usable = len(set(ids)) == len(names) and all(number < MAX_ID for number in ids)
    return ids if usable else list(range(len(names)))


def split_scenes(scenes: list[SceneFiles], val_fraction: float, test_fraction: float, seed: int) -> list[str]:
    """The split of every scene.

    Folders decide where there are any; else a `val_fraction` of 1 makes everything val. The original release is divided
    as its authors do, by rank of the number in each variant: the first tenth is test, the second val, the rest train;
    all of `outd` is test. Everything else is divided by a hash of (seed, name).
    """
    if scenes[0].split is not None:
        return [scene.split for scene in scenes]
    if val_fraction == 1:
        return ["val"] * len(scenes)
    originals = [_ORIGINAL.search(scene.name) for scene in scenes]
    if all(originals):
        return _published_splits([(match.group(1), int(match.group(2))) for match in originals])
    images = [scene.image for scene in scenes]
    pool = [ImageFile(file.path, "pictures", None, file.num_bytes, file.mtime_ns) for file in images]
    try:
        assigned = assign_splits(pool, val_fraction, test_fraction, seed)
    except DataError:  # which speaks of classes
        raise DataError(
            f"too few pictures ({len(pool)}) to carve val_fraction {val_fraction} and test_fraction {test_fraction} "
            "from: add pictures, or lower the fractions (a val_fraction of 1 makes everything val)"
        ) from None
    return [assigned[file.path] for file in images]


def _published_splits(numbers: list[tuple[str, int]]) -> list[str]:
    splits = [""] * len(numbers)
    for variant in {name for name, _ in numbers}:
        ranked = sorted((number, k) for k, (name, number) in enumerate(numbers) if name == variant)
        total = len(ranked)
        for rank, (_, k) in enumerate(ranked):
            if variant.casefold().endswith("_outd") or rank < int(0.1 * total):
                splits[k] = "test"
            else:
                splits[k] = "val" if rank < int(0.2 * total) else "train"
    return splits
