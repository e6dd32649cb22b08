"""How runs of models that split scenes into slots are compared; the rules themselves are each family's."""

from __future__ import annotations

import numpy as np

from metrics.bootstrap import interval as bootstrap_interval

from .comparison import Column, Outcomes, Tests, differing_settings, labels_of, number_of, split_word
from .observations import SIGNIFICANT, p_text, points
from .report import interval, percent
from .runs import Run
from .scene_data import CLOSE
from .scene_evaluation import foreground_of
from .scene_scores import FOREGROUND
from .sections import data_name
from .statistics import holm, signed_rank

METRIC = FOREGROUND
SEEDS = {"training.seed", "data.seed", "training.data_seed"}
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
            Column(f"{name} MSE", split, "reconstruction_mse", min, share=False),
            Column(f"{name} loss", split, "loss", min, share=False),
        )
    ),
    Column("fid_clean", "val", "fid_clean", min, share=False),
    Column("frechet_efficientnet_lite0", "val", "frechet_efficientnet_lite0", min, share=False),
    Column("Train ARI, foreground", "train", FOREGROUND, None),
)


def split_of(runs: list[Run]) -> str:
    """The split that ranks the runs: val where all have it, else test or train."""
    for split in CLOSE:
        if all(number_of(run, split, f"{FOREGROUND}_interval") is not None for run in runs):
            return split
    return "val"


def data_key(run: Run) -> str:
    """What the numbers were measured on, for people: the data, the size, and the scenes of the held-out split."""
    data = run.recipe.get("data") or {}
    drawn = ""
    if not data.get("path"):
        most = data.get("max_objects_drawn", 10)
        drawn = f", {data.get('min_objects', 3)} to {most} objects, seed {data.get('seed', 0)}"
    name = data_name(run, f"generated scenes, {data.get('difficulty', 'textured')}")
    split = split_of([run])
    samples = number_of(run, split, "samples")
    counted = f", {samples:,} {split_word(split)} scenes" if samples else ""
    return f"{name} ({run.config.get('image_size')} px{drawn}{counted})"


def no_outcomes(run: Run, split: str) -> Outcomes | None:
    """A score of a scene is neither right nor wrong: `sentences` tests the scores themselves."""
    return None


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """Paired tests of the scores of the same scenes, and the spread over seeds."""
    return [*_over_seeds(runs), *_paired(runs)]


def _over_seeds(runs: list[Run]) -> list[str]:
    """Mean and range of runs that differ in nothing but their seeds."""
    split = split_of(runs)
    values = [number_of(run, split, FOREGROUND) for run in runs]
    if len(runs) < 2 or None in values or not set(differing_settings(runs)) <= SEEDS:
        return []
    every = ", ".join(f"{label} {percent(value)}" for label, value in zip(labels_of(runs), values, strict=True))
    return [
        f"Over {len(runs)} seeds {split_word(split)} foreground ARI is {percent(float(np.mean(values)))} on average, "
        f"from {percent(min(values))} to {percent(max(values))} (standard deviation "
        f"{points(float(np.std(values, ddof=1)))}): {every}."
    ]


def _paired(runs: list[Run]) -> list[str]:
    """The best run against every other on the same scenes: Wilcoxon's signed-rank test, Holm's correction."""
    split, labels = split_of(runs), labels_of(runs)
    stored = [foreground_of(run, split) for run in runs]
    values = [number_of(run, split, FOREGROUND) for run in runs]
    known = [i for i, found in enumerate(stored) if found is not None and values[i] is not None]
    if len(known) < 2 or len({data_key(runs[i]) for i in known}) > 1:
        return []
    best = max(known, key=lambda i: values[i])
    rows = []
    for other in known:
        if other == best or not np.array_equal(stored[best][0], stored[other][0]):
            continue
        difference = stored[best][1] - stored[other][1]
        difference = difference[~np.isnan(difference)]
        rows.append((labels[other], difference, signed_rank(difference)))
    corrected = holm([p for _, _, p in rows])
    said = [
        f"{label} by {points(float(d.mean()))} ({interval(bootstrap_interval(d))}, {p_text(p)}"
        f"{'' if p < SIGNIFICANT else ', not told apart'})"
        for (label, d, _), p in zip(rows, corrected, strict=True)
    ]
    if not said:
        return []
    return [
        f"Scene by scene {labels[best]} has the higher foreground ARI than {'; '.join(said)}: mean difference, its "
        "bootstrap interval, and Wilcoxon's signed-rank test, corrected for the number of tests (Holm)."
    ]
