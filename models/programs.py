"""The language of MathQA's programs: numbers of a problem, programs as text and as tokens, their execution.

A program is steps joined by `|`, as `multiply(n0,const_100)|divide(#0,n1)`. An argument is `n<i>`, the i-th number of
the problem, `#<j>`, the value of an earlier step, or `const_<v>`, where `_` stands for the decimal point (`const_pi` is
pi). The value of a program is that of its last step. Every step has to have a value, needed or not.

A. Amini, S. Gabriel, P. Lin, R. Koncel-Kedziorski, Y. Choi, H. Hajishirzi: *MathQA: Towards Interpretable Math Word
Problem Solving with Operation-Based Formalisms*, NAACL 2019. What each operation computes: `program_operations.py`.

The work is bounded by the length of the text: longer programs than `MAX_CHARACTERS` and `MAX_PROGRAM_STEPS` (both more
than twice what MathQA has) are refused unread, and an operation takes microseconds or fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, get_args

from .program_operations import OPERATION_TABLE, ProgramError, Semantics, Value, apply, describe

__all__ = [
    "CONSTANTS",
    "MAX_CHARACTERS",
    "MAX_NUMBERS",
    "MAX_PROGRAM_STEPS",
    "MAX_STEPS",
    "OPERATIONS",
    "Number",
    "ProgramError",
    "Step",
    "execute",
    "extract_numbers",
    "from_tokens",
    "is_correct",
    "parse",
    "program_tokens",
    "render",
    "to_tokens",
    "trace",
    "try_execute",
]

OPERATIONS: dict[str, int] = {name: operation.arity for name, operation in OPERATION_TABLE.items()}
_CONSTANT_VALUES = (
    "1 2 3 4 5 6 10 12 26 52 60 100 180 360 1000 3600 0_2778 0_25 0_33 0_3937 1_6 3_6 2.0 3.0 4.0 60.0 100.0 pi"
)
CONSTANTS: tuple[str, ...] = tuple(f"const_{value}" for value in _CONSTANT_VALUES.split())
MAX_NUMBERS = 18  # n0 .. n17 are in the vocabulary
MAX_STEPS = 48  # #0 .. #47 are in the vocabulary
MAX_CHARACTERS = 2048
MAX_PROGRAM_STEPS = 128
TOLERANCE = 0.02
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")

_STEP = re.compile(r"([a-z_]+)\(([^()|]*)\)")
_NAME = re.compile(r"[a-z_]*")
_ARGUMENT = re.compile(
    r"n(?P<number>0|[1-9][0-9]{0,2})|#(?P<result>0|[1-9][0-9]{0,2})|const_(?:pi|(?:0|[1-9][0-9]{0,11})(?:[._][0-9]{1,12})?)"
)
_THOUSANDS = re.compile(r"\b\d{1,3}(?:,\d{3})+\b")
_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
_INFIX = {"add": "+", "subtract": "-", "multiply": "x", "divide": "/", "power": "^"}


class Step(NamedTuple):
    """One operation with its arguments as written."""

    operation: str
    arguments: tuple[str, ...]


class Number(NamedTuple):
    """A number of a problem: `problem[start:end]` is `text`, thousands commas and sign included."""

    start: int
    end: int
    text: str
    value: float


def extract_numbers(problem: str) -> list[Number]:
    """The numbers of a problem from left to right, as the checker counts them: `n0`, `n1`, ….

    Commas between thousands are dropped first, then every match of `[-+]?\\d*\\.\\d+|\\d+` counts: a sign belongs to a
    number with a decimal point only. The spans are in the text given.
    """
    if "," not in problem:
        return [Number(m.start(), m.end(), m[0], float(m[0])) for m in _NUMBER.finditer(problem)]
    kept: list[int] = []  # of the text without those commas: where each character stood
    position = 0
    for match in _THOUSANDS.finditer(problem):
        kept.extend(range(position, match.start()))
        kept.extend(index for index in range(*match.span()) if problem[index] != ",")
        position = match.end()
    kept.extend(range(position, len(problem)))
    numbers = []
    for match in _NUMBER.finditer("".join([problem[index] for index in kept])):
        start, end = kept[match.start()], kept[match.end() - 1] + 1
        numbers.append(Number(start, end, problem[start:end], float(match[0])))
    return numbers


def parse(program: str) -> tuple[Step, ...]:
    """The steps of a program text; one trailing `|` may follow them.

    ProgramError, with the character and the reason, for anything else: an unknown operation, a wrong number of
    arguments, a `#j` that is not an earlier step, brackets missing, spaces, no step at all, too long a text. Whether
    the problem has an n_i is known only when the program is executed.
    """
    if len(program) > MAX_CHARACTERS:
        raise ProgramError(f"a program has at most {MAX_CHARACTERS} characters, this text {len(program)}")
    steps: list[Step] = []
    position = 0
    while True:
        match = _STEP.match(program, position)
        if match is None:
            raise _syntax_error(program, position)
        operation, arguments = match[1], tuple(match[2].split(","))
        step = Step(operation, arguments)
        _check(step, len(steps), match.start(1), match.start(2))
        steps.append(step)
        position = match.end()
        if position < len(program) and program[position] != "|":
            raise ProgramError(f"'|' is expected after a step, not {program[position]!r}", position)
        if position + 1 >= len(program):
            return tuple(steps)
        position += 1


def _check(step: Step, index: int, name_at: int | None = None, arguments_at: int | None = None) -> None:
    """ProgramError unless `step` can be step `index` of a program; where it begins in a text gives the position."""
    operation, arguments = step
    if index >= MAX_PROGRAM_STEPS:
        raise ProgramError(f"a program has at most {MAX_PROGRAM_STEPS} steps", name_at, index)
    arity = OPERATIONS.get(operation)
    if arity is None:
        raise ProgramError(f"there is no operation {_short(operation)}", name_at, index)
    if len(arguments) != arity:
        raise ProgramError(f"{operation} takes {arity} arguments, not {len(arguments)}", arguments_at, index)
    position = arguments_at
    for argument in arguments:
        match = _ARGUMENT.fullmatch(argument)
        if match is None:
            raise ProgramError(f"{_short(argument)} is no n<i>, #<j> or const_<v>", position, index)
        result = match["result"]
        if result is not None and int(result) >= index:
            raise ProgramError(f"{argument} is not the result of an earlier step", position, index)
        if position is not None:
            position += len(argument) + 1


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _syntax_error(program: str, position: int) -> ProgramError:
    """Why no step begins at `position`."""
    if position == len(program):
        return ProgramError("the program is empty", position)
    name_end = _NAME.match(program, position).end()
    if name_end == position:
        return ProgramError(f"an operation is expected, not {program[position]!r}", position)
    if name_end == len(program) or program[name_end] != "(":
        return ProgramError(f"'(' is expected after {_short(program[position:name_end])}", name_end)
    return ProgramError("this bracket is not closed", name_end)


def render(steps: Sequence[Step]) -> str:
    """The text of steps, without a trailing `|`; the inverse of `parse`."""
    return "|".join(f"{operation}({','.join(arguments)})" for operation, arguments in steps)


@lru_cache(maxsize=1024)
def _constant(argument: str) -> float:
    value = argument.removeprefix("const_")
    return math.pi if value == "pi" else float(value.replace("_", "."))


def _values(arguments: tuple[str, ...], numbers: Sequence[float], results: list[Value]) -> list[Value]:
    """The values of a step's arguments; ProgramError for a number that is not in the problem, or is infinite."""
    values: list[Value] = []
    for argument in arguments:
        if argument[0] == "#":
            values.append(results[int(argument[1:])])
        elif argument[0] == "c":
            values.append(_constant(argument))
        else:
            index = int(argument[1:])
            if index >= len(numbers):
                raise ProgramError(f"the problem has no {argument}, only {len(numbers)} numbers")
            if not math.isfinite(numbers[index]):
                raise ProgramError(f"{argument} is not a finite number")
            values.append(numbers[index])
    return values


