"""Class folders on disk: `<class>/*` or `{train,val,test}/<class>/*`, plain or inside a .tar file.

Nothing here opens a picture. The functions find the files, name the classes, and carve the splits that are missing.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import mimetypes
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_FOLDERS |= {"training": "train", "testing": "test"}
# A tar member or archive larger than this is refused: 64 GiB and 5 million files are far above any data set meant here.
MAX_TAR_BYTES = 64 * 2**30
MAX_TAR_MEMBERS = 5_000_000


class DataError(ValueError):
    """The data at hand cannot be used as it is; the message names the place and the remedy."""


@dataclass(frozen=True)
class ImageFile:
    """One file of a class folder: `path` is relative to the data folder, in posix form."""

    path: str
    class_name: str
    split: str | None  # None: the layout names no split
    num_bytes: int
    mtime_ns: int


def natural_key(name: str) -> tuple:
    """Sort key under which `c2` comes before `c10`; upper and lower case differ only to break ties."""
    pieces = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces), name


def _subfolders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def find_root(folder: Path) -> Path:
    """Goes down through wrapping folders (`birds6/train/…` -> `birds6`) to the one that holds splits or classes.

    A folder wraps if it holds one subfolder that is no split, and that subfolder holds folders in turn.
    """
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: give `path` a folder of class folders, or a .tar of one")
    while True:
        inner = _subfolders(folder)
        if len(inner) != 1 or inner[0].name.casefold() in SPLIT_FOLDERS or not _subfolders(inner[0]):
            return folder
        folder = inner[0]


def walk(root: Path) -> Iterator[Path]:
    """Every file below `root` but hidden ones. Links to folders are followed, each folder once. `DataError` for a name
    that is not UTF-8, which no table of paths can hold."""
    seen = {root.resolve()}
    for where, folders, names in os.walk(root, followlinks=True):
        real = {name: (Path(where) / name).resolve() for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name in real if real[name] not in seen)  # a link may lead back
        seen.update(real.values())
        for name in names:
            if not name.startswith("."):
                path = Path(where) / name
                if "\\udc" in ascii(str(path)):
                    raise DataError(f"the name {str(path)!a} is not UTF-8: rename it")
                yield path


def _is_picture(path: Path) -> bool:
    return path.is_file() and (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def _list_class(root: Path, class_folder: Path, split: str | None) -> list[ImageFile]:
    """All files below one class folder; hidden ones (`.DS_Store`, `._a.jpg`) are passed over."""
    files = []
    for path in walk(class_folder):
        status = path.stat() if path.exists() else path.lstat()  # a dangling link is listed, and found bad later
        relative = path.relative_to(root).as_posix()
        files.append(ImageFile(relative, class_folder.name, split, status.st_size, status.st_mtime_ns))
    if not files:
        raise DataError(f"class folder {class_folder} holds no file: put images there or remove the folder")
    return files


def list_images(folder: Path) -> tuple[Path, list[str], list[ImageFile]]:
    """Finds the files of a data folder.

    Returns (root, class names, files), both in natural order, the files split by split, so that a test folder that
    comes later leaves the places of the others. Classes are the subfolders of `train` where there are split folders,
    else the subfolders of the root. Raises `DataError` on a missing or empty folder, a class without a
    file, pictures beside the class folders, and a class of val or test that train does not know.
    """
    root = find_root(folder)
    inner = _subfolders(root)
    split_folders: dict[str, Path] = {}
    for path in inner:
        split = SPLIT_FOLDERS.get(path.name.casefold())
        if split in split_folders:
            raise DataError(f"{root} holds both {split_folders[split].name}/ and {path.name}/: keep one of them")
        if split:
            split_folders[split] = path
    files: list[ImageFile] = []
    classes: dict[str | None, set[str]] = {}
    for split, parent in split_folders.items() if split_folders else [(None, root)]:
        class_folders = _subfolders(parent)
        if not class_folders:
            raise DataError(f"{parent} holds no class folder: expected {parent}/<class>/<image>")
        if loose := sorted(path.name for path in parent.iterdir() if _is_picture(path)):
            raise DataError(
                f"{parent} holds {len(loose)} pictures beside its class folders, of no class: move {loose[0]} and the "
                "others into one, or away"
            )
        classes[split] = {path.name for path in class_folders}
        for class_folder in class_folders:
            files += _list_class(root, class_folder, split)
    names = classes.get("train") or set().union(*classes.values())
    for split, present in classes.items():
        if unknown := sorted(present - names, key=natural_key):
            shown = ", ".join(unknown[:5])
            raise DataError(f"{split_folders[split]} has {len(unknown)} class folders that train has not: {shown}")
    if len(names) < 2:
        raise DataError(f"{root} holds only the class {names.pop()!r}: a classifier needs two or more class folders")
    ordered = sorted(files, key=lambda file: (SPLITS.index(file.split or "train"), natural_key(file.path)))
    return root, sorted(names, key=natural_key), ordered


def assign_splits(files: list[ImageFile], val_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """The split of every path: its folder's, else drawn class by class (stratified).

    Where the folders name no split, val and test are carved from all; where there is a train folder, the missing ones
    are carved from train. Files are ranked by a hash of (seed, path), so adding a file moves hardly any other.
    """
    named = {file.split for file in files} - {None}
    fractions = {"val": 0.0 if "val" in named else val_fraction, "test": 0.0 if "test" in named else test_fraction}
    if named and "train" not in named:
        fractions = {"val": 0.0, "test": 0.0}  # an evaluation-only folder: there is nothing to carve from
    splits = {file.path: file.split or "train" for file in files}
    pools: dict[str, list[str]] = {}
    for file in files:
        if splits[file.path] == "train":
            pools.setdefault(file.class_name, []).append(file.path)
    for class_name, pool in pools.items():
        ranked = sorted(pool, key=lambda path: hashlib.sha256(f"{seed}/{path}".encode()).digest())
        start = 0
        for split, fraction in fractions.items():
            count = max(1, round(fraction * len(pool))) if fraction > 0 else 0
            splits.update(dict.fromkeys(ranked[start : start + count], split))
            start += count
        if start >= len(pool):
            raise DataError(
                f"class {class_name!r} has {len(pool)} images, too few to carve {fractions} from: "
                "add images, or lower val_fraction and test_fraction"
            )
    return splits


def extract_tar(archive: Path, target: Path) -> None:
    """Unpacks regular files and folders of `archive` into the empty folder `target`.

    Every member goes through tarfile's `data` filter (no absolute paths, no way out of the folder, no devices, no
    links that lead outside). The sum of sizes and the number of members are bounded. Raises `DataError` naming the
    member otherwise.
    """
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for count, member in enumerate(tar):
                total += member.size
                if total > MAX_TAR_BYTES or count >= MAX_TAR_MEMBERS:
                    raise DataError(
                        f"{archive} unpacks to more than {MAX_TAR_BYTES >> 30} GiB or {MAX_TAR_MEMBERS} files: "
                        "unpack it yourself and give the folder as `path`"
                    )
                if member.isfile() or member.isdir():
                    tar.extract(member, target, filter="data")
                elif not (member.issym() or member.islnk()):
                    raise DataError(f"{archive} holds {member.name!r}, which is neither file nor folder: repack it")
                else:
                    raise DataError(f"{archive} holds the link {member.name!r}: repack with `tar --dereference`")
    except tarfile.FilterError as error:
        raise DataError(f"{archive} holds an unsafe member ({error}): repack it with relative paths") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DataError(
            f"{archive} is not a readable tar file ({reason}): give `path` a folder with a folder for each class, or a "
            ".tar of one"
        ) from error
