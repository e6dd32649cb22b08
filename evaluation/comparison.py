"""Several runs of one family side by side: which is best, whether by more than chance, and what was set differently.

What is compared (columns, the metric that ranks, the samples of a paired test) is the family's, see `ComparisonRules`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from .families import family_module, shared_module
from .figures import Curve, colours_for, series
from .observations import SIGNIFICANT, p_text, points, signed_points
from .report import NO_VALUE, Cell, Report, Section, Table, Text, duration, interval, percent
from .runs import Run
from .seeds import Spread, group_name, seed_groups
from .statistics import Paired, holm, mcnemar

BATCH = "per_device_train_batch_size"
_MARKED = {
    True: "Best of each column in bold.",
    False: "The runs were measured on different data, so no best is marked.",
}
Tests = dict[tuple[int, int], Paired]


@dataclass(frozen=True)
class Column:
    """A column of the results: `better` is `max`, `min`, or None where no value is best; shares are shown as per cent,
    with the interval that metrics.json has beside them. `basis` gives what a run's number hangs on besides the data,
    such as how many pictures: none is best where it differs."""

    title: str
    split: str
    key: str
    better: Callable[[list[float]], float] | None = max
    share: bool = True
    basis: Callable[[Run, str], Any] | None = None


@dataclass
class Outcomes:
    """What happened to every sample of a split: `ids` int64 [N], `right` bool [N], and `truth` [N], by which two runs
    know that they answered the same questions.
    """

    ids: np.ndarray
    truth: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class ComparisonRules:
    """How runs of a family are compared.

    `metric` ranks the runs, a share in [0, 1] of which more is better, on the split `split_of(runs)`; `metric_name` is
    what sentences call it, `unit` what a sample is called. `data_key(run)` says what the numbers were measured on, for
    people; runs where it differs are not ranked. `outcomes(run, split)` says which samples were right, None where that
    is not stored. `variant(run)` picks the colour. `sentences(runs, tests)` adds what only this family has to say, and
    `reference_rows(runs, columns)` rows below the runs, such as a baseline's.
    """

    columns: tuple[Column, ...]
    metric: str
    metric_name: str
    unit: str
    split_of: Callable[[list[Run]], str]
    data_key: Callable[[Run], str]
    outcomes: Callable[[Run, str], Outcomes | None]
    variant: Callable[[Run], str]
    sentences: Callable[[list[Run], Tests], list[str]] = lambda runs, tests: []
    reference_rows: Callable[[list[Run], Sequence[Column]], list[list[Cell]]] = lambda runs, columns: []
    note: str = ""


def rules_of(runs: list[Run]) -> ComparisonRules:
    """The rules of the family of these runs, or of those that they are of together."""
    families = {run.family for run in runs}
    return (family_module(runs[0], "comparison") if len(families) == 1 else shared_module(families)).RULES


def label_of(run: Run) -> str:
    """The run's short name in tables and figures; a number that only sorts the recipes of a study is left out."""
    return re.sub(r"^\d+[_-]", "", run.folder.name)


def labels_of(runs: list[Run]) -> list[str]:
    """Short names, made distinct by as many of the folders above as it takes where runs share one."""
    labels, paths = [label_of(run) for run in runs], [run.folder.resolve().parts for run in runs]
    for depth in range(2, max(map(len, paths), default=0) + 1):
        shared = [labels.count(label) > 1 for label in labels]
        labels = ["/".join(p[-depth:]) if s else label for s, p, label in zip(shared, paths, labels, strict=True)]
    return labels


def curves_of(runs: list[Run]) -> list[Curve]:
    """All runs' curves, one colour each (the variant's own where there are such)."""
    labels, rules = labels_of(runs), rules_of(runs)
    colours = colours_for(labels, [rules.variant(run) for run in runs])
    return [Curve(label, colour, run.history) for label, colour, run in zip(labels, colours, runs, strict=True)]


def build_comparison(runs: list[Run], title: str, panels: list[Any], out: Path, own: Sequence[Section] = ()) -> Report:
    """The report on several runs, to lie in the folder `out`; `panels` is the block of curves, `own` what only these
    families have."""
    tests, rules = paired_tests(runs), rules_of(runs)
    sections = [
        Section("Results", [results_table(runs, out)]),
        Section("Observations", [Text(observe_comparison(runs, tests), listed=True)]),
        Section("Learning curves", panels),
        *own,
        Section(f"Differences on the same {rules.unit}", _paired_table(runs, tests)),
        Section("What differs", settings_table(runs)),
        Section("Time and commands", [commands_table(runs)]),
    ]
    data = sorted({rules.data_key(run) for run in runs})
    return Report(
        title=title,
        kicker=f"Comparison of {len(runs)} runs",
        lead=f"{', '.join(labels_of(runs))}: measured on {' and '.join(data)}.",
        sections=sections,
        footer="Made by evaluate_all.py. The names in the first table lead to each run's own report.",
    )


