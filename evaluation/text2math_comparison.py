"""How runs of the text-to-program family are compared: exact match on the same problems, beside the look-up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .comparison import (
    Column,
    ComparisonRules,
    Outcomes,
    Tests,
    differing_settings,
    labels_of,
    number_of,
    split_word,
)
from .observations import p_text, points
from .paired_scores import above_baseline, ranking_split, reference_row
from .program_details import SPLIT_ORDER
from .program_store import gold_name, read_entries, search_name
from .report import Cell, percent
from .runs import Run
from .text2math_report import beams_of, data_name

HELD_OUT = {"dev": "Dev", "val": "Val", "test": "Test"}
MEASURED = {
    "exact_match": "exact match",
    "execution_accuracy": "execution",
    "token_match": "token match",
    "novel_exact_match": "novel, exact",
    "novel_execution_accuracy": "novel, execution",
    "unseen_exact_match": "novel to carved, exact",
    "unseen_execution_accuracy": "novel to carved, execution",
}
COLUMNS = (
    *(
        Column(f"{name} {title}", split, key, basis=beams_of)
        for split, name in HELD_OUT.items()
        for key, title in MEASURED.items()
    ),
    Column("Train exact match", "train", "exact_match", None),
)


def split_of(runs: list[Run]) -> str:
    """The split that ranks the runs: dev where all have it, else val, test or train."""
    return ranking_split(runs, "exact_match", SPLIT_ORDER)


def data_key(run: Run) -> str:
    """What the numbers were measured on, for people: the data and the problems of the held-out split."""
    data, samples = run.recipe.get("data") or {}, number_of(run, split_of([run]), "samples")
    facts = [] if data.get("path") else [f"seed {data.get('seed', 0)}"]
    facts += [f"{samples:,} {split_of([run])} problems"] if samples else []
    return f"{data_name(run)} ({', '.join(facts)})" if facts else data_name(run)


def outcomes(run: Run, split: str) -> Outcomes | None:
    """Which problems of a split were an exact match, from what the evaluation stored."""
    entries = read_entries(run.folder)
    gold = entries.get(gold_name(split))
    found = entries.get(search_name(split, run.evaluation.get("main_beams") or 0))
    if gold is None or found is None or len(gold["ids"]) != len(found["programs"]):
        return None
    truth = np.array([program.removesuffix("|") for program in gold["programs"]])
    predicted = np.array([program.removesuffix("|") for program in found["programs"]])
    return Outcomes(np.asarray(gold["ids"]), truth, truth == predicted)


def reference_rows(runs: list[Run], columns: Sequence[Column]) -> list[list[Cell]]:
    """The look-ups' rows, as far as all runs have the same ones."""
    kinds = {"lookup_": "look-up, no learning", "lookup_whole_": "look-up with the carved part"}
    rows = (reference_row(runs, columns, kind, name) for kind, name in kinds.items())
    return [row for row in rows if row]


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """Who passes the look-up, who is best on novel problems, and what teacher forcing changed."""
    split = split_of(runs)
    return [
        *_choice(runs, split),
        *above_baseline(runs, split, "exact_match", "lookup_", "Exact match of the look-up without learning"),
        *_novel(runs, split),
        *_teacher_forcing(runs, split, tests),
    ]


def _choice(runs: list[Run], split: str) -> list[str]:
    """Which run the validation part would choose, where another split is reported."""
    values = [number_of(run, "val", "exact_match") for run in runs]
    if split == "val" or None in values or len({beams_of(run, "val") for run in runs}) > 1:
        return []
    chosen = int(np.argmax(values))
    return [
        f"Chosen by validation, the best is {labels_of(runs)[chosen]}: exact match {percent(values[chosen])} there and "
        f"{percent(number_of(runs[chosen], split, 'exact_match'))} on {split}."
    ]


def _novel(runs: list[Run], split: str) -> list[str]:
    known = [
        (number_of(run, split, "novel_exact_match"), label, number_of(run, split, "novel_samples"))
        for label, run in zip(labels_of(runs), runs, strict=True)
        if number_of(run, split, "novel_exact_match") is not None
    ]
    if len(known) < 2:
        return []
    best, worst = max(known), min(known)
    return [
        f"On the {best[2]:,} novel problems of {split_word(split)} {best[1]} has the highest exact match, "
        f"{percent(best[0])}, and {worst[1]} the lowest, {percent(worst[0])}."
    ]


def _teacher_forcing(runs: list[Run], split: str, tests: Tests) -> list[str]:
    """What the ratio changed, where nothing else differs."""
    if set(differing_settings(runs)) != {"training.teacher_forcing"}:
        return []
    ratios = [(run.recipe.get("training") or {}).get("teacher_forcing", 1.0) for run in runs]
    order = np.argsort(ratios)
    listed = ", ".join(
        f"{percent(number_of(runs[i], split, 'exact_match'))} and {percent(number_of(runs[i], split, 'token_match'))} "
        f"at {ratios[i]:g}"
        for i in order
    )
    low, high = int(order[0]), int(order[-1])
    test = tests.get((high, low))
    verdict = (
        f"; between {ratios[high]:g} and {ratios[low]:g} exact match differs by {points(test.difference)} "
        f"({p_text(test.p_value)} on the same problems)"
        if test
        else ""
    )
    return [f"Exact match and token match by the ratio of teacher forcing: {listed}{verdict}."]


RULES = ComparisonRules(
    columns=COLUMNS,
    metric="exact_match",
    metric_name="exact match",
    unit="problems",
    split_of=split_of,
    data_key=data_key,
    outcomes=outcomes,
    variant=lambda run: run.folder.name,
    sentences=sentences,
    reference_rows=reference_rows,
    note="The look-up's row takes the program of the nearest training problem.",
)
