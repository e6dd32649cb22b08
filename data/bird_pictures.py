"""Draws bird-like pictures: the data set that is always at hand.

Each of 25 species has its own colours, proportions and markings (`bird_species.py`). Pose, size, place, light, colour
cast, background, clutter, occluding twigs, sharpness and resolution vary from picture to picture, so that neither a
colour histogram nor a linear classifier gets far. A picture is a function of (seed, split, index) and the species.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .bird_species import SPECIES, TABLE, Species

__all__ = ["PICTURES_VERSION", "SPECIES", "bird_picture"]

# Part of the cache's key: raise it when a picture of given (seed, split, index) changes.
PICTURES_VERSION = 1
_SPLIT_CODES = {"train": 0, "val": 1, "test": 2}
_TURN = np.linspace(0, 2 * np.pi, 25)[:-1]
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # [24, 2]
# Background palettes, dark to light: foliage, dry grass, sky, water, dusk, stone, snow-like haze, forest floor.
_PALETTES = np.array(
    [
        [(28, 48, 22), (88, 128, 58), (170, 196, 120)],
        [(92, 76, 44), (164, 142, 88), (222, 206, 156)],
        [(96, 138, 186), (150, 186, 220), (224, 234, 244)],
        [(24, 58, 76), (70, 116, 134), (160, 192, 198)],
        [(66, 36, 44), (170, 96, 70), (240, 186, 126)],
        [(70, 68, 66), (128, 124, 118), (190, 186, 178)],
        [(150, 156, 160), (196, 202, 206), (240, 242, 244)],
        [(38, 28, 20), (92, 68, 46), (150, 122, 84)],
    ],
    dtype=np.float32,
)


def bird_picture(label: int, split: str, index: int, seed: int = 0, size: int = 64) -> Image.Image:
    """Picture `index` of a split: an RGB picture of species `label`, its short side about `size` (0.6 to 1.4 times).

    The composition depends on (seed, split, index, label) alone, not on `size`.
    """
    rng = np.random.default_rng([seed, _SPLIT_CODES[split], index])
    aspect = np.exp(rng.uniform(-0.3, 0.3))
    short = size * rng.choice([0.6, 0.8, 1.0, 1.2, 1.4])
    width, height = round(short * max(aspect, 1.0)), round(short * max(1 / aspect, 1.0))
    background = _background(rng, width, height)
    layer = Image.new("RGBA", (2 * width, 2 * height))  # twice the size: reduced afterwards for smooth edges
    _Painter(layer, rng, TABLE[label]).paint()
    return _finish(background, np.asarray(layer.reduce(2)), rng)


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1], float32 [height, width], about `cells` features along each side."""
    coarse = rng.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) * np.float32(1 / 255)


