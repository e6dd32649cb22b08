"""What the ResNet family's report says and shows: sections of one run, its figures, its galleries."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from data.image_folder_audit import AuditReport

from . import figures, grad_cam, sections
from .observations import observe_run
from .report import (
    NO_VALUE,
    Cell,
    Figures,
    Gallery,
    Picture,
    Report,
    Section,
    Table,
    Text,
    data_uri,
    interval,
    percent,
)
from .runs import Run, write_atomically, write_json
from .sections import size_of, trained_for

NORMS = {
    "bn": "hand-written batch norm",
    "in": "hand-written instance norm",
    "bin": "hand-written batch-instance norm",
    "ln": "hand-written layer norm",
    "gn": "hand-written group norm",
    "torch_bn": "torch's own batch norm",
    "none": "no normalisation",
}
PANELS = figures.PANELS
FIRST_SHEET = "grad_cam.png"
PUBLISHED_FIGURES = ("curves.png", "confusion_matrix.png", "recall.png", "reliability.png")
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}


def observe(run: Run) -> list[str]:
    """The sentences of the report and the card."""
    return observe_run(run)


def data_name(run: Run) -> str:
    """The data set's name, or that of the generator's pictures."""
    return sections.data_name(run, "generated pictures")


def describe(run: Run) -> str:
    """One sentence: which network, on what, for how long."""
    config = run.config
    n, norm = config.get("n"), config.get("norm")
    layers = f"{6 * n + 2}-layer ResNet (6n+2, n = {n})" if n else "ResNet (6n+2)"
    size, how = size_of(run), trained_for(run)
    return (
        f"{layers} with {NORMS.get(norm, norm)}{size}; {len(run.labels)} classes of {data_name(run)} at "
        f"{(run.recipe.get('data') or {}).get('image_size', 64)} pixels{how}."
    )


def curve_of(run: Run) -> figures.Curve:
    return figures.Curve(run.folder.name, figures.BLUE, run.history)


def number_figures(run: Run) -> dict[str, Figure]:
    """The figures that show no photograph, by file name; they may be published. (The card draws the curves.)"""
    made = {}
    val = (run.evaluation.get("splits") or {}).get("val")
    if val:
        made["confusion_matrix"] = figures.confusion_matrix(np.asarray(val["confusion_matrix"]), run.labels)
        made["recall"] = figures.recall_per_class(val["per_class"])
        error = run.metrics["metrics"]["val"]["calibration_error"]
        made["reliability"] = figures.reliability(val["calibration"]["bins"], error)
    return made


def build_report(run: Run, pictures: dict[str, Any]) -> Report:
    """The whole report of one run. `pictures` are the galleries' images from `resnet.evaluate`."""
    made = number_figures(run)
    parts = [
        Section("Results", [results_table(run)]),
        Section("Observations", [Text(run.evaluation.get("observations") or [], listed=True)]),
        Section("Learning curves", sections.learning_curves([curve_of(run)], PANELS)),
        Section("Classes", _classes(run, made)),
        Section("Calibration", _calibration(made)),
        Section("Hardest images", _hardest(pictures.get("hardest") or [])),
        Section("Grad-CAM", _grad_cam(run, pictures.get("grad_cam"))),
        Section("Data", _data(pictures.get("audit"))),
        Section("Set-up", sections.setup(run)),
    ]
    return Report(
        title=run.name,
        kicker="ResNet · evaluation of one run",
        lead=describe(run),
        headline=_headline(run),
        sections=sections.filled(parts),
        footer=sections.footer(run),
    )


def _headline(run: Run) -> list[tuple[str, str, str]]:
    splits, headline = run.metrics.get("metrics") or {}, []
    for split in ("val", "test", "train"):
        if "accuracy_interval" in splits.get(split, {}):
            numbers = splits[split]
            headline.append(
                (
                    f"Accuracy, {SPLIT_NAMES[split]}",
                    percent(numbers["accuracy"]),
                    interval(numbers["accuracy_interval"]),
                )
            )
    if "f1_macro_interval" in splits.get("val", {}):
        val = splits["val"]
        headline.insert(1, ("Macro F1, validation", percent(val["f1_macro"]), interval(val["f1_macro_interval"])))
    return headline


