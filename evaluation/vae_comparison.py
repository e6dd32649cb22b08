"""How runs of the VQ-VAE family are compared: the error on the same pictures, and the use of the codebook."""

from __future__ import annotations

import numpy as np

from metrics.bootstrap import interval

from .comparison import Column, ComparisonRules, Outcomes, Tests, labels_of, number_of, split_word
from .observations import SIGNIFICANT, p_text
from .program_store import read_entries
from .runs import Run
from .scene_data import CLOSE
from .sections import data_name
from .statistics import holm, signed_rank
from .vae import decibels as level_of

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
    for split in CLOSE:
        if all(number_of(run, split, f"{METRIC}_interval") is not None for run in runs):
            return split
    return "val"


def data_key(run: Run) -> str:
    """What the numbers were measured on, for people: the data, their size, and the pictures of the held-out split."""
    data = run.recipe.get("data") or {}
    drawn = "" if data.get("path") else f", seed {data.get('seed', 0)}"
    name = data_name(run, f"generated scenes, {data.get('difficulty', 'textured')}")
    split = split_of([run])
    samples = number_of(run, split, "samples")
    counted = f", {samples:,} {split_word(split)} pictures" if samples else ""
    return f"{name} ({data.get('image_size', 128)} px{drawn}{counted})"


def no_outcomes(run: Run, split: str) -> Outcomes | None:
    """A reconstruction is neither right nor wrong: `sentences` tests the errors themselves."""
    return None


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """The best run against every other, picture by picture: Wilcoxon's signed-rank test, Holm's correction."""
    split, labels = split_of(runs), labels_of(runs)
    stored = [read_entries(run.folder).get(f"reconstruction, {split}") for run in runs]
    levels = [number_of(run, split, "psnr") for run in runs]
    known = [i for i, entry in enumerate(stored) if entry is not None and levels[i] is not None]
    if len(known) < 2 or len({data_key(runs[i]) for i in known}) > 1:
        return []
    best = max(known, key=lambda i: levels[i])
    rows = []
    for other in known:
        if other == best or stored[other]["ids"] != stored[best]["ids"]:
            continue
        first, second = (level_of(np.asarray(stored[i]["errors"])) for i in (best, other))
        rows.append((labels[other], first - second, signed_rank(first - second)))
    if not rows:
        return []
    said = []
    for (label, difference, _), p in zip(rows, holm([p for _, _, p in rows]), strict=True):
        low, high = interval(difference)
        told = "" if p < SIGNIFICANT else ", not told apart"
        said.append(f"{label} by {difference.mean():.2f}\u00a0dB ({low:.2f} to {high:.2f}, {p_text(p)}{told})")
    return [
        f"Picture by picture {labels[best]} has the higher PSNR than {'; '.join(said)}: mean difference, its bootstrap "
        "interval, and Wilcoxon's signed-rank test, corrected for the number of tests (Holm)."
    ]


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