def _ramp(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """From -s to s along an axis, s drawn from [-strength, strength]: float32 [size]."""
    return np.linspace(-1, 1, size, dtype=np.float32) * np.float32(rng.uniform(-strength, strength))


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Out-of-focus surroundings with clutter, float32 [height, width, 3] in [0, 255]; drawn at half the size."""
    w, h = max(8, width // 2), max(8, height // 2)
    level = 0.5 * _noise(rng, w, h, 3) + 0.3 * _noise(rng, w, h, 8) + 0.2 * _noise(rng, w, h, 20)
    level = (level - 0.5) * np.float32(rng.uniform(0.6, 2.2)) + 0.5 + _ramp(rng, h, 0.2)[:, None]
    dark, middle, light = _PALETTES[rng.integers(len(_PALETTES))] + rng.normal(0, 12, (3, 3))
    # The palette as a table of 256 colours from dark over middle to light.
    steps = np.linspace(0, 1, 128)[:, None]
    table = np.concatenate([dark + (middle - dark) * steps, middle + (light - middle) * steps])  # [256, 3]
    picture = np.clip(table, 0, 255).astype(np.uint8)[(np.clip(level, 0, 1) * 255).astype(np.uint8)]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 14)):  # leaves, stones, flowers, some in a bird's colours
        centre, radius, angle = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.03, 0.16) * min(w, h), rng.uniform(0, 3.2)
        if rng.random() < 0.4:
            colour = _rgb(TABLE[rng.integers(len(TABLE))].body)
        else:
            colour = _PALETTES[rng.integers(len(_PALETTES)), rng.integers(3)]
        points = (_CIRCLE * (radius, radius * rng.uniform(0.2, 1))) @ _turn(angle).T + centre
        colour = np.clip(colour + rng.normal(0, 15, 3), 0, 255)
        draw.polygon(points.ravel().tolist(), fill=tuple(colour.astype(int).tolist()))
    image = image.filter(ImageFilter.BoxBlur(0.014 * min(w, h)))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _finish(background: np.ndarray, layer: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Lays the painted layer [H, W, 4] over the background; plumage texture, light, colour cast, contrast, noise."""
    height, width = background.shape[:2]
    alpha = layer[..., 3:] * np.float32(1 / 255)
    texture = 0.75 + 0.5 * _noise(rng, width, height, 24)[..., None]
    picture = background + (layer[..., :3] * texture - background) * alpha
    light = 1 + _ramp(rng, width, 0.35)[None, :] + _ramp(rng, height, 0.35)[:, None]  # [H, W]
    gain = np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.10, 3))  # exposure, colour cast
    contrast, saturation = rng.uniform(0.7, 1.15), rng.uniform(0.45, 1.15)
    # Colour cast, saturation and contrast are one 3x3 matrix: saturation moves each channel away from their mean.
    matrix = np.diag(gain) @ (np.eye(3) * saturation + (1 - saturation) / 3) * contrast
    picture = (picture * light[..., None]) @ matrix.astype(np.float32)
    picture += np.float32(128 * (1 - contrast) + rng.uniform(-20, 20))
    grain = np.float32(rng.uniform(1, 9))
    picture += rng.standard_normal((height, width, 1), dtype=np.float32) * grain
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


@cache
def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)


