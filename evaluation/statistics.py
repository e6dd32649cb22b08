"""How sure a number is: intervals for accuracy and macro F1, paired tests between models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from metrics.wilson import CONFIDENCE


class Paired(NamedTuple):
    """Two classifiers on the same samples: `difference` = accuracy of the first minus the second, with its interval."""

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `indices`, evenly spaced: neighbours in a data set are often alike."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]


def macro_f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """Macro F1 of confusion matrices [..., C, C] (rows are the truth), the mean over classes that occur in either role.

    The same set of classes as scikit-learn's default, so a split that lacks a class is not scored 0 for it.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    seen = counts.sum(-1) + counts.sum(-2)  # [..., C] support + predicted = 2 tp + fp + fn
    f1 = np.divide(2.0 * hits, seen, out=np.zeros(seen.shape), where=seen > 0)
    return f1.sum(-1) / np.maximum((seen > 0).sum(-1), 1)


def bootstrap_macro_f1(counts: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of macro F1 over the samples.

    Drawing n samples with replacement is one multinomial draw over the cells of the confusion matrix [C, C], since
    macro F1 depends on nothing else: exact, and free of the number of samples.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("an interval needs at least one sample, the confusion matrix is empty")
    cells = np.flatnonzero(counts)  # empty cells stay empty in every resample
    draws = np.random.default_rng(seed).multinomial(total, counts.ravel()[cells] / total, size=resamples)
    scores = []
    for block in np.array_split(draws, max(1, resamples // 200)):  # 200 x C x C counts in memory at once
        resampled = np.zeros((len(block), counts.size), dtype=np.int64)
        resampled[:, cells] = block
        scores.append(macro_f1_of_counts(resampled.reshape(len(block), *counts.shape)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(scores), [tail, 100 - tail])
    return float(low), float(high)


def mcnemar(first: np.ndarray, second: np.ndarray) -> Paired:
    """Exact McNemar test of two boolean arrays "was right" over the same samples, with the Wald interval of the
    difference.

    Only samples on which the two disagree carry information (McNemar 1947); the exact test is a binomial one on those.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"a paired test needs the same, non-empty samples, got {first.shape} and {second.shape}")
    total = first.size
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    difference = (b - c) / total
    spread = stats.norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(max(b + c - (b - c) ** 2 / total, 0.0)) / total
    p_value = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    return Paired(difference, float(difference - spread), float(difference + spread), b, c, float(p_value))


def fisher(hits: tuple[int, int], totals: tuple[int, int]) -> float:
    """Two-sided p value of Fisher's exact test that two shares, of different samples, are one and the same."""
    return float(stats.fisher_exact([[hit, total - hit] for hit, total in zip(hits, totals, strict=True)]).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction for testing several differences at once (Holm 1979), in the order given."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def rank_test(first: np.ndarray, second: np.ndarray) -> float | None:
    """Two-sided Mann-Whitney p value of two samples; None where one of them has fewer than 3 values."""
    if min(len(first), len(second)) < 3:
        return None
    return float(stats.mannwhitneyu(first, second).pvalue)


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test that paired scores differ by 0 in the middle; 1 where all are
    equal."""
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)
