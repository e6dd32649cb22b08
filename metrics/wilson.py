"""Wilson's score interval of a share, for the metric scripts of this folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .bootstrap import CONFIDENCE


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), in [0, 1]. ValueError for an empty sample."""
    if total <= 0:
        raise ValueError(f"an interval needs at least one sample, got {total}")
    interval = stats.binomtest(int(correct), int(total)).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def share_interval(outcomes: Sequence[bool] | np.ndarray) -> list[float]:
    """[low, high] of the share of true outcomes: unlike a bootstrap's no point where all are equal."""
    return list(wilson_interval(int(np.sum(outcomes)), len(outcomes)))
