"""Frechet distances of sets of pictures to one set of references, in the features of the first extractor at hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

import metrics
from metrics.bootstrap import interval

logger = logging.getLogger(__name__)

EXTRACTORS = ("inception", "efficientnet_lite0")  # the first whose weights are at hand


def first_metric() -> tuple[Any, list[str]]:
    """The Frechet distance of the first extractor whose weights are at hand (None where there is none), and the names
    of those before it."""
    missing = []
    for name in EXTRACTORS:
        try:
            return metrics.load("frechet_distance", config_name=name), missing
        except (FileNotFoundError, ImportError) as error:  # which says how to get the weights; the next one will do
            logger.warning("%s", error)
            missing.append(name)
    return None, missing


def no_metric(missing: list[str]) -> str:
    """Why there is no distance, in words."""
    return f"the weights of no feature extractor are at hand ({', '.join(missing)})"


def features_of(metric: Any, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Features float32 [N, D] of batches of pictures uint8 [B, S, S, 3]."""
    return np.concatenate([metric.extract(batch) for batch in batches])


def distances(metric: Any, references: np.ndarray, sides: dict[str, np.ndarray]) -> dict[str, Any]:
    """The distance of each of `sides` to `references`, all features [n, D], under its name; `num_features` D, and
    `full_rank`: whether no covariance lacks rank (fewer pictures than features make every distance larger)."""
    name = metric.extractor.distance_name
    result: dict[str, Any] = {"full_rank": True}
    for side, features in sides.items():
        found = metric.compute(predictions=features, references=references)
        result |= {side: found[name], "num_features": found["num_features"]}
        result["full_rank"] &= found["full_rank"]
    return result


def feature_distance(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """How unlike pictures are to their own counterparts: `feature_distance`, the mean of 1 - cosine of their features
    [n, D], 0 to 2, with its 95 % `feature_distance_interval` over the pictures."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    values = 1 - (first * second).sum(axis=1, dtype=np.float64) / np.maximum(norms, 1e-12)
    return {"feature_distance": float(values.mean()), "feature_distance_interval": interval(values)}
