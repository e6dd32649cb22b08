"""Evaluation of models that split scenes into slots: segmentation scores on every split, a gallery, compositional
generation, and other data that the model was never trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset_cache import source_of

from . import composition
from .loading import data_state, data_there
from .options import Options
from .predictions import ScenePredictions, load_predictions, save_predictions
from .program_store import Store
from .runs import Run, RunError, digest, weights_of
from .scene_baselines import Grid, baseline_numbers, measure_baselines
from .scene_data import CLOSE, SceneSplit, load_other_scenes, load_scenes
from .scene_gallery import choose, ranked, scene_rows
from .scene_model import SceneModel
from .scene_scores import predict, score, segmentation_numbers
from .sources import code_digest, model_code
from .statistics import evenly

OTHER_SHOWN = 12


def inputs_digest(run: Run, how: Any = None) -> str:
    """Fingerprint of all that segmentations depend on: weights, config, image processor, the recipe's data, the seed of
    the slots' noise, what the model's code does, and `how` pictures are made."""
    files = [*weights_of(run.folder), run.folder / "config.json", run.folder / "preprocessor_config.json"]
    seed = (run.recipe.get("training") or {}).get("seed")
    code = code_digest(model_code(run.family))
    return digest([file for file in files if file.is_file()], run.recipe.get("data"), seed, code, how)


def settings(run: Run, options: Options) -> Any:
    """What an evaluation depends on besides files: splits asked for and there, size of the library, and which other
    data were measured."""
    known = {name: entry["inputs"] for name, entry in (run.evaluation.get("other_data") or {}).items()}
    if options.data is not None:
        known[data_label(options.data)] = _stamp(options.data)
    return [options.splits, data_there(run, load_scenes), options.library_images, sorted(known.items())]


def data_label(path: Path) -> str:
    """What a report calls other data: the last part of its path."""
    return path.resolve().name.removesuffix(".npz")


def _stamp(path: Path) -> str:
    if not path.exists():
        raise RunError(f"--data {path}: there is no such file or folder.")
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            status = file.stat()
            found.append([str(file.relative_to(path)), status.st_size, status.st_mtime_ns])
    return digest([], path.name, found)


@dataclass
class Closely:
    """The split that is looked at closely, for what only one family does: its scenes, what was predicted of them, where
    results are kept, and the digest of what they depend on."""

    split: SceneSplit
    predicted: ScenePredictions
    store: Store
    made_from: str


Study = Callable[[Closely], tuple[dict[str, Any], dict[str, Any]]]


def evaluate_scenes(run: Run, options: Options, model: SceneModel, own: Study | None = None) -> dict[str, Any]:
    """Segment what is not stored yet, score every split, and look closely at one: val, unless it was not asked for.

    Writes predictions.npz (the slot of every pixel), slot_library.npz and generated.json. Returns what `families.py`
    says; `pictures` has `split`, `rows` (worst, typical, best), `sheet`, `clusters`, `composed` and `other`. `own` adds
    entries to `evaluation` and to `pictures`.
    """
    started = time.perf_counter()
    dataset = load_scenes(run)
    wanted = options.present(dataset, run.folder)
    made_from = digest([], inputs_digest(run, model.settings), source_of(dataset))
    splits = {name: SceneSplit.of(name, dataset[name]) for name in wanted}
    close = next(name for name in CLOSE if name in splits)
    predictions = _predictions(run, model, splits, close, made_from, options.force)
    numbers, details = {}, {}
    for name, split in splits.items():
        numbers[name], details[name] = score(predictions[name], split)
    beside = measure_baselines(splits, predictions, model.config.num_slots)
    numbers = {name: numbers[name] | beside.numbers[name] for name in splits}
    stored = {} if options.force else load_predictions(run.folder, made_from, ScenePredictions)
    save_predictions(run.folder, {**stored, **predictions}, made_from)
    evaluation: dict[str, Any] = {"device": str(model.device), "precision": "float32", "splits": details}
    evaluation["data_state"] = data_state(run, dataset)
    evaluation["baselines"] = beside.facts
    pictures = {"split": close, **_gallery(model, splits[close], predictions[close])}
    if "train" in dataset and len(dataset["train"]):
        train = SceneSplit("train", dataset["train"])
        made, shown = _generate(run, model, train, splits[close], made_from, options)
        evaluation["composition"], pictures = made, {**pictures, **shown}
        if "value" in made:
            numbers[close] |= {made["metric"]: made["value"], **_named_features(made)}
    if own is not None:
        store = Store(run.folder, options.force)
        entries, shown = own(Closely(splits[close], predictions[close], store, made_from))
        evaluation, pictures = {**evaluation, **entries}, {**pictures, **shown}
    evaluation["other_data"], pictures["other"] = _other_data(run, model, made_from, options, beside.grid)
    evaluation["seconds"] = round(time.perf_counter() - started, 2)
    return {"metrics": numbers, "evaluation": evaluation, "pictures": pictures}


def _named_features(made: dict[str, Any]) -> dict[str, Any]:
    """The feature distance under the name of its features, with its interval."""
    keys = ("feature_distance", "feature_distance_interval")
    return {key.replace("distance", f"distance_{made['features']}"): made[key] for key in keys}


def _predictions(
    run: Run, model: SceneModel, splits: dict[str, SceneSplit], close: str, made_from: str, force: bool
) -> dict[str, ScenePredictions]:
    known = {} if force else load_predictions(run.folder, made_from, ScenePredictions)
    found = {}
    for name, split in splits.items():
        stored = known.get(name)
        usable = stored is not None and np.array_equal(stored.ids, split.ids)
        found[name] = stored if usable else predict(model, split, name == close)
    return found


def _gallery(model: SceneModel, split: SceneSplit, predicted: ScenePredictions) -> dict[str, Any]:
    scores = predicted.foreground_scores
    rows = {kind: scene_rows(model, split, positions, scores) for kind, positions in choose(predicted).items()}
    return {"rows": rows, "sheet": scene_rows(model, split, ranked(predicted), scores)}


def _generate(
    run: Run, model: SceneModel, train: SceneSplit, val: SceneSplit, made_from: str, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers and pictures of compositional generation: as many pictures as the held-out split has."""
    count = options.library_images or len(train)
    library = composition.library_of(run, model, train, count, made_from, options.force)
    val = val.spread(model.reconstructed(len(val), True))
    strips = composition.describe_clusters(model, library, train)
    store = Store(run.folder, options.force)
    numbers = {
        "split": val.name,
        "images": len(val),
        "library_images": len(library.ids),
        "slots": library.num_slots,
        "clusters": library.num_clusters,
        "clusters_requested": library.requested,
        "seed": composition.SEED,
        "facts": [strip.facts for strip in strips],
    }
    entry = composition.frechet(store, model, library, val, train, made_from)
    numbers |= {key: value for key, value in entry.items() if key != "inputs"}
    shown = composition.compose(model, library, min(composition.COMPOSED_SHOWN, len(val)))
    return numbers, {"clusters": strips, "composed": shown}


