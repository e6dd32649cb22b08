"""What the report on a run of the Slot Attention family says and shows."""

from __future__ import annotations

from typing import Any

from .report import Report
from .runs import Run
from .scene_observations import close_split, observe_scenes
from .scene_report import (
    FIRST_SHEET,
    PANELS,
    PUBLISHED_FIGURES,
    common_sections,
    data_name,
    number_figures,
    save_galleries,
)
from .scene_results import headline
from .sections import footer, size_of, trained_for

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

ENCODERS = {"cnn": "convolutions of 5x5", "resnet18": "ResNet-18 with group norm"}


def observe(run: Run) -> list[str]:
    """The sentences of the report and the card."""
    return observe_scenes(run)


def describe(run: Run) -> str:
    """One sentence: which network, on what, for how long."""
    config = run.config
    encoder = ENCODERS.get(config.get("encoder"), config.get("encoder"))
    slots = f"{config.get('num_slots')} {config.get('slot_init')} slots of {config.get('slot_size')}"
    pixels = config.get("image_size")
    size, how = size_of(run), trained_for(run)
    return (
        f"Slot Attention autoencoder: {encoder}, {slots}, spatial broadcast decoder{size}; {data_name(run)} at "
        f"{pixels}x{pixels}{how}."
    )


def build_report(run: Run, pictures: dict[str, Any]) -> Report:
    """The whole report of one run. `pictures` are those of `scene_evaluation.evaluate_scenes`."""
    return Report(
        title=run.name,
        kicker="Slot Attention · evaluation of one run",
        lead=describe(run),
        headline=headline(run, close_split(run)),
        sections=common_sections(run, pictures),
        footer=footer(run),
    )
