"""How runs of models that split scenes into slots are compared: foreground ARI on the same scenes, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from .comparison import Column, ComparisonRules, Tests, labels_of, number_of
from .observations import points
from .paired_scores import (
    METHOD,
    Scores,
    above_baseline,
    against_best,
    no_outcomes,
    ranking_split,
    reference_row,
    scenes_key,
)
from .report import Cell
from .runs import Run
from .scene_baselines import GRID, MEAN_COLOUR
from .scene_data import CLOSE
from .scene_evaluation import foreground_of
from .scene_scores import FOREGROUND


def reconstructed(run: Run, split: str) -> int | None:
    """Of how many scenes the squared error is."""
    return number_of(run, split, "reconstructed") or number_of(run, split, "samples")


def composed(run: Run, split: str) -> int | None:
    """Of how many composed pictures the Frechet distance is, which falls with their number."""
    return (run.evaluation.get("composition") or {}).get("images")


HELD_OUT = {"val": "Val", "test": "Test"}
COLUMNS = (
    *(
        column
        for split, name in HELD_OUT.items()
        for column in (
            Column(f"{name} ARI, foreground", split, FOREGROUND),
            Column(f"{name} ARI, all", split, "adjusted_rand_index"),
            Column(f"{name} mean IoU, objects", split, "foreground_mean_iou"),
            Column(f"{name} best overlap", split, "mean_best_overlap"),
            Column(f"{name} MSE", split, "reconstruction_mse", min, share=False, basis=reconstructed),
            Column(f"{name} loss", split, "loss", min, share=False),
        )
    ),
    Column("fid_clean", "val", "fid_clean", min, share=False, basis=composed),
    Column("frechet_efficientnet_lite0", "val", "frechet_efficientnet_lite0", min, share=False, basis=composed),
    Column("Train ARI, foreground", "train", FOREGROUND, None),
)


def split_of(runs: list[Run]) -> str:
    """The split that ranks the runs: val where all have it, else test or train."""
    return ranking_split(runs, FOREGROUND, CLOSE)


def data_key(run: Run) -> str:
    """What the numbers were measured on, for people: the data, the size, and the scenes of the held-out split."""
    data = run.recipe.get("data") or {}
    objects = f"{data.get('min_objects', 3)} to {data.get('max_objects_drawn', 10)} objects"
    return scenes_key(run, split_of([run]), run.config.get("image_size"), "scenes", [objects])


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """Who passes the fixed grid, and the best run against every other on the same scenes."""
    split = split_of(runs)
    passed = above_baseline(runs, split, FOREGROUND, GRID, "Foreground ARI of a fixed grid, which ignores the picture")
    scores = [_scores(run, split) for run in runs]
    best, differences = against_best(labels_of(runs), scores, [number_of(run, split, FOREGROUND) for run in runs])
    if not differences:
        return passed
    said = [
        f"{d.label} by {points(d.mean)} ({100 * d.low:.1f} to {100 * d.high:.1f}, {d.verdict})" for d in differences
    ]
    return [*passed, f"Scene by scene {best} has the higher foreground ARI than {'; '.join(said)}: {METHOD}."]


def _scores(run: Run, split: str) -> Scores | None:
    found = foreground_of(run, split)
    return Scores(*found, data_key(run)) if found is not None else None


def reference_rows(runs: list[Run], columns: Sequence[Column]) -> list[list[Cell]]:
    """The baselines' rows, as far as all runs have the same ones."""
    kinds = {GRID: "fixed grid, no learning", MEAN_COLOUR: "mean colour, no learning"}
    rows = (reference_row(runs, columns, kind, name) for kind, name in kinds.items())
    return [row for row in rows if row]


RULES = ComparisonRules(
    columns=COLUMNS,
    metric=FOREGROUND,
    metric_name="foreground ARI",
    unit="scenes",
    split_of=split_of,
    data_key=data_key,
    outcomes=no_outcomes,
    variant=lambda run: run.folder.name,
    sentences=sentences,
    reference_rows=reference_rows,
    note="ARI: adjusted Rand index, per scene and then averaged. MSE: images in [0, 1], summed over an image. No "
    "learning: the same rectangles in every picture, and each picture's own mean colour.",
)
