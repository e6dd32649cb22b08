"""Slot Attention and slot diffusion side by side, on the same scenes: the coursework's comparison of its two parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from training.scene_pictures import in_true_colours, paint

from . import scene_comparison
from .comparison import Column, Tests, labels_of, split_word
from .composition import compose
from .families import family_module
from .frechet import EXTRACTORS
from .options import Options
from .paired_scores import Scores, against_best
from .predictions import ScenePredictions, load_predictions
from .report import Gallery, Section, Text
from .runs import Run
from .scene_comparison import split_of
from .scene_data import SceneSplit, load_scenes
from .scene_model import SceneModel
from .scene_report import PANELS as SCENE_PANELS
from .scene_report import picture
from .sections import size_of
from .slot_editing import COLUMNS as EDIT_COLUMNS
from .slot_editing import edit
from .slot_library import FILE_NAME, SlotLibrary
from .statistics import evenly

PANELS = SCENE_PANELS[1:]  # the losses are of different things
SHOWN = 6
COMPOSED = 12


def _comparable_columns() -> tuple[Column, ...]:
    """Those of the families, without the loss, and with the features' distance of reconstructions."""
    kept = tuple(column for column in scene_comparison.COLUMNS if column.key != "loss")
    names = [f"feature_distance_{extractor}" for extractor in EXTRACTORS]
    return (*kept, *(Column(f"{name}, reconstructions", "val", name, min, share=False) for name in names))


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """What the families' own rules say of the masks, then reconstructions, composed pictures, and their price."""
    same_data = len({scene_comparison.data_key(run) for run in runs}) == 1
    pictures = [*_errors(runs), *_distances(runs)] if same_data else []
    return [*scene_comparison.sentences(runs, tests), *pictures, *_sizes(runs)]


def _errors(runs: list[Run]) -> list[str]:
    """Squared errors of the reconstructions of the same scenes, the lowest against every other."""
    split = split_of(runs)
    stored = [load_predictions(run.folder, None, ScenePredictions).get(split) for run in runs]
    known = [found for found in stored if found is not None]
    if len(known) < 2 or any(not np.array_equal(found.ids, known[0].ids) for found in known):
        return []
    all_made = ~np.isnan([found.squared_errors for found in known]).any(axis=0)
    if not all_made.any():
        return []
    scores = [None if p is None else Scores(p.ids[all_made], -p.squared_errors[all_made]) for p in stored]
    levels = [None if s is None else float(s.values.mean()) for s in scores]
    best, differences = against_best(labels_of(runs), scores, levels)
    said = [f"{d.label} has {d.mean:.1f} more ({d.low:.1f} to {d.high:.1f}, {d.verdict})" for d in differences]
    return [
        f"On {int(all_made.sum()):,} {split_word(split)} scenes that all reconstructed, {best} has the lowest squared "
        f"error, {-max(level for level in levels if level is not None):.1f} a picture; {'; '.join(said)}."
    ]


def _distances(runs: list[Run]) -> list[str]:
    """Composed pictures and reconstructions by the same features, of the same number of pictures."""
    labels = labels_of(runs)
    made = [run.evaluation.get("composition") or {} for run in runs]
    known = [i for i, entry in enumerate(made) if "value" in entry]
    if len(known) < 2 or len({(made[i]["metric"], made[i]["images"]) for i in known}) > 1:
        return []
    texts = []
    for key, what in (("value", "composed pictures"), ("reconstruction", "reconstructions")):
        order = sorted(known, key=lambda i: made[i][key])
        texts.append(f"{what}: " + ", ".join(f"{labels[i]} {made[i][key]:.1f}" for i in order))
    first = made[known[0]]
    floor = f"; as many training pictures: {first['train']:.1f}" if "train" in first else ""
    return [
        f"By {first['metric']} to {first['images']:,} {split_word(first['split'])} pictures, the nearest first: "
        f"{'; '.join(texts)}{floor}."
    ]


def _sizes(runs: list[Run]) -> list[str]:
    known = [
        (run.training["parameters"], f"{label}{size_of(run).removeprefix(',')}")
        for run, label in zip(runs, labels_of(runs), strict=True)
        if run.training.get("parameters")
    ]
    if len(known) < 2:
        return []
    return ["Sizes: " + ", ".join(text for _, text in sorted(known)) + "."]


