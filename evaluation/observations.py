"""Sentences about results, each written from numbers and carrying them. Nothing is said that was not computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .figures import series
from .report import interval, percent
from .runs import Run
from .statistics import CONFIDENCE

SIGNIFICANT = 1 - CONFIDENCE


def points(difference: float) -> str:
    """A difference of two shares in percentage points, without sign: 0.062 -> "6.2 points"."""
    return f"{abs(100 * difference):.1f}\u00a0points"


def signed_points(difference: float) -> str:
    """The same with its sign: "6.2 points", "-6.2 points"."""
    return f"{round(100 * difference, 1) + 0.0:.1f}\u00a0points"


def p_text(p_value: float) -> str:
    return "p\u00a0<\u00a00.001" if p_value < 0.001 else f"p\u00a0=\u00a0{p_value:.3f}"


def told_apart(p_value: float, bounds: Sequence[float] = ()) -> bool:
    """Whether a mean difference is told from none: by its test, which looks at ranks, and by its interval `bounds`."""
    return p_value < SIGNIFICANT and not (bounds and bounds[0] <= 0 <= bounds[1])


def p_verdict(p_value: float, bounds: Sequence[float] = ()) -> str:
    """The p value of a difference, and that it tells nothing where it or the difference's interval does not."""
    return f"{p_text(p_value)}{'' if told_apart(p_value, bounds) else ', not told apart'}"


