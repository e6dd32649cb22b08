"""Figures of numbers (never of photographs): curves, confusion matrix, recall per class, reliability.

Each function returns a matplotlib `Figure`, free of global state; `to_png` serves the model card, `to_svg` the report,
whose style sheet then supplies ink colours and font. Variants keep one colour each (Okabe and Ito's palette, safe for
colour-blind eyes); train is dashed, val is solid and dev, where it is another split than val, dotted everywhere.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

INK, MUTED, RULE = "#2c2a26", "#757168", "#dedad2"
BLUE = "#0072b2"
PALETTE = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#7b5ea7")
VARIANT_COLOURS = dict(zip(("bn", "bin", "ln", "gn", "in", "torch_bn", "none"), PALETTE, strict=False))
SHADES = LinearSegmentedColormap.from_list("shades", ("#fbfaf7", "#a9cbe2", "#2f7fb5", "#08365c"))
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}
END_FONT = FontProperties(family="DejaVu Sans", weight="bold", size=9.5)  # of the names at the ends of curves
TICKS = 0.55  # inches left of a panel for the numbers at its ticks
SPLIT_DASHES = {"train": (0, (3.2, 2.0)), "val": "-", "dev": (0, (1, 1.6))}
Panels = tuple[tuple[str, str], ...]  # (column of the history, title)
PANELS: Panels = (
    ("loss", "Loss"),
    ("error", "Error (1 - accuracy)"),
    ("accuracy", "Accuracy"),
    ("f1_micro", "Micro F1"),
    ("f1_macro", "Macro F1"),
)


@dataclass
class Curve:
    """One run in a figure of curves: its label, its colour, and its history (columns epoch, split, and the metrics)."""

    label: str
    colour: str
    history: pd.DataFrame

    @property
    def has_a_line(self) -> bool:
        """Whether a split that is drawn was measured at two epochs or more: one evaluation is a point, no course."""
        drawn = self.history[self.history["split"].isin(SPLIT_DASHES)]
        return bool((drawn.groupby("split")["epoch"].nunique() > 1).any())


def colours_for(labels: list[str], variants: list[str] | None = None) -> list[str]:
    """One colour per run: the variant's own where `variants` are known and either distinct or the runs more than there
    are colours (of several seeds, say), else the palette in order."""
    variants = labels if variants is None else variants
    shared = len(variants) > len(PALETTE)
    if (shared or len(set(variants)) == len(variants)) and set(variants) <= set(VARIANT_COLOURS):
        return [VARIANT_COLOURS[variant] for variant in variants]
    return [PALETTE[i % len(PALETTE)] for i in range(len(labels))]


def series(history: pd.DataFrame, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of one metric on one split, without the rows where it was not measured."""
    source = "accuracy" if metric == "error" else metric
    if source not in history:
        return np.zeros(0), np.zeros(0)
    rows = history[history["split"] == split].dropna(subset=["epoch", source])
    values = rows[source].to_numpy(float)
    return rows["epoch"].to_numpy(float), 1 - values if metric == "error" else values


def curves(runs: list[Curve], panels: Panels = PANELS) -> Figure:
    """The curves of all runs in one figure: a panel each and the key, in rows of three; a key that has a row to itself
    makes it no higher than it needs."""
    rows, key = -(-(len(panels) + 1) // 3), _key(runs)
    heights = [1.0] * rows
    if len(panels) % 3 == 0:
        heights[-1] = min(1.0, 0.1 * len(key))
    names = _room_for_names(runs)
    panel = 3.0  # inches, as are these: ticks stand left of a panel, names right of it
    width = 3 * (TICKS + panel + names)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, 3.6 * sum(heights)))
        axes = figure.subplots(rows, 3, squeeze=False, height_ratios=heights).ravel()
        edge = 0.1 / sum(heights) if rows > 1 else 0.09
        figure.subplots_adjust(left=TICKS / width, right=1 - names / width, top=1 - edge, bottom=1.4 * edge)
        figure.subplots_adjust(wspace=(TICKS + names) / panel, hspace=0.32)
        for axis, (metric, title) in zip(axes, panels, strict=False):
            _draw_curves(axis, runs, metric, title)
        _draw_key(axes[len(panels)], key, min(0.1, 0.93 / len(key)) / heights[-1])
        for axis in axes[len(panels) + 1 :]:
            axis.axis("off")
    return figure


