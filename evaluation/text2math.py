"""Evaluation of the text-to-program family: beam search on every split, its numbers beside those of a look-up that
learns nothing, attention, and the worst errors of one run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

import metrics
from data.fixed_sample import fixed_sample
from data.mathqa import ID_STEP, MathQAData, load_mathqa, source_of
from training.digests import data_digests
from training.run_folder import check_data

from .loading import recipe_data
from .lookup import Lookup
from .options import SPLITS, Options
from .program_details import SPLIT_ORDER, attention_gallery, calibration, error_gallery, slim
from .program_errors import summarise
from .program_generation import Generator, Hypothesis, model_digest
from .program_scores import score
from .program_store import Entry, Store, gold_name, search_name, text_digest
from .runs import Run, RunError, digest, write_atomically
from .sources import code_digest, model_code
from .statistics import evenly, mcnemar

MAIN_BEAMS = 10  # the width whose numbers are the run's, where it was asked for
TRAIN_SAMPLE = 1000
BEST_SAMPLE = 200  # wrong predictions whose ten best programs are looked through
BEST_COUNT = 10
NOTHING = Hypothesis("", -math.inf, False)  # no hypothesis came to its end
SCORES = ("exact_match", "execution_accuracy", "token_match", "parses", "executes")


Outcome = tuple[np.ndarray, np.ndarray]  # whether each prediction is exact, whether it gives the answer: bool [N]


@dataclass
class Split:
    """The problems of a split in the order of the data set: parallel columns.

    `novel`: no twin in train; `unseen`: nor in a part that was carved from it. None where that is not known.
    """

    name: str
    ids: list[int]
    problems: list[str]
    programs: list[str]
    answers: list[float]
    novel: list[bool] | None
    unseen: np.ndarray | None = None

    @classmethod
    def of(cls, name: str, data: Dataset) -> Split:
        """All of a split, or the first 1,000 of train by a fixed permutation."""
        if name == "train":
            data = fixed_sample(data, TRAIN_SAMPLE)
        columns = {key: list(data[key]) for key in ("id", "problem", "program", "answer", "novel")}
        known = name != "train" and None not in columns["novel"]
        novel = columns["novel"] if known else None
        return cls(name, columns["id"], columns["problem"], columns["program"], columns["answer"], novel)

    @cached_property
    def digest(self) -> str:
        return text_digest(self.ids, self.problems, self.programs, self.answers)

    def outcomes(self, predictions: Sequence[str]) -> Outcome:
        """Whether each prediction is the gold program, and whether it gives the answer: bool [N] each."""
        texts = {"predictions": list(predictions), "return_samples": True}
        exact = metrics.load("exact_match").compute(**texts, references=self.programs)
        right = metrics.load("execution_accuracy").compute(**texts, problems=self.problems, answers=self.answers)
        samples = exact["samples"]["exact_match"], right["samples"]["execution_accuracy"]
        return np.asarray(samples[0], bool), np.asarray(samples[1], bool)


class Evaluator:
    """Everything that is computed with one run's model; results are kept in the run folder's store."""

    def __init__(self, run: Run, dataset: DatasetDict, options: Options) -> None:
        self.run, self.dataset = run, dataset
        self.store = Store(run.folder, options.force)
        self._lookups: dict[tuple[str, ...], Lookup] = {}
        self.generator = Generator(run, options.device, options.batch_size)
        self.model = model_digest(run, code_digest(model_code(run.family)))
        self.widths = beam_widths(run, options)
        self.main = MAIN_BEAMS if MAIN_BEAMS in self.widths else self.widths[-1]

    def search(self, split: Split, beams: int, constrained: bool = False) -> Entry:
        """`programs` and `log_probabilities` of the best hypotheses, the `seconds` they took and on which `device`."""

        def compute() -> Entry:
            started = time.perf_counter()
            found = [
                best[0] if best else NOTHING for best in self.generator.generate(split.problems, beams, constrained)
            ]
            seconds = time.perf_counter() - started
            programs, scores = [h.program for h in found], [h.log_probability for h in found]
            device = str(self.generator.device)
            return {"programs": programs, "log_probabilities": scores, "seconds": seconds, "device": device}

        name = search_name(split.name, beams, constrained)
        return self.store.remember(name, digest([], self.model, split.digest, beams, constrained), compute)

    def gold(self, split: Split) -> Entry:
        """`ids` and gold `programs`, their `log_probabilities` and number of `tokens`."""

        def compute() -> Entry:
            scores, tokens = self.generator.log_probabilities(split.problems, split.programs)
            known = {"ids": split.ids, "programs": split.programs}
            return {**known, "log_probabilities": scores.tolist(), "tokens": tokens.tolist()}

        return self.store.remember(gold_name(split.name), digest([], self.model, split.digest), compute)

    def split(self, name: str) -> Split:
        """A split, with what is unseen where a part was carved from train and this is another."""
        split = Split.of(name, self.dataset[name])
        if self.is_carved and name not in ("train", "val"):
            groups = {part: np.asarray(self.dataset[part]["group"]) for part in ("train", "val", name)}
            split.unseen = ~np.isin(groups[name], np.union1d(groups["train"], groups["val"]))
        return split

    @property
    def is_carved(self) -> bool:
        """Whether `val` was carved from train."""
        val = self.dataset.get("val")
        return val is not None and len(val) > 0 and val[0]["id"] < ID_STEP

    def lookup(self, split: Split, whole: bool = False) -> Entry:
        """`programs` of the look-up among the training problems, with `whole` among those carved from them too."""
        parts = ("train", "val") if whole else ("train",)

        def compute() -> Entry:
            return {"programs": self._lookup(parts).predict(split.problems)}

        known = [text_digest(self.dataset[part]["id"], self.dataset[part]["problem"]) for part in parts]
        code = code_digest([Path(__file__).parent / "lookup.py"])
        name = f"{split.name}, look-up{' with the carved part' if whole else ''}"
        return self.store.remember(name, digest([], code, known, split.digest), compute)

    def _lookup(self, parts: tuple[str, ...]) -> Lookup:
        if parts not in self._lookups:
            columns = [[row for part in parts for row in self.dataset[part][name]] for name in ("problem", "program")]
            self._lookups[parts] = Lookup().fit(*columns)
        return self._lookups[parts]

    def best(self, split: Split, rows: Sequence[int]) -> Entry:
        """For the problems at `rows`, the `programs` and `log_probabilities` of up to ten best hypotheses each."""

        def compute() -> Entry:
            found = self.generator.generate([split.problems[i] for i in rows], BEST_COUNT, count=BEST_COUNT)
            return {
                "programs": [[h.program for h in best] for best in found],
                "log_probabilities": [[h.log_probability for h in best] for best in found],
            }

        name = f"{split.name}, {BEST_COUNT} best"
        return self.store.remember(name, digest([], self.model, split.digest, list(map(int, rows))), compute)


def beam_widths(run: Run, options: Options) -> list[int]:
    """The widths asked for and those that the run was evaluated with before, so that no evaluation loses a row."""
    return sorted({*options.beams, *(run.evaluation.get("beams") or [])})


def settings(run: Run, options: Options) -> Any:
    """What an evaluation depends on besides the run's files: splits, widths of beam search, and the files of the data,
    which are taken to be what they were where they cannot be read. RunError for other data, which this family does not
    measure."""
    options.refuse_data(run.family)
    try:
        source = source_of(recipe_data(run, MathQAData))
    except (OSError, ValueError):
        source = run.evaluation.get("data_source")
    return [options.splits, beam_widths(run, options), source]


def load_data(run: Run) -> tuple[DatasetDict, dict[str, str | int]]:
    """The data that the recipe names, and what they were made from. RunError for a field that `data/mathqa.py` does not
    know or refuses, for data that do not load, and for others than those of the training."""
    try:
        given = recipe_data(run, MathQAData)
        dataset = load_mathqa(given, need=("train",))
        check_data(run.folder, data_digests(dataset))
        return dataset, source_of(given)
    except RunError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{run.folder}: the data do not load: {error}") from error


def evaluate(run: Run, options: Options) -> dict[str, Any]:
    """Search what is not stored yet, score every split, and look closely at one: dev where there is one, else val.

    Writes generated.json (all that was computed), predictions/<split>.json in the checker's format, and the split that
    is furthest from training also as predictions.json. Returns what `families.py` says.
    """
    started = time.perf_counter()
    dataset, source = load_data(run)
    wanted = options.present(dataset, run.folder)
    evaluator = Evaluator(run, dataset, options)
    close = next(name for name in SPLIT_ORDER if name in wanted)
    numbers, details, pictures = {}, {}, {}
    for name in wanted:
        split = evaluator.split(name)
        numbers[name], details[name] = _measure(evaluator, split)
        _write_predictions(run.folder, split, evaluator.search(split, evaluator.main)["programs"])
        if name == close:
            details[name] |= _look_closely(evaluator, split, details[name])
            details[name]["attention"], pictures = _explain(evaluator, split)
    last = next(name for name in reversed(SPLITS) if name in wanted)  # test, else dev, else val
    write_atomically(run.folder / "predictions.json", (run.folder / "predictions" / f"{last}.json").read_bytes())
    evaluation = {
        "device": str(evaluator.generator.device),
        "precision": "float32",
        "beams": evaluator.widths,
        "main_beams": evaluator.main,
        "splits": details,
        "data_source": source,
        "carved": evaluator.is_carved,
        "seconds": round(time.perf_counter() - started, 2),
    }
    return {"metrics": numbers, "evaluation": evaluation, "pictures": pictures}


def _measure(evaluator: Evaluator, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flat numbers of a split and its details: parts, the look-up, and the widths of beam search."""
    found = evaluator.search(split, evaluator.main)
    columns = (split.problems, split.programs, split.answers, split.novel)
    scores = score(found["programs"], *columns)
    gold = evaluator.gold(split)
    numbers = {
        **{key: value for key, value in scores.items() if not isinstance(value, dict)},
        "loss": float(-np.sum(gold["log_probabilities"]) / np.sum(gold["tokens"])),
        **_flat("novel", scores.get("by_novelty", {}).get("novel")),
    }
    details: dict[str, Any] = {"parts": slim(scores)}
    if split.name != "train":  # which a look-up among the training problems has by heart
        baseline = evaluator.lookup(split)["programs"]
        of_lookup = score(baseline, *columns)
        numbers |= _flat("lookup", of_lookup) | _flat("lookup_novel", of_lookup.get("by_novelty", {}).get("novel"))
        details["lookup"] = slim(of_lookup)
        details["against_lookup"] = _against(split, found["programs"], baseline)
        details["beams"] = _beams(evaluator, split)
        if split.unseen is not None:
            numbers |= _beside_whole(evaluator, split, details["against_lookup"])
    return numbers, details


