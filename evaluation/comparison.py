"""Several runs side by side: which is best, whether by more than chance, and what was set differently."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .figures import Curve, colours_for, series
from .observations import SIGNIFICANT, p_text, points
from .predictions import load_predictions
from .report import NO_VALUE, Cell, Report, Section, Table, Text, duration, interval, percent
from .runs import Run
from .statistics import Paired, holm, mcnemar

BATCH = "per_device_train_batch_size"


def label_of(run: Run) -> str:
    """The run's short name in tables and figures; a number that only sorts the recipes of a study is left out."""
    return re.sub(r"^\d+[_-]", "", run.folder.name)


def labels_of(runs: list[Run]) -> list[str]:
    """Short names, made distinct by the folder above where two runs share one."""
    short = [label_of(run) for run in runs]
    return [
        label if short.count(label) == 1 else f"{run.folder.parent.name}/{run.folder.name}"
        for run, label in zip(runs, short, strict=True)
    ]


def curves_of(runs: list[Run]) -> list[Curve]:
    """All runs' curves, one colour each (the variant's own where norms differ)."""
    labels = labels_of(runs)
    colours = colours_for(labels, [str(run.config.get("norm", label)) for run, label in zip(runs, labels, strict=True)])
    return [Curve(label, colour, run.history) for label, colour, run in zip(labels, colours, runs, strict=True)]


def build_comparison(runs: list[Run], title: str, panels: list[Any], out: Path) -> Report:
    """The report on several runs of one family, to lie in the folder `out`; `panels` is the block of curves."""
    tests = paired_tests(runs)
    sections = [
        Section("Results", [results_table(runs, out)]),
        Section("Observations", [Text(observe_comparison(runs, tests), listed=True)]),
        Section("Learning curves", panels),
        Section("Differences on the same images", _paired_table(runs, tests)),
        Section("What differs", _settings_table(runs)),
        Section("Time and commands", [_commands_table(runs)]),
    ]
    data = sorted({data_key(run) for run in runs})
    return Report(
        title=title,
        kicker=f"Comparison of {len(runs)} runs",
        lead=f"{', '.join(labels_of(runs))}: trained on {' and '.join(data)}.",
        sections=sections,
        footer="Made by evaluate_all.py. The names in the first table lead to each run's own report.",
    )


def data_key(run: Run) -> str:
    """What makes two runs' numbers comparable, for people: the data's name, size of image and number of classes."""
    data = run.recipe.get("data") or {}
    name = (
        str(data["path"]).rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar")
        if data.get("path")
        else "generated pictures"
    )
    return f"{name} ({len(run.labels)} classes, {data.get('image_size', 64)} px)"


def _get(run: Run, split: str, key: str) -> Any:
    return (run.metrics.get("metrics") or {}).get(split, {}).get(key)


def results_table(runs: list[Run], out: Path) -> Table:
    """One row per run; the best of every column in bold, unless the runs were measured on different data."""
    columns = [
        ("Val accuracy", "val", "accuracy", max),
        ("Val macro F1", "val", "f1_macro", max),
        ("Val loss", "val", "loss", min),
        ("Calibration", "val", "calibration_error", min),
        ("Test accuracy", "test", "accuracy", max),
        ("Test macro F1", "test", "f1_macro", max),
        ("Train accuracy", "train", "accuracy", None),
        ("Train macro F1", "train", "f1_macro", None),
    ]
    columns = [c for c in columns if any(_get(run, c[1], c[2]) is not None for run in runs)]
    comparable = len({data_key(run) for run in runs}) == 1 and len(runs) > 1
    links = [os.path.relpath(run.folder / "report.html", out) for run in runs]
    rows = [[Cell(label, href=link)] for label, link in zip(labels_of(runs), links, strict=True)]
    for _, split, key, better in columns:
        values = [_get(run, split, key) for run in runs]
        share = key in ("accuracy", "f1_macro")
        known = [value for value in values if value is not None]
        best = better(known) if better and comparable else None
        for row, run, value in zip(rows, runs, values, strict=True):
            shown = NO_VALUE if value is None else percent(value) if share else f"{value:.3f}"
            note = interval(_get(run, split, f"{key}_interval")) if share else ""
            row.append(Cell(shown, note, best is not None and value == best))
    caption = "95 % intervals below each value. " + (
        "Best of each column in bold; with micro F1 equal to accuracy, it has no column of its own."
        if comparable
        else "The runs were measured on different data, so no best is marked. Micro F1 equals accuracy."
    )
    return Table(["Run", *[c[0] for c in columns]], rows, caption)


