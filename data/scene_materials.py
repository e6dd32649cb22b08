"""Procedural materials of the drawn scenes: a pattern over surface coordinates, and the colours that it runs through.

A pattern maps (u, v), in units of its own features, to a tone in [0, 1]; a colour table maps tones to linear RGB.
Whatever is random about a material is drawn once, when it is made; evaluating it is a pure function of (u, v).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .scene_colours import MUTED, PLAIN, PLAIN_GROUNDS, family_colours, linear

Pattern = Callable[[np.ndarray, np.ndarray, float], np.ndarray]

_TEXELS = 512  # side of the noise tables
_PERIOD = 32.0  # features over which they repeat
_TABLE = 64  # colours in a material's table
# Tones 0..1 -> weights of four control colours at 0, 1/3, 2/3 and 1 (linear between neighbours): [4, 64].
_RAMP = np.maximum(0, 1 - np.abs(np.linspace(0, 3, _TABLE) - np.arange(4)[:, None])).astype(np.float32)


# Tables that patterns look up. Spectral synthesis makes them repeat without a seam.


def _spectrum(seed: int, low: float, high: float, slope: float) -> np.ndarray:
    """Band-limited noise, `low` to `high` cycles per feature with amplitude f^-slope, ranked to be even on [0, 1]."""
    rows, columns = np.fft.fftfreq(_TEXELS), np.fft.rfftfreq(_TEXELS)
    frequency = np.hypot(rows[:, None], columns) * (_TEXELS / _PERIOD)
    gain = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, 1e-6) ** -slope, 0)
    white = np.random.default_rng([17, seed]).standard_normal((_TEXELS, _TEXELS))
    field = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(_TEXELS, _TEXELS))
    ranks = np.empty(field.size, dtype=np.float32)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.linspace(0, 1, field.size, dtype=np.float32)
    return ranks


@cache
def _tables() -> dict[str, np.ndarray]:
    """float32 [512 * 512]: noise `smooth`, `fractal` and `grain`; Voronoi `edge` and `cell`. And `hash`, [256]."""
    rng = np.random.default_rng(23)
    side = 24  # cells along each side, one jittered seed in each
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    seeds = (grid + rng.uniform(0.1, 0.9, grid.shape)) * (_PERIOD / side)
    tones = rng.random(len(seeds))
    ticks = (np.arange(_TEXELS) + 0.5) * (_PERIOD / _TEXELS)
    texel_cell = (np.arange(_TEXELS) * side) // _TEXELS
    first = np.full((_TEXELS, _TEXELS), np.inf)
    second, owner = first.copy(), np.zeros((_TEXELS, _TEXELS), dtype=int)
    for i, j in np.ndindex(5, 5):  # the seeds of the 25 cells around hold the two nearest
        rows, columns = (texel_cell + i - 2) % side, (texel_cell + j - 2) % side
        index = rows[:, None] * side + columns  # [T, T]
        down = (seeds[index, 0] - ticks[:, None] + _PERIOD / 2) % _PERIOD - _PERIOD / 2
        right = (seeds[index, 1] - ticks + _PERIOD / 2) % _PERIOD - _PERIOD / 2
        distance = np.hypot(down, right)
        nearer = distance < first
        second = np.where(nearer, first, np.minimum(second, distance))
        owner, first = np.where(nearer, index, owner), np.where(nearer, distance, first)
    return {
        "smooth": _spectrum(1, 0.05, 0.6, 1.0),
        "fractal": _spectrum(2, 0.05, 6.0, 1.5),
        "grain": _spectrum(3, 0.5, 5.0, 0.6),
        "edge": (second - first).astype(np.float32).ravel(),
        "cell": tones[owner].astype(np.float32).ravel(),
        "hash": rng.permutation(np.linspace(0, 1, 256, dtype=np.float32)),
    }


def _look_up(table: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The nearest texel; (u, v) may be anything above -4096."""
    scale, shift = _TEXELS / _PERIOD, 4096 * _TEXELS / _PERIOD
    column = (u * scale + shift).astype(np.int32) & (_TEXELS - 1)
    row = (v * scale + shift).astype(np.int32) & (_TEXELS - 1)
    return _tables()[table].take(row * _TEXELS + column)


