"""Crash-safe, verified checkpoints.

A checkpoint is staged in a hidden folder, every file is flushed to disk, `manifest.json` with the sha256 of each
is written last, and one rename makes it visible. Whoever reads one first checks the manifest. So a kill at any
moment, a full disk, a flipped bit or a truncated file each leave a valid earlier checkpoint or a named error,
and never a silently wrong model.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from models.stored_weights import MANIFEST, problem_of, sha256_of
from training.errors import CheckpointError

STAGING_PREFIX = ".staging-"
PREFIX = "checkpoint-"


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, files: list[Path] | None = None) -> None:
    """Write `manifest.json`: the sha256 and size of `files` (default: every file under `folder`), flushed to disk."""
    files = files if files is not None else [p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    entries = {}
    for path in sorted(files):
        fsync(path)
        entries[path.relative_to(folder).as_posix()] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    manifest = folder / MANIFEST
    temporary = folder / f".{MANIFEST}.part"
    temporary.write_text(json.dumps({"version": 1, "files": entries}, indent=1) + "\n", encoding="utf-8")
    fsync(temporary)
    temporary.replace(manifest)
    fsync(folder)


def verify(folder: str | os.PathLike) -> None:
    """Raise a CheckpointError if `folder` is not what was written to it."""
    problem = problem_of(folder)
    if problem:
        raise CheckpointError(f"{folder} cannot be trusted: {problem}; restore it or train again")


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name, `checkpoint-<step>`."""
    return int(folder.name.removeprefix(PREFIX))


def checkpoints_in(root: Path) -> list[Path]:
    """Checkpoint folders of `root`, the newest (highest step) first, valid or not."""
    found = [p for p in root.glob(f"{PREFIX}*") if p.is_dir() and p.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def newest_valid(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that agrees with its manifest, and a line for each newer one that was passed over."""
    passed_over = []
    for folder in checkpoints_in(root):
        problem = problem_of(folder)
        if problem is None:
            return folder, passed_over
        passed_over.append(f"{folder.name}: {problem}")
    return None, passed_over


@contextlib.contextmanager
def naming_write_errors(what: str) -> Iterator[None]:
    """Turn an operating-system or serialiser failure while writing `what` into a CheckpointError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{what} was not written: {error}; what was there before is intact") from error
    except RuntimeError as error:  # torch.save reports a failed write this way
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise CheckpointError(f"{what} was not written: {error}; what was there before is intact") from error


def remove_stale_staging(root: Path) -> None:
    """Delete what a killed run had staged; call it only under the run folder's lock."""
    for folder in root.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(folder)


def staging_folder(root: Path, name: str) -> Path:
    """The hidden folder in which `name` is put together before one rename makes it visible."""
    return root / f"{STAGING_PREFIX}{name}"


def commit(staging: Path, target: Path) -> None:
    """Seal a staged folder with its manifest and rename it to `target` (an older `target` is replaced)."""
    write_manifest(staging)
    older = staging_folder(staging.parent, f"older-{target.name}")
    if target.exists():
        target.rename(older)  # deleted only when the new one has its name
    staging.rename(target)
    fsync(target.parent)
    if older.exists():
        shutil.rmtree(older)


def rotate(root: Path, keep: int | None, protected: set[Path]) -> None:
    """Delete the oldest checkpoints beyond `keep`, never one of `protected` (the best one, say)."""
    if not keep:
        return
    for folder in checkpoints_in(root)[keep:]:
        if folder.resolve() not in {p.resolve() for p in protected}:
            shutil.rmtree(folder)
