"""The scenes that a run of the slot families is evaluated on: those of its recipe, and others given by path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from data.clevrtex import ClevrtexData, load_clevrtex, masks_of, pixels_of
from data.fixed_sample import fixed_sample
from training.digests import data_digests
from training.run_folder import check_data

from .loading import recipe_data
from .runs import Run, RunError, digest
from .statistics import evenly

CLOSE = ("val", "test", "train")  # the split that is looked at closely is the first of these that is evaluated
TRAIN_SAMPLE = 500
MOST_OBJECTS = 255  # other data may have more objects than the run's own: the metrics take any number


@dataclass
class SceneSplit:
    """A split of scenes, read in batches; `rows` as `data/clevrtex.py` gives them."""

    name: str
    rows: Dataset

    @classmethod
    def of(cls, name: str, data: Dataset) -> SceneSplit:
        """All of a split, or the first 500 of train by a fixed permutation."""
        return cls(name, fixed_sample(data, TRAIN_SAMPLE) if name == "train" else data)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 [N]."""
        return np.asarray(self.rows["id"][:], dtype=np.int64)

    @cached_property
    def has_mask(self) -> np.ndarray:
        """Which scenes have true masks, bool [N]."""
        return np.asarray(self.rows["has_mask"][:], dtype=bool)

    @cached_property
    def digest(self) -> str:
        """Fingerprint of what the split holds, by ids and names."""
        return digest([], self.ids.tolist(), list(self.rows["path"][:]))

    def images(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """uint8 [B, S, S, 3]."""
        return pixels_of(self.rows[list(map(int, indices))])

    def masks(self, indices: np.ndarray | list[int], column: str = "mask") -> np.ndarray:
        """Label maps uint8 [B, S, S], 0 the background; ValueError where a scene has none."""
        return masks_of(self.rows[list(map(int, indices))], column)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Indices of all scenes in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))

    def spread(self, count: int) -> SceneSplit:
        """At most `count` of the scenes, evenly spaced."""
        if count >= len(self):
            return self
        return SceneSplit(self.name, self.rows.select(evenly(np.arange(len(self)), count).tolist()))


def load_scenes(run: Run) -> DatasetDict:
    """The data that the recipe names. RunError where they do not load, or have changed since the run began."""
    splits = _loaded(recipe_data(run, ClevrtexData), f"{run.folder}: the data do not load")
    check_data(run.folder, data_digests(splits))
    return splits


def load_other_scenes(run: Run, path: Path) -> SceneSplit:
    """Other data at the run's own image size: a folder of pictures and masks, or an .npz file.

    All of it where it names no splits, for nothing of it was trained on; else its val split, or test, or train. Scenes
    without a mask are left out. RunError where the data do not load or hold no scene, and where they are the run's own.
    """
    own = recipe_data(run, ClevrtexData)
    given, trained_on = path.resolve(), own.path and Path(own.path).expanduser().resolve()
    if trained_on and (given.is_relative_to(trained_on) or trained_on.is_relative_to(given)):
        raise RunError(f"--data {path}: the run was trained on it; its held-out part is measured without --data.")
    wanted = ClevrtexData(
        path=str(path),
        image_size=own.image_size,
        max_objects=MOST_OBJECTS,
        missing_masks="skip",
        val_fraction=1,
        cache_dir=own.cache_dir,
    )
    splits = _loaded(wanted, f"--data {path}")
    name = next(split for split in ("val", "test", "train") if split in splits)
    return SceneSplit(name, splits[name])


def _loaded(wanted: ClevrtexData, where: str) -> DatasetDict:
    try:
        return load_clevrtex(wanted, need=())
    except (OSError, ValueError) as error:
        raise RunError(f"{where}: {error}") from error