def _hash(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A tone in [0, 1] for each pair of whole numbers (as floats)."""
    return _tables()["hash"].take((i * 37 + j * 101).astype(np.int32) & 255)


def _fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def _parity(x: np.ndarray) -> np.ndarray:
    """1 where the whole number (as a float) is odd, else 0, float32; many times faster than `%` on floats."""
    return (x.astype(np.int32) & 1).astype(np.float32)


def _triangle(x: np.ndarray) -> np.ndarray:
    """0 at whole numbers, 1 half-way between, linear."""
    return 1 - np.abs(2 * _fraction(x) - 1)


# The patterns: (u, v, a number in [0, 1) drawn with the material) -> tone.


def _plain(u, v, k):
    return np.full(u.shape, 0.5, dtype=np.float32)


def _checks(u, v, k):
    return _parity(np.floor(u) + np.floor(v))


def _stripes(u, v, k):
    return (_fraction(0.6 * u) < 0.35 + 0.3 * k).astype(np.float32)


def _diagonals(u, v, k):
    across = _fraction(0.45 * (u + v))
    return np.where(across < 0.4, 0.0, np.where(across < 0.55 + 0.2 * k, 1.0, 0.5)).astype(np.float32)


def _waves(u, v, k):
    return _triangle(0.55 * v + (0.12 + 0.12 * k) * np.sin(np.pi * u))


def _zigzag(u, v, k):
    return (_fraction(0.6 * v + 0.45 * _triangle(0.5 * u)) < 0.5).astype(np.float32)


def _dots(u, v, k):
    row = np.floor(v)
    x, y = _fraction(u + 0.5 * _parity(row)) - 0.5, v - row - 0.5
    return (x * x + y * y < (0.25 + 0.12 * k) ** 2).astype(np.float32)


def _grid(u, v, k):
    width = 0.14 + 0.1 * k
    lines = np.minimum(_fraction(0.8 * u), _fraction(0.8 * v)) < width
    return np.where(lines, 1.0, 0.35 * _look_up("smooth", u, v)).astype(np.float32)


def _plaid(u, v, k):
    def bands(x):
        x = _fraction(0.4 * x)
        return (x < 0.4) + np.float32(0.6) * ((x > 0.62) & (x < 0.74))

    return 0.5 * (bands(u) + bands(v))


def _brick(u, v, k):
    row = np.floor(v)
    along = 0.5 * u + 0.5 * _parity(row)
    brick = np.floor(along)
    joint = ((along - brick) < 0.09) | ((v - row) < 0.18)
    tone = 0.34 + 0.5 * _hash(brick, row) + 0.3 * (_look_up("grain", u, v) - 0.5)
    return np.where(joint, 0.0, tone)


def _planks(u, v, k):
    row = np.floor(0.7 * v)
    along = 0.16 * u + 0.37 * row
    plank = np.floor(along)
    joint = ((0.7 * v - row) < 0.07) | ((along - plank) < 0.02)
    tone = 0.2 + 0.5 * _hash(plank, row) + 0.5 * _look_up("fractal", 0.25 * u, 3 * v + 7 * row) * (0.6 + 0.4 * k)
    return np.where(joint, 0.0, tone)


def _weave(u, v, k):
    over = _parity(np.floor(u) + np.floor(v))
    x, y = _fraction(u), _fraction(v)
    thread = np.where(over == 1, np.minimum(y, 1 - y), np.minimum(x, 1 - x))  # distance from the thread's border
    return 0.05 + 0.4 * over + 1.1 * thread


def _rings(u, v, k):
    return _triangle(0.5 * np.sqrt(u * u + v * v))


def _wood(u, v, k):
    bend = 2.2 * _look_up("smooth", 0.35 * u, 0.8 * v)
    return 0.75 * _triangle(0.55 * v + (0.6 + 0.5 * k) * bend) + 0.25 * _look_up("fractal", 0.3 * u, 3 * v)


def _marble(u, v, k):
    vein = _triangle(0.18 * u + 0.12 * v + 0.9 * _look_up("fractal", 0.5 * u, 0.5 * v))
    return np.sqrt(vein)


def _speckle(u, v, k):
    grain = _look_up("grain", 0.9 * u, 0.9 * v)
    return np.where(grain < 0.16, 0.0, np.where(grain > 0.86, 1.0, 0.45 + 0.2 * grain)).astype(np.float32)


def _clouds(u, v, k):
    return _look_up("fractal", 0.5 * u, 0.5 * v)


def _rust(u, v, k):
    patch = _look_up("fractal", 0.6 * u + 9, 0.6 * v)
    return np.clip((patch - 0.35 - 0.3 * k) * 8, 0, 0.66) + 0.34 * _look_up("grain", u, v)


def _cells(u, v, k):
    crack = np.minimum(_look_up("edge", u, v) * (3.0 + 3.0 * k), 1.0)
    return crack * (0.45 + 0.55 * _look_up("cell", u, v))


def _pebbles(u, v, k):
    return np.minimum(_look_up("edge", u, v) * 1.1, 1.0) * (0.4 + 0.6 * _look_up("cell", u, v))


def _scales(u, v, k):
    row = np.floor(1.4 * v)
    x, y = _fraction(u + 0.5 * _parity(row)) - 0.5, 1.4 * v - row
    inside = x * x + (0.45 * y) ** 2 < 0.21
    return np.where(inside, 0.25 + 0.75 * y, 1.0 - 0.9 * np.abs(x)) * 0.95


@dataclass(frozen=True)
class Kind:
    """What a material's name stands for: the pattern, how much grain is laid over it, how glossy it may be (the least
    and the most highlight), and the families of colours that suit it (see `scene_colours`)."""

    pattern: Pattern
    grain: float
    gloss: tuple[float, float]
    families: tuple[str, ...]


_ANY = ("vivid", "vivid", "duo", "duo", "pastel", "earth", "neutral")
KINDS = {
    "plain": Kind(_plain, 0.0, (0.05, 0.9), ("vivid",)),
    "checks": Kind(_checks, 0.1, (0.05, 0.5), _ANY),
    "stripes": Kind(_stripes, 0.1, (0.05, 0.5), _ANY),
    "diagonals": Kind(_diagonals, 0.1, (0.05, 0.5), _ANY),
    "waves": Kind(_waves, 0.1, (0.05, 0.4), ("denim", "vivid", "duo", "pastel")),
    "zigzag": Kind(_zigzag, 0.1, (0.02, 0.2), _ANY),
    "dots": Kind(_dots, 0.05, (0.1, 0.6), _ANY),
    "grid": Kind(_grid, 0.1, (0.1, 0.7), ("neutral", "duo", "denim", "slate", "vivid")),
    "plaid": Kind(_plaid, 0.15, (0.0, 0.05), ("vivid", "duo", "earth", "denim")),
    "brick": Kind(_brick, 0.0, (0.0, 0.05), ("terracotta", "terracotta", "stone", "sand", "moss")),
    "planks": Kind(_planks, 0.0, (0.05, 0.3), ("wood", "wood", "stone", "dark wood")),
    "weave": Kind(_weave, 0.15, (0.0, 0.1), ("sand", "wood", "duo", "denim", "neutral", "vivid")),
    "rings": Kind(_rings, 0.1, (0.1, 0.5), ("vivid", "duo", "wood", "pastel")),
    "wood": Kind(_wood, 0.1, (0.1, 0.5), ("wood", "wood", "dark wood", "sand")),
    "marble": Kind(_marble, 0.0, (0.4, 0.9), ("marble", "marble", "jade", "slate", "rose")),
    "speckle": Kind(_speckle, 0.0, (0.1, 0.6), ("stone", "neutral", "pastel", "sand", "jade")),
    "clouds": Kind(_clouds, 0.0, (0.0, 0.3), ("stone", "moss", "denim", "slate", "soil", "pastel")),
    "rust": Kind(_rust, 0.0, (0.1, 0.5), ("rust", "rust", "jade", "slate")),
    "cells": Kind(_cells, 0.1, (0.05, 0.5), ("stone", "earth", "terracotta", "duo", "jade", "sand")),
    "pebbles": Kind(_pebbles, 0.1, (0.05, 0.3), ("stone", "sand", "soil", "slate", "moss")),
    "scales": Kind(_scales, 0.1, (0.2, 0.7), ("jade", "denim", "terracotta", "vivid", "pastel")),
}
MATERIALS = tuple(name for name in KINDS if name != "plain")
# What lies flat and fills a picture; the loud ones are drawn with less contrast.
_LOUD = ("stripes", "checks", "grid", "zigzag", "waves")
GROUNDS = ("brick", "planks", "weave", "wood", "marble", "speckle", "clouds", "rust", "cells", "pebbles", "scales",
           "plaid", *_LOUD)  # fmt: skip


def _dice(rng: np.random.Generator) -> Callable[[], float]:
    """Up to 24 numbers in [0, 1), drawn at once: a call of the generator costs as much as all of them."""
    return iter(rng.random(24).tolist()).__next__


def _one_of(choices: Sequence[str], number: float) -> str:
    return choices[int(number * len(choices))]


@dataclass(frozen=True)
class Material:
    """A surface's look: `colours(u, v)`; `gloss` is the strength of the highlight, in [0, 1]."""

    name: str
    table: np.ndarray  # float32 [3, 64]: linear RGB of tone 0 to 1
    gloss: float
    number: float  # in [0, 1): what else is random about the pattern
    turn: tuple[float, float]  # cosine and sine of the pattern's angle, times the features per unit length
    offset: tuple[float, float]

    def tones(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The pattern at surface coordinates u, v (float32, lengths): tones, about in [0, 1]."""
        kind, (cosine, sine) = KINDS[self.name], self.turn
        x = cosine * u + sine * v + self.offset[0]
        y = cosine * v - sine * u + self.offset[1]
        tone = kind.pattern(x, y, self.number)
        return tone + kind.grain * (_look_up("grain", x, y) - 0.5) if kind.grain else tone

    def colours(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Linear RGB in [0, 1], channels first: float32 [3, ...]."""
        return self.table.take((self.tones(u, v) * (_TABLE - 0.01)).astype(np.intp), axis=1, mode="clip")


def _made(name: str, controls: list, dice: Callable, features: float, angle: float, contrast: float = 1.0) -> Material:
    colours = np.array([linear(hsv) for hsv in controls], dtype=np.float32).T  # [3, 4]
    if contrast < 1:
        colours = contrast * colours + (0.25 * (1 - contrast)) * colours.sum(axis=1, keepdims=True)
    low, high = KINDS[name].gloss
    gloss = low + (high - low) * dice() ** 2
    turn, offset = (features * math.cos(angle), features * math.sin(angle)), (_PERIOD * dice(), _PERIOD * dice())
    return Material(name, colours @ _RAMP, gloss, dice(), turn, offset)


def plain_materials(rng: np.random.Generator, count: int) -> list[Material]:
    """One colour each, all different as far as there are any."""
    made = []
    for k in rng.permutation(len(PLAIN)).tolist()[:count]:
        dice, (hue, saturation, value) = _dice(rng), PLAIN[k]
        colour = hue + 0.02 * (dice() - 0.5), saturation + 0.1 * (dice() - 0.5), value + 0.1 * (dice() - 0.5)
        made.append(_made("plain", [colour] * 4, dice, 1.0, 0.0))
    return made


def plain_ground(rng: np.random.Generator) -> Material:
    """A quiet, nearly grey floor."""
    dice = _dice(rng)
    hue, saturation, value = PLAIN_GROUNDS[int(len(PLAIN_GROUNDS) * dice())]
    colour = hue + 0.04 * (dice() - 0.5), saturation, value + 0.2 * (dice() - 0.5)
    return _made("plain", [colour] * 4, dice, 1.0, 0.0)


def textured_material(rng: np.random.Generator, size: float, name: str | None = None) -> Material:
    """A patterned material for an object of half-height `size`; that length holds about 2 to 3 of its features."""
    dice = _dice(rng)
    drawn = _one_of(MATERIALS, dice())
    name = name or drawn
    controls = family_colours(_one_of(KINDS[name].families, dice()), dice)
    features, angle = (1.9 + 1.4 * dice()) / size, (0.0, math.pi / 2, 0.0, math.pi / 4)[int(4 * dice())]
    return _made(name, controls, dice, features, angle, 0.65 + 0.35 * dice())


def textured_ground(rng: np.random.Generator) -> Material:
    """A patterned floor, with features of about half a unit length and quieter contrasts than the objects'."""
    dice = _dice(rng)
    name = _one_of(GROUNDS, dice())
    muted = [family for family in KINDS[name].families if family in MUTED] or MUTED
    controls = family_colours(_one_of(muted, dice()), dice)
    contrast = (0.25 if name in _LOUD else 0.45) + 0.35 * dice()
    return _made(name, controls, dice, 1.1 + 0.9 * dice(), 2 * math.pi * dice(), contrast)


def camouflage_material(rng: np.random.Generator, size: float, ground: Material) -> Material:
    """A material in the ground's colours, a little lighter or darker, mostly with a pattern of its own."""
    dice = _dice(rng)
    made = textured_material(rng, size, ground.name if dice() < 0.3 else None)
    gain = 0.72 + 0.14 * dice() if dice() < 0.5 else 1.18 + 0.24 * dice()
    tint = np.array([[dice()], [dice()], [dice()]], dtype=np.float32) * np.float32(0.18) + np.float32(gain - 0.09)
    middle = ground.table.mean(axis=1, keepdims=True)
    table = (middle + (0.6 + 0.5 * dice()) * (ground.table - middle)) * tint
    return replace(made, table=np.clip(table, 0, 1), gloss=0.5 * made.gloss)