def number_of(run: Run, split: str, key: str) -> Any:
    """One number of metrics.json, None where it was not measured."""
    return (run.metrics.get("metrics") or {}).get(split, {}).get(key)


def are_comparable(runs: list[Run]) -> bool:
    """Whether all runs were measured on the same data."""
    return len({rules_of(runs).data_key(run) for run in runs}) == 1


def results_table(runs: list[Run], out: Path) -> Table:
    """One row per run; the best of every column in bold, unless the runs were measured on different data."""
    rules = rules_of(runs)
    columns = [c for c in rules.columns if any(number_of(run, c.split, c.key) is not None for run in runs)]
    comparable = are_comparable(runs) and len(runs) > 1
    links = [quote(os.path.relpath(run.folder / "report.html", out)) for run in runs]
    rows = [[Cell(label, href=link)] for label, link in zip(labels_of(runs), links, strict=True)]
    for column in columns:
        values = [number_of(run, column.split, column.key) for run in runs]
        known = [value for value in values if value is not None]
        measured = [run for run, value in zip(runs, values, strict=True) if value is not None]
        alike = column.basis is None or len({column.basis(run, column.split) for run in measured}) < 2
        best = column.better(known) if column.better and comparable and alike else None
        for row, run, value in zip(rows, runs, values, strict=True):
            bounds = number_of(run, column.split, f"{column.key}_interval")
            row.append(value_cell(column, value, bounds, best is not None and value == best))
    caption = " ".join(
        [
            "With 95 % intervals.",
            *([_MARKED[comparable]] if len(runs) > 1 else []),
            rules.note,
        ]
    )
    rows += [*_seed_rows(runs, columns), *rules.reference_rows(runs, columns)]
    return Table(["Run", *[c.title for c in columns]], rows, caption.strip())


def _seed_rows(runs: list[Run], columns: Sequence[Column]) -> list[list[Cell]]:
    """A row of means for every group of runs that differ in their seeds alone."""
    rows, labels = [], labels_of(runs)
    for group in seed_groups(runs):
        row = [Cell(group_name([labels[i] for i in group]), "mean, t interval")]
        for column in columns:
            values = [number_of(runs[i], column.split, column.key) for i in group]
            if None in values:
                row.append(Cell(NO_VALUE))
            else:
                spread = Spread.of(values)
                bounds = spread.of_share if column.share else (spread.low, spread.high)
                row.append(value_cell(column, spread.mean, bounds))
        rows.append(row)
    return rows


def value_cell(column: Column, value: float | None, bounds: Any = None, best: bool = False) -> Cell:
    """A number of the results as this column shows it."""
    if value is None:
        return Cell(NO_VALUE)
    if column.share:
        return Cell(percent(value), interval(bounds), best)
    return Cell(f"{value:.3f}", f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "", best)


def paired_tests(runs: list[Run]) -> Tests:
    """McNemar's test between all pairs of runs whose samples are the same, keyed by their positions. Drawn samples have
    the same ids and labels whatever their seed, so the data's names have to agree, too."""
    rules = rules_of(runs)
    stored = [rules.outcomes(run, rules.split_of(runs)) for run in runs]
    tests = {}
    for i, first in enumerate(stored):
        for j, second in enumerate(stored):
            if i == j or first is None or second is None or len(first.ids) != len(second.ids):
                continue
            if rules.data_key(runs[i]) != rules.data_key(runs[j]):
                continue
            one, two = np.argsort(first.ids), np.argsort(second.ids)
            same = np.array_equal(first.ids[one], second.ids[two])
            if same and np.array_equal(first.truth[one], second.truth[two]):
                tests[i, j] = mcnemar(first.right[one], second.right[two])
    return tests


def best_of(runs: list[Run]) -> int | None:
    """Position of the run with the highest value of the ranking metric (the first on a tie); None where none is
    known."""
    rules = rules_of(runs)
    values = [number_of(run, rules.split_of(runs), rules.metric) for run in runs]
    known = [i for i, value in enumerate(values) if value is not None]
    return max(known, key=lambda i: values[i]) if known else None


