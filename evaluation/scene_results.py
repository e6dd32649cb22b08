"""The numbers of a report on a model that splits scenes into slots: its table, the baselines' below each split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .report import NO_VALUE, Cell, Table, interval, percent
from .runs import Run
from .scene_baselines import GRID, MEAN_COLOUR
from .scene_scores import FOREGROUND

SPLIT_NAMES = {"train": "train (sample)", "val": "validation", "test": "test"}
MEASURES = {
    FOREGROUND: "ARI, foreground",
    "adjusted_rand_index": "ARI, all pixels",
    "foreground_mean_iou": "Mean IoU, objects",
    "mean_iou": "Mean IoU, with background",
    "mean_best_overlap": "Mean best overlap",
}
SHORT = {
    FOREGROUND: "ARI fg",
    "adjusted_rand_index": "ARI all",
    "foreground_mean_iou": "mIoU fg",
    "mean_iou": "mIoU all",
    "mean_best_overlap": "mBO",
}


@dataclass(frozen=True)
class Wording:
    """What a report says where models differ: what the loss is, and what is shown of a slot by itself."""

    loss: str
    alone: str


AUTOENCODER = Wording("images in [-1, 1], summed over the channels, mean over the pixels", "its own picture")


def headline(run: Run, split: str | None) -> list[tuple[str, str, str]]:
    """The few numbers of a split at the top of the report, each with what is reached without learning."""
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    found = [
        (f"{name}, {split}", percent(numbers[key]), _beside_grid(numbers, key))
        for key, name in list(MEASURES.items())[:3]
        if key in numbers
    ]
    if "reconstruction_mse" in numbers:
        flat = numbers.get(f"{MEAN_COLOUR}reconstruction_mse")
        note = "summed over an image" if flat is None else f"mean colour {flat:.1f}"
        found.append((f"Reconstruction MSE, {split}", f"{numbers['reconstruction_mse']:.1f}", note))
    made = run.evaluation.get("composition") or {}
    if "value" in made:
        found.append((made["metric"], f"{made['value']:.1f}", f"{made['images']:,} composed pictures"))
    return found


def _beside_grid(numbers: dict[str, Any], key: str) -> str:
    bounds, grid = interval(numbers.get(f"{key}_interval")), numbers.get(f"{GRID}{key}")
    return bounds if grid is None else f"{bounds}; fixed grid {percent(grid)}"


def results_table(run: Run, wording: Wording = AUTOENCODER) -> Table:
    """Every metric on every split, with intervals, and below each split what is reached without learning."""
    rows = []
    for split, numbers in (run.metrics.get("metrics") or {}).items():
        name = SPLIT_NAMES.get(split, split)
        loss = f"{numbers['loss']:.4f}" if "loss" in numbers else NO_VALUE
        samples = f"{numbers['samples']:,}" if "samples" in numbers else NO_VALUE
        rows.append([*measured(name, numbers), loss, samples])
        if f"{MEAN_COLOUR}reconstruction_mse" in numbers:
            rows.append([*measured(f"no learning, {name}", numbers, (GRID, MEAN_COLOUR)), NO_VALUE, NO_VALUE])
    return Table(
        ["Split", *SHORT.values(), "MSE", "Loss", "Scenes"],
        rows,
        "Per scene and then averaged; 95 % intervals by bootstrap over scenes. ARI: adjusted Rand index of the slot "
        "that wins each pixel, over the foreground (fg) and over all pixels. mIoU: slots matched one to one to true "
        "segments, without (fg) and with the background. mBO: mean overlap (IoU) of an object with its best slot. MSE "
        f"of the reconstruction: images in [0, 1], summed over an image{_counted(run)}. Loss: {wording.loss}."
        f"{_without_learning(run)}",
    )


def measured(label: str, numbers: dict[str, Any], prefixes: tuple[str, str] = ("", "")) -> list[str | Cell]:
    """A row: the label, every measure and the squared error, each with its interval. `prefixes` of the names of
    segmentation scores and of the error are those of a baseline."""
    masks, pictures = prefixes
    row: list[str | Cell] = [label]
    for key in MEASURES:
        value, bounds = numbers.get(f"{masks}{key}"), numbers.get(f"{masks}{key}_interval")
        row.append(Cell(percent(value), interval(bounds)))
    error, bounds = (numbers.get(f"{pictures}reconstruction_mse{end}") for end in ("", "_interval"))
    row.append(
        Cell(NO_VALUE if error is None else f"{error:.1f}", f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "")
    )
    return row


def grid_name(run: Run) -> str:
    """The grid that was chosen, in words; "" without masks."""
    grid = (run.evaluation.get("baselines") or {}).get("grid")
    return f"{grid['rows']} x {grid['columns']} rectangles" if grid else ""


def _without_learning(run: Run) -> str:
    """What the rows of the baselines are."""
    if not run.evaluation.get("baselines"):
        return ""
    colour = "every picture painted with its own mean colour (MSE)"
    grid = run.evaluation["baselines"]["grid"]
    if not grid:
        return f" No learning: {colour}."
    return (
        f" No learning: a fixed grid of {grid_name(run)} (rows x columns), which ignores the picture, the best by "
        f"foreground ARI on {SPLIT_NAMES[grid['chosen_on']]} of all with at most {grid['at_most']} cells, as the model "
        f"has slots; and {colour}."
    )


def _counted(run: Run) -> str:
    """Of how many scenes the reconstruction was measured, where not of all."""
    splits = (run.metrics.get("metrics") or {}).items()
    few = [f"{numbers['reconstructed']:,} in {name}" for name, numbers in splits if "reconstructed" in numbers]
    return f", over scenes evenly spaced ({', '.join(few)})" if few else ""
