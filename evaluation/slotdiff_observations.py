"""Sentences that only slot diffusion has: how it samples, what fewer steps cost, what edited slots change."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from .observations import SIGNIFICANT, p_verdict
from .report import duration, percent
from .runs import Run
from .scene_observations import NAMES, close_split, observe_scenes
from .statistics import holm, signed_rank

Numbers = dict[str, Any]
TOLD_BY = 8  # pictures from which the signed-rank test, corrected for three samplers, can reach 0.05 at all


def observe_diffusion(run: Run) -> list[str]:
    """What stands out in one run, from its metrics.json and its history."""
    sentences = observe_scenes(run)
    return [*sentences, *_reconstruction(run), *_samplers(run), *_edits(run.evaluation.get("edits"))]


def _reconstruction(run: Run) -> list[str]:
    split = close_split(run)
    sampling = run.evaluation.get("sampling")
    if split is None or not sampling:
        return []
    numbers = run.metrics["metrics"][split]
    count = numbers.get("reconstructed", numbers["samples"])
    low, high = numbers["reconstruction_mse_interval"]
    features = [key for key in numbers if key.startswith("feature_distance_") and not key.endswith("_interval")]
    beside = "".join(
        f"; in the features of {key.removeprefix('feature_distance_')} it differs by {numbers[key]:.3f} (1 - cosine)"
        for key in features
    )
    return [
        f"A picture sampled from the slots of a {NAMES[split]} scene ({sampling['scheduler']}, {sampling['steps']} "
        f"steps, {count:,} scenes) has a squared error of {numbers['reconstruction_mse']:.1f} (95\u00a0% interval "
        f"{low:.1f} to {high:.1f}, summed over the picture){beside}."
    ]


def spread(values: list[float]) -> float:
    """Standard deviation over draws of the noise, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _samplers(run: Run) -> list[str]:
    study = run.evaluation.get("samplers")
    if not study:
        if run.evaluation.get("sampling"):
            return ["Samplers were not compared (--sampler-images 0)."]
        return []
    slow, others = study["samplers"][0], study["samplers"][1:]
    left = f" of {study['of']:,}" if study["images"] < study["of"] else ""
    sentences = [
        f"On {study['images']:,}{left} {NAMES[study['split']]} scenes, {study['draws']} draws of the noise each, "
        f"{slow['label']} takes {duration(slow['seconds'])} a picture and has a squared error of "
        f"{np.mean(slow['mse']):.1f}{_distance_text(study, slow)}."
    ]
    tests = holm([signed_rank(np.subtract(row["errors"], slow["errors"])) for row in others])
    distances = holm([_draws_test(row, slow) for row in others])
    for row, p, apart in zip(others, tests, distances, strict=True):
        change = float(np.mean(row["mse"]) - np.mean(slow["mse"]))
        if study["images"] >= TOLD_BY:
            told = p_verdict(p)
        else:
            told = f"{study['images']} scenes cannot tell"
        sentences.append(
            f"{row['label']} is {slow['seconds'] / row['seconds']:.1f} times as fast ({duration(row['seconds'])} a "
            f"picture); its squared error is {abs(change):.1f} {'higher' if change >= 0 else 'lower'} ({told})"
            f"{_distance_change(study, row, slow, apart)}."
        )
    return [*sentences, *_floors(study)]


def _distance_text(study: Numbers, row: Numbers) -> str:
    if not row.get("distance"):
        return ""
    values = row["distance"]
    return f" and {study['metric']} {np.mean(values):.1f} (standard deviation {spread(values):.1f} over the draws)"


def _draws_test(row: Numbers, slow: Numbers) -> float:
    """p value of Welch's t test that the distances of two samplers' draws have the same mean; 1 without draws."""
    pair = [entry.get("distance") or [] for entry in (row, slow)]
    if min(map(len, pair)) < 2 or not any(map(spread, pair)):
        return 1.0
    return float(stats.ttest_ind(*pair, equal_var=False).pvalue)


def _distance_change(study: Numbers, row: Numbers, slow: Numbers, p_value: float) -> str:
    if not row.get("distance"):
        return ""
    change = float(np.mean(row["distance"]) - np.mean(slow["distance"]))
    told = "" if p_value < SIGNIFICANT else f", not told apart by {len(row['distance'])} draws (p = {p_value:.3f})"
    return (
        f", its {study['metric']} {np.mean(row['distance']):.1f} (standard deviation {spread(row['distance']):.1f}), "
        f"{abs(change):.1f} {'above' if change >= 0 else 'below'}{told}"
    )


def _floors(study: Numbers) -> list[str]:
    alone, last = study["floors"][0], study["samplers"][-1]
    distance = f" and {study['metric']} {alone['distance']:.1f}" if alone["distance"] is not None else ""
    itself = study["floors"][1]["distance"]
    noise = f"; the pictures themselves have {itself:.1f}, which is what so few of them give" if itself else ""
    return [
        f"The autoencoder alone, without slots and diffusion, has a squared error of {alone['mse']:.1f}{distance} on "
        f"the same pictures, {percent(alone['mse'] / np.mean(last['mse']), 0)} of that of {last['label']}{noise}."
    ]


def _edits(edits: Numbers | None) -> list[str]:
    if not edits:
        return []
    said = []
    for kind, what in (("removed", "Taking the largest object's slot away"), ("swapped", "Putting another's in place")):
        inside, outside = edits[f"{kind}_inside"], edits[f"{kind}_outside"]
        times = f", {inside / outside:.1f} times as much" if outside > 0 else ""
        said.append(
            f"{what} changes the picture by {percent(inside)} of the range of values where that slot won and by "
            f"{percent(outside)} elsewhere{times} ({edits['scenes']} scenes, the same noise)."
        )
    return said