def _prepare(
    program: str | Sequence[Step], problem: str | Sequence[float], semantics: str
) -> tuple[Sequence[Step], Sequence[float]]:
    if semantics not in get_args(Semantics):
        raise ValueError(f"semantics must be checker or exact, not {semantics!r}")
    numbers = (
        [number.value for number in extract_numbers(problem)]
        if isinstance(problem, str)
        else [_as_float(n) for n in problem]
    )
    return _steps(program), numbers


def _as_float(number: float) -> float:
    """The number as a float, an infinite one for an integer beyond all floats."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _steps(program: str | Sequence[Step]) -> Sequence[Step]:
    if isinstance(program, str):
        return parse(program)
    for index, step in enumerate(program):
        _check(step, index)
    if not program:
        raise ProgramError("the program is empty")
    return program


def execute(program: str | Sequence[Step], problem: str | Sequence[float], semantics: Semantics = "checker") -> float:
    """The value of a program for a problem (its text, or its numbers), a finite float.

    `semantics="checker"` computes as the course's checker does, `"exact"` as mathematics (`program_operations.py` lists
    where they differ). ProgramError where the text is no program, an n_i is not in the problem, or a step has no value:
    division by zero, a complex or infinite value, a factorial that would not fit. Unlike the checker's, the infinity of
    an overflow is an error at once, also where a later step would make it finite.
    """
    steps, numbers = _prepare(program, problem, semantics)
    results: list[Value] = []
    for index, (operation, arguments) in enumerate(steps):
        try:
            results.append(apply(operation, _values(arguments, numbers, results), semantics))
        except ProgramError as error:
            raise ProgramError(f"step #{index}, {operation}: {error.reason}", step=index) from None
    try:
        return float(results[-1])
    except OverflowError:
        raise ProgramError("the value is too large", step=len(steps) - 1) from None


def try_execute(
    program: str | Sequence[Step], problem: str | Sequence[float], semantics: Semantics = "checker"
) -> float | None:
    """`execute`, with None where there is no value."""
    try:
        return execute(program, problem, semantics)
    except ProgramError:
        return None


def trace(program: str | Sequence[Step], problem: str | Sequence[float], semantics: Semantics = "checker") -> list[str]:
    """The steps for people, one line each: `#0 = multiply(n2, 100) = 36 x 100 = 3600`.

    A step without a value is the last line, `#1 = divide(#0, n0) fails: division by zero`. ProgramError where the text
    is no program.
    """
    steps, numbers = _prepare(program, problem, semantics)
    results: list[Value] = []
    lines = []
    for index, (operation, arguments) in enumerate(steps):
        names = [argument.removeprefix("const_").replace("_", ".") for argument in arguments]
        line = f"#{index} = {operation}({', '.join(names)})"
        try:
            values = _values(arguments, numbers, results)
            results.append(apply(operation, values, semantics))
        except ProgramError as error:
            return [*lines, f"{line} fails: {error.reason}"]
        shown = [describe(value) for value in values]
        if operation in _INFIX:
            formula = f"{shown[0]} {_INFIX[operation]} {shown[1]}"
        else:
            formula = f"{operation}({', '.join(shown)})"
        lines.append(f"{line} = {formula} = {describe(results[-1])}")
    return lines


def program_tokens() -> list[str]:
    """The closed target vocabulary: special tokens, operations, `n0` … `n17`, `#0` … `#47`, constants."""
    numbers = [f"n{index}" for index in range(MAX_NUMBERS)]
    results = [f"#{index}" for index in range(MAX_STEPS)]
    return [*SPECIAL_TOKENS, *OPERATIONS, *numbers, *results, *CONSTANTS]


def to_tokens(program: str | Sequence[Step]) -> list[str]:
    """Each operation followed by its arguments; brackets and separators follow from the arity and are left out.

    A token need not be in `program_tokens()`: a number beyond `n17`, a step beyond `#47`, another constant.
    ProgramError where the text is no program.
    """
    return [token for operation, arguments in _steps(program) for token in (operation, *arguments)]


def from_tokens(tokens: Sequence[str]) -> str:
    """The program text of compact tokens: the inverse of `to_tokens`, up to one trailing `|`.

    ProgramError where they are not a program; its reason names the token, 0-based.
    """
    steps: list[Step] = []
    position = 0
    while position < len(tokens):
        operation = tokens[position]
        arity = OPERATIONS.get(operation)
        if arity is None:
            raise ProgramError(f"token {position}, {_short(operation)}, is not an operation", step=len(steps))
        step = Step(operation, tuple(tokens[position + 1 : position + 1 + arity]))
        try:
            _check(step, len(steps))
        except ProgramError as error:
            raise ProgramError(f"{error.reason}, in the step at token {position}", step=len(steps)) from None
        steps.append(step)
        position += 1 + arity
    if not steps:
        raise ProgramError("the program is empty")
    return render(steps)


def is_correct(value: float | None, answer: float) -> bool:
    """The checker's rule: |value - answer| <= 2 % of |answer|. None, NaN and infinity are never correct."""
    if value is None or isinstance(value, complex):
        return False
    value, answer = _as_float(value), _as_float(answer)
    if not (math.isfinite(value) and math.isfinite(answer)):
        return False
    return abs(value - answer) <= TOLERANCE * abs(answer)