def results_table(run: Run) -> Table:
    """Every metric on every split, with intervals."""
    rows = []
    for split, n in (run.metrics.get("metrics") or {}).items():
        if "accuracy" not in n:
            continue
        row = [
            SPLIT_NAMES.get(split, split),
            Cell(percent(n["accuracy"]), interval(n.get("accuracy_interval"))),
            percent(1 - n["accuracy"]),
            percent(n.get("f1_micro")),
            Cell(percent(n.get("f1_macro")), interval(n.get("f1_macro_interval"))),
            _number(n.get("loss")),
            _number(n.get("calibration_error")),
            f"{n['samples']:,}" if "samples" in n else NO_VALUE,
        ]
        rows.append(row)
    return Table(
        ["Split", "Accuracy", "Error", "Micro F1", "Macro F1", "Loss", "Calibration error", "Images"],
        rows,
        "95 % intervals: Wilson for accuracy, bootstrap over images for macro F1. With one label per image micro F1 "
        "equals accuracy.",
    )


def _data(audited: AuditReport | None) -> list[Any]:
    """What the audit found: class counts, files that are no pictures, pictures that are in two splits."""
    if audited is None:
        return []
    splits = list(audited.class_counts)
    counts = [
        [name, *(f"{audited.class_counts[s][name]:,}" for s in splits)] for name in audited.class_counts[splits[0]]
    ]
    bad = [[found["path"], found["reason"]] for found in audited.bad_files]
    columns = ["Class", *(SPLIT_NAMES[split] for split in splits)]
    blocks = [
        Text(str(audited).splitlines()[: 4 if audited.width_range else 3], listed=True),
        Table(columns, counts, "Images of every class", folded=True),
    ]
    for columns, rows, caption in (
        (["File", "Reason"], bad, "Files that are no usable images, left out"),
        (["Image", "The same, or nearly, in another split"], audited.leaks, "Images in two splits"),
    ):
        if rows:
            blocks.append(Table(columns, rows, f"{caption} ({len(rows):,})", text_columns=2, folded=True))
    return blocks


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"


def _classes(run: Run, made: dict[str, Figure]) -> list[Any]:
    val = (run.evaluation.get("splits") or {}).get("val")
    if not val:
        return []
    wide = len(run.labels) > 6
    rows = []
    for row in val["per_class"]:
        bounds = interval((row["low"], row["high"]), 0) if row["support"] else ""
        recall = Cell(percent(row["recall"]), bounds)
        rows.append([row["label"], percent(row["precision"]), recall, percent(row["f1"]), f"{row['support']:,}"])
    confused = [[p["true"], p["predicted"], str(p["count"]), percent(p["share"])] for p in val["most_confused"]]
    errors = val["calibration"]["errors"]
    figures_block = Figures.of(
        [made["confusion_matrix"], made["recall"]],
        ["Confusion matrix of the validation split", "Recall of every class with 95 % intervals"],
        caption="Confusion matrix: counts of validation images, shaded by the share of the true class.",
        wide=wide,
    )
    pairs = Table(
        ["True class", "Taken for", "Images", "Share of class"],
        confused,
        f"The most confused pairs among {errors:,} errors on validation.",
        text_columns=2,
    )
    per_class = Table(
        ["Class", "Precision", "Recall", "F1", "Images"], rows, "Precision, recall and F1 of every class", folded=True
    )
    return [figures_block, *([pairs] if confused else []), per_class]


def _calibration(made: dict[str, Figure]) -> list[Any]:
    if "reliability" not in made:
        return []
    caption = (
        "Bars and points: share of validation images classified right, by the probability of the chosen class. Orange: "
        "distance to a calibrated model, which lies on the dotted diagonal."
    )
    return [Figures.of([made["reliability"]], ["Reliability diagram of the validation split"], caption=caption)]