def _against_best(runs: list[Run], tests: Tests) -> list[tuple[int, Paired, float]]:
    """The best run's tests against the others, with p values corrected for testing all pairs of runs: which of them is
    the best was seen in the same numbers."""
    best = best_of(runs)
    pairs = [pair for pair in tests if pair[0] < pair[1]]
    corrected = dict(zip(pairs, holm([tests[pair].p_value for pair in pairs]), strict=True))
    return [(j, test, corrected[min(i, j), max(i, j)]) for (i, j), test in tests.items() if i == best]


def _paired_table(runs: list[Run], tests: Tests) -> list[Any]:
    rows, labels, rules = [], labels_of(runs), rules_of(runs)
    for j, test, corrected in sorted(_against_best(runs, tests), key=lambda row: row[1].difference):
        difference = Cell(f"{100 * test.difference:.1f}", f"{100 * test.low:.1f} to {100 * test.high:.1f}")
        verdict = "yes" if corrected < SIGNIFICANT else "no"
        rows.append(
            [
                labels[j],
                difference,
                str(test.only_first),
                str(test.only_second),
                p_text(corrected).removeprefix("p\u00a0").removeprefix("=\u00a0"),
                verdict,
            ]
        )
    if not rows:
        return []
    best = labels[best_of(runs)]
    caption = (
        f"{best} against every other run on the same {split_word(rules.split_of(runs))} {rules.unit}: exact McNemar "
        "test, p values corrected for testing all pairs of runs (Holm); intervals are not corrected."
    )
    columns = ["Run", f"Points behind {best}", f"Only {best} right", "Only this right", "p", "Significant"]
    return [Table(columns, rows, caption)]


def split_word(split: str) -> str:
    """A split's name in a sentence."""
    return {"val": "validation"}.get(split, split)


def differing_settings(runs: list[Run]) -> dict[str, list[Any]]:
    """Recipe fields (`group.key`) whose value is not the same in all runs, with each run's value."""
    flat = [
        {f"{g}.{k}": v for g in ("model", "data", "training") for k, v in (r.recipe.get(g) or {}).items()} for r in runs
    ]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    return {
        key: [one.get(key) for one in flat] for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)
    }


def settings_table(runs: list[Run]) -> list[Any]:
    """The recipe fields that differ, a column for each run."""
    different = differing_settings(runs)
    if not different:
        return [Text(["The recipes of these runs are the same."], quiet=True)]
    rows = [
        [key, *("default" if value is None else str(value).rsplit("/", 1)[-1] for value in values)]
        for key, values in different.items()
    ]
    return [Table(["Field", *labels_of(runs)], rows, "Only the fields that differ.", text_columns=1 + len(runs))]


def commands_table(runs: list[Run]) -> Table:
    """What each run cost, where it ran, and the command that made it."""
    rows = []
    for label, run in zip(labels_of(runs), runs, strict=True):
        training = run.training
        numbers = [  # whole parameters, and epochs that need not be whole
            format(training[key], kind) if training.get(key) else NO_VALUE
            for key, kind in (("parameters", ",d"), ("epochs", ",g"))
        ]
        texts = [str(training.get(key) or NO_VALUE) for key in ("machine", "command")]
        rows.append([label, *numbers, duration(training.get("seconds")), *texts])
    return Table(["Run", "Parameters", "Epochs", "Time", "Machine", "Command"], rows, text_columns=6)


def observe_comparison(runs: list[Run], tests: Tests) -> list[str]:
    """What the runs say together, each sentence from their numbers."""
    best = best_of(runs)
    if best is None:
        return []
    return [
        *_ranking(runs, best, tests),
        *_over_seeds(runs),
        *rules_of(runs).sentences(runs, tests),
        *(_speed(runs) + _overfitting(runs) if are_comparable(runs) else []),
    ]