def paired_tests(runs: list[Run]) -> dict[tuple[int, int], Paired]:
    """McNemar's test between all pairs of runs whose validation samples are the same, keyed by their positions."""
    stored = [load_predictions(run.folder).get("val") for run in runs]
    tests = {}
    for i, first in enumerate(stored):
        for j, second in enumerate(stored):
            if i == j or first is None or second is None or len(first) != len(second):
                continue
            one, two = np.argsort(first.ids), np.argsort(second.ids)
            same = np.array_equal(first.ids[one], second.ids[two])
            if same and np.array_equal(first.labels[one], second.labels[two]):
                tests[i, j] = mcnemar(first.right[one], second.right[two])
    return tests


def best_of(runs: list[Run]) -> int | None:
    """Position of the run with the highest validation accuracy (the first on a tie); None where none is known."""
    values = [_get(run, "val", "accuracy") for run in runs]
    known = [i for i, value in enumerate(values) if value is not None]
    return max(known, key=lambda i: values[i]) if known else None


def _against_best(runs: list[Run], tests: dict[tuple[int, int], Paired]) -> list[tuple[int, Paired, float]]:
    best = best_of(runs)
    others = [(j, test) for (i, j), test in tests.items() if i == best]
    corrected = holm([test.p_value for _, test in others])
    return [(j, test, p) for (j, test), p in zip(others, corrected, strict=True)]


def _paired_table(runs: list[Run], tests: dict[tuple[int, int], Paired]) -> list[Any]:
    rows, labels = [], labels_of(runs)
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
        f"{best} against every other run on the same validation images: exact McNemar test, p values corrected for "
        f"testing {len(rows)} pairs (Holm)."
    )
    columns = ["Run", f"Points behind {best}", f"Only {best} right", "Only this right", "p", "Significant"]
    return [Table(columns, rows, caption)]


def differing_settings(runs: list[Run]) -> dict[str, list[Any]]:
    """Recipe fields (`group.key`) whose value is not the same in all runs, with each run's value."""
    flat = [
        {f"{g}.{k}": v for g in ("model", "data", "training") for k, v in (r.recipe.get(g) or {}).items()} for r in runs
    ]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    return {
        key: [one.get(key) for one in flat] for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)
    }


def _settings_table(runs: list[Run]) -> list[Any]:
    different = differing_settings(runs)
    if not different:
        return [Text(["The recipes of these runs are the same."], quiet=True)]
    rows = [
        [key, *("default" if value is None else str(value).rsplit("/", 1)[-1] for value in values)]
        for key, values in different.items()
    ]
    return [Table(["Field", *labels_of(runs)], rows, "Only the fields that differ.", text_columns=1 + len(runs))]


def _commands_table(runs: list[Run]) -> Table:
    rows = []
    for label, run in zip(labels_of(runs), runs, strict=True):
        training = run.training
        numbers = [f"{training[key]:,g}" if training.get(key) else NO_VALUE for key in ("parameters", "epochs")]
        texts = [str(training.get(key) or NO_VALUE) for key in ("machine", "command")]
        rows.append([label, *numbers, duration(training.get("seconds")), *texts])
    return Table(["Run", "Parameters", "Epochs", "Time", "Machine", "Command"], rows, text_columns=6)


def observe_comparison(runs: list[Run], tests: dict[tuple[int, int], Paired]) -> list[str]:
    """What the runs say together, each sentence from their numbers."""
    best = best_of(runs)
    if best is None:
        return []
    return [
        *_ranking(runs, best, tests),
        *_twins(runs, tests),
        *_batch_sizes(runs, tests),
        *_speed(runs, best),
        *_overfitting(runs),
    ]


def _ranking(runs: list[Run], best: int, tests: dict[tuple[int, int], Paired]) -> list[str]:
    labels = labels_of(runs)
    known = [i for i in range(len(runs)) if _get(runs[i], "val", "accuracy") is not None]
    worst = min(known, key=lambda i: _get(runs[i], "val", "accuracy"))
    high, low = _get(runs[best], "val", "accuracy"), _get(runs[worst], "val", "accuracy")
    comparable = len({data_key(run) for run in runs}) == 1
    if not comparable:
        return [
            f"The runs are measured on different data; the highest validation accuracy is {percent(high)} "
            f"({labels[best]})."
        ]
    sentences = [
        f"{labels[best]} has the highest validation accuracy, {percent(high)} "
        f"({interval(_get(runs[best], 'val', 'accuracy_interval'))}); {labels[worst]} the lowest, {percent(low)}, "
        f"{points(high - low)} less."
    ]
    against = _against_best(runs, tests)
    behind = [f"{labels[j]} ({points(t.difference)}, {p_text(p)})" for j, t, p in against if p < SIGNIFICANT]
    open_ = [f"{labels[j]} ({points(t.difference)}, {p_text(p)})" for j, t, p in against if p >= SIGNIFICANT]
    if behind:
        sentences.append(f"On the same images {labels[best]} is better than chance allows over {', '.join(behind)}.")
    if open_:
        sentences.append(f"Not told apart from {labels[best]} by these images: {', '.join(open_)}.")
    return sentences