def _turn(angle: float) -> np.ndarray:
    """Rotation by `angle`, [2, 2], for column vectors (clockwise on screen, since y points down)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


class _Painter:
    """Paints one bird, its perch and the twigs before it. Bird coordinates: body length 1, facing right, y down."""

    def __init__(self, layer: Image.Image, rng: np.random.Generator, species: Species):
        self.draw, self.rng, self.species = ImageDraw.Draw(layer), rng, species
        width, height = layer.size
        # Individual proportions, so that no single length decides.
        lengths = species.fat, species.head_size, species.neck, species.beak_length, species.tail_length
        lengths = np.array([*lengths, species.leg_length]) * np.exp(rng.normal(0, 0.08, 6))
        self.fat, self.head_size, self.neck, self.beak, self.tail, self.leg = lengths.tolist()
        self.flying = rng.random() < 0.25
        self.cast = rng.normal(0, 9, 3).tolist()
        self.scale = min(width, height) * rng.uniform(0.30, 0.62) / (1 + 0.35 * self.neck + 0.2 * species.tail_length)
        pitch = rng.uniform(-0.5, 0.5) + (-0.3 if self.flying else -0.15)
        squeeze = np.diag([rng.uniform(0.72, 1.0), 1.0])  # seen partly from the front
        flip = np.diag([1.0 if rng.random() < 0.5 else -1.0, 1.0])
        self.affine = self.scale * flip @ _turn(pitch) @ squeeze
        self.origin = np.array([width, height]) * rng.uniform(0.36, 0.64, 2)
        self.neck_angle = rng.uniform(0.7, 1.35)  # above the horizontal
        self.head_angle = rng.uniform(-0.45, 0.35)
        self.shoulder = np.array([0.36, -0.12])
        reach = self.neck + 0.6 * self.head_size
        self.head = self.shoulder + reach * np.array([np.cos(self.neck_angle), -np.sin(self.neck_angle)])

    # Drawing in bird coordinates

    def _place(self, points) -> list[float]:
        """Bird coordinates [P, 2] -> x, y, x, y, … in pixels."""
        return (np.asarray(points, dtype=float) @ self.affine.T + self.origin).ravel().tolist()

    def _colour(self, colour: str, shade: float) -> tuple[int, ...]:
        pairs = zip(_rgb(colour), self.cast, strict=True)
        return tuple(min(255, max(0, int((value + cast) * shade))) for value, cast in pairs)

    def polygon(self, points, colour: str, shade: float = 1.0) -> None:
        self.draw.polygon(self._place(points), fill=self._colour(colour, shade))

    def oval(self, centre, radii, colour: str, angle: float = 0.0, shade: float = 1.0) -> None:
        shape = _CIRCLE * radii
        self.polygon((shape @ _turn(angle).T if angle else shape) + centre, colour, shade)

    def stroke(self, points, colour: str, width: float, shade: float = 1.0) -> None:
        pixels = max(1, round(width * self.scale))
        self.draw.line(self._place(points), self._colour(colour, shade), pixels)

    def on_head(self, points) -> np.ndarray:
        """Points in units of the head's radius, turned with the head -> bird coordinates."""
        return self.head + self.head_size * (np.asarray(points, dtype=float) @ _turn(self.head_angle).T)

    # The parts, back to front

    def paint(self) -> None:
        species = self.species
        if not self.flying:
            self._perch()
        self._tail()
        if self.flying:
            self._raised_wing(0.8)
        body = _CIRCLE * (0.5, self.fat)
        body[:, 1] *= 1 + 0.25 * _CIRCLE[:, 0]  # fuller at the breast
        self.polygon(body, species.body)
        self.oval((0.06, 0.42 * self.fat), (0.38, 0.52 * self.fat), species.belly)
        self._marks("vent", "bib", "spots")
        self._neck_and_head()
        self._marks("band", "collar", "neckpatch")
        if self.flying:
            self._raised_wing(1.0)
        else:
            self._folded_wing()
        self._marks("wingbar", "wingpatch", "primaries")
        self._twigs()

    def _marks(self, *names: str) -> None:
        for name, colour in self.species.marks:
            if name in names:
                MARKS[name](self, colour)

    def _perch(self) -> None:
        foot = self.fat + self.leg
        for x in (-0.06, 0.07):
            self.stroke([(x, 0.8 * self.fat), (x + 0.02, foot)], self.species.legs, 0.035)
            self.stroke([(x - 0.02, foot), (x + 0.10, foot)], self.species.legs, 0.03)
        if self.rng.random() < 0.6:
            slope = self.rng.uniform(-0.25, 0.25)
            thick = self.rng.uniform(0.06, 0.16)
            self.stroke([(-3, foot + 0.05 - 3 * slope), (3, foot + 0.05 + 3 * slope)], "5a4634", thick)

    def on_tail(self, points) -> np.ndarray:
        """Points in the tail's frame (x away from the body, y up) -> bird coordinates."""
        return np.asarray(points, dtype=float) @ (_turn(self.tail_angle) @ np.diag([-1.0, -1.0])).T + (-0.40, -0.02)

    def _tail(self) -> None:
        species, length, half = self.species, self.tail, self.species.tail_width / 2
        self.tail_angle = species.tail_lift + self.rng.normal(0, 0.12) - 0.12
        marks = dict(species.marks)
        if species.tail_kind == "fan":
            spread = np.linspace(-1, 1, 9) * species.tail_width
            rim = length * np.stack([np.cos(spread), np.sin(spread)], axis=1)
            self.polygon(self.on_tail([(0, -0.08), *rim, (0, 0.08)]), species.tail)
            for spot in self.on_tail(np.concatenate([0.62 * rim, 0.88 * rim])) if "eyespots" in marks else ():
                self.oval(spot, (0.055, 0.055), marks["eyespots"])
                self.oval(spot, (0.03, 0.03), "1a3f9a")
            return
        end = {
            "round": [(length, half), (length + 0.04, 0), (length, -half)],
            "fork": [(length, half * 1.5), (length * 0.72, 0), (length, -half * 1.5)],
            "wire": [(length * 0.7, half), (length, 0.015), (length, -0.015), (length * 0.7, -half)],
        }[species.tail_kind]
        self.polygon(self.on_tail([(0, half * 0.8), *end, (0, -half * 0.8)]), species.tail)
        if "tip" in marks:
            inner, outer = 0.8 * length, length + 0.03
            self.polygon(self.on_tail([(inner, half), (outer, half), (outer, -half), (inner, -half)]), marks["tip"])

    def _neck_and_head(self) -> None:
        species, r = self.species, self.head_size
        across = np.array([np.sin(self.neck_angle), np.cos(self.neck_angle)])
        base, top = (1.25 * r, 0.8 * r) if self.neck > 0.2 else (1.5 * r, 0.95 * r)
        chest = self.shoulder + np.array([-0.06, 0.05])
        neck = [chest - base * across, self.head - top * across, self.head + top * across, chest + base * across]
        self.polygon(neck, species.body)
        self._crest()
        length, depth = self.beak / r, species.beak_depth / r
        drop = species.beak_curve / r
        half, middle, tip = depth / 2, 0.9 + 0.5 * length, (0.9 + length, drop)
        beak = [(0.7, -half), (middle, 0.25 * drop - half), tip, (middle, 0.1 * drop + half), (0.7, half)]
        self.polygon(self.on_head(beak), species.beak)
        self.stroke(self.on_head([(0.8, 0), tip]), species.beak, 0.012, shade=0.6)
        self.oval(self.head, (r, r), species.head)
        self._marks("cap", "cheek", "streaks", "mask", "brow", "wattle", "casque", "eyering")
        eye = self.on_head([(0.38, -0.22)])[0]
        self.oval(eye, (0.2 * r, 0.2 * r), "14110f")
        self.oval(eye + r * np.array([0.05, -0.06]), (0.06 * r, 0.06 * r), "ffffff")

    def _crest(self) -> None:
        species = self.species
        if species.crest == "spike":
            self.polygon(self.on_head([(0.1, -0.9), (-0.7, -0.5), (-1.9, -1.7)]), "1c1c1e")
        elif species.crest:
            for angle in np.linspace(0.35, 2.4, 6) + self.rng.normal(0, 0.05):
                out = np.array([np.cos(angle), -np.sin(angle)])
                if species.crest == "crown":
                    self.stroke(self.on_head([0.9 * out, 2.2 * out]), species.head, 0.015)
                    self.oval(self.on_head([2.2 * out])[0], (0.035, 0.035), species.head)
                else:
                    side = 0.22 * out[::-1] * (1, -1)
                    self.polygon(self.on_head([0.6 * out - side, 2.3 * out, 0.6 * out + side]), species.head)
                    self.oval(self.on_head([2.2 * out])[0], (0.03, 0.03), "1c1c1c")

    def _folded_wing(self) -> None:
        self.wing_frame = _turn(self.rng.uniform(-0.05, 0.2)), np.array([-0.08, -0.16 * self.fat])
        upper = [(0.34, 0.02), (0.24, -0.55), (0, -0.72), (-0.3, -0.5), (-0.56, 0.15)]
        self.polygon(self.on_wing([*upper, (-0.2, 0.5), (0.12, 0.5), (0.3, 0.35)]), self.species.wing)
        for y in (0.05, 0.28):
            self.stroke(self.on_wing([(0.1, y), (-0.46, y * 0.6 + 0.08)]), self.species.wing, 0.012, shade=0.7)

    def _raised_wing(self, shade: float) -> None:
        """A wing in flight: its frame's origin lies off the root at the shoulder, its tip along negative x."""
        angle = (1.0 if shade == 1 else 1.5) + self.rng.uniform(-0.4, 0.4)
        frame = _turn(angle) @ np.diag([2.0, 2.1]) * (self.fat / 0.29)
        self.wing_frame = frame, np.array([0.06, -0.5 * self.fat]) + frame @ (-0.2, 0.0)
        outline = [(0.2, -0.3), (-0.25, -0.42), (-0.6, 0.0), (-0.52, 0.5), (-0.3, 0.62), (0.1, 0.62), (0.22, 0.3)]
        self.polygon(self.on_wing(outline), self.species.wing, shade)
        for x in (-0.45, -0.3, -0.12):
            self.stroke(self.on_wing([(x + 0.08, 0.0), (x, 0.55)]), self.species.wing, 0.014, shade=0.7 * shade)

    def on_wing(self, points) -> np.ndarray:
        """Points in the wing's own frame (x along it, y across in units of the body's half height)."""
        frame, at = self.wing_frame
        return (np.asarray(points, dtype=float) * (1.0, self.fat)) @ frame.T + at

    def _twigs(self) -> None:
        """Leaves and twigs before the bird: up to a third of it is hidden."""
        for _ in range(self.rng.choice([0, 0, 1, 1, 1, 2])):
            middle, angle = self.rng.uniform(-0.5, 0.5, 2), self.rng.uniform(0, np.pi)
            along = np.array([np.cos(angle), np.sin(angle)])
            colour = "4f3d2c" if self.rng.random() < 0.5 else "3f5a2a"
            self.stroke([middle - 3 * along, middle + 3 * along], colour, self.rng.uniform(0.02, 0.07))
            for _ in range(self.rng.integers(0, 4)):
                at = middle + self.rng.uniform(-1, 1) * along
                self.oval(at, (0.17, 0.07), "4f7a34", self.rng.uniform(0, np.pi), self.rng.uniform(0.7, 1.2))


