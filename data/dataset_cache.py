"""A folder that is either completely built for a given description, or not there.

Built under a file lock in a neighbouring folder, sealed by a manifest written last, and renamed into place: a process
killed at any moment, or two processes at once, leave nothing that a later run would take for a finished cache.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:  # slow to import
    from datasets import Dataset

MANIFEST = "manifest.json"


def cache_root(cache_dir: str | None) -> Path:
    """The folder for prepared data: `cache_dir`, else `course_models` in the cache of the datasets library."""
    import datasets  # slow to import, and only its setting is wanted

    return Path(cache_dir).expanduser() if cache_dir else Path(datasets.config.HF_DATASETS_CACHE) / "course_models"


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(files)}


def is_valid(folder: Path, description: dict) -> bool:
    """Whether `folder` was finished for exactly this description, and its files still have their sizes."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    if not isinstance(manifest, dict) or manifest.get("description") != json.loads(json.dumps(description)):
        return False
    return manifest.get("files") == _sizes(folder)


def source_of(splits: Mapping[str, Dataset]) -> dict | None:
    """`version` and `source` of the description that the cache of these splits was built for: files that were replaced
    under their old names change it, and so does another way to prepare or to draw. None of splits in memory.
    """
    files = (Path(file["filename"]) for split in splits.values() for file in split.cache_files)
    manifests = (folder / MANIFEST for file in files for folder in file.parents)
    manifest = next((path for path in manifests if path.is_file()), None)
    if manifest is None:
        return None
    description = json.loads(manifest.read_text())["description"]
    return {key: description.get(key) for key in ("version", "source")}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(folder: Path, description: dict) -> None:
    """Forces the files to disk, then writes the manifest that makes the folder valid."""
    sizes = _sizes(folder)
    if len(sizes) < 1000:  # an unpacked archive of 50,000 files can be unpacked again; waiting for each costs minutes
        for name in sizes:
            _sync(folder / name)
    (folder / MANIFEST).write_text(json.dumps({"description": description, "files": sizes}))
    _sync(folder / MANIFEST)
    _sync(folder)


def built(folder: Path, description: dict, build: Callable[[Path], None]) -> Path:
    """Returns `folder`, calling `build(empty folder)` first unless it is valid for `description`.

    A folder built for another description (the data have changed since) is replaced. Whatever `build` raises leaves
    neither a new folder nor a staging folder behind; an older valid folder stays until the new one is complete.
    """
    if is_valid(folder, description):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging, retired = (folder.with_name(f"{folder.name}.{word}") for word in ("building", "retired"))
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if is_valid(folder, description):  # another process built it while we waited
            return folder
        for leftover in (staging, retired):  # of a process that was killed: we hold the lock, so nobody uses them
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir()
        try:
            build(staging)
            _seal(staging, description)
            if folder.exists():
                folder.rename(retired)
            staging.rename(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    return folder