def _twins(runs: list[Run], tests: dict[tuple[int, int], Paired]) -> list[str]:
    """The coursework's sanity check: `bn` and `torch_bn` with all other settings equal have the same curve."""
    by_norm = {run.config.get("norm"): i for i, run in enumerate(runs)}
    if not {"bn", "torch_bn"} <= set(by_norm):
        return []
    ours, torchs = by_norm["bn"], by_norm["torch_bn"]
    others = set(differing_settings([runs[ours], runs[torchs]])) - {"model.norm"}
    if others or None in (_get(runs[ours], "val", "accuracy"), _get(runs[torchs], "val", "accuracy")):
        return []
    gaps = []
    for metric in ("accuracy", "loss"):
        curves = [dict(zip(*series(runs[i].history, "val", metric), strict=True)) for i in (ours, torchs)]
        shared = sorted(curves[0].keys() & curves[1].keys())
        gaps.append(max((abs(curves[0][e] - curves[1][e]), e) for e in shared) if shared else None)
    if None in gaps:
        return []
    (accuracy, epoch), (loss, _) = gaps
    final = abs(_get(runs[ours], "val", "accuracy") - _get(runs[torchs], "val", "accuracy"))
    test = tests.get((ours, torchs))
    verdict = (
        f"; {test.only_first + test.only_second} images decided differently, {p_text(test.p_value)}" if test else ""
    )
    return [
        f"Sanity check: the validation curves of bn and torch_bn differ by at most {points(accuracy)} of accuracy "
        f"(epoch {epoch:g}) and {loss:.3f} of loss; at the end they are {points(final)} apart{verdict}."
    ]


def _batch_sizes(runs: list[Run], tests: dict[tuple[int, int], Paired]) -> list[str]:
    norms: dict[Any, dict[int, int]] = {}
    for i, run in enumerate(runs):
        size = (run.recipe.get("training") or {}).get(BATCH)
        if isinstance(size, int) and _get(run, "val", "accuracy") is not None:
            norms.setdefault(run.config.get("norm"), {}).setdefault(size, i)
    sentences = []
    for norm, sizes in norms.items():
        if len(sizes) < 2:
            continue
        small, large = min(sizes), max(sizes)
        i, j = sizes[small], sizes[large]
        change = _get(runs[i], "val", "accuracy") - _get(runs[j], "val", "accuracy")
        verdict = f" ({p_text(tests[i, j].p_value)} on the same images)" if (i, j) in tests else ""
        sentences.append(
            f"{norm}: at batch {small} validation accuracy is {points(change)} "
            f"{'higher' if change >= 0 else 'lower'} than at batch {large}, "
            f"{percent(_get(runs[i], 'val', 'accuracy'))} against {percent(_get(runs[j], 'val', 'accuracy'))}{verdict}."
        )
    return sentences


def _speed(runs: list[Run], best: int) -> list[str]:
    """Epochs to come within nine tenths of the best accuracy, and time an epoch."""
    sentences, labels = [], labels_of(runs)
    goal = 0.9 * _get(runs[best], "val", "accuracy")
    reached = []
    for label, run in zip(labels, runs, strict=True):
        epochs, values = series(run.history, "val", "accuracy")
        hits = np.flatnonzero(values >= goal)
        if len(hits):
            reached.append((float(epochs[hits[0]]), label))
    if len(reached) > 1:
        first, last = min(reached), max(reached)
        never = [label for label in labels if label not in {name for _, name in reached}]
        missing = f"; never: {', '.join(never)}" if never else ""
        sentences.append(
            f"{percent(goal)} on validation (nine tenths of the best) is reached first by {first[1]}, in epoch "
            f"{first[0]:g}, and last by {last[1]}, in epoch {last[0]:g}{missing}."
        )
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


def _overfitting(runs: list[Run]) -> list[str]:
    gaps = [
        (_get(run, "train", "accuracy") - _get(run, "val", "accuracy"), label)
        for label, run in zip(labels_of(runs), runs, strict=True)
        if None not in (_get(run, "train", "accuracy"), _get(run, "val", "accuracy"))
    ]
    if len(gaps) < 2:
        return []
    least, most = min(gaps), max(gaps)
    return [
        f"The gap between train and validation accuracy is widest for {most[1]} ({100 * most[0]:.1f} points) and "
        f"narrowest for {least[1]} ({100 * least[0]:.1f} points)."
    ]
