"""The numbers of a segmentation model on one split: computed by `metrics/`, per scene, with bootstrap intervals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import metrics
from metrics.bootstrap import interval
from metrics.label_maps import PIECE, contingency_tables, intersection_over_union

from .predictions import ScenePredictions
from .scene_data import SceneSplit
from .scene_model import SceneModel
from .statistics import evenly

FOREGROUND = "foreground_adjusted_rand_index"
MODULES = ("adjusted_rand_index", "mean_iou", "mean_best_overlap")
USED = 0.005  # a slot that wins less of the picture is idle; every drawn object shows as much
FOUND = 0.5  # an object is found where a slot has this IoU with it
SOLVED = 0.9  # foreground score from which sentences call a scene solved
SIZES = (0.0, 0.01, 0.02, 0.04, 0.08, 1.0)  # edges of visible shares of the picture


def predict(model: SceneModel, split: SceneSplit, closely: bool = False) -> ScenePredictions:
    """Segment every scene of a split, in the order of the data set, and reconstruct as many as the model says, evenly
    spaced; `closely` as in `SceneModel.reconstructed`."""
    mse = metrics.load("reconstruction_mse")
    wanted = np.zeros(len(split), dtype=bool)
    wanted[evenly(np.arange(len(split)), model.reconstructed(len(split), closely))] = True
    segments, losses, errors = [], [], np.full(len(split), np.nan)
    for part in (np.flatnonzero(wanted), np.flatnonzero(~wanted)):
        for start in range(0, len(part), model.batch_size):
            rows = part[start : start + model.batch_size]
            images = split.images(rows)
            found = model.segment(images, split.ids[rows], reconstruct=bool(wanted[rows[0]]))
            if wanted[rows[0]]:
                unit = np.moveaxis((found.reconstruction + 1) / 2, 1, -1)
                scored = mse.compute(predictions=unit, references=images, resamples=1, return_samples=True)
                errors[rows] = scored["samples"]["reconstruction_mse"]
            segments.append(found.segments)
            losses.append(found.losses)
    order = np.argsort(np.concatenate([np.flatnonzero(wanted), np.flatnonzero(~wanted)]))
    scores = np.full(len(split), np.nan)
    return ScenePredictions(split.ids, np.concatenate(segments)[order], np.concatenate(losses)[order], errors, scores)


def segmentation_numbers(segments: np.ndarray, true: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The flat numbers of label maps [N, S, S], each with its interval, and the foreground score of each scene [N], NaN
    where a scene has no foreground. What is not defined is left out."""
    numbers: dict[str, Any] = {}
    scores = np.full(len(true), np.nan)
    for name in MODULES:
        result = metrics.load(name).compute(predictions=segments, references=true, return_samples=True)
        samples = result.pop("samples")
        if FOREGROUND in samples:
            scores = np.array([np.nan if value is None else value for value in samples[FOREGROUND]])
        numbers |= {key: value for key, value in result.items() if not key.startswith("num_") and value is not None}
    return numbers, scores