def _spots(painter: _Painter, colour: str) -> None:
    for x in np.linspace(-0.2, 0.3, 5):
        for y in (0.35, 0.65):
            painter.oval((x + 0.06 * y, y * painter.fat), (0.022, 0.022), colour)


def _streaks(painter: _Painter, colour: str) -> None:
    for x, y in ((-0.5, -0.4), (-0.5, 0.1), (-0.1, 0.5), (0.1, -0.7), (-0.2, -0.1)):
        painter.stroke(painter.on_head([(x, y), (x - 0.25, y + 0.25)]), colour, 0.015)
    for x in (0.1, 0.2, 0.3):
        painter.stroke([(x, 0.1), (x - 0.03, 0.2)], colour, 0.015)


def _wingbar(painter: _Painter, colour: str) -> None:
    for x in (0.12, -0.08, -0.28):
        painter.stroke(painter.on_wing([(x, -0.5), (x - 0.08, 0.42)]), colour, 0.045)


def _across_neck(painter: _Painter, colour: str, at: float, width: float) -> None:
    across = np.array([np.sin(painter.neck_angle), np.cos(painter.neck_angle)])
    middle = painter.shoulder + at * (painter.head - painter.shoulder)
    reach = 1.15 * painter.head_size
    painter.stroke([middle - reach * across, middle + reach * across], colour, width)