def _beside_whole(evaluator: Evaluator, split: Split, tests: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a look-up that has the carved part too, and of the problems that are novel to it as well; adds the
    tests against it to `tests`."""
    found, whole = evaluator.search(split, evaluator.main)["programs"], evaluator.lookup(split, whole=True)["programs"]
    mine, theirs = split.outcomes(found), split.outcomes(whole)
    tests["whole"] = _paired(mine, theirs, np.ones(len(split.ids), bool))
    numbers = _flat("lookup_whole", score(whole, split.problems, split.programs, split.answers))
    if split.unseen.any():
        tests["unseen"] = _paired(mine, theirs, split.unseen)
        rows = np.flatnonzero(split.unseen)
        for prefix, programs in (("unseen", found), ("lookup_whole_unseen", whole)):
            columns = (programs, split.problems, split.programs, split.answers)
            numbers |= _flat(prefix, score(*([column[i] for i in rows] for column in columns)))
    return numbers


def _flat(prefix: str, scores: dict[str, Any] | None) -> dict[str, Any]:
    """The headline numbers of a part, or of the baseline, under names of their own."""
    if not scores:
        return {}
    names = [f"{name}{suffix}" for name in SCORES[:3] for suffix in ("", "_interval")]
    return {f"{prefix}_{name}": scores[name] for name in names} | {f"{prefix}_samples": scores["samples"]}


def _against(split: Split, predictions: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """McNemar's tests of predictions against other ones on the same problems, of all and of the novel ones."""
    mine, theirs = split.outcomes(predictions), split.outcomes(others)
    chosen = {"all": np.ones(len(split.ids), bool)}
    if split.novel is not None and any(split.novel):
        chosen["novel"] = np.asarray(split.novel, bool)
    return {part: _paired(mine, theirs, rows) for part, rows in chosen.items()}


def _paired(mine: Outcome, theirs: Outcome, rows: np.ndarray) -> dict[str, Any]:
    return {
        name: mcnemar(one[rows], two[rows])._asdict()
        for name, one, two in zip(("exact_match", "execution_accuracy"), mine, theirs, strict=True)
    }


def _beams(evaluator: Evaluator, split: Split) -> dict[str, Any]:
    """The headline numbers of every width, its time, and how it differs from the narrowest."""
    result = {}
    narrow = evaluator.search(split, evaluator.widths[0])["programs"]
    for width in evaluator.widths:
        found = evaluator.search(split, width)
        scores = score(found["programs"], split.problems, split.programs, split.answers)
        entry = {key: value for key, value in scores.items() if key.removesuffix("_interval") in SCORES}
        entry |= {"samples": len(split.ids), "seconds": found["seconds"], "device": found["device"]}
        if width != evaluator.widths[0]:
            entry["against_narrowest"] = _against(split, found["programs"], narrow)["all"]
        result[str(width)] = entry
    return result


def _look_closely(evaluator: Evaluator, split: Split, details: dict[str, Any]) -> dict[str, Any]:
    """Constrained search, errors, what the search missed, what ten programs would hold, and calibration."""
    found, gold = evaluator.search(split, evaluator.main), evaluator.gold(split)
    exact, right = split.outcomes(found["programs"])
    constrained = evaluator.search(split, evaluator.main, constrained=True)
    scores = score(constrained["programs"], split.problems, split.programs, split.answers)
    different = sum(a != b for a, b in zip(found["programs"], constrained["programs"], strict=True))
    missed = np.asarray(gold["log_probabilities"]) > np.asarray(found["log_probabilities"]) + 1e-3
    return {
        "constrained": {
            **{key: value for key, value in scores.items() if key.removesuffix("_interval") in SCORES},
            "different": different,
            "seconds": constrained["seconds"],
            "against_free": _against(split, constrained["programs"], found["programs"])["all"],
        },
        "errors": summarise(found["programs"], split.programs, right),
        "search": {"wrong": int((~exact).sum()), "gold_more_probable": int((missed & ~exact).sum())},
        "best": _among_the_best(evaluator, split, right),
        "calibration": calibration(np.exp(found["log_probabilities"]), exact),
    }


def _among_the_best(evaluator: Evaluator, split: Split, right: np.ndarray) -> dict[str, Any]:
    """How often one of the ten best programs gives the answer where the first does not."""
    wrong = evenly(np.flatnonzero(~right), BEST_SAMPLE).tolist()
    if not wrong:
        return {"count": BEST_COUNT, "looked_at": 0, "holding_answer": 0, "wrong": 0}
    programs = evaluator.best(split, wrong)["programs"]
    flat = [(row, program) for row, best in zip(wrong, programs, strict=True) for program in best]
    rows = [row for row, _ in flat]
    result = metrics.load("execution_accuracy").compute(
        predictions=[program for _, program in flat],
        problems=[split.problems[row] for row in rows],
        answers=[split.answers[row] for row in rows],
        return_samples=True,
    )
    holding = {row for row, hit in zip(rows, result["samples"]["execution_accuracy"], strict=True) if hit}
    return {
        "count": BEST_COUNT,
        "looked_at": len(wrong),
        "holding_answer": len(holding),
        "wrong": int((~right).sum()),
    }


def _explain(evaluator: Evaluator, split: Split) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What attention does in numbers; attention maps and the worst errors, for the report."""
    found = evaluator.search(split, evaluator.main)
    exact, right = split.outcomes(found["programs"])
    numbers, maps = attention_gallery(evaluator.generator, split, found["programs"], exact)
    errors = error_gallery(evaluator, split, found, right)
    return numbers, {"split": split.name, "attention": maps, "errors": errors}


def _write_predictions(folder: Path, split: Split, predictions: Sequence[str]) -> None:
    """predictions/<split>.json, a list of records as the course's checker reads them."""
    rows = zip(split.problems, split.programs, split.answers, predictions, strict=True)
    records = [
        {"Problem": problem, "linear_formula": program, "answer": answer, "predicted": predicted}
        for problem, program, answer, predicted in rows
    ]
    write_atomically(folder / "predictions" / f"{split.name}.json", json.dumps(records, indent=1, ensure_ascii=False))
