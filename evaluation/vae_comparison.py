"""How runs of the VQ-VAE family are compared: the error on the same pictures, and the use of the codebook."""

from __future__ import annotations

import numpy as np

from training.scene_pictures import psnr

from .comparison import Column, ComparisonRules, Tests, labels_of, number_of
from .paired_scores import METHOD, Scores, against_best, no_outcomes, ranking_split, scenes_key
from .program_store import read_entries
from .runs import Run
from .scene_data import CLOSE

METRIC = "explained_variance"
HELD_OUT = {"val": "Val", "test": "Test"}
COLUMNS = (
    *(
        column
        for split, name in HELD_OUT.items()
        for column in (
            Column(f"{name} explained", split, METRIC),
            Column(f"{name} PSNR, dB", split, "psnr", share=False),
            Column(f"{name} MSE", split, "reconstruction_mse", min, share=False),
            Column(f"{name} codes in use", split, "codebook_use"),
            Column(f"{name} perplexity", split, "perplexity", None, share=False),
        )
    ),
    Column("fid_clean", "val", "fid_clean", min, share=False),
    Column("frechet_efficientnet_lite0", "val", "frechet_efficientnet_lite0", min, share=False),
    Column("Train explained", "train", METRIC, None),
)


def split_of(runs: list[Run]) -> str:
    """The split that ranks the runs: val where all have it, else test or train."""
    return ranking_split(runs, METRIC, CLOSE)


def data_key(run: Run) -> str:
    """What the numbers were measured on, for people: the data, their size, and the pictures of the held-out split."""
    return scenes_key(run, split_of([run]), (run.recipe.get("data") or {}).get("image_size", 128), "pictures")


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """The best run against every other, picture by picture."""
    split = split_of(runs)
    scores = [_scores(run, split) for run in runs]
    best, differences = against_best(labels_of(runs), scores, [number_of(run, split, "psnr") for run in runs])
    if not differences:
        return []
    said = [f"{d.label} by {d.mean:.2f}\u00a0dB ({d.low:.2f} to {d.high:.2f}, {d.verdict})" for d in differences]
    return [f"Picture by picture {best} has the higher PSNR than {'; '.join(said)}: {METHOD}."]


def _scores(run: Run, split: str) -> Scores | None:
    entry = read_entries(run.folder).get(f"reconstruction, {split}")
    if entry is None:
        return None
    return Scores(np.asarray(entry["ids"]), psnr(np.asarray(entry["errors"])), data_key(run))


RULES = ComparisonRules(
    columns=COLUMNS,
    metric=METRIC,
    metric_name="share of the variance explained",
    unit="pictures",
    split_of=split_of,
    data_key=data_key,
    outcomes=no_outcomes,
    variant=lambda run: run.folder.name,
    sentences=sentences,
    note="Explained: share of the variance of the colours. MSE: images in [0, 1], summed over an image.",
)