# Marking -> how it is painted. "tip" and "eyespots" belong to the tail and are painted with it.
MARKS = {
    "mask": lambda p, c: p.stroke(p.on_head([(0.95, -0.05), (0.3, -0.22), (-0.85, -0.02)]), c, 0.3 * p.head_size),
    "brow": lambda p, c: p.stroke(p.on_head([(0.85, -0.42), (0.2, -0.58), (-0.8, -0.35)]), c, 0.2 * p.head_size),
    "cap": lambda p, c: p.polygon(p.on_head(np.stack([np.cos(_TURN[:13]), -np.sin(_TURN[:13]) - 0.1], axis=1)), c),
    "cheek": lambda p, c: p.oval(p.on_head([(-0.2, 0.25)])[0], (0.45 * p.head_size, 0.3 * p.head_size), c),
    "wattle": lambda p, c: p.oval(p.on_head([(0.85, -0.12)])[0], (0.3 * p.head_size, 0.2 * p.head_size), c),
    "casque": lambda p, c: p.polygon(p.on_head([(0.6, -0.7), (1.6, -0.75), (2.0, -0.25), (0.8, -0.4)]), c),
    "eyering": lambda p, c: p.oval(p.on_head([(0.3, -0.2)])[0], (0.42 * p.head_size, 0.36 * p.head_size), c),
    "streaks": _streaks,
    "bib": lambda p, c: p.oval((0.36, 0.12), (0.13, 0.62 * p.fat), c, -0.35),
    "band": lambda p, c: p.stroke([(0.17, 0.95 * p.fat), (0.30, 0.25), (0.42, -0.02)], c, 0.06),
    "collar": lambda p, c: _across_neck(p, c, 0.15, 0.05),
    "neckpatch": lambda p, c: _across_neck(p, c, 0.1, 0.2),
    "vent": lambda p, c: p.oval((-0.34, 0.5 * p.fat), (0.12, 0.28 * p.fat), c, 0.4),
    "spots": _spots,
    "wingbar": _wingbar,
    "wingpatch": lambda p, c: p.oval(p.on_wing([(-0.05, 0.05)])[0], (0.13, 0.3 * p.fat), c, 0.2),
    "primaries": lambda p, c: p.polygon(p.on_wing([(-0.18, 0.1), (-0.56, 0.15), (-0.2, 0.5)]), c),
}
