"""Runs a user's own copy of the course's checker on copies of predictions, and says where it sees them differently.

The checker is called as `python FILE predictions.json`. It writes into the file it is given, which is why it gets a
copy: every record gains a `predicted_answer`, null where the prediction is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.programs import ProgramError, execute, is_correct, try_execute

from .runs import RunError

PREDICTIONS = "predictions"  # folder of a run
TIMEOUT = 900.0
MAX_OUTPUT = 20_000  # characters that are kept of what the checker prints
ENDLESS = ("factorial", "choose", "permutation")  # a checker that multiplies up to its argument may never end


@dataclass
class Verdict:
    """What a checker said about one file of predictions.

    `output` is what it printed. `disagreements` are the positions of records that it and this project's metric judge
    differently, None where the checker left no `predicted_answer` to compare with. `withheld` counts predictions that
    it was not given, because they name an operation of `ENDLESS` and have no value; they are wrong in either case.
    """

    output: str
    samples: int
    exact_match: float
    execution_accuracy: float
    disagreements: list[int] | None
    withheld: int

    def __str__(self) -> str:
        lines = [*self.output.strip().splitlines()]
        lines.append(
            f"this project: execution accuracy {100 * self.execution_accuracy:.3f} %, exact match "
            f"{100 * self.exact_match:.3f} %, {self.samples} problems"
        )
        if self.withheld:
            lines.append(
                f"{self.withheld} predictions were withheld: they name {', '.join(ENDLESS[:-1])} or {ENDLESS[-1]} and "
                "have no value (too large, or no program), and a checker might not end on them"
            )
        if self.disagreements:
            shown = ", ".join(map(str, self.disagreements[:10]))
            more = ", ..." if len(self.disagreements) > 10 else ""
            lines.append(f"execution is judged differently for {len(self.disagreements)} records: {shown}{more}")
        elif self.disagreements is not None:
            lines.append("execution is judged alike for every record")
        return "\n".join(lines)


def run_checker(checker: Path, predictions: Path, timeout: float = TIMEOUT) -> Verdict:
    """Run `checker` on a copy of the file `predictions`, a JSON list of Problem, linear_formula, answer, predicted.

    RunError where either file is missing or damaged, where the checker fails, or where it takes longer than `timeout`
    seconds.
    """
    checker = Path(checker).resolve()
    if not checker.is_file():
        raise RunError(f"{checker}: there is no such checker.")
    records = _read(predictions)
    given, withheld = _without_endless(records)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "predictions.json"
        copy.write_text(json.dumps(given, indent=2), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, str(checker), str(copy)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"{checker}: has not ended after {timeout:g} s on {predictions}.") from None
        output = done.stdout[-MAX_OUTPUT:]
        if done.returncode:
            last = (output.strip().splitlines() or ["no output"])[-1]
            raise RunError(f"{checker}: ended with code {done.returncode} on {predictions}: {last}")
        judged = _judgements(copy, len(records))
    exact = [r["predicted"].removesuffix("|") == r["linear_formula"].removesuffix("|") for r in records]
    right = [is_correct(try_execute(r["predicted"], r["Problem"]), r["answer"]) for r in records]
    differing = None if judged is None else [i for i, (a, b) in enumerate(zip(judged, right, strict=True)) if a != b]
    total = len(records)
    return Verdict(output, total, sum(exact) / total, sum(right) / total, differing, withheld)


def check_run(folder: Path, checker: Path) -> str:
    """Run the checker on the predictions of every split of a run; what it said is also kept in `checker.txt`.

    RunError where the run has no predictions in the checker's format.
    """
    files = sorted((folder / PREDICTIONS).glob("*.json"))
    if not files:
        raise RunError(f"{folder}: has no predictions/*.json for a checker to read.")
    text = "\n\n".join(f"{folder}, {file.stem}:\n{run_checker(checker, file)}" for file in files)
    (folder / "checker.txt").write_text(text + "\n", encoding="utf-8")
    return text


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: there are no such predictions. Evaluate the run first.") from None
    except ValueError as error:
        raise RunError(f"{path}: is not JSON ({error}). Evaluate the run again.") from None
    if not isinstance(records, list) or not records:
        raise RunError(f"{path}: holds no list of records. Evaluate the run again.")
    fields = {"Problem": str, "linear_formula": str, "answer": int | float, "predicted": str}
    for index, record in enumerate(records):
        for name, kind in fields.items():
            if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                raise RunError(f"{path}: record {index} has no proper {name!r}. Evaluate the run again.")
    return records


def _without_endless(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The records with "" for predictions that have no value and could keep a checker busy for ever; how many."""
    given, withheld = [], 0
    for record in records:
        if any(name in record["predicted"] for name in ENDLESS):
            try:
                execute(record["predicted"], record["Problem"])
            except ProgramError:
                record, withheld = {**record, "predicted": ""}, withheld + 1
        given.append(record)
    return given, withheld


def _judgements(path: Path, count: int) -> list[bool] | None:
    """Whether the checker took each record for right; None where it has not left that behind."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(records, list) or len(records) != count:
        return None
    if not all(isinstance(record, dict) and "predicted_answer" in record for record in records):
        return None
    return [record["predicted_answer"] is not None for record in records]
