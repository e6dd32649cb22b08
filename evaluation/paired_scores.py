"""Scores of the same samples by several runs: the split that ranks them, what they were measured on, and how far the
best is ahead of every other, or of a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from metrics.bootstrap import interval

from .comparison import Column, Outcomes, labels_of, number_of, split_word, value_cell
from .observations import p_verdict, points
from .report import Cell, percent
from .runs import Run
from .sections import data_name
from .statistics import holm, signed_rank

METHOD = (
    "mean difference, its bootstrap interval, and Wilcoxon's signed-rank test, corrected for the tests between all "
    "pairs of runs (Holm)"
)


class Scores(NamedTuple):
    """What a run got for each sample: `ids` [N], and `values` float [N], more is better, NaN where there is none.

    `measured_on` names the data: runs with different ones have no sample in common, whatever the ids.
    """

    ids: np.ndarray
    values: np.ndarray
    measured_on: str = ""


@dataclass(frozen=True)
class Difference:
    """The best run's scores less another's, sample by sample: the mean with its 95 % bootstrap interval, and the p
    value of Wilcoxon's signed-rank test, corrected for the tests between all pairs of runs (Holm): which of them is the
    best was seen in the same numbers.
    """

    label: str
    mean: float
    low: float
    high: float
    p_value: float

    @property
    def verdict(self) -> str:
        """The p value, and that the difference tells nothing where it or the interval does not."""
        return p_verdict(self.p_value, (self.low, self.high))


def against_best(
    labels: Sequence[str], scores: Sequence[Scores | None], levels: Sequence[float | None]
) -> tuple[str, list[Difference]]:
    """The label of the run with the highest level, and its difference from every other run on the same samples.

    A run without scores or level is left out, a sample without a value in one of the two as well, and so is a run of
    other samples than the best's. No differences where runs were measured on different data.

    Args:
        labels, scores, levels: of the runs, in the same order.
    """
    known = [i for i, found in enumerate(scores) if found is not None and levels[i] is not None]
    if len(known) < 2 or len({scores[i].measured_on for i in known}) > 1:
        return "", []
    best = max(known, key=lambda i: levels[i])
    pairs = {}
    for one, other in combinations([best, *(i for i in known if i != best)], 2):
        if np.array_equal(scores[one].ids, scores[other].ids):
            difference = scores[one].values - scores[other].values
            difference = difference[~np.isnan(difference)]
            if len(difference):
                pairs[one, other] = difference
    corrected = holm([signed_rank(difference) for difference in pairs.values()])
    return labels[best], [
        Difference(labels[other], float(difference.mean()), *interval(difference), p)
        for ((one, other), difference), p in zip(pairs.items(), corrected, strict=True)
        if one == best
    ]


def ranking_split(runs: list[Run], metric: str, order: Sequence[str]) -> str:
    """The first split of `order` for which the evaluation of every run has the metric, else val."""
    for split in order:
        if all(number_of(run, split, f"{metric}_interval") is not None for run in runs):
            return split
    return "val"


def scenes_key(run: Run, split: str, pixels: int | None, unit: str, drawn: Sequence[str] = ()) -> str:
    """What numbers were measured on, for people: the scenes, their size, and how many of the held-out split.

    Args:
        split: that ranks.
        pixels: the side of an image.
        unit: what a sample is called, in the plural.
        drawn: what tells generated scenes from others of the same difficulty and seed.
    """
    data = run.recipe.get("data") or {}
    facts = [f"{pixels} px"]
    facts += [f"{key} {data[key]}" for key in ("centre_crop", "split_seed") if data.get("path") and key in data]
    if not data.get("path"):
        facts += [*drawn, f"seed {data.get('seed', 0)}"]
    samples = number_of(run, split, "samples")
    if samples:
        facts.append(f"{samples:,} {split_word(split)} {unit}")
    name = data_name(run, f"generated scenes, {data.get('difficulty', 'textured')}")
    return f"{name} ({', '.join(facts)})"


def no_outcomes(run: Run, split: str) -> Outcomes | None:
    """A score is neither right nor wrong: `against_best` tests the scores themselves."""
    return None


def reference_row(runs: list[Run], columns: Sequence[Column], kind: str, name: str) -> list[Cell] | None:
    """The row of a baseline below the runs, called `name`: of every column the number of metrics.json whose name has
    `kind` before it, where all runs have the same; None where there is no such number."""
    row, known = [Cell(name)], False
    for column in columns:
        values = {number_of(run, column.split, f"{kind}{column.key}") for run in runs}
        value = values.pop() if len(values) == 1 else None
        bounds = number_of(runs[0], column.split, f"{kind}{column.key}_interval") if value is not None else None
        row.append(value_cell(column, value, bounds))
        known |= value is not None
    return row if known else None


def above_baseline(runs: list[Run], split: str, metric: str, kind: str, name: str) -> list[str]:
    """One sentence, which begins with `name`: the runs that pass a baseline, whose number has `kind` before that of the
    metric, and those that do not; none where no run has both."""
    known = [
        (label, number_of(run, split, metric) - number_of(run, split, f"{kind}{metric}"))
        for label, run in zip(labels_of(runs), runs, strict=True)
        if None not in (number_of(run, split, metric), number_of(run, split, f"{kind}{metric}"))
    ]
    if not known:
        return []
    above = [f"{label} ({points(gap)})" for label, gap in known if gap > 0]
    below = [f"{label} ({points(gap)})" for label, gap in known if gap <= 0]
    values = {number_of(run, split, f"{kind}{metric}") for run in runs} - {None}
    level = f" ({percent(values.pop())} on {split_word(split)})" if len(values) == 1 else ""
    parts = [f"above it {', '.join(above)}"] if above else []
    parts += [f"at it or below {', '.join(below)}"] if below else []
    return [f"{name}{level}: {'; '.join(parts)}."]
