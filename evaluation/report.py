"""A report: sections of text, tables, figures and galleries, rendered into one self-contained HTML file.

Nothing here knows a family. A section is a heading with blocks; the template (templates/report.html.jinja) knows how
each kind of block looks. Everything but the SVG that `figures.to_svg` made goes through autoescape.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from .figures import to_svg

NO_VALUE = "\u2013"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class Text:
    """Paragraphs; `quiet` for a note in small print, `listed` for a list."""

    paragraphs: list[str]
    quiet: bool = False
    listed: bool = False
    kind: str = "text"


@dataclass
class Cell:
    """A table cell: what it says, a second, quieter line, whether it is the best of its column, and a relative link."""

    value: str
    note: str = ""
    best: bool = False
    href: str = ""


@dataclass
class Table:
    """Rows of strings or `Cell`s. The first `text_columns` columns are set as text, the others as figures, right-
    aligned.

    With `folded`, the table is closed behind its caption until the reader opens it.
    """

    columns: list[str]
    rows: list[list[str | Cell]]
    caption: str = ""
    text_columns: int = 1
    folded: bool = False
    kind: str = "table"

    def cells(self) -> list[list[Cell]]:
        return [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in self.rows]


@dataclass
class Figures:
    """Figures of numbers side by side as far as the page is wide; `wide` gives each its own row and lets it scroll."""

    svgs: list[Markup]
    caption: str = ""
    wide: bool = False
    kind: str = "figures"

    @classmethod
    def of(cls, figures: list[MatplotlibFigure], descriptions: list[str], **options: Any) -> Figures:
        """From matplotlib figures and what each shows, for readers who do not see it."""
        return cls([Markup(to_svg(f, text)) for f, text in zip(figures, descriptions, strict=True)], **options)


@dataclass
class Picture:
    """One picture of a gallery: data URIs (one below the other), the lines of its caption, and its tone
    ("good", "bad" or "").
    """

    images: list[str]
    lines: list[str]
    tone: str = ""
    pixelated: bool = False


@dataclass
class Gallery:
    """A titled strip of pictures in groups, each with its own small heading; `note` is honest small print. `small` fits
    more pictures into a row, `wide` fewer."""

    title: str
    groups: list[tuple[str, list[Picture]]]
    note: str = ""
    small: bool = False
    wide: bool = False
    kind: str = "gallery"


@dataclass
class Sheet:
    """A text with listings beside each other, such as two programs for one problem; a listing is (heading, lines,
    tone), with the tones of a `Picture`.
    """

    title: str
    paragraphs: list[str]
    listings: list[tuple[str, list[str], str]]
    kind: str = "sheet"


@dataclass
class Section:
    """A heading with its blocks."""

    title: str
    blocks: list[Text | Table | Figures | Gallery | Sheet] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass
class Report:
    """`kicker` is the line above the title, `lead` the one below; `headline` the few numbers: (name, value, note)."""

    title: str
    lead: str
    sections: list[Section]
    headline: list[tuple[str, str, str]] = field(default_factory=list)
    kicker: str = ""
    footer: str = ""


def render(report: Report) -> str:
    """The report as HTML: one file, no script, nothing loaded from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section for section in report.sections if section.blocks]
    return environment.get_template("report.html.jinja").render(report=report, sections=sections)


def data_uri(image: np.ndarray, longest: int = 160, lossless: bool = False) -> str:
    """A picture uint8 [H, W, 3] as a data URI: at most `longest` pixels a side; PNG up to 64 pixels, where JPEG's
    blocks would show, and where `lossless` asks for it (label maps), else JPEG.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((longest, longest), Image.Resampling.NEAREST if lossless else Image.Resampling.LANCZOS)
    small = lossless or max(picture.size) <= 64
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.853 -> "85.3 %"; an en dash where there is no value."""
    return NO_VALUE if value is None else f"{round(100 * value, digits) + 0.0:.{digits}f}\u00a0%"


def interval(bounds: list[float] | tuple[float, float] | None, digits: int = 1) -> str:
    """(0.78, 0.91) -> "78.0 to 91.0 %"."""
    if not bounds:
        return ""
    low, high = (round(100 * bound, digits) + 0.0 for bound in bounds)  # + 0.0: no "-0.0"
    return f"{low:.{digits}f} to {high:.{digits}f}\u00a0%"


def duration(seconds: float | None) -> str:
    """Seconds as a reader would say them: "41 s", "12 min", "3 h 05 min"."""
    if seconds is None:
        return NO_VALUE
    if seconds < 90:
        return f"{seconds:.3g}\u00a0s"
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 90 else f"{minutes // 60}\u00a0h\u00a0{minutes % 60:02d}\u00a0min"
