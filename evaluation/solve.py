"""Solve word problems with a trained run: the program, its steps, the answer, and what else the model considered.

    python -m evaluation.solve runs/text2math/best "a car runs 375 km in 3 hours . what is the car's speed ?"
    python -m evaluation.solve runs/text2math/best --jsonl problems.jsonl --out solutions.jsonl

The folder is a run, or a published checkpoint.

A line of a JSONL file is an object with the key `problem` (or `Problem`, as in MathQA), or a string. The result has a
line for each, in the same order: the object with one more key, `solution`. It is written to FILE.part, which becomes
FILE when all is solved; after an error FILE is what it was, and FILE.part holds what was solved before.
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything needed lies in the run folder

from transformers.utils import logging

from models.programs import ProgramError, execute, trace

from .program_generation import Generator, Hypothesis
from .runs import RunError, load_checkpoint

MAX_CHARACTERS = 10_000  # of a problem; MathQA's longest has about 2,000
CANDIDATES = 5
CHUNK = 256  # problems of a file that are held at a time


@dataclass
class Candidate:
    """A program that was considered: its value (None where it has none, and then `error` says why), the natural
    logarithm of its probability, and the probability."""

    program: str
    answer: float | None
    log_probability: float
    probability: float
    error: str | None = None


@dataclass
class Solution:
    """What a run says about one problem.

    `program`, `answer` and `probability` are those of the most probable program that has a value; where none has, of
    the most probable one, with `answer` None and the reason in `error`. `trace` are its steps with their values.
    `candidates` are all programs considered, the most probable first.
    """

    problem: str
    program: str
    answer: float | None
    trace: list[str]
    probability: float
    candidates: list[Candidate]
    error: str | None = None

    def __str__(self) -> str:
        answer = f"no answer: {self.error}" if self.answer is None else f"{self.answer:.10g}"
        values = ["no value" if c.answer is None else f"{c.answer:.10g}" for c in self.candidates]
        others = [
            f"{100 * c.probability:8.2f} %  {value:>12}  {c.program}"
            for c, value in zip(self.candidates, values, strict=True)
        ]
        return "\n".join(
            [
                f"answer   {answer}",
                f"program  {self.program}",
                *(f"         {step}" for step in self.trace),
                "considered",
                *others,
            ]
        )


class Solver:
    """Solver.from_pretrained("runs/text2math/best")("a problem with 2 numbers and 1 question")

    Args:
        generator: the run's model and tokenizer.
        num_beams: width of the search, at least 1.
        num_candidates: how many programs are kept, at most as many; by default 5, or as many as there are beams.
        constrained: search only what is a program.
        semantics: how a program is computed: "checker" as in the published numbers, "exact" by correct mathematics.
    """

    def __init__(
        self,
        generator: Generator,
        num_beams: int = 10,
        num_candidates: int | None = None,
        constrained: bool = True,
        semantics: str = "checker",
    ) -> None:
        if num_beams < 1:
            raise ValueError(f"num_beams is {num_beams}: it must be at least 1")
        num_candidates = min(CANDIDATES, num_beams) if num_candidates is None else num_candidates
        if not 1 <= num_candidates <= num_beams:
            raise ValueError(f"num_candidates is {num_candidates}: it must be from 1 to num_beams, {num_beams}")
        if semantics not in ("checker", "exact"):
            raise ValueError(f"semantics is {semantics!r}: it must be 'checker' or 'exact'")
        self.generator, self.num_beams, self.num_candidates = generator, num_beams, num_candidates
        self.constrained, self.semantics = constrained, semantics

    @classmethod
    def from_pretrained(cls, run: str | Path, device: str = "auto", **options: Any) -> Solver:
        """The solver of a run folder of the family text2math, or of a published checkpoint, which has no recipe.yaml;
        `options` as for the class. RunError where the folder is neither, or where its files are not those that its
        manifest.json (if it has one) names."""
        loaded = load_checkpoint(Path(run))
        if loaded.family != "text2math":
            raise RunError(f"{run}: a run of the family {loaded.family!r} solves no word problems; text2math does.")
        return cls(Generator(loaded, device), **options)

    def __call__(self, problems: str | Sequence[str]) -> Solution | list[Solution]:
        """One solution for a text, a list of them for several. ValueError for a problem that is empty or too long."""
        texts = [problems] if isinstance(problems, str) else list(problems)
        for number, text in enumerate(texts):
            _check(text, "the problem" if isinstance(problems, str) else f"problem {number}")
        found = self.generator.generate(texts, self.num_beams, self.constrained, count=self.num_candidates)
        solutions = [self._solution(text, best) for text, best in zip(texts, found, strict=True)]
        return solutions[0] if isinstance(problems, str) else solutions

    def _solution(self, problem: str, hypotheses: list[Hypothesis]) -> Solution:
        candidates = [self._candidate(problem, hypothesis) for hypothesis in hypotheses]
        if not candidates:
            return Solution(problem, "", None, [], 0.0, [], "no program came to its end")
        best = next((c for c in candidates if c.answer is not None), candidates[0])
        try:
            steps = trace(best.program, problem, self.semantics)
        except ProgramError:
            steps = []
        return Solution(problem, best.program, best.answer, steps, best.probability, candidates, best.error)

    def _candidate(self, problem: str, hypothesis: Hypothesis) -> Candidate:
        score = hypothesis.log_probability
        try:
            answer, error = execute(hypothesis.program, problem, self.semantics), None
        except ProgramError as failure:
            answer, error = None, str(failure)
        return Candidate(hypothesis.program, answer, score, math.exp(score), error)


def _check(text: Any, name: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} is empty: give a text")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{name} has {len(text):,} characters: at most {MAX_CHARACTERS:,} are read")
    _check_characters(text, name)


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a character ({text[error.start]!a}, a lone surrogate)") from None


def read_problems(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(problem, the line's object) of a JSONL file, line by line; blank lines are passed over. RunError, naming the
    line, for one that holds no problem."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _read_line(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, f"{path}, line {number}")


def _read_line(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RunError(f"{where}: is not UTF-8 ({error.reason}).") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: is not JSON ({str(error).splitlines()[0]}).") from None
    record = value if isinstance(value, dict) else {"problem": value}
    problem = record.get("problem", record.get("Problem"))
    try:
        _check(problem, "the problem")
        _check_characters(json.dumps(record, ensure_ascii=False), "the line")
    except ValueError as error:
        raise RunError(f'{where}: {error}. A line is {{"problem": "..."}} or "...".') from None
    return problem, record


def solve_file(solver: Solver, source: Path, out: TextIO) -> int:
    """Solve every problem of a JSONL file into `out`, a JSON object a line; returns how many. Problems before a line
    that raises are solved and written first."""
    done = 0
    for chunk in _chunks(read_problems(source)):
        for solution, (_, record) in zip(solver([problem for problem, _ in chunk]), chunk, strict=True):
            made = {key: value for key, value in dataclasses.asdict(solution).items() if key != "problem"}
            out.write(json.dumps({**record, "solution": made}, ensure_ascii=False) + "\n")
        out.flush()
        done += len(chunk)
    return done


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    """Lists of at most `CHUNK`; where an item raises, first those before it."""
    waiting = []
    try:
        for item in items:
            waiting.append(item)
            if len(waiting) == CHUNK:
                yield waiting
                waiting = []
    except (RunError, OSError):
        yield waiting
        raise
    yield waiting


def solve_to(solver: Solver, source: Path, path: Path) -> int:
    """[`solve_file`] to a file, which is replaced when all is solved. After an error it is what it was, and the
    solutions made so far, if there are any, are in a file beside it, `path` with ".part", which the error names."""
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("w", encoding="utf-8") as out:
            return solve_file(solver, source, out)
    path = path.resolve()  # a link stays one
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as out:
            done = solve_file(solver, source, out)
    except (RunError, OSError) as error:
        if not part.is_file() or not part.stat().st_size:
            part.unlink(missing_ok=True)
            raise
        raise RunError(f"{error} What was solved before is in {part}.") from error
    part.replace(path)
    return done


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.solve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="a run folder of the family text2math, or a published checkpoint")
    parser.add_argument("problem", nargs="?", help="the text of a problem")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="solve the problems of this file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where its solutions go (default: standard output)")
    parser.add_argument("--beams", type=int, default=10, help="width of beam search (default: 10)")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="programs to show (default: 5)")
    parser.add_argument("--unconstrained", action="store_true", help="search also what is no program")
    parser.add_argument("--semantics", choices=("checker", "exact"), default="checker", help="default: checker")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    options = parser.parse_args(arguments)
    if (options.problem is None) == (options.jsonl is None):
        parser.error("give a problem, or --jsonl FILE")
    if options.out and not options.jsonl:
        parser.error("--out goes with --jsonl")
    if options.out and options.out.resolve() == options.jsonl.resolve():
        parser.error("--out and --jsonl are the same file: the solutions would replace the problems")
    if options.beams < 1 or not options.candidates >= 1:
        parser.error("--beams and --candidates must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns 0, or 1 with one line of error."""
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        solver = Solver.from_pretrained(
            options.run,
            options.device,
            num_beams=options.beams,
            num_candidates=min(options.candidates, options.beams),
            constrained=not options.unconstrained,
            semantics=options.semantics,
        )
        if options.problem is not None:
            print(solver(options.problem))
            return 0
        if options.out:
            count = solve_to(solver, options.jsonl, options.out)
        else:
            count = solve_file(solver, options.jsonl, sys.stdout)
        print(f"{count} problems solved", file=sys.stderr)
    except (RunError, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