def curve_panel(runs: list[Curve], metric: str, title: str | None = None) -> Figure:
    """One panel of `curves` by itself, sized for the report's grid."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0, 3.3))
        axis = figure.add_subplot()
        figure.subplots_adjust(left=TICKS / 5.0, right=1 - _room_for_names(runs) / 5.0, top=0.91, bottom=0.14)
        _draw_curves(axis, runs, metric, title or dict(PANELS).get(metric, metric))
    return figure


def _room_for_names(runs: list[Curve]) -> float:
    """Inches right of a panel for the names at its curves' ends: the runs', or the splits' where there is one run."""
    names = [run.label for run in runs] if len(runs) > 1 else list(SPLIT_DASHES)
    widest = max(TextPath((0, 0), name, prop=END_FONT, usetex=False).get_extents().width for name in names)
    return min(0.2 + widest / 72, 2.4)


def _draw_curves(axis: Axes, runs: list[Curve], metric: str, title: str) -> None:
    ends, everything = [], []
    for run in runs:
        for split, dashes in SPLIT_DASHES.items():
            epochs, values = series(run.history, split, metric)
            if not len(values):
                continue
            alone = len(runs) == 1
            light = split != "val" and not alone
            axis.plot(
                epochs,
                values,
                linestyle=dashes,
                color=run.colour,
                linewidth=1.1 if light else 1.7,
                alpha=0.65 if light else 1.0,
                marker="o" if len(values) == 1 else None,
                markersize=4,
            )
            everything.extend(values)
            if alone or split == "val":
                ends.append((epochs[-1], values[-1], split if alone else run.label, run.colour))
    axis.set_title(title, pad=8)
    axis.set_xlabel("epoch", loc="right", labelpad=1)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.tick_params(length=0)
    if not everything:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=MUTED)
        return
    _set_limits(axis, np.asarray(everything), metric)
    label_ends(axis, ends)


def _set_limits(axis: Axes, values: np.ndarray, metric: str) -> None:
    if metric == "loss":  # a diverged start must not flatten the rest
        top = max(np.percentile(values, 97), float(np.median(values)) * 1.05)
        axis.set_ylim(0, top * 1.08 if top > 0 else 1)
        return
    low, high = float(values.min()), float(values.max())
    room = max(0.06 * (high - low), 0.01)
    bottom = low - room if low < 0 else max(0.0, low - room)  # a Rand index may be negative
    axis.set_ylim(bottom, min(1.0, high + room) if high <= 1 else high + room)  # shares end at 1; decibels do not


