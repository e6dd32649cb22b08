"""What a model of scenes is worth only above, without any learning: masks that ignore the picture, and one colour.

*Fixed grid*: every picture is cut into the same rectangles, rows x columns of them, equal to a pixel (the block pattern
of Seitzer et al., Bridging the gap to real-world object-centric learning, ICLR 2023). Foreground ARI leaves the
background out, so whatever parts objects by their place has a high one, though no rectangle has an object's shape. The
rule: among all grids of at most as many cells as the model has slots, the one of the highest foreground ARI on
validation (the first of val, test and train that is evaluated and has masks), and that one on every split.

*Mean colour*: every pixel of a picture has the mean of its own picture, which is the smallest squared error that a
single colour can have. It is taken over the scenes that the model reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import metrics
from metrics.bootstrap import interval

from .predictions import ScenePredictions
from .scene_data import CLOSE, SceneSplit
from .scene_scores import FOREGROUND, segmentation_numbers
from .statistics import evenly, signed_rank

GRID, MEAN_COLOUR = "grid_", "mean_colour_"  # before the name of a metric, in metrics.json
CHOSEN_FROM = 500  # evenly spaced scenes that a grid is chosen by
BATCH = 64  # pictures whose errors are computed at a time: 25 MB of float64 at 128x128


@dataclass(frozen=True)
class Grid:
    """Rectangles of a size, `rows` one below the other and `columns` side by side."""

    rows: int
    columns: int

    def segments(self, count: int, size: int) -> np.ndarray:
        """The cell of each pixel, numbered row by row: uint8 [count, size, size], read-only, the same for every
        picture."""
        place = np.arange(size)
        cells = (place * self.rows // size)[:, None] * self.columns + place * self.columns // size
        return np.broadcast_to(cells.astype(np.uint8), (count, size, size))


@dataclass(frozen=True)
class Baselines:
    """`numbers` per split, for metrics.json: the metrics of the grid, `grid_<name>`, and
    `mean_colour_reconstruction_mse`, with their intervals. `facts`: `grid` (rows, columns, which split chose it, of at
    most how many cells; None without masks) and `splits`, how far the model is from each baseline, scene by scene. And
    the grid itself."""

    numbers: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    grid: Grid | None


def measure_baselines(
    splits: Mapping[str, SceneSplit], predictions: Mapping[str, ScenePredictions], slots: int
) -> Baselines:
    """The baselines on every split, after the model was scored on it; `slots` of the model bound the grid's cells."""
    numbers, beside = {}, {}
    chosen_on = next((name for name in CLOSE if name in splits and splits[name].has_mask.any()), None)
    grid = choose_grid(splits[chosen_on], slots) if chosen_on else None
    for name, split in splits.items():
        numbers[name], beside[name] = baseline_numbers(split, predictions[name], grid)
    facts = {**asdict(grid), "chosen_on": chosen_on, "at_most": slots} if grid else None
    return Baselines(numbers, {"grid": facts, "splits": beside}, grid)


def choose_grid(split: SceneSplit, most: int) -> Grid:
    """The grid by the rule above, from at most `CHOSEN_FROM` scenes that have masks."""
    return best_grid(split.masks(evenly(np.flatnonzero(split.has_mask), CHOSEN_FROM)), most)


def best_grid(true: np.ndarray, most: int) -> Grid:
    """The grid of 1 to `most` cells with the highest foreground ARI on label maps [N, S, S]; over all pixels where no
    scene has an object. Of equal ones that of fewest rows, then columns."""
    module = metrics.load("adjusted_rand_index")

    def quality(grid: Grid) -> float:
        found = module.compute(predictions=grid.segments(*true.shape[:2]), references=true, resamples=1)
        return found["adjusted_rand_index"] if found[FOREGROUND] is None else found[FOREGROUND]

    grids = (Grid(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1))
    return max(grids, key=quality)


def baseline_numbers(
    split: SceneSplit, predicted: ScenePredictions, grid: Grid | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flat numbers of the baselines on one split, and `{"grid": ..., "mean_colour": ...}`: the model's foreground
    ARI less the grid's, and its squared error less the mean colour's, see `paired`. What is not defined is left out.
    """
    made = np.flatnonzero(~np.isnan(predicted.squared_errors))
    errors = mean_colour_errors(split, made)
    numbers: dict[str, Any] = {f"{MEAN_COLOUR}reconstruction_mse": float(errors.mean())}
    numbers[f"{MEAN_COLOUR}reconstruction_mse_interval"] = interval(errors)
    beside = {"mean_colour": paired(predicted.squared_errors[made] - errors)}
    known = np.flatnonzero(split.has_mask)
    if grid is None or not len(known):
        return numbers, beside
    true = split.masks(known)
    found, scores = segmentation_numbers(grid.segments(*true.shape[:2]), true)
    numbers |= {f"{GRID}{key}": value for key, value in found.items()}
    differences = predicted.foreground_scores[known] - scores
    if not np.isnan(differences).all():
        beside["grid"] = paired(differences[~np.isnan(differences)])
    return numbers, beside


def mean_colour_errors(split: SceneSplit, rows: np.ndarray) -> np.ndarray:
    """Squared error, as `reconstruction_mse` counts it, of each picture's mean colour: float64 [len(rows)]."""
    module, errors = metrics.load("reconstruction_mse"), []
    for start in range(0, len(rows), BATCH):
        images = split.images(rows[start : start + BATCH]) / 255  # [B, S, S, 3]
        flat = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
        scored = module.compute(predictions=flat, references=images, resamples=1, return_samples=True)
        errors += scored["samples"]["reconstruction_mse"]
    return np.asarray(errors)


def paired(differences: np.ndarray) -> dict[str, Any]:
    """Of the differences of each scene [N]: their mean, its 95 % bootstrap interval, Wilcoxon's signed-rank p value,
    and how many scenes there are."""
    return {
        "difference": float(differences.mean()),
        "interval": interval(differences),
        "p_value": signed_rank(differences),
        "samples": len(differences),
    }
