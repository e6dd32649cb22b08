"""What the report on a run of the slot diffusion family says and shows."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from training.scene_pictures import sheet

from . import figures, scene_report
from .report import NO_VALUE, Cell, Figures, Gallery, Report, Section, Table, Text, duration, percent
from .runs import Run
from .scene_observations import close_split
from .scene_report import (
    FIRST_SHEET,
    PANELS,
    common_sections,
    data_name,
    picture,
)
from .scene_results import SPLIT_NAMES, Wording, headline
from .sections import footer, size_of, trained_for
from .slot_editing import COLUMNS, edits_sheet
from .slotattn_report import ENCODERS
from .slotdiff_observations import observe_diffusion, spread

__all__ = [
    "FIRST_SHEET",
    "PANELS",
    "PUBLISHED_FIGURES",
    "build_report",
    "describe",
    "number_figures",
    "observe",
    "save_galleries",
]

EDITS, SAMPLES = "edits.png", "samples.png"
PUBLISHED_FIGURES = (*scene_report.PUBLISHED_FIGURES, "samplers.png", EDITS, SAMPLES)
WORDING = Wording(
    "squared error of what the UNet predicts, at one time step and noise of each scene, mean over the values",
    "the picture where its attention lies",
)


def observe(run: Run) -> list[str]:
    """The sentences of the report and the card."""
    return observe_diffusion(run)


def describe(run: Run) -> str:
    """One sentence: which network, on what, for how long."""
    config = run.config
    slot, unet = config.get("slot_config") or {}, config.get("unet_config") or {}
    encoder = ENCODERS.get(slot.get("encoder"), slot.get("encoder"))
    slots = f"{config.get('num_slots')} {slot.get('slot_init')} slots of {config.get('slot_size')}"
    pixels, steps = config.get("image_size"), config.get("num_train_timesteps", 1000)
    size, how = size_of(run), trained_for(run)
    return (
        f"Slot diffusion: {encoder}, {slots}, a UNet of {unet.get('base_channels')} base channels in the latent space "
        f"of a frozen autoencoder, {steps:,} steps{size}; {data_name(run)} at {pixels}x{pixels}{how}."
    )


def number_figures(run: Run) -> dict[str, Figure]:
    """The figures without a picture in them, by file name."""
    made = scene_report.number_figures(run)
    study = run.evaluation.get("samplers")
    return {**made, "samplers": _samplers_figure(study)} if study else made


def _samplers_figure(study: dict[str, Any]) -> Figure:
    """Quality against time of each sampler, with the spread over the draws, beside the autoencoder's own."""
    key, name = ("distance", study["metric"]) if study["metric"] else ("mse", "squared error")
    rows, times = study["samplers"], [row["seconds"] for row in study["samplers"]]
    with rc_context(figures.STYLE):
        figure = Figure(figsize=(5.0, 3.9))
        axis = figure.add_subplot()
        colours = figures.colours_for([row["label"] for row in rows])
        for row, colour, marker in zip(rows, colours, cycle("os^Dv"), strict=False):
            look = {"color": colour, "marker": marker, "linestyle": "none", "capsize": 3}
            axis.errorbar(row["seconds"], np.mean(row[key]), yerr=spread(row[key]), label=row["label"], **look)
        floor = study["floors"][0]
        axis.axhline(floor[key], color=figures.MUTED, linewidth=1, linestyle=(0, (1, 2)), label=floor["label"])
        axis.set(xscale="log", ylabel=name, xlim=(min(times) / 3, max(times) * 3))
        axis.margins(y=0.15)
        axis.set_xlabel("seconds a picture", loc="right")
        axis.tick_params(length=0, which="both")
        figure.subplots_adjust(left=0.14, right=0.97, top=0.82, bottom=0.14)
        figure.legend(loc="upper center", ncols=3, frameon=False)  # names at the points would run into one another
    return figure


def build_report(run: Run, pictures: dict[str, Any]) -> Report:
    """The whole report of one run. `pictures` are those of `slotdiff.evaluate`."""
    own = [Section("Samplers", _samplers(run, pictures)), Section("Edited slots", _edits(run, pictures))]
    return Report(
        title=run.name,
        kicker="Slot diffusion · evaluation of one run",
        lead=describe(run),
        headline=headline(run, close_split(run)),
        sections=common_sections(run, pictures, WORDING, own),
        footer=footer(run),
    )


