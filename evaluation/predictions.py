"""What a model said about every sample of every split, kept in one compact file beside the weights."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.scene_archive import DAMAGED

from .runs import RunError, write_atomically

FILE_NAME = "predictions.npz"


@dataclass
class Predictions:
    """A classifier on one split, in the order of the data set: `ids` int64 [N], `labels` int64 [N], `probabilities`
    float32 [N, C], `losses` float32 [N] (cross-entropy, from the logits: a probability that rounds to 0 would lose it).
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)

    @property
    def right(self) -> np.ndarray:
        return self.predicted == self.labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ScenePredictions:
    """A segmentation model on one split, in the order of the data set: `ids` int64 [N], `segments` uint8 [N, S, S] (the
    slot of each pixel), `losses` float32 [N] (the model's own), `squared_errors` float64 [N] (of images in [0, 1],
    summed over each, NaN where a scene was not reconstructed), and `foreground_scores` float64 [N], the adjusted Rand
    index of each scene's foreground, NaN where it has none.
    """

    ids: np.ndarray
    segments: np.ndarray
    losses: np.ndarray
    squared_errors: np.ndarray
    foreground_scores: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def save_predictions(folder: Path, splits: dict[str, Any], digest: str) -> None:
    """Write all splits to `folder`/predictions.npz with the digest of what they were computed from. A split is one of
    the dataclasses of this module."""
    arrays = {f"{split}_{name}": value for split, p in splits.items() for name, value in vars(p).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, digest=np.array(digest), **arrays)
    write_atomically(folder / FILE_NAME, buffer.getvalue())


def load_predictions(folder: Path, digest: str | None = None, kind: type = Predictions) -> dict[str, Any]:
    """The splits in `folder`/predictions.npz, each a `kind`; `{}` where there is no file or it was computed from
    something else.

    `digest` None takes any. RunError for a damaged file.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except DAMAGED as error:
        raise RunError(f"{path}: damaged ({error}). Delete it, or evaluate with --force.") from None
    if digest is not None and str(arrays.get("digest")) != digest:
        return {}
    splits = [key.removesuffix("_ids") for key in arrays if key.endswith("_ids")]
    fields = kind.__dataclass_fields__
    return {split: kind(**{name: arrays[f"{split}_{name}"] for name in fields}) for split in splits}