def images(count: int) -> str:
    """1 -> "1 image", 1200 -> "1,200 images"."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def observe_run(run: Run) -> list[str]:
    """What stands out in one run, from its metrics.json (`metrics` and `evaluation`) and its history."""
    splits = run.metrics.get("metrics") or {}
    details = run.evaluation.get("splits") or {}
    sentences = []
    if "val" in splits and "val" in details:
        sentences += [_level(splits["val"], details["val"]), *_gap(splits), *_held_out(splits)]
    sentences += observe_history(run.history)
    if "val" in details:
        sentences += [
            *_classes(details["val"]),
            *_confusions(details["val"]),
            _calibration(splits["val"], details["val"]),
        ]
    if run.evaluation.get("grad_cam"):
        sentences += _grad_cam(run.evaluation["grad_cam"])
    return sentences


def _level(val: dict[str, Any], details: dict[str, Any]) -> str:
    support = [row["support"] for row in details["per_class"]]
    majority = max(support) / sum(support)
    low, high = val["accuracy_interval"]
    verdict = "well above" if low > 2 * majority else "above" if low > majority else "not distinguishable from"
    verdict = "below" if high < majority else verdict
    return (
        f"Validation accuracy is {percent(val['accuracy'])} (95\u00a0% interval {interval(val['accuracy_interval'])}, "
        f"{val['samples']:,} images), {verdict} always naming the most frequent class ({percent(majority)}); "
        f"macro F1 is {percent(val['f1_macro'])}."
    )


def _gap(splits: dict[str, Any]) -> list[str]:
    if "accuracy_interval" not in splits.get("train", {}):
        return []
    train, val = splits["train"], splits["val"]
    gap = train["accuracy"] - val["accuracy"]
    apart = train["accuracy_interval"][0] > val["accuracy_interval"][1]
    losses = f"loss {train['loss']:.3f} against {val['loss']:.3f}"
    if apart:
        return [
            f"The training images are classified {points(gap)} better ({percent(train['accuracy'])}, {losses}), "
            "more than the intervals explain: the model has memorised part of them."
        ]
    direction = "better" if gap >= 0 else "worse"
    below = train["accuracy_interval"][1] < val["accuracy_interval"][0]
    verdict = "more than the intervals explain" if below else "which the intervals do not tell apart from no gap at all"
    return [
        f"The training images are classified {points(gap)} {direction} ({percent(train['accuracy'])}, {losses}), "
        f"{verdict}."
    ]


def _held_out(splits: dict[str, Any]) -> list[str]:
    if "accuracy_interval" not in splits.get("test", {}):
        return []
    val, test = splits["val"], splits["test"]
    low, high = test["accuracy_interval"]
    agree = low <= val["accuracy_interval"][1] and val["accuracy_interval"][0] <= high
    verdict = "in line with validation" if agree else "outside what validation suggested"
    return [
        f"On the test split accuracy is {percent(test['accuracy'])} ({interval((low, high))}, {test['samples']:,} "
        f"images), {points(test['accuracy'] - val['accuracy'])} "
        f"{'above' if test['accuracy'] >= val['accuracy'] else 'below'} validation: {verdict}."
    ]


def observe_history(history: pd.DataFrame, metric: str = "accuracy", name: str = "accuracy") -> list[str]:
    """Best epoch against the last, whether learning had ended, and where the validation loss turned; by a `metric` of
    which more is better, called `name`."""
    epochs, accuracy = series(history, "val", metric)
    if len(epochs) < 3:
        return []
    best = int(np.argmax(accuracy))
    sentences = []
    if accuracy[best] > accuracy[-1]:
        sentences.append(
            f"Validation {name} peaked at epoch {epochs[best]:.3g} with {percent(accuracy[best])}; the last epoch "
            f"({epochs[-1]:g}) is {points(accuracy[best] - accuracy[-1])} lower."
        )
    else:
        sentences.append(
            f"The last epoch ({epochs[-1]:g}) is also the best, with {percent(accuracy[-1])} on validation."
        )
    tail = len(epochs) // 5
    if tail >= 3:
        before, after = accuracy[-2 * tail : -tail], accuracy[-tail:]
        noise = float(np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / tail))
        change = float(after.mean() - before.mean())
        verdict = (
            "it had levelled off" if abs(change) <= 2 * noise else "still rising" if change > 0 else "already falling"
        )
        sentences.append(
            f"Over the last {tail} evaluations validation {name} averaged {percent(after.mean())}, after "
            f"{percent(before.mean())} over the {tail} before ({points(2 * noise)} would be noise): {verdict}."
        )
    loss_epochs, loss = series(history, "val", "loss")
    if len(loss) >= 3:
        lowest = int(np.argmin(loss))
        if loss[-1] > 1.05 * loss[lowest]:
            kept = accuracy[-1] >= accuracy[lowest] if len(loss) == len(accuracy) else False
            meaning = f" while {name} did not fall: the model grew overconfident" if kept else ""
            sentences.append(
                f"Validation loss was lowest at epoch {loss_epochs[lowest]:.3g} ({loss[lowest]:.3f}), at the "
                f"last it is {loss[-1]:.3f}{meaning}."
            )
    return sentences


def _classes(details: dict[str, Any]) -> list[str]:
    rows = sorted((r for r in details["per_class"] if r["support"]), key=lambda r: r["recall"])
    if len(rows) < 2:
        return []
    listed = ", ".join(
        f"{r['label']} ({percent(r['recall'], 0)}, {r['support']} images, interval "
        f"{interval((r['low'], r['high']), 0)})"
        for r in rows[: min(3, len(rows) - 1)]
    )
    best = rows[-1]
    return [f"Lowest recall: {listed}. Highest: {best['label']} ({percent(best['recall'], 0)})."]


def _confusions(details: dict[str, Any]) -> list[str]:
    errors = details["calibration"]["errors"]
    if not errors:
        return [f"All {sum(map(sum, details['confusion_matrix'])):,} validation images are classified right."]
    pairs = details["most_confused"][:3]
    listed = ", ".join(
        f"{p['true']} as {p['predicted']} ({images(p['count'])}, {percent(p['share'], 0)} of its class)" for p in pairs
    )
    share = sum(p["count"] for p in pairs) / errors
    kinds = "one kind" if len(pairs) == 1 else f"{len(pairs)} kinds"
    return [f"Of {errors:,} errors, {percent(share, 0)} are of {kinds}: {listed}."]


def _calibration(val: dict[str, Any], details: dict[str, Any]) -> str:
    calibration = details["calibration"]
    excess = calibration["confidence"] - val["accuracy"]
    low, high = val["accuracy_interval"]
    if calibration["confidence"] > high:
        verdict = f"overconfident by {points(excess)}"
    elif calibration["confidence"] < low:
        verdict = f"underconfident by {points(excess)}"
    else:
        verdict = f"within the interval of its accuracy ({points(excess)} {'above' if excess >= 0 else 'below'})"
    sure = calibration["sure_errors"]
    return (
        f"Mean confidence is {percent(calibration['confidence'])}, {verdict}; expected calibration error "
        f"{val['calibration_error']:.3f}."
        + (
            f" {sure:,} of {calibration['errors']:,} errors were made with a probability above 0.9."
            if calibration["errors"]
            else ""
        )
    )


def _grad_cam(numbers: dict[str, Any]) -> list[str]:
    right, wrong = numbers["right"], numbers["wrong"]
    sentences = []
    if right["count"] and right["centre_share"] is not None:
        sentences.append(
            f"On {right['count']} images classified right, {percent(right['centre_share'], 0)} of the Grad-CAM "
            "evidence lies in the centre box, a quarter of the area (an even spread gives 25\u00a0%)."
        )
    comparable = min(right["count"], wrong["count"]) >= 3 and numbers["entropy_p"] is not None
    if comparable:
        wider = "wider" if wrong["entropy"] > right["entropy"] else "narrower"
        sure = numbers["entropy_p"] < SIGNIFICANT
        sentences.append(
            f"On the {wrong['count']} images classified wrong, the evidence for the true class is spread {wider} "
            f"(entropy {wrong['entropy']:.3f} of the maximum against {right['entropy']:.3f}) and "
            f"{percent(wrong['centre_share'], 0)} of it is central; the difference in entropy is "
            f"{'' if sure else 'not '}significant (Mann-Whitney {p_text(numbers['entropy_p'])})."
        )
    if numbers["empty"]:
        total = right["count"] + wrong["count"] + numbers["empty"]
        sentences.append(f"{numbers['empty']} of {total} maps are empty: no positive evidence at all.")
    return sentences