def _samplers(run: Run, pictures: dict[str, Any]) -> list[Any]:
    study = run.evaluation.get("samplers")
    if not study:
        return [Text(["Samplers were not compared: --sampler-images was 0."], quiet=True)]
    slow = study["samplers"][0]["seconds"]
    rows: list[list[Any]] = []
    for row in study["samplers"]:
        values = row["distance"]
        rows.append(
            [
                row["label"],
                f"{row['steps']:,}",
                duration(row["seconds"]),
                f"{slow / row['seconds']:.1f}",
                Cell(f"{np.mean(row['mse']):.1f}", f"± {spread(row['mse']):.1f}"),
                Cell(f"{np.mean(values):.1f}", f"± {spread(values):.1f}") if values else NO_VALUE,
            ]
        )
    for row in study["floors"]:
        distance = NO_VALUE if row["distance"] is None else f"{row['distance']:.1f}"
        rows.append([row["label"], NO_VALUE, NO_VALUE, NO_VALUE, f"{row['mse']:.1f}", distance])
    columns = ["Sampler", "Steps", "A picture", "Times as fast", "MSE", study["metric"] or "Frechet distance"]
    blocks: list[Any] = [Table(columns, rows, _samplers_caption(run, study))]
    description = "Quality of each sampler against the time of a picture"
    blocks.append(Figures.of([number_figures(run)["samplers"]], [description]))
    shown = pictures.get("samplers")
    if shown:
        strips = [(label, [picture(image, []) for image in images]) for label, images in shown.items()]
        blocks += [Gallery(label, [("", strip)], small=True) for label, strip in strips]
    return blocks


def _samplers_caption(run: Run, study: dict[str, Any]) -> str:
    split = SPLIT_NAMES[study["split"]]
    text = (
        f"Pictures sampled from the slots of {study['images']:,} {split} scenes, the same slots and noise for every "
        f"sampler, {study['draws']} draws (seeds) of it; ± is the standard deviation over the draws. Time: decoding "
        f"included, {study['batch']} pictures at a time on {run.evaluation.get('device')} "
        f"({study['threads']} threads). MSE: images in [0, 1], summed over an image."
    )
    if study["metric"]:
        text += f" {study['metric']}: distance of these pictures to {study['references']:,} {split} pictures."
    elif study["not_at_hand"]:
        text += f" No distance: the weights of {', '.join(study['not_at_hand'])} are not at hand."
    if study["images"] < study["of"]:
        text += (
            f" The other {study['of'] - study['images']:,} scenes were left out (--sampler-images N takes more): so "
            "few pictures make any distance large, and comparable only within this table."
        )
    return text


def _edits(run: Run, pictures: dict[str, Any]) -> list[Any]:
    rows, numbers = pictures.get("edits") or [], run.evaluation.get("edits")
    if not rows or not numbers:
        return [Text(["No two scenes have an object slot, so none could be edited."], quiet=True)]
    note = (
        "Pairs of scenes evenly spaced by foreground ARI. The object removed, or replaced by the other scene's, is the "
        "one whose slot wins most pixels; the background is the slot that wins most of all. The noise is that of the "
        "scene's own reconstruction, so only slots differ."
    )
    lines = [[word] for word in COLUMNS]
    strips = [
        Gallery(
            f"Scenes {row.ids[0]} and {row.ids[1]}",
            [("", [picture(image, text) for image, text in zip(row.pictures, lines, strict=True)])],
            small=True,
        )
        for row in rows
    ]
    table = Table(
        ["Edit", "Where the slot won", "Elsewhere"],
        [
            ["object removed", percent(numbers["removed_inside"]), percent(numbers["removed_outside"])],
            ["object swapped", percent(numbers["swapped_inside"]), percent(numbers["swapped_outside"])],
        ],
        f"Mean absolute change of the picture's values, of their range, over {numbers['scenes']} scenes.",
    )
    return [Text([note], quiet=True), table, *strips]


def save_galleries(run: Run, pictures: dict[str, Any]) -> None:
    """The sheets of every scene model, and those of edits and samplers."""
    shown = pictures.get("samplers")
    samples = sheet(list(shown.values())) if shown else None
    own = {EDITS: edits_sheet(pictures.get("edits") or []), SAMPLES: samples}
    scene_report.save_galleries(run, pictures, own)
