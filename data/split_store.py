"""Rows of a data set -> one folder of splits on disk, for the caches."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, Features
from datasets.exceptions import DatasetGenerationError

from .image_folder import SPLITS

_BUFFER = 2**25  # bytes of rows held in memory while writing


def write_rows(
    rows: Callable[..., Iterable[dict]], features: Features, row_bytes: int, staging: Path, shards: Sequence = ()
) -> Dataset:
    """All of `rows()` in Arrow files below `staging`, on disk and not in memory. Raises whatever making them raises.

    Where there are `shards`, of some seconds of work each, it is `rows(some of them)` in each of as many processes as
    there are cores, and their rows in the order of the shards.
    """
    processes = min(len(shards), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        return Dataset.from_generator(
            rows,
            gen_kwargs={"shards": list(shards)} if shards else None,
            num_proc=processes if processes > 1 else None,
            features=features,
            cache_dir=str(staging / "rows"),
            fingerprint=hashlib.sha256(str(staging).encode()).hexdigest()[:16],
            writer_batch_size=max(16, _BUFFER // row_bytes),
        )
    except DatasetGenerationError as error:  # says only that generation failed: the cause is the message
        if processes > 1:  # from another process the cause comes as text alone: here it is raised as what it is
            shutil.rmtree(staging / "rows", ignore_errors=True)
            return write_rows(functools.partial(rows, shards), features, row_bytes, staging)
        raise error.__cause__ or error from None


def save_splits(everything: Dataset, split_of: list[str], staging: Path) -> None:
    """Moves what `write_rows` wrote to `staging`/splits, each row to the split that is named for it (to none if "")."""
    splits = {
        split: everything.select([row for row, name in enumerate(split_of) if name == split])
        for split in SPLITS
        if split in split_of
    }
    DatasetDict(splits).save_to_disk(str(staging / "splits"))
    del everything, splits
    for path in sorted((staging / "rows").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (staging / "rows").rmdir()
