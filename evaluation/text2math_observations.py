"""Sentences about one run of the text-to-program family, each written from its numbers and carrying them."""

from __future__ import annotations

from typing import Any

from .observations import SIGNIFICANT, observe_history, p_text, points
from .program_details import SPLIT_ORDER
from .program_errors import KINDS
from .report import duration, interval, percent
from .runs import Run
from .statistics import fisher

FEW = 20  # problems below which a part is not spoken of
Numbers = dict[str, Any]


def close_split(run: Run) -> str | None:
    """The split that was looked at closely: dev where it was evaluated, else val."""
    details = run.evaluation.get("splits") or {}
    return next((name for name in SPLIT_ORDER if name in details), None)


def is_carved(run: Run) -> bool:
    """Whether the run's `val` was carved from train and is not dev.json."""
    return run.evaluation.get("carved", False)


def split_word(run: Run, split: str) -> str:
    """What sentences call a split; `val` is dev.json unless another part was carved as val."""
    if split == "val":
        return "the carved validation part" if is_carved(run) else "validation"
    return split


def observe_run(run: Run) -> list[str]:
    """What stands out in one run, from its metrics.json and its history."""
    split = close_split(run)
    if split is None:
        return observe_history(run.history, "exact_match", "exact match")
    numbers = run.metrics["metrics"]
    details = run.evaluation["splits"][split]
    where = split_word(run, split)
    return [
        _level(numbers[split], where),
        *_against_lookup(numbers[split], details),
        *_novel(details),
        *_gap(numbers, split, where),
        *_others(run, split, numbers),
        *observe_history(run.history, "exact_match", "exact match"),
        *_length(details),
        *_operations(details),
        *_errors(details, numbers[split]),
        *_search(details, run.evaluation.get("main_beams")),
        *_beams(details),
        *_constrained(details, numbers[split]),
        *_confidence(details, numbers[split]),
        *_attention(details),
    ]


def _level(numbers: Numbers, where: str) -> str:
    return (
        f"On {where} ({numbers['samples']:,} problems) exact match is {percent(numbers['exact_match'])} (95\u00a0% "
        f"interval {interval(numbers['exact_match_interval'])}) and execution accuracy "
        f"{percent(numbers['execution_accuracy'])} ({interval(numbers['execution_accuracy_interval'])}); token match "
        f"is {percent(numbers['token_match'])}."
    )


def _behind(test: Numbers) -> str:
    """How far the model is from the look-up, and whether by more than chance."""
    side = "above" if test["difference"] >= 0 else "below"
    sure = "" if test["p_value"] < SIGNIFICANT else ", not told apart from it"
    return f"{points(test['difference'])} {side} it{sure} ({p_text(test['p_value'])})"


def _against_lookup(numbers: Numbers, details: Numbers) -> list[str]:
    if "against_lookup" not in details:
        return []
    names = {"exact_match": "exact match", "execution_accuracy": "execution accuracy"}
    parts = [
        f"{percent(numbers[f'lookup_{key}'])} {name}, the model is {_behind(test)}"
        for key, name in names.items()
        for test in (details["against_lookup"]["all"][key],)
    ]
    sentences = [f"Looking up the nearest training problem, without any learning, gives {'; '.join(parts)}."]
    if "novel" in details["against_lookup"]:
        test = details["against_lookup"]["novel"]["exact_match"]
        sentences.append(
            f"On the {numbers['novel_samples']:,} problems without a twin in train the model has "
            f"{percent(numbers['novel_exact_match'])} exact match and {percent(numbers['novel_execution_accuracy'])} "
            f"execution accuracy, the look-up {percent(numbers['lookup_novel_exact_match'])} and "
            f"{percent(numbers['lookup_novel_execution_accuracy'])}: in exact match the model is "
            f"{_behind(test)}."
        )
    return [*sentences, *_beside_whole(numbers, details["against_lookup"])]


def _beside_whole(numbers: Numbers, tests: Numbers) -> list[str]:
    """The look-up that may also use the part of train which the model was not trained on."""
    if "whole" not in tests:
        return []
    sentence = (
        f"A look-up that has the part carved from train as well, which the model was not trained on, gives "
        f"{percent(numbers['lookup_whole_exact_match'])} exact match and "
        f"{percent(numbers['lookup_whole_execution_accuracy'])} execution accuracy: in exact match the model is "
        f"{_behind(tests['whole']['exact_match'])}, in execution {_behind(tests['whole']['execution_accuracy'])}"
    )
    if "unseen" in tests:
        sentence += (
            f"; on the {numbers['unseen_samples']:,} problems novel to it the model has "
            f"{percent(numbers['unseen_exact_match'])} and {percent(numbers['unseen_execution_accuracy'])}, the "
            f"look-up {percent(numbers['lookup_whole_unseen_exact_match'])} and "
            f"{percent(numbers['lookup_whole_unseen_execution_accuracy'])}"
        )
    return [f"{sentence}."]


