"""Runs that differ in nothing but their seeds: which they are, and what they give together."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import stats

from training.arguments import RunArguments

from .runs import Run
from .statistics import CONFIDENCE

SEEDS = {("training", "seed"), ("training", "data_seed")}  # those of the data change what is measured


@dataclass(frozen=True)
class Spread:
    """Mean of the runs' values, the t interval [low, high] of the mean, and the standard deviation (N - 1)."""

    mean: float
    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """From at least two values; ValueError for fewer. With two or three the interval is wide, and rightly so."""
        if len(values) < 2:
            raise ValueError(f"a spread over seeds needs at least two values, not {len(values)}")
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * deviation / len(values) ** 0.5
        return cls(mean, mean - half, mean + half, deviation)

    @property
    def of_share(self) -> tuple[float, float]:
        """The interval cut at 1, and at 0 unless the mean is below, as that of an index can be."""
        return max(self.low, 0.0) if self.mean >= 0 else self.low, min(self.high, 1.0)


def seed_groups(runs: list[Run]) -> list[list[int]]:
    """Positions of the runs whose recipes are the same but for seeds: groups of two or more, in the order given.

    Runs with the same seeds, too, are one run done twice and not two draws: the first of them counts.
    """
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for position, run in enumerate(runs):
        settings, seeds = {"family": run.family}, {}
        for group in ("model", "data", "training"):
            for key, value in (run.recipe.get(group) or {}).items():
                (seeds if (group, key) in SEEDS else settings)[f"{group}.{key}"] = value
        seed = seeds.setdefault("training.seed", RunArguments.seed)
        seeds.setdefault("training.data_seed", seed)  # as `RunArguments` does
        groups[_text(settings)].setdefault(_text(seeds), position)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _text(values: dict[str, object]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def group_name(labels: list[str]) -> str:
    """What runs are called together: their names without the number at the end, where that makes them the same."""
    names = {re.sub(r"[-_ ]*(seed)?[-_ ]*\d+$", "", label) for label in labels}
    name = names.pop() if len(names) == 1 else ", ".join(labels)
    return ", ".join([*([name] if name else []), f"{len(labels)} seeds"])  # no name is left of seed0, seed1