def label_ends(axis: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right edge, at the height where their curve ends, pushed apart where they would overlap."""
    bottom, top = axis.get_ylim()
    gap = 13 / 72 / (axis.figure.get_size_inches()[1] * axis.get_position().height)  # 13 points
    ends = sorted(ends, key=lambda end: end[1])
    wanted = [float(np.clip((end[1] - bottom) / (top - bottom), 0, 1)) for end in ends]
    for (_, _, label, colour), y in zip(ends, spread(wanted, gap), strict=True):
        axis.annotate(
            label,
            (1.0, y),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontproperties=END_FONT,
            annotation_clip=False,
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Ascending positions moved as little as possible (least squares) so that neighbours stand `gap` apart in [0, 1].

    With the gaps subtracted, "at least `gap` apart" reads "does not fall": isotonic regression, then clipped to the
    range.
    """
    if not wanted:
        return []
    offsets = np.arange(len(wanted)) * min(gap, 1 / max(len(wanted) - 1, 1))
    level = isotonic_regression(np.asarray(wanted) - offsets).x
    return (np.clip(level, 0, 1 - offsets[-1]) + offsets).tolist()


def _key(runs: list[Curve]) -> list[tuple[str, str, str]]:
    """Label, colour and dashes of what the curves' key has."""
    rows = [(run.label, run.colour, "-") for run in runs] if len(runs) > 1 else []
    splits = [split for split in SPLIT_DASHES if split != "dev" or any("dev" in set(r.history["split"]) for r in runs)]
    return rows + [(split, INK, SPLIT_DASHES[split]) for split in splits]


def _draw_key(axis: Axes, rows: list[tuple[str, str, str]], step: float) -> None:
    """One below the other, `step` apart, which is a share of the axis' height."""
    axis.axis("off")
    for i, (label, colour, dashes) in enumerate(rows):
        y = 0.93 - i * step
        axis.plot([0.04, 0.16], [y, y], color=colour, linestyle=dashes, transform=axis.transAxes)
        axis.text(0.2, y, label, transform=axis.transAxes, va="center", color=INK)


def confusion_matrix(counts: np.ndarray, names: list[str]) -> Figure:
    """Row-normalised confusion matrix: rows are the truth. Counts are written in where they stay legible (to 25
    classes).
    """
    classes = len(names)
    cell = float(np.clip(5.2 / classes, 0.155, 0.55))
    longest = max(len(name) for name in names) * 0.077 + 0.55
    side = cell * classes
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side + longest + 0.35, side + longest + 0.5))
        width, height = figure.get_size_inches()
        axis = figure.add_axes((longest / width, longest / height, side / width, side / height))
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        shown = np.ma.masked_equal(share, 0)  # an empty cell shows the page, light or dark
        axis.imshow(shown, cmap=SHADES, vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks(range(classes), names, rotation=90)
        axis.set_yticks(range(classes), names)
        axis.tick_params(length=0, labelsize=9.5 if classes <= 40 else 7.5, labelcolor=INK)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("predicted", loc="left")
        axis.set_ylabel("true", loc="top")
        if classes <= 25:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "#ffffff" if share[i, j] > 0.45 else "#1b1b1b"
                size = float(np.clip(cell * 22, 5.5, 9.5)) - (1.0 if counts[i, j] > 999 else 0.0)
                axis.text(j, i, str(int(counts[i, j])), ha="center", va="center", color=colour, fontsize=size)
    return figure


def recall_per_class(rows: list[dict], measure: str = "recall") -> Figure:
    """Recall (or another `measure`) of every class with its interval, lowest first; `rows` have label, recall, low,
    high, support."""
    rows = sorted((row for row in rows if row["support"]), key=lambda row: (row["recall"], row["label"]))
    step = 0.26 if len(rows) <= 40 else 0.17
    longest = max([len(row["label"]) for row in rows], default=8) * 0.08 + 0.35
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(longest + 3.6, step * len(rows) + 0.75))
        width, height = figure.get_size_inches()
        axis = figure.add_axes((longest / width, 0.45 / height, 3.1 / width, step * len(rows) / height))
        y = np.arange(len(rows))[::-1]
        axis.hlines(y, [r["low"] for r in rows], [r["high"] for r in rows], color=BLUE, alpha=0.35, linewidth=3)
        axis.plot([r["recall"] for r in rows], y, "o", color=BLUE, markersize=5, clip_on=False)
        axis.set_yticks(y, [r["label"] for r in rows], fontsize=9.5 if len(rows) <= 40 else 7.5)
        axis.tick_params(axis="y", labelcolor=INK, pad=8)
        axis.set_ylim(-0.7, len(rows) - 0.3)
        axis.set_xlim(0, 1.01)
        axis.tick_params(length=0)
        axis.set_xlabel(f"{measure}, with 95 % interval", loc="right")
        axis.spines["left"].set_visible(False)
    return figure


def reliability(
    bins: list[dict], error: float, confidence_of: str = "predicted probability of the chosen class"
) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy against confidence, and the samples behind each point."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.6))
        top, bottom = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        left = np.array([b["low"] for b in bins])
        width = np.array([b["high"] - b["low"] for b in bins])
        accuracy = np.array([b["accuracy"] for b in bins])
        confidence = np.array([b["confidence"] for b in bins])
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        top.bar(left, accuracy, width * 0.92, align="edge", color=BLUE, alpha=0.3)
        top.vlines(confidence, np.minimum(accuracy, confidence), np.maximum(accuracy, confidence), color="#d55e00")
        top.plot(confidence, accuracy, "o", color=BLUE, markersize=4.5, clip_on=False)
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        top.set_title(f"Expected calibration error {error:.3f}", pad=8)
        bottom.bar(left, [b["count"] for b in bins], width * 0.92, align="edge", color=MUTED, alpha=0.55)
        bottom.set(xlabel=confidence_of, ylabel="samples")
        for axis in (top, bottom):
            axis.tick_params(length=0)
        figure.subplots_adjust(left=0.14, right=0.97, top=0.93, bottom=0.11, hspace=0.12)
        figure.align_ylabels()
    return figure


def to_png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an SVG element for inlining: text stays text, inks become the page's CSS variables, no name spaces,
    metadata or style of its own, and `description` is what a screen reader says.
    """
    buffer = io.StringIO()
    with rc_context(STYLE):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--figure-font)", svg)
    for colour, variable in ((INK, "--ink"), (MUTED, "--muted"), (RULE, "--rule"), (BLUE, "--blue")):
        svg = svg.replace(colour, f"var({variable})")
    label = re.sub(r'[<>&"]', " ", description)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', svg, count=1)