def _ranking(runs: list[Run], best: int, tests: Tests) -> list[str]:
    labels, rules = labels_of(runs), rules_of(runs)
    split = rules.split_of(runs)
    measure = f"{split_word(split)} {rules.metric_name}"
    known = [i for i in range(len(runs)) if number_of(runs[i], split, rules.metric) is not None]
    worst = min(known, key=lambda i: number_of(runs[i], split, rules.metric))
    high, low = number_of(runs[best], split, rules.metric), number_of(runs[worst], split, rules.metric)
    if not are_comparable(runs):
        return [f"The runs are measured on different data; the highest {measure} is {percent(high)} ({labels[best]})."]
    if high == low:
        return [f"All {len(known)} runs have a {measure} of {percent(high)}."] if len(known) > 1 else []
    sentences = [
        f"{labels[best]} has the highest {measure}, {percent(high)} "
        f"({interval(number_of(runs[best], split, f'{rules.metric}_interval'))}); {labels[worst]} the lowest, "
        f"{percent(low)}, {points(high - low)} less."
    ]
    against = _against_best(runs, tests)
    behind = [f"{labels[j]} ({points(t.difference)}, {p_text(p)})" for j, t, p in against if p < SIGNIFICANT]
    open_ = [f"{labels[j]} ({points(t.difference)}, {p_text(p)})" for j, t, p in against if p >= SIGNIFICANT]
    if behind:
        sentences.append(
            f"On the same {rules.unit} {labels[best]} is better than chance allows over {', '.join(behind)}."
        )
    if open_:
        sentences.append(f"Not told apart from {labels[best]} by these {rules.unit}: {', '.join(open_)}.")
    return sentences


def _over_seeds(runs: list[Run]) -> list[str]:
    """Mean and range of every group of runs that differ in nothing but their seeds."""
    sentences, labels, rules = [], labels_of(runs), rules_of(runs)
    split = rules.split_of(runs)
    for group in seed_groups(runs):
        values = [number_of(runs[i], split, rules.metric) for i in group]
        if None in values:
            continue
        spread, names = Spread.of(values), [labels[i] for i in group]
        every = ", ".join(f"{label} {percent(value)}" for label, value in zip(names, values, strict=True))
        spread_text = f"t interval {interval(spread.of_share)}, standard deviation {points(spread.deviation)}"
        sentences.append(
            f"{group_name(names)}: {split_word(split)} {rules.metric_name} is {percent(spread.mean)} on average "
            f"({spread_text}): {every}."
        )
    return sentences


def _speed(runs: list[Run]) -> list[str]:
    """Epochs to come within nine tenths of the best value of all validation curves, and time an epoch."""
    sentences, labels = [], labels_of(runs)
    curves = [series(run.history, "val", rules_of(runs).metric) for run in runs]
    top = max((float(values.max()) for _, values in curves if len(values)), default=0.0)
    reached = []
    for label, (epochs, values) in zip(labels, curves, strict=True):
        hits = np.flatnonzero(values >= 0.9 * top) if top > 0 else []
        if len(hits):
            reached.append((float(epochs[hits[0]]), label))
    if len(reached) > 1:
        first, last = (_at(edge(reached)[0], reached) for edge in (min, max))
        never = [label for label in labels if label not in {name for _, name in reached}]
        missing = f"; never: {', '.join(never)}" if never else ""
        way = f"by {first}" if first == last else f"first by {first}, and last by {last}"
        sentences.append(f"{percent(0.9 * top)} on validation (nine tenths of the best) is reached {way}{missing}.")
    paces = [
        (run.training["seconds"] / run.training["epochs"], label)
        for label, run in zip(labels, runs, strict=True)
        if run.training.get("seconds") and run.training.get("epochs")
    ]
    machines = {run.training.get("machine") for run in runs}
    if len(paces) > 1 and len(machines) == 1:
        quick, slow = min(paces), max(paces)
        sentences.append(
            f"An epoch took {duration(quick[0])} with {quick[1]} and {duration(slow[0])} with {slow[1]}, "
            f"{slow[0] / quick[0]:.2f} times as long."
        )
    return sentences


def _at(epoch: float, reached: list[tuple[float, str]]) -> str:
    """The runs that reached it in this epoch."""
    labels = [label for when, label in reached if when == epoch]
    return f"{', '.join(labels)}, in epoch {epoch:.3g}"


def _overfitting(runs: list[Run]) -> list[str]:
    rules = rules_of(runs)
    split = rules.split_of(runs)
    gaps = [
        (number_of(run, "train", rules.metric) - number_of(run, split, rules.metric), label)
        for label, run in zip(labels_of(runs), runs, strict=True)
        if None not in (number_of(run, "train", rules.metric), number_of(run, split, rules.metric))
    ]
    if len(gaps) < 2:
        return []
    least, most = min(gaps), max(gaps)
    name = rules.metric_name[:1].upper() + rules.metric_name[1:]
    return [
        f"{name} on train less that on {split_word(split)} is largest for {most[1]} "
        f"({signed_points(most[0])}) and smallest for {least[1]} ({signed_points(least[0])})."
    ]
