"""Scenes kept in one .npz file: an evaluation set with true masks and, perhaps, a model's predicted ones."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .image_folder import DataError
from .mask_decoding import MAX_MASK_ID
from .scene_folder import MAX_ID

# What numpy, zipfile and zlib answer to an archive with wrong bytes in it.
DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError)
DAMAGED += (zipfile.BadZipFile, zlib.error, tokenize.TokenError)
ARRAYS = ("image", "mask", "predicted_mask", "index")
MAX_ARCHIVE_BYTES = 4 * 2**30  # unpacked: the 10,000 val scenes of CLEVRTex at 128x128 take 0.8 GiB


@dataclass
class SceneArchive:
    """`image` uint8 [N, H, W, 3]; `mask` and `predicted_mask` integers [N, H, W], or None; `ids` int64 [N]."""

    image: np.ndarray
    mask: np.ndarray | None
    predicted_mask: np.ndarray | None
    ids: list[int]


def read_archive(path: Path) -> SceneArchive:
    """Reads `image`, and where present `mask`, `predicted_mask` and `index` (the ids, if they are all different and
    in [0, 2^40)).

    Nothing in the file is executed. Raises `DataError` naming the array that is missing or of the wrong kind.
    """
    try:
        with zipfile.ZipFile(path) as members:
            unpacked = sum(_claimed_bytes(members, member) for member in members.infolist())
        if unpacked > MAX_ARCHIVE_BYTES:
            raise DataError(
                f"{path} unpacks to {unpacked >> 20} MiB, more than {MAX_ARCHIVE_BYTES >> 20}: use a folder"
            )
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS if name in stored}
    except DAMAGED as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable .npz file of plain arrays ({error})") from error
    image = arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3 or not image.size:
        found = "is missing" if image is None else f"is {image.dtype} {list(image.shape)}"
        raise DataError(f"{path}: the array image {found}, wanted is uint8 [N, H, W, 3]")
    for name in ("mask", "predicted_mask"):
        mask = arrays.get(name)
        if mask is not None and (mask.dtype.kind not in "iu" or mask.shape != image.shape[:3]):
            raise DataError(
                f"{path}: the array {name} is {mask.dtype} {list(mask.shape)}, wanted are integers "
                f"{list(image.shape[:3])}, like the images"
            )
        if mask is not None and (mask.min() < 0 or mask.max() > MAX_MASK_ID):
            raise DataError(
                f"{path}: the array {name} has ids from {mask.min()} to {mask.max()}, outside 0 to {MAX_MASK_ID}"
            )
    index = arrays.get("index")
    usable = index is not None and index.dtype.kind in "iu" and index.shape == image.shape[:1]
    ids = index.astype(np.int64).tolist() if usable else []
    if len(set(ids)) != len(image) or not all(0 <= number < MAX_ID for number in ids):
        ids = list(range(len(image)))
    return SceneArchive(image, arrays.get("mask"), arrays.get("predicted_mask"), ids)


def _claimed_bytes(members: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """What reading a member takes: its size by the archive's directory, or by its own header, which numpy believes,
    where that says more."""
    if member.filename.removesuffix(".npy") not in ARRAYS:
        return member.file_size
    with members.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return max(member.file_size, math.prod(shape) * dtype.itemsize)