def _hardest(items: list[dict[str, Any]]) -> list[Any]:
    pictures = [
        Picture(
            [data_uri(item["image"])],
            [item["label"], f"as {item['prediction']}, {percent(item['probability'], 0)}", f"loss {item['loss']:.2f}"],
            tone="good" if item["label"] == item["prediction"] else "bad",
            pixelated=max(item["image"].shape) <= 64,
        )
        for item in items
    ]
    note = "Validation images with the highest loss, worst first: true class, predicted class with its probability."
    return [Gallery("", [("", pictures)], note)] if pictures else []


def _grad_cam(run: Run, gallery: dict[str, Any] | None) -> list[Any]:
    if not gallery:
        return []
    layers = 2 * int(run.config.get("n") or 0)
    which = f"the last {layers} {run.evaluation['grad_cam']['layers']}"
    intro = (
        f"Where the evidence for the true class lies, in {which}: each layer's map is scaled to [0, 1] at "
        f"{grad_cam.SIZE}x{grad_cam.SIZE}, and their mean is laid over the image (bright: much). Up to five images "
        "classified right and five classified wrong of each class, evenly spaced in the order of their ids. The "
        "caption is the prediction with its probability."
    )
    blocks: list[Any] = [Text([intro], quiet=True)]
    drawn = list(zip(gallery["cells"], gallery["images"], gallery["maps"], strict=True))
    for class_index in gallery["classes"]:
        own = [item for item in drawn if item[0]["class_index"] == class_index]
        groups = [
            (heading, [_cam_picture(*item) for item in own if item[0]["right"] == right])
            for heading, right in (("Right", True), ("Wrong", False))
        ]
        blocks.append(Gallery(run.labels[class_index], groups, gallery["notes"][class_index]))
    return blocks


def _cam_picture(cell: dict[str, Any], image: np.ndarray, cam: np.ndarray) -> Picture:
    small = max(image.shape[:2]) <= 64
    canvas = image.repeat(128 // image.shape[0], 0).repeat(128 // image.shape[1], 1) if small else image
    lines = [cell["prediction"], percent(cell["probability"], 0)]
    return Picture(
        [data_uri(image, 128), data_uri(grad_cam.overlay(canvas, cam), 128)],
        lines if cam.any() else [*lines, "empty map"],
        tone="good" if cell["right"] else "bad",
        pixelated=small,
    )


def save_galleries(run: Run, pictures: dict[str, Any]) -> None:
    """Write the Grad-CAM sheet at 64x64 a cell and its index to `galleries/` of the run; photographs, not to be
    published.
    """
    gallery = pictures.get("grad_cam")
    if not gallery:
        return
    folder = run.folder / "galleries"
    maps = np.stack(gallery["maps"]) if gallery["maps"] else np.zeros((0, grad_cam.SIZE, grad_cam.SIZE))
    buffer = io.BytesIO()
    Image.fromarray(grad_cam.sheet(gallery["images"], maps, gallery["cells"])).save(buffer, "PNG", optimize=True)
    write_atomically(folder / "grad_cam.png", buffer.getvalue())
    cells = []
    for cell in gallery["cells"]:
        y, x = grad_cam.sheet_position(cell)
        facts = {key: value for key, value in cell.items() if key not in ("index", "class_index")}
        cells.append({"class": run.labels[cell["class_index"]], **facts, "x": x, "y": y})
    index = {
        "picture": "grad_cam.png",
        "cell_size": grad_cam.SIZE,
        "split": "val",
        "target": "true class",
        "layers": f"last {2 * int(run.config.get('n') or 0)} {run.evaluation['grad_cam']['layers']}",
        "classes": [run.labels[i] for i in gallery["classes"]],
        "notes": {run.labels[i]: note for i, note in gallery["notes"].items() if note},
        "cells": cells,
    }
    write_json(folder / "grad_cam.json", index)
