"""The 48 operations of the program language, by two readings: the course's checker's, and mathematics.

Arguments are `a`, `b`, `c` in the order written. The two readings agree but for the operations below. What an argument
means is read off the gold programs of the course's MathQA where they show it, and is said to be assumed elsewhere.

| operation | checker | exact | arguments |
|---|---|---|---|
| floor | towards zero | largest whole number <= a | |
| reminder | int(a) mod int(b) | a - b floor(a/b) | |
| gcd, lcm | of int(a), int(b) | of whole numbers, else an error | |
| factorial | of int(a), 1 for anything below 1 | of whole numbers >= 0, else an error | |
| choose | a! / (b! (a-b)!), the same factorial | binomial coefficient, 0 where b > a | b of a (gold) |
| permutation | a! / b!, the same factorial | a! / (a-b)! | of a, b (gold: 4, 2 for 2 students on 4 places) |
| cube_edge_by_volume | a^(1/3), negative a fails | real cube root | |
| triangle_area_three_edges | Heron | Heron, no negative edge, triangle inequality | |
| rhombus_area | (a + b) / 2 | a b / 2 | the diagonals (assumed: not in the data) |
| stream_speed | (a + b) / 2 | (a - b) / 2 | speeds along and against the stream (gold; it asks for the boat's speed) |
| volume_cube | 6 a^2 | a^3 | edge (gold: after `cube_edge_by_volume`) |
| volume_cylinder | pi b^2 a / 3 | pi a^2 b | radius, height (gold: a hollow pipe) |
| volume_cone | pi a^3 / 3 | pi a^2 b / 3 | radius, height (assumed; gold has 9, 9) |
| original_price_before_gain | b (100 + a) / 100 | 100 b / (100 + a) | per cent, price now (assumed: not in the data) |
| original_price_before_loss | b (100 - a) / 100 | 100 b / (100 - a) | per cent, price now (assumed: not in the data) |

Where the exact reading asks for a whole number, a value within 1e-9 (relative) of one is taken for it: rounding may
have made 28.999999999999996 of 0.29 * 100.

Every operation ends within microseconds and gives a finite real number that a float can hold, but for whole numbers
(factorials and what is added, multiplied, … of them), which stay exact up to 2048 bits, so that 200!/198! is 39800.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

Value = int | float
Semantics = Literal["checker", "exact"]

MAX_BITS = 2048  # of a whole number; a float ends at 1024
_MAX_FACTORIAL = 300  # 300! has 2042 bits
_MAX_CHOICE = 1_000_000  # arguments of choose and permutation: beyond, lgamma is too coarse and a checker never ends
_WHOLE = 1e-9


class ProgramError(ValueError):
    """A text that is not a program, or a program without a value.

    `reason` says why, in one line; `position` is the character (0-based) of the text where it stops being a program,
    `step` the index of the step that has no value; each is None where it does not apply.
    """

    def __init__(self, reason: str, position: int | None = None, step: int | None = None):
        super().__init__(reason, position, step)
        self.reason, self.position, self.step = reason, position, step

    def __str__(self) -> str:
        return self.reason if self.position is None else f"{self.reason}, at character {self.position}"


class Operation(NamedTuple):
    """An operation: how many arguments it takes and its value by both readings."""

    arity: int
    checker: Callable[..., Value]
    exact: Callable[..., Value]


@lru_cache(maxsize=_MAX_FACTORIAL + 1)
def _factorial(n: int) -> int:
    return math.factorial(n)


def _checker_factorial(a: Value) -> int:
    n = int(a)
    if n > _MAX_FACTORIAL:
        raise ValueError(f"the factorial of {describe(n)} is too large (at most {_MAX_FACTORIAL})")
    return _factorial(n) if n > 1 else 1


@lru_cache(maxsize=1024)
def _factorial_ratio(top: int, first: int, second: int = 0) -> float:
    """top! / (first! second!) without any of the three, where anything below 1 has factorial 1."""
    top, first, second = max(top, 0), max(first, 0), max(second, 0)
    large, small = max(first, second), min(first, second)
    if max(top, large) > _MAX_CHOICE:
        raise ValueError(f"the factorial of {describe(max(top, large))} would not end (at most {_MAX_CHOICE})")
    bits = (math.lgamma(top + 1) - math.lgamma(large + 1) - math.lgamma(small + 1)) / math.log(2)
    if bits > 1025:
        raise OverflowError
    if bits < -1080:
        return 0.0
    if top - large == small:
        return float(math.comb(top, small))  # a binomial coefficient, the usual case
    if top >= large:
        return math.perm(top, top - large) / math.factorial(small)
    return 1 / (math.perm(large, large - top) * math.factorial(small))


def _power(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int) and b >= 0:
        if a.bit_length() * b > MAX_BITS and a not in (-1, 0, 1):
            raise OverflowError
        return a**b
    return float(a) ** float(b)


def _heron(a: Value, b: Value, c: Value) -> Value:
    half = (a + b + c) / 2
    return (half * (half - a) * (half - b) * (half - c)) ** 0.5


def _exact_heron(a: Value, b: Value, c: Value) -> Value:
    if min(a, b, c) < 0 or 2 * max(a, b, c) > (a + b + c) * (1 + _WHOLE):
        raise ValueError(f"no triangle has the edges {describe(a)}, {describe(b)}, {describe(c)}")
    shortest, middle, longest = sorted((a, b, c))
    product = (  # W. Kahan, Miscalculating Area and Angles of a Needle-like Triangle: Heron, numerically stable
        (longest + (middle + shortest))
        * (shortest - (longest - middle))
        * (shortest + (longest - middle))
        * (longest + (middle - shortest))
    )
    return math.sqrt(max(product, 0.0)) / 4


def _snap(a: Value) -> Value:
    """The whole number next to `a` where they differ by rounding only, else `a`."""
    if isinstance(a, int):
        return a
    nearest = round(a)
    return nearest if abs(a - nearest) <= _WHOLE * max(1.0, abs(a)) else a


def _whole(a: Value) -> int:
    snapped = _snap(a)
    if not isinstance(snapped, int):
        raise ValueError(f"{describe(a)} is not a whole number")
    return snapped


def _natural(a: Value) -> int:
    whole = _whole(a)
    if whole < 0:
        raise ValueError(f"{describe(a)} is negative")
    return whole


def _exact_choose(a: Value, b: Value) -> Value:
    n, k = _natural(a), _natural(b)
    return _snap(_factorial_ratio(n, k, n - k)) if k <= n else 0


def _exact_permutation(a: Value, b: Value) -> Value:
    n, k = _natural(a), _natural(b)
    return _snap(_factorial_ratio(n, n - k)) if k <= n else 0


def _same(arity: int, function: Callable[..., Value]) -> Operation:
    return Operation(arity, function, function)


OPERATION_TABLE: dict[str, Operation] = {
    "add": _same(2, lambda a, b: a + b),
    "subtract": _same(2, lambda a, b: a - b),
    "multiply": _same(2, lambda a, b: a * b),
    "divide": _same(2, lambda a, b: a / b),
    "power": _same(2, _power),
    "negate": _same(1, lambda a: -a),
    "inverse": _same(1, lambda a: 1 / a),
    "negate_prob": _same(1, lambda a: 1 - a),
    "sqrt": _same(1, lambda a: a**0.5),
    "log": _same(1, lambda a: math.log(a)),
    "floor": Operation(1, lambda a: int(a), lambda a: math.floor(_snap(a))),
    "reminder": Operation(2, lambda a, b: int(a) % int(b), lambda a, b: a - b * math.floor(_snap(a / b))),
    "gcd": Operation(2, lambda a, b: math.gcd(int(a), int(b)), lambda a, b: math.gcd(_whole(a), _whole(b))),
    "lcm": Operation(2, lambda a, b: math.lcm(int(a), int(b)), lambda a, b: math.lcm(_whole(a), _whole(b))),
    "max": _same(2, max),
    "min": _same(2, min),
    "factorial": Operation(1, _checker_factorial, lambda a: _checker_factorial(_natural(a))),
    "choose": Operation(2, lambda a, b: _factorial_ratio(int(a), int(b), int(a - b)), _exact_choose),
    "permutation": Operation(2, lambda a, b: _factorial_ratio(int(a), int(b)), _exact_permutation),
    "speed": _same(2, lambda a, b: a / b),
    "stream_speed": Operation(2, lambda a, b: (a + b) / 2, lambda a, b: (a - b) / 2),
    "p_after_gain": _same(2, lambda a, b: a / b),
    "original_price_before_gain": Operation(2, lambda a, b: b * (100 + a) / 100, lambda a, b: b * 100 / (100 + a)),
    "original_price_before_loss": Operation(2, lambda a, b: b * (100 - a) / 100, lambda a, b: b * 100 / (100 - a)),
    "circle_area": _same(1, lambda a: math.pi * a**2),
    "circumface": _same(1, lambda a: 2 * math.pi * a),
    "rectangle_area": _same(2, lambda a, b: a * b),
    "rectangle_perimeter": _same(2, lambda a, b: 2 * (a + b)),
    "square_area": _same(1, lambda a: a**2),
    "square_perimeter": _same(1, lambda a: 4 * a),
    "square_edge_by_area": _same(1, lambda a: a**0.5),
    "square_edge_by_perimeter": _same(1, lambda a: a / 4),
    "rhombus_area": Operation(2, lambda a, b: (a + b) / 2, lambda a, b: a * b / 2),
    "rhombus_perimeter": _same(1, lambda a: 4 * a),
    "quadrilateral_area": _same(3, lambda a, b, c: a * (b + c) / 2),
    "triangle_area": _same(2, lambda a, b: a * b / 2),
    "triangle_area_three_edges": Operation(3, _heron, _exact_heron),
    "triangle_perimeter": _same(3, lambda a, b, c: a + b + c),
    "cube_edge_by_volume": Operation(1, lambda a: a ** (1 / 3), lambda a: math.cbrt(a)),
    "surface_cube": _same(1, lambda a: 6 * a**2),
    "volume_cube": Operation(1, lambda a: 6 * a**2, lambda a: a**3),
    "surface_rectangular_prism": _same(3, lambda a, b, c: 2 * (a * b + b * c + c * a)),
    "volume_rectangular_prism": _same(3, lambda a, b, c: a * b * c),
    "surface_cylinder": _same(2, lambda a, b: 2 * math.pi * a * b + 2 * math.pi * a**2),
    "volume_cylinder": Operation(2, lambda a, b: 1 / 3 * math.pi * b**2 * a, lambda a, b: math.pi * a**2 * b),
    "volume_cone": Operation(2, lambda a, b: 1 / 3 * math.pi * a**3, lambda a, b: math.pi * a**2 * b / 3),
    "surface_sphere": _same(1, lambda a: 4 * math.pi * a**2),
    "volume_sphere": _same(1, lambda a: 4 / 3 * math.pi * a**3),
}


def apply(name: str, arguments: list[Value], semantics: Semantics = "checker") -> Value:
    """The value of one operation on finite real numbers; a whole number of up to 2048 bits stays exact.

    ProgramError where it has none: division by zero, a root or a logarithm of what has none, a value too large for a
    float (or, of whole numbers, for 2048 bits).
    """
    operation = OPERATION_TABLE[name]
    try:
        value = (operation.checker if semantics == "checker" else operation.exact)(*arguments)
    except ZeroDivisionError:
        raise ProgramError("division by zero") from None
    except OverflowError:
        raise ProgramError("the value is too large") from None
    except ValueError as error:
        reason = f"no logarithm of {describe(arguments[0])}" if name == "log" else str(error)
        raise ProgramError(reason) from None
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ProgramError("the value is too large")
    elif isinstance(value, complex):
        raise ProgramError("the root of a negative number is not real")
    elif not math.isfinite(value):
        raise ProgramError("the value is too large")
    return value


def describe(value: Value) -> str:
    """A number for people: ten significant digits, whole numbers beyond a float by their length."""
    try:
        return f"{value:.10g}"
    except OverflowError:
        return f"a number of {value.bit_length()} bits"
