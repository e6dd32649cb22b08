"""The numbers of a classifier on one split, from its predictions: computed by `metrics/`, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

import metrics
from metrics.wilson import wilson_interval

from .predictions import Predictions
from .statistics import bootstrap_macro_f1

SURE = 0.9


def score(predictions: Predictions, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headline numbers of a split, and the details behind them.

    Numbers: `loss, accuracy, f1_micro, f1_macro, calibration_error, samples`, `accuracy_interval` (Wilson) and
    `f1_macro_interval` (bootstrap over samples), both 95 %. Details: `per_class`, `confusion_matrix` (rows are the
    truth), `most_confused`, `calibration`.
    """
    labels, predicted = predictions.labels, predictions.predicted
    counts = confusion_counts(labels, predicted, len(names))
    total = len(predictions)

    def value(name: str, **options: Any) -> float:
        (number,) = metrics.load(name).compute(predictions=predicted, references=labels, **options).values()
        return float(number)

    calibration = calibration_of(predictions)
    numbers = {
        "loss": float(predictions.losses.mean(dtype=np.float64)),
        "accuracy": value("accuracy"),
        "f1_micro": value("f1", average="micro"),
        "f1_macro": value("f1", average="macro"),
        "calibration_error": calibration.pop("error"),
        "samples": total,
        "accuracy_interval": list(wilson_interval(int(predictions.right.sum()), total)),
        "f1_macro_interval": list(bootstrap_macro_f1(counts)),
    }
    details = {
        "per_class": per_class(predictions, names),
        "confusion_matrix": counts.tolist(),
        "most_confused": most_confused(counts, names),
        "calibration": calibration,
    }
    return numbers, details


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix [C, C] of counts, rows are the truth."""
    result = metrics.load("confusion_matrix").compute(predictions=predicted, references=labels, num_labels=classes)
    return np.asarray(result["confusion_matrix"])


def per_class(predictions: Predictions, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall with its Wilson interval, F1 and support of every class, in index order."""
    result = metrics.load("per_class").compute(
        predictions=predictions.predicted, references=predictions.labels, num_labels=len(names)
    )
    rows = []
    for i, name in enumerate(names):
        support = int(result["support"][i])
        hits = int((predictions.right & (predictions.labels == i)).sum())
        low, high = wilson_interval(hits, support) if support else (None, None)
        numbers = {key: float(result[key][i]) for key in ("precision", "recall", "f1")}
        rows.append({"label": name, **numbers, "support": support, "low": low, "high": high})
    return rows


def most_confused(counts: np.ndarray, names: list[str], top: int = 10) -> list[dict[str, Any]]:
    """The commonest mistakes: `true` taken for `predicted` `count` times, `share` of that class's samples."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:top]
    support = counts.sum(1)
    pairs = [divmod(int(cell), len(names)) for cell in order if wrong.flat[cell] > 0]
    return [
        {"true": names[i], "predicted": names[j], "count": int(wrong[i, j]), "share": float(wrong[i, j] / support[i])}
        for i, j in pairs
    ]


def calibration_of(predictions: Predictions, num_bins: int = 15) -> dict[str, Any]:
    """Expected calibration error, mean confidence, errors made with more than 0.9, and the bins of the diagram."""
    result = metrics.load("calibration_error").compute(
        predictions=predictions.probabilities, references=predictions.labels, num_bins=num_bins, return_bins=True
    )
    columns = zip(*(result[f"bin_{name}"] for name in ("count", "confidence", "accuracy")), strict=True)
    bins = [
        {
            "low": i / num_bins,
            "high": (i + 1) / num_bins,
            "count": count,
            "confidence": confidence,
            "accuracy": accuracy,
        }
        for i, (count, confidence, accuracy) in enumerate(columns)
        if count
    ]
    confidence, wrong = predictions.probabilities.max(1), ~predictions.right
    return {
        "error": result["calibration_error"],
        "confidence": float(confidence.mean(dtype=np.float64)),
        "errors": int(wrong.sum()),
        "sure_errors": int((wrong & (confidence > SURE)).sum()),
        "bins": bins,
    }
