"""The numbers of predicted programs on one split, computed by `metrics/`, with intervals, over all and by parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import metrics
from metrics.bootstrap import interval
from metrics.wilson import share_interval
from models.programs import ProgramError, parse

MANY_OPERATIONS = 10  # programs of as many operations or more are one part
_SHARES = ("exact_match", "execution_accuracy", "token_match", "parses", "executes")


def score(
    predictions: Sequence[str],
    problems: Sequence[str],
    programs: Sequence[str],
    answers: Sequence[float],
    novel: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """All numbers of a split, a nested dictionary for metrics.json. The arguments are parallel, one entry a problem.

    `samples` (the number of problems) and the shares `exact_match, execution_accuracy, token_match, token_accuracy,
    parses, executes` in [0, 1], each with `..._interval` [low, high] (95 %: Wilson, of tokens bootstrap over the
    problems); `reference_execution_accuracy`, that of the gold programs. The same numbers by part: `by_novelty`
    ("novel": no problem of the training split has the same masked text; "seen"), `by_operations` (the number of
    operations of the gold program: "1" … "9", "10 or more"), `by_operation` (problems whose gold program has the
    operation; these overlap). A part without problems is left out; gold texts that are no programs are in no part by
    operations.

    ValueError where the lengths differ or are 0. AssertionError where execution accuracy contradicts exact match: a
    prediction equal to a gold program that gives the answer, but counted wrong.
    """
    lengths = {len(column) for column in (predictions, problems, programs, answers)}
    if novel is not None:
        lengths.add(len(novel))
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"scores need equally many predictions, problems, programs and answers, got {sorted(lengths)}")
    samples, gold = _samples(predictions, problems, programs, answers)
    total = len(predictions)
    result: dict[str, Any] = {
        **_numbers(samples, np.ones(total, dtype=bool)),
        "reference_execution_accuracy": gold,
    }
    if gold == 1.0 and result["execution_accuracy"] < result["exact_match"]:
        raise AssertionError(
            f"execution accuracy {result['execution_accuracy']:.4f} is below exact match {result['exact_match']:.4f}, "
            "though every gold program gives its answer"
        )
    if novel is not None:
        result["by_novelty"] = _parts(samples, ["novel" if flag else "seen" for flag in novel], ("novel", "seen"))
    result.update(_by_operations(samples, programs))
    return result


def _samples(
    predictions: Sequence[str], problems: Sequence[str], programs: Sequence[str], answers: Sequence[float]
) -> tuple[dict[str, np.ndarray], float]:
    """The numbers of every problem from the metric modules, [N] each, and the gold programs' execution accuracy."""
    texts = {"predictions": list(predictions), "references": list(programs)}
    inputs = {
        "exact_match": texts,
        "token_match": {**texts, "resamples": 1},
        "execution_accuracy": {**texts, "problems": list(problems), "answers": list(answers)},
        "program_validity": {"predictions": texts["predictions"], "problems": list(problems)},
    }
    samples: dict[str, np.ndarray] = {}
    gold = 0.0
    for name, columns in inputs.items():
        result = metrics.load(name).compute(**columns, return_samples=True)
        gold = result.get("reference_execution_accuracy", gold)
        samples.update({key: np.asarray(column) for key, column in result["samples"].items() if key != "reason"})
    return samples, gold


def _numbers(samples: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    """The shares and intervals over the problems of the mask `chosen` [N]."""
    result: dict[str, Any] = {"samples": int(chosen.sum())}
    for name in _SHARES:
        values = samples[name][chosen]
        result[name] = float(values.mean())
        result[f"{name}_interval"] = interval(values) if name == "token_match" else share_interval(values)
    matching, tokens = samples["matching_tokens"][chosen], samples["prediction_tokens"][chosen]
    result["token_accuracy"] = float(matching.sum() / max(tokens.sum(), 1))
    result["token_accuracy_interval"] = interval(matching, tokens)
    return result


def _parts(samples: dict[str, np.ndarray], labels: Sequence[str | None], order: Sequence[str]) -> dict[str, Any]:
    column = np.array([label or "" for label in labels])
    return _chosen(samples, order, lambda name: column == name)


def _chosen(samples: dict[str, np.ndarray], names: Sequence[str], mask: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """The numbers of every named part that has problems."""
    masks = {name: mask(name) for name in names}
    return {name: _numbers(samples, chosen) for name, chosen in masks.items() if chosen.any()}


def _by_operations(samples: dict[str, np.ndarray], programs: Sequence[str]) -> dict[str, Any]:
    steps = [_operations(program) for program in programs]
    few = [str(count) for count in range(1, MANY_OPERATIONS)]
    many = f"{MANY_OPERATIONS} or more"
    labels = [None if not names else str(len(names)) if len(names) < MANY_OPERATIONS else many for names in steps]
    sets = [set(names) for names in steps]
    found = sorted(set().union(*sets))
    return {
        "by_operations": _parts(samples, labels, [*few, many]),
        "by_operation": _chosen(samples, found, lambda name: np.array([name in names for names in sets])),
    }


def _operations(program: str) -> list[str]:
    """The operations of a gold program in order; none where the text is no program."""
    try:
        return [step.operation for step in parse(program)]
    except ProgramError:
        return []
