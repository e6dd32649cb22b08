"""Contingency tables of segmentations, which the segmentation metrics of this folder are functions of."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

MAX_LABEL = 255
PIECE = 1 << 22  # pixels counted at once: 32 MB of indices
BACKGROUND = 0  # the label of the background in the references
ARGUMENTS = """
Args:
    predictions (integers [B, H, W], or a `list` of [H, W]): predicted segment of each pixel, any labels from 0.
    references (integers, likewise): true segment of each pixel; 0 is the background.
    resamples (`int`), seed (`int`): of the bootstrap, default 2000 and 0.
    return_samples (`bool`): also return the value of each image. Default False.
"""  # of a metric's `compute`


def contingency_tables(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Pixels per pair of labels and image: [B, T, P] with one count over all images, so that no image is looped over.

    Row 0 is label 0; further rows and columns are the labels in their order: all up to the largest, or, where that is
    large, those that occur in any of the images.

    Args:
        references, predictions: integer labels from 0 to `MAX_LABEL`, both [B, H, W] or both [B, pixels].
    """
    references, rows = _numbered(references)
    predictions, columns = _numbered(predictions)
    images = len(references)
    index = np.multiply(references.reshape(images, -1), columns, dtype=np.int64)  # [B, pixels]
    index += predictions.reshape(index.shape)
    index += np.arange(images)[:, None] * (rows * columns)
    return np.bincount(index.ravel(), minlength=images * rows * columns).reshape(images, rows, columns)


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """The labels that occur, and 0, renumbered without gaps where that makes the tables much smaller; and how many."""
    count = int(labels.max()) + 1
    if count <= 32:
        return labels, count
    occurs = np.bincount(labels.ravel(), minlength=count) > 0
    occurs[0] = True
    return (np.cumsum(occurs) - 1)[labels], int(occurs.sum())


def intersection_over_union(tables: np.ndarray) -> np.ndarray:
    """IoU of every true with every predicted segment, [B, T, P] -> [B, T, P]; 0 where either has no pixel."""
    union = tables.sum(axis=2, keepdims=True) + tables.sum(axis=1, keepdims=True) - tables
    return tables / np.maximum(union, 1)


class LabelMapMetric(evaluate.Metric):
    """Base of the segmentation metrics: takes label maps and keeps their contingency tables.

    Subclasses give `title`, `_info` (with `FEATURES`) and `_from_tables(tables, **options)`.
    """

    FEATURES = datasets.Features({"tables": datasets.Sequence(datasets.Sequence(datasets.Value("int64")))})
    title = "the metric"  # in messages

    def add_batch(self, *, predictions=None, references=None, **unknown) -> None:
        """Add label maps: [B, H, W], or a list of [H, W] of any sizes, of integers from 0 to `MAX_LABEL`.

        Raises ValueError where the two are no label maps of the same shapes.
        """
        if unknown:
            raise ValueError(f"{self.title} takes predictions and references, not {', '.join(unknown)}")
        predictions, references = _label_maps(predictions, "predictions"), _label_maps(references, "references")
        if len(predictions) != len(references):
            sizes = f"predictions ({len(predictions)}) and references ({len(references)})"
            raise ValueError(f"Mismatch in the number of {sizes}")
        if not len(predictions):
            raise ValueError(f"{self.title} of no samples is not defined: give at least one")
        if not (isinstance(predictions, np.ndarray) and isinstance(references, np.ndarray)):
            for prediction, reference in zip(predictions, references, strict=True):
                self.add_batch(predictions=prediction[None], references=reference[None])
            return
        if predictions.shape != references.shape:
            shapes = f"predictions {list(predictions.shape)} and references {list(references.shape)}"
            raise ValueError(f"label maps of different shapes: {shapes}; resize one to the other (nearest)")
        step = max(1, PIECE // references[0].size)
        for start in range(0, len(references), step):
            part = slice(start, start + step)
            super().add_batch(tables=contingency_tables(references[part], predictions[part]).tolist())

    def add(self, *, prediction=None, reference=None, **unknown) -> None:
        """Add one pair of label maps [H, W]."""
        self.add_batch(predictions=[prediction], references=[reference], **unknown)

    def compute(self, *, predictions=None, references=None, **options) -> dict | None:
        """The metric of what has been added, and of what is given here; None but in process 0."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self.writer is None:
            raise ValueError(f"{self.title} of no samples is not defined: give at least one")
        return super().compute(**options)

    def _compute(self, tables, **options):
        rows = max(len(table) for table in tables)
        columns = max(len(table[0]) for table in tables)
        padded = np.zeros((len(tables), rows, columns), dtype=np.int64)
        for image, table in enumerate(tables):
            padded[image, : len(table), : len(table[0])] = table
        return self._from_tables(padded, **options)


def _label_maps(maps, name: str) -> np.ndarray | Sequence[np.ndarray]:
    """Maps as one array of integers [B, H, W] or [B, pixels], or as a list of arrays where their sizes differ."""
    if maps is None:
        raise ValueError(f"{name} are missing: give label maps [B, H, W]")
    if not hasattr(maps, "shape"):
        maps = [np.asarray(label_map) for label_map in maps]
        if len({label_map.shape for label_map in maps}) > 1:
            return [_label_maps(label_map[None], f"{name}[{i}]")[0] for i, label_map in enumerate(maps)]
    maps = np.asarray(maps)
    if not len(maps):
        return maps
    if maps.dtype.kind == "f":
        raise ValueError(f"{name} are {maps.dtype}: they must be integer labels; take the argmax over the slots first")
    if maps.ndim > 3:
        raise ValueError(
            f"{name} are of shape {list(maps.shape)}: they must be label maps [B, H, W]; take the argmax over the slots"
        )
    if maps.dtype.kind not in "iub" or maps.ndim < 2 or not maps[0].size:
        raise ValueError(f"{name} are {maps.dtype} of shape {list(maps.shape)}: they must be integer labels [B, H, W]")
    low, high = int(maps.min()), int(maps.max())
    if low < 0 or high > MAX_LABEL:
        raise ValueError(f"{name} hold labels from {low} to {high}: they must be from 0 to {MAX_LABEL}; renumber them")
    return maps.astype(np.int64) if maps.dtype == np.uint64 else maps  # numpy adds no int64 to uint64