def _novel(details: Numbers) -> list[str]:
    parts = details["parts"].get("by_novelty", {})
    if not {"novel", "seen"} <= parts.keys():
        return []
    gap = parts["seen"]["exact_match"] - parts["novel"]["exact_match"]
    theirs = details.get("lookup", {}).get("by_novelty", {})
    beside = ""
    if {"novel", "seen"} <= theirs.keys():
        other = theirs["seen"]["exact_match"] - theirs["novel"]["exact_match"]
        beside = f"; for the look-up the gap is {points(other)}"
    direction = "more" if gap >= 0 else "less"
    return [
        f"Problems that differ from a training problem in their numbers only are {points(gap)} {direction} often an "
        f"exact match ({percent(parts['seen']['exact_match'])} of {parts['seen']['samples']:,}) than novel ones "
        f"({percent(parts['novel']['exact_match'])} of {parts['novel']['samples']:,}), "
        f"{p_text(_chance(parts['seen'], parts['novel']))}{beside}."
    ]


def _chance(one: Numbers, two: Numbers) -> float:
    """The p value of the exact matches of two sets of problems, by Fisher's exact test."""
    totals = (one["samples"], two["samples"])
    return fisher(tuple(round(n["exact_match"] * n["samples"]) for n in (one, two)), totals)


def _gap(numbers: Numbers, split: str, where: str) -> list[str]:
    if split == "train" or "exact_match_interval" not in numbers.get("train", {}):
        return []
    train, held_out = numbers["train"], numbers[split]
    gap, p_value = train["exact_match"] - held_out["exact_match"], _chance(train, held_out)
    verdict = "no more than chance allows"
    if p_value < SIGNIFICANT:
        verdict = (
            "the model has learnt part of them by heart" if gap > 0 else "the training problems are the harder ones"
        )
    return [
        f"On {train['samples']:,} training problems exact match is {percent(train['exact_match'])}, {points(gap)} "
        f"{'above' if gap >= 0 else 'below'} {where} ({p_text(p_value)}; loss of a token {train['loss']:.3f} against "
        f"{held_out['loss']:.3f}): {verdict}."
    ]


def _others(run: Run, split: str, numbers: Numbers) -> list[str]:
    sentences = []
    for other in ("val", "test"):
        if other == split or "exact_match_interval" not in numbers.get(other, {}):
            continue
        here, there = numbers[split], numbers[other]
        change = there["exact_match"] - here["exact_match"]
        sentences.append(
            f"On {split_word(run, other)} ({there['samples']:,} problems) exact match is "
            f"{percent(there['exact_match'])} and execution accuracy {percent(there['execution_accuracy'])}, in exact "
            f"match {points(change)} {'above' if change >= 0 else 'below'} {split_word(run, split)} "
            f"({p_text(_chance(here, there))})."
        )
    return sentences


def _length(details: Numbers) -> list[str]:
    parts = {k: v for k, v in details["parts"].get("by_operations", {}).items() if v["samples"] >= FEW}
    if len(parts) < 2:
        return []
    first, last = next(iter(parts)), next(reversed(parts))
    short, long = parts[first], parts[last]
    fall = short["exact_match"] - long["exact_match"]
    return [
        f"Exact match {'falls' if fall >= 0 else 'rises'} by {points(fall)} from programs of {_counted(first)} "
        f"({percent(short['exact_match'])} of {short['samples']:,}) to those of {_counted(last)} "
        f"({percent(long['exact_match'])} of {long['samples']:,}), {p_text(_chance(short, long))}."
    ]


def _counted(name: str) -> str:
    return f"{name} operation{'' if name == '1' else 's'}"


def _operations(details: Numbers) -> list[str]:
    rows = [
        (v["exact_match"], k, v) for k, v in details["parts"].get("by_operation", {}).items() if v["samples"] >= FEW
    ]
    if len(rows) < 4 or min(rows)[0] == max(rows)[0]:
        return []
    rows.sort(key=lambda row: row[:2])
    listed = ", ".join(
        f"{name} ({percent(value, 0)} of {numbers['samples']:,}, interval "
        f"{interval(numbers['exact_match_interval'], 0)})"
        for value, name, numbers in rows[:3]
    )
    value, name, numbers = rows[-1]
    return [
        f"Of the operations in at least {FEW} problems, programs are least often exact with {listed}; most often with "
        f"{name} ({percent(value, 0)} of {numbers['samples']:,})."
    ]