RULES = replace(scene_comparison.RULES, columns=_comparable_columns(), sentences=sentences)


def sections(runs: list[Run], options: Options) -> list[Section]:
    """Pictures of all runs on the same scenes: masks and reconstructions, composed pictures, edited slots.

    Scenes are evenly spaced by the mean rank of their foreground scores. RunError where a model does not load.
    """
    split, predictions = _same_scenes(runs)
    if split is None:
        note = "The runs were evaluated on different scenes, so no pictures are shown side by side."
        return [Section("Scenes", [Text([note], quiet=True)])]
    scores = np.nanmean([np.nan_to_num(p.foreground_scores, nan=-1.0) for p in predictions], axis=0)
    positions = evenly(np.lexsort((split.ids, scores)), SHOWN)
    models = [family_module(run).scene_model(run, options) for run in runs]
    labels = labels_of(runs)
    return [
        Section("Scenes", _scenes(models, labels, split, positions)),
        Section("Composed pictures", _composed(models, labels, runs)),
        Section("Edited slots", _edited(models, labels, split, positions)),
    ]


def _same_scenes(runs: list[Run]) -> tuple[SceneSplit | None, list[Any]]:
    """The split that ranks the runs and what each predicted of it; None where it is not one and the same."""
    name = split_of(runs)
    stored = [load_predictions(run.folder, None, ScenePredictions).get(name) for run in runs]
    sets = [load_scenes(run) for run in runs]
    if any(found is None for found in stored) or any(name not in data for data in sets):
        return None, []
    splits = [SceneSplit.of(name, data[name]) for data in sets]
    sizes = {run.config.get("image_size") for run in runs}
    same = len({split.digest for split in splits}) == 1 and len(sizes) == 1
    row = [len(splits[0]) - 1]
    same = same and all(np.array_equal(split.images(row), splits[0].images(row)) for split in splits)
    return (splits[0], stored) if same else (None, [])


def _scenes(models: list[SceneModel], labels: list[str], split: SceneSplit, positions: np.ndarray) -> list[Any]:
    images, ids = split.images(positions), split.ids[positions]
    found = [model.segment(images, ids) for model in models]
    note = (
        "Scenes evenly spaced by foreground ARI, averaged over the runs. A predicted mask has the colour of the true "
        "one that it stands for."
    )
    blocks: list[Any] = [Text([note], quiet=True)]
    for i, position in enumerate(positions.tolist()):
        true = split.masks([position])[0] if split.has_mask[position] else None
        pictures = [picture(images[i], ["image"])]
        if true is not None:
            pictures.append(picture(paint(true), ["true masks"], flat=True))
        for label, made in zip(labels, found, strict=True):
            segments = made.segments[i] + 1 if true is None else in_true_colours(made.segments[i], true)
            pictures.append(picture(paint(segments), [label, "masks"], flat=True))
            pictures.append(picture(made.pixels[i], [label, "from its slots"]))
        blocks.append(Gallery(f"Scene {ids[i]}", [("", pictures)], small=True))
    return blocks


def _composed(models: list[SceneModel], labels: list[str], runs: list[Run]) -> list[Any]:
    blocks: list[Any] = []
    for model, label, run in zip(models, labels, runs, strict=True):
        if (run.folder / FILE_NAME).is_file():
            made = compose(model, SlotLibrary.load(run.folder), COMPOSED)
            blocks.append(Gallery(label, [("", [picture(image, []) for image in made])], small=True))
    note = "One slot of each cluster of the run's own slot library, drawn with the same seed."
    return [Text([note], quiet=True), *blocks] if blocks else []


def _edited(models: list[SceneModel], labels: list[str], split: SceneSplit, positions: np.ndarray) -> list[Any]:
    blocks: list[Any] = []
    for model, label in zip(models, labels, strict=True):
        for row in edit(model, split, positions)[0]:
            pictures = [picture(image, [text]) for image, text in zip(row.pictures, EDIT_COLUMNS, strict=True)]
            blocks.append(Gallery(f"{label}: scenes {row.ids[0]} and {row.ids[1]}", [("", pictures)], small=True))
    return blocks
