"""What the report on a run of the VQ-VAE family says and shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from training.scene_pictures import sheet

from . import figures, sections
from .report import NO_VALUE, Cell, Figures, Gallery, Picture, Report, Section, Table, Text, data_uri, percent
from .report import interval as percent_interval
from .runs import Run, write_atomically, write_json
from .scene_observations import close_split
from .scene_report import data_name
from .scene_results import SPLIT_NAMES
from .sections import size_of, trained_for
from .vae_observations import observe_autoencoder

PANELS: figures.Panels = (
    ("loss", "Loss"),
    ("psnr", "PSNR, dB"),
    ("codebook_use", "Share of the codebook in use"),
    ("perplexity", "Perplexity of the codes"),
)
SHEET = "reconstructions.png"  # pictures, published where the scenes were drawn here
FIRST_SHEET = SHEET
PUBLISHED_FIGURES = ("curves.png", "codes.png", SHEET)
COLUMNS_OF_SHEET = "image, reconstruction, four times the error, latent"


def observe(run: Run) -> list[str]:
    """The sentences of the report and the card."""
    return observe_autoencoder(run)


def describe(run: Run) -> str:
    """One sentence: which network, on what, for how long."""
    config = run.config
    widths = config.get("widths") or [64, 128, 256]
    factor, pixels = 2 ** (len(widths) - 1), (run.recipe.get("data") or {}).get("image_size", 128)
    size, how = size_of(run), trained_for(run)
    return (
        f"VQ-VAE: {config.get('num_codes', 4096):,} codes of {config.get('latent_channels', 3)} values, widths "
        f"{'/'.join(map(str, widths))}{size}; {data_name(run)} at {pixels}x{pixels} to latents of "
        f"{pixels // factor}x{pixels // factor}{how}."
    )


def number_figures(run: Run) -> dict[str, Figure]:
    """The use of the codes. (The card draws the curves.)"""
    details = (run.evaluation.get("splits") or {}).get(close_split(run) or "", {})
    return {"codes": _codes_figure(details)} if details.get("codes") else {}


def _codes_figure(details: dict[str, Any]) -> Figure:
    """How many positions each code takes, by rank, beside a codebook that is used evenly."""
    shares = np.asarray(details["codes"])
    ranks = np.arange(1, len(shares) + 1)
    with rc_context(figures.STYLE):
        figure = Figure(figsize=(5.0, 3.3))
        axis = figure.add_subplot()
        axis.plot(ranks, shares, color=figures.BLUE, marker="o" if len(shares) == 1 else None)
        even = 1 / details["num_codes"]
        axis.axhline(even, color=figures.MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axis.text(1, even, "all codes alike", va="bottom", color=figures.MUTED, fontsize=8.5)
        axis.set(xscale="log", yscale="log", ylabel="share of the positions")
        axis.set_xlim(0.9, details["num_codes"] * 1.1)
        axis.set_xlabel(f"codes by rank ({len(shares):,} of {details['num_codes']:,} occur)", loc="right")
        axis.tick_params(length=0, which="both")
        figure.subplots_adjust(left=0.16, right=0.97, top=0.95, bottom=0.16)
    return figure


def build_report(run: Run, pictures: dict[str, Any]) -> Report:
    """The whole report of one run. `pictures` are those of `vae.evaluate`."""
    curve = figures.Curve(run.folder.name, figures.BLUE, run.history)
    return Report(
        title=run.name,
        kicker="VQ-VAE · evaluation of one run",
        lead=describe(run),
        headline=_headline(run),
        sections=sections.filled(
            [
                Section("Results", [_results(run)]),
                Section("Observations", [Text(run.evaluation.get("observations") or [], listed=True)]),
                Section("Learning curves", sections.learning_curves([curve], PANELS)),
                Section("Codebook", _codebook(run)),
                Section("Reconstructions", _reconstructions(pictures)),
                Section("Set-up", sections.setup(run)),
            ]
        ),
        footer=sections.footer(run),
    )


def _headline(run: Run) -> list[tuple[str, str, str]]:
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    if "psnr_interval" not in numbers:
        return []
    low, high = numbers["psnr_interval"]
    found = [
        (f"PSNR, {split}", f"{numbers['psnr']:.1f}\u00a0dB", f"{low:.1f} to {high:.1f}"),
        (f"Reconstruction MSE, {split}", f"{numbers['reconstruction_mse']:.1f}", "summed over an image"),
        (f"Codebook in use, {split}", percent(numbers["codebook_use"]), f"perplexity {numbers['perplexity']:,.0f}"),
    ]
    entry = run.evaluation.get("frechet") or {}
    if "value" in entry:
        found.append((entry["metric"], f"{entry['value']:.1f}", f"{entry['images']:,} reconstructions"))
    return found


def _results(run: Run) -> Table:
    rows = []
    for split, numbers in (run.metrics.get("metrics") or {}).items():
        bounds = numbers.get("psnr_interval")
        sums = numbers.get("reconstruction_mse_interval")
        rows.append(
            [
                SPLIT_NAMES.get(split, split),
                Cell(_shown(numbers.get("psnr"), ".2f"), f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""),
                Cell(
                    percent(numbers.get("explained_variance"), 2),
                    percent_interval(numbers.get("explained_variance_interval"), 2),
                ),
                Cell(
                    _shown(numbers.get("reconstruction_mse"), ".1f"),
                    f"{sums[0]:.1f} to {sums[1]:.1f}" if sums else "",
                ),
                percent(numbers.get("codebook_use")),
                _shown(numbers.get("perplexity"), ",.1f"),
                _shown(numbers.get("loss"), ".4f"),
                _shown(numbers.get("samples"), ","),
            ]
        )
    return Table(
        ["Split", "PSNR, dB", "Explained", "MSE", "Codes in use", "Perplexity", "Loss", "Pictures"],
        rows,
        "95 % intervals by bootstrap over pictures. PSNR: per picture and then averaged, images in [0, 1]. Explained: "
        "share of the variance of the colours, 1 less the squared error over the squared distance from the mean "
        "colour. MSE: summed over an image. Codes in use and perplexity: of all positions of the split together. Loss: "
        "as in training, reconstruction and commitment, and that of the codes where they are no moving averages.",
    )


def _shown(value: float | None, form: str) -> str:
    return NO_VALUE if value is None else f"{value:{form}}"


def _codebook(run: Run) -> list[Any]:
    made = number_figures(run)
    if not made:
        return []
    details = run.evaluation["splits"][close_split(run)]
    rows = [
        [str(channel + 1), f"{mean:.3f}", f"{std:.3f}"]
        for channel, (mean, std) in enumerate(zip(details["latent_mean"], details["latent_std"], strict=True))
    ]
    caption = f"Share of the {SPLIT_NAMES[close_split(run)]} positions that each code takes."
    table = Table(["Channel of the latent", "Mean", "Standard deviation"], rows, "Latents before quantisation.")
    return [Figures.of([made["codes"]], ["Use of the codes by rank"], caption=caption), table]


def _reconstructions(pictures: dict[str, Any]) -> list[Any]:
    rows = pictures.get("rows") or []
    if not rows:
        return []
    note = Text(
        [
            f"{SPLIT_NAMES[pictures['split']].capitalize()} pictures evenly spaced by rank from the worst to the best: "
            "image, reconstruction, four times the absolute error, and the latent, its first three channels as colours."
        ],
        quiet=True,
    )
    names = COLUMNS_OF_SHEET.split(", ")
    strips = [
        Gallery(
            f"Picture {number}, {level:.1f}\u00a0dB",
            [("", [_picture(image, name) for image, name in zip(images, names, strict=True)])],
            small=True,
        )
        for number, level, *images in rows
    ]
    return [note, *strips]


def _picture(image: np.ndarray, name: str) -> Picture:
    return Picture([data_uri(image, 128)], [name], pixelated=max(image.shape) <= 64)


def save_galleries(run: Run, pictures: dict[str, Any]) -> None:
    """Write the sheet of reconstructions to `galleries/` of the run; where the scenes were drawn here, and so may be
    shown anywhere, also to `figures/`."""
    rows = pictures.get("rows") or []
    for folder, allowed in (("galleries", True), ("figures", run.is_generated)):
        path = run.folder / folder / SHEET
        if rows and allowed:
            buffer = io.BytesIO()
            columns = [np.stack([row[2 + k] for row in rows]) for k in range(4)]
            Image.fromarray(sheet(columns)).save(buffer, "PNG", optimize=True)
            write_atomically(path, buffer.getvalue())
        else:
            path.unlink(missing_ok=True)
    listed = [{"id": number, "psnr": level} for number, level, *_ in rows]
    index = {"split": pictures["split"], "columns": COLUMNS_OF_SHEET, "rows": listed}
    write_json(run.folder / "galleries" / "reconstructions.json", index)