def _other_data(
    run: Run, model: SceneModel, made_from: str, options: Options, grid: Grid | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers of data that the model was not trained on, beside those of masks that came with them; what was measured
    before with the same weights is kept. `grid` is the baseline of the run's own data. And pictures of what was
    measured now."""
    earlier = run.evaluation.get("other_data") or {}
    entries = {name: entry for name, entry in earlier.items() if entry.get("model") == made_from}
    if options.data is None:
        return entries, {}
    name, split = data_label(options.data), load_other_scenes(run, options.data)
    predicted = predict(model, split)
    true = split.masks(np.arange(len(split)))
    numbers = score(predicted, split)[0] | baseline_numbers(split, predicted, grid)[0]
    entry = {"inputs": _stamp(options.data), "model": made_from, "image_size": model.config.image_size}
    entry["slots"] = model.config.num_slots
    if crowded := sum(len(np.unique(mask)) > entry["slots"] for mask in true):
        entry["more_objects_than_slots"] = crowded
    entry["numbers"] = numbers
    if "predicted_mask" in split.rows.column_names:
        given = split.masks(np.arange(len(split)), "predicted_mask")
        entry["given"] = segmentation_numbers(given, true)[0]
    order = np.lexsort((predicted.ids, -np.nan_to_num(predicted.foreground_scores, nan=-2.0)))
    rows = scene_rows(model, split, evenly(order, OTHER_SHOWN), predicted.foreground_scores)
    return {**entries, name: entry}, {name: rows}


def foreground_of(run: Run, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(ids, foreground scores) of a split's scenes as stored by the last evaluation; None where there are none."""
    stored = load_predictions(run.folder, None, ScenePredictions).get(split)
    if stored is None or np.isnan(stored.foreground_scores).all():
        return None
    return stored.ids, stored.foreground_scores