def score(predicted: ScenePredictions, split: SceneSplit) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headline numbers of a split, and the details behind them; fills in `predicted.foreground_scores`.

    Numbers: `loss, adjusted_rand_index, foreground_adjusted_rand_index, mean_iou, foreground_mean_iou,
    mean_best_overlap, reconstruction_mse, samples`, with 95 % intervals over the scenes, as far as there are masks;
    `reconstructed`, where not all scenes were.
    Details: `histogram`, `by_objects`, `by_size`, `slots`.
    """
    errors = predicted.squared_errors[~np.isnan(predicted.squared_errors)]
    numbers: dict[str, Any] = {
        "loss": float(predicted.losses.mean(dtype=np.float64)),
        "reconstruction_mse": float(errors.mean()),
        "reconstruction_mse_interval": interval(errors),
        "samples": len(predicted),
    }
    if len(errors) < len(predicted):
        numbers["reconstructed"] = len(errors)
    known = np.flatnonzero(split.has_mask)
    if not len(known):
        return numbers, {}
    true, segments = split.masks(known), predicted.segments[known]
    found, scores = segmentation_numbers(segments, true)
    predicted.foreground_scores[known] = scores
    numbers |= found
    if len(known) < len(predicted):
        numbers["samples_with_masks"] = len(known)
    return numbers, _details(segments, true, scores)


def _details(segments: np.ndarray, true: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """What the scores depend on: number and size of objects, and how many slots a scene takes."""
    objects, sizes, overlaps, scenes, used, floor, floor_overlap, swallowed = [], [], [], [], [], [], [], []
    step = max(1, PIECE // true[0].size)
    for start in range(0, len(true), step):
        tables = contingency_tables(true[start : start + step], segments[start : start + step])  # [B, T, P]
        overlap = intersection_over_union(tables)  # [B, T, P]
        best = overlap.max(axis=2)  # [B, T]
        areas = tables.sum(axis=2) / true[0].size
        wins = tables.sum(axis=1) / true[0].size >= USED  # [B, P]
        present = areas > 0
        floor_overlap += best[present[:, 0], 0].tolist()
        floor += (wins & (tables.argmax(axis=1) == 0)).sum(axis=1).tolist()
        used += wins.sum(axis=1).tolist()
        holder = overlap[:, 0].argmax(axis=1)  # [B], the slot that is nearest to the background
        won = np.take_along_axis(tables, holder[:, None, None], axis=2)[..., 0]  # [B, T], its pixels
        both = present[:, 0] & present[:, 1:].any(axis=1)
        swallowed += (won[both, 1:].sum(axis=1) / tables[both, 1:].sum(axis=(1, 2))).tolist()
        present[:, 0] = False
        objects += present.sum(axis=1).tolist()
        sizes += areas[present].tolist()
        overlaps += best[present].tolist()
        scenes += (start + present.nonzero()[0]).tolist()
    return {
        "histogram": _histogram(scores),
        "by_objects": _by_objects(np.asarray(objects), scores),
        "by_size": _by_size(np.asarray(sizes), np.asarray(overlaps), np.asarray(scenes)),
        "slots": {
            "used": float(np.mean(used)),
            "objects": float(np.mean(objects)),
            "on_background": float(np.mean(floor)),
            "background_overlap": float(np.mean(floor_overlap)) if floor_overlap else None,
            "objects_in_background": float(np.mean(swallowed)) if swallowed else None,
        },
    }


def _histogram(scores: np.ndarray) -> dict[str, Any]:
    """How many scenes have which foreground score, in 20 bins from 0 to 1 (what is below 0 counts as 0)."""
    scores = scores[~np.isnan(scores)]
    counts, _ = np.histogram(np.clip(scores, 0, 1), bins=20, range=(0, 1))
    if not len(scores):
        return {"counts": counts.tolist(), "median": None, "solved": None}
    return {
        "counts": counts.tolist(),
        "median": float(np.median(scores)),
        "solved": float((scores >= SOLVED).mean()),
    }


def _by_objects(objects: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, Any]]:
    """Foreground score by number of objects, with intervals."""
    result = {}
    for number in np.unique(objects).tolist():
        own = scores[(objects == number) & ~np.isnan(scores)]
        if len(own):
            result[str(number)] = {"samples": len(own), FOREGROUND: float(own.mean())}
            result[str(number)][f"{FOREGROUND}_interval"] = interval(own)
    return result


def _by_size(sizes: np.ndarray, overlaps: np.ndarray, scenes: np.ndarray) -> list[dict[str, Any]]:
    """Of objects by their visible share of the picture: how many, their mean best IoU, and how many were found.

    Intervals are over scenes: the masks of one scene fail together.
    """
    rows = []
    for low, high in pairwise(SIZES):
        chosen = (sizes >= low) & ((sizes < high) | (high == 1.0))
        own = overlaps[chosen]
        if len(own):
            found = float((own >= FOUND).mean())
            row = {"low": low, "high": high, "objects": len(own), "overlap": float(own.mean())}
            counts = np.bincount(scenes[chosen])  # [scenes]
            sums = np.bincount(scenes[chosen], weights=own)
            rows.append(row | {"overlap_interval": interval(sums[counts > 0], counts[counts > 0]), "found": found})
    return rows