def _errors(details: Numbers, numbers: Numbers) -> list[str]:
    errors = details.get("errors")
    if not errors or not errors["different"]:
        return []
    kinds = sorted(errors["kinds"].items(), key=lambda item: -item[1]["count"])
    total = errors["different"]
    listed = ", ".join(f"{KINDS[kind]} in {percent(row['count'] / total, 0)}" for kind, row in kinds[:3])
    sentences = [f"Of {total:,} predictions that are not the gold program, the first difference is {listed}."]
    if errors["operations"]:
        pairs = ", ".join(f"{p['predicted']} for {p['gold']} ({p['count']})" for p in errors["operations"][:3])
        sentences.append(f"The operations most often put in another's place: {pairs}.")
    extra = numbers["execution_accuracy"] - numbers["exact_match"]
    if errors["alternatives"]:
        side = "above" if extra >= 0 else "below"
        give = "prediction gives" if errors["alternatives"] == 1 else "predictions give"
        sentences.append(
            f"Execution accuracy is {points(extra)} {side} exact match: {errors['alternatives']:,} {give} "
            f"the answer, to the checker's 2\u00a0%, by another program; {errors['reordered']:,} of them have the same "
            "steps with the arguments of a commutative operation in another order."
        )
    return sentences


def _search(details: Numbers, beams: int | None) -> list[str]:
    sentences = []
    search, best = details.get("search"), details.get("best")
    if search and search["wrong"]:
        sentences.append(
            f"In {search['gold_more_probable']:,} of the {search['wrong']:,} cases that are not an exact match the "
            f"model gives the gold program a higher probability than the one which the search with {beams} "
            f"{'beam' if beams == 1 else 'beams'} found: {percent(search['gold_more_probable'] / search['wrong'])} are "
            "errors of the search, the others of the model."
        )
    if best and best["looked_at"]:
        sentences.append(
            f"Where the first program gives a wrong answer, one of the {best['count']} best gives the right one in "
            f"{best['holding_answer']:,} of {best['looked_at']:,} cases looked at "
            f"({percent(best['holding_answer'] / best['looked_at'], 0)})."
        )
    return sentences


def _beams(details: Numbers) -> list[str]:
    widths = details.get("beams") or {}
    names = sorted(widths, key=int)
    if len(names) < 2:
        return []
    sentences, narrow = [], widths[names[0]]
    for name in names[1:]:
        wide, test = widths[name], widths[name]["against_narrowest"]["exact_match"]
        change = test["difference"]
        same = narrow["seconds"] and wide.get("device") == narrow.get("device")
        times = f", in {wide['seconds'] / narrow['seconds']:.1f} times the time" if same else ""
        sentences.append(
            f"With {name} beams instead of {names[0]} exact match is {percent(wide['exact_match'])} instead of "
            f"{percent(narrow['exact_match'])}, {points(change)} {'more' if change >= 0 else 'less'} "
            f"({p_text(test['p_value'])}), and token match {percent(wide['token_match'])} instead of "
            f"{percent(narrow['token_match'])}{times} ({duration(wide['seconds'])} for {wide['samples']:,} problems)."
        )
    return sentences


def _constrained(details: Numbers, numbers: Numbers) -> list[str]:
    made = details.get("constrained")
    if not made:
        return []
    test = made["against_free"]["execution_accuracy"]
    return [
        f"Left to itself the model writes programs in {percent(numbers['parses'])} of cases, and "
        f"{percent(numbers['executes'])} have a value. Constrained to programs, {made['different']:,} of "
        f"{numbers['samples']:,} predictions change and execution accuracy is {percent(made['execution_accuracy'])}, "
        f"{points(test['difference'])} {'more' if test['difference'] >= 0 else 'less'} ({p_text(test['p_value'])})."
    ]


def _confidence(details: Numbers, numbers: Numbers) -> list[str]:
    made = details.get("calibration")
    if not made:
        return []
    excess, half = made["confidence"] - numbers["exact_match"], made["surer_half"]
    return [
        f"The mean probability of the programs is {percent(made['confidence'])}, {points(excess)} "
        f"{'above' if excess >= 0 else 'below'} exact match (expected calibration error {made['error']:.3f}); the half "
        f"with the highest probability ({half['least']:.2f} and more) has {percent(half['exact_match'])} exact match."
    ]


def _attention(details: Numbers) -> list[str]:
    made = details.get("attention")
    if not made or not made["numbers_named"]:
        return []
    return [
        f"When a program names a number of the problem, the largest attention weight lies on that number in "
        f"{percent(made['on_number'], 0)} of {made['numbers_named']:,} cases, on it or a neighbour in "
        f"{percent(made['near_number'], 0)} ({made['looked_at']:,} programs); the weights' entropy is "
        f"{percent(made['entropy'], 0)} of an even spread's."
    ]
