"""Evaluation of the ResNet family: predictions on every split, their numbers, Grad-CAM, report and card of one run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

import models  # noqa: F401  registers the Auto classes
from data.birds import BirdsData, audit, load_birds, pixels_of
from data.dataset_cache import source_of
from data.image_folder_audit import AuditReport
from training.digests import data_digests
from training.run_folder import check_data

from . import grad_cam
from .loading import data_state, data_there, device_of, exact, recipe_data
from .loading import load_model as load_weights
from .options import Options
from .picture_inputs import PictureInputs
from .predictions import Predictions, load_predictions, save_predictions
from .runs import Run, RunError, digest, weights_of
from .scores import score
from .sources import code_digest, model_code
from .statistics import evenly, rank_test

CAM_SAMPLES = 100
BATCH_SIZE = 128


class Classifier:
    """A run's model on a device, in float32 and evaluation mode, with the run's own image normalisation."""

    def __init__(self, run: Run, options: Options) -> None:
        self.device = device_of(options.device)
        self.batch_size = options.batch_size or BATCH_SIZE
        self.model = load_model(run).to(self.device, memory_format=torch.channels_last)
        self.pixel_values = PictureInputs(run, self.device)

    @torch.inference_mode()
    def predict(self, split: Dataset) -> Predictions:
        """Probabilities and losses of every sample, in the order of the data set, without augmentation."""
        probabilities, losses = [], []
        labels = np.asarray(split["label"], dtype=np.int64)
        for start in range(0, len(split), self.batch_size):
            rows = split[start : start + self.batch_size]
            with exact():
                logits = self.model(pixel_values=self.pixel_values(pixels_of(rows))).logits.float()
            targets = torch.from_numpy(labels[start : start + self.batch_size]).to(self.device)
            probabilities.append(logits.softmax(-1).cpu().numpy())
            losses.append(F.cross_entropy(logits, targets, reduction="none").cpu().numpy())
        ids = np.asarray(split["id"], dtype=np.int64)
        return Predictions(ids, labels, np.concatenate(probabilities), np.concatenate(losses))


def load_model(run: Run) -> torch.nn.Module:
    """The run's classifier, see [`loading.load_model`]."""
    return load_weights(run, AutoModelForImageClassification)


def load_data(run: Run) -> tuple[DatasetDict, AuditReport | None]:
    """The data set that the recipe names, and what its audit found, None of drawn pictures. RunError for a field that
    `data/birds.py` does not know or refuses, and for data that have changed since the run began."""
    described = recipe_data(run, BirdsData)
    try:
        dataset = load_birds(described)
    except (OSError, ValueError) as error:
        raise RunError(f"{run.folder}: the data do not load: {error}") from error
    names = list(next(iter(dataset.values())).features["label"].names)
    if names != run.labels:
        raise RunError(
            f"{run.folder}: the data have {len(names)} classes ({', '.join(names[:3])}, ...), the model was trained on "
            f"{len(run.labels)} ({', '.join(run.labels[:3])}, ...). Check data.path in recipe.yaml."
        )
    check_data(run.folder, data_digests(dataset))
    return dataset, None if described.path is None else audit(described)


def inputs_digest(run: Run) -> str:
    """Fingerprint of all that predictions depend on besides the samples: weights, config, image processor, recipe, and
    what the model's code does."""
    files = [*weights_of(run.folder), run.folder / "config.json", run.folder / "preprocessor_config.json"]
    code = code_digest(model_code(run.family))
    return digest([file for file in files if file.is_file()], run.recipe.get("data"), run.recipe.get("model"), code)


def settings(run: Run, options: Options) -> Any:
    """What an evaluation depends on besides files: the splits asked for, and those that there are. RunError for
    `data`."""
    options.refuse_data(run.family)
    return [options.splits, data_there(run, lambda run: load_birds(recipe_data(run, BirdsData)))]


def evaluate(run: Run, options: Options) -> dict[str, Any]:
    """Predict what is missing, score every split and explain validation; writes predictions.npz and the galleries.

    Returns `metrics` and `evaluation` for metrics.json (the latter without digest and observations), and `pictures`:
    the galleries' images and the audit of the data in memory, for the report.
    """
    started = time.perf_counter()
    dataset, audited = load_data(run)
    wanted = options.present(dataset, run.folder)
    classifier = Classifier(run, options)
    fingerprint = digest([], inputs_digest(run), data_digests(dataset), source_of(dataset))
    known = {} if options.force else load_predictions(run.folder, fingerprint)
    predictions = {s: known.get(s) or classifier.predict(dataset[s]) for s in wanted}
    save_predictions(run.folder, {**known, **predictions}, fingerprint)
    metrics, details = {}, {}
    for split, predicted in predictions.items():
        metrics[split], details[split] = score(predicted, run.labels)
    evaluation = {"device": str(classifier.device), "precision": "float32", "splits": details}
    evaluation["data_state"] = data_state(run, dataset)
    evaluation["data"] = audited and audited.counts()
    pictures = {"audit": audited}
    if "val" in predictions:
        evaluation["grad_cam"], pictures["grad_cam"] = explain(run, classifier, dataset["val"], predictions["val"])
        pictures["hardest"] = hardest(dataset["val"], predictions["val"], run.labels)
    evaluation["seconds"] = round(time.perf_counter() - started, 2)
    return {"metrics": metrics, "evaluation": evaluation, "pictures": pictures}


def explain(run: Run, classifier: Classifier, split: Dataset, predictions: Predictions) -> tuple[dict, dict]:
    """The Grad-CAM gallery of R4 (cells with image, map and facts) and what maps of up to 200 images say in numbers."""
    support = np.bincount(predictions.labels, minlength=len(run.labels))
    classes = grad_cam.choose_classes(run.labels, support)
    cells = grad_cam.choose_images(predictions.labels, predictions.predicted, predictions.ids, classes)
    order = np.argsort(predictions.ids, kind="stable")
    right = evenly(order[predictions.right[order]], CAM_SAMPLES)
    wrong = evenly(order[~predictions.right[order]], CAM_SAMPLES)
    needed = list(dict.fromkeys([cell["index"] for cell in cells] + right.tolist() + wrong.tolist()))
    maps = {}
    for start in range(0, len(needed), 32):
        chunk = needed[start : start + 32]
        values = classifier.pixel_values(pixels_of(split[chunk]))
        with exact():
            found = grad_cam.compute_maps(classifier.model, values, predictions.labels[chunk])
        maps.update(zip(chunk, found, strict=True))
    numbers = {"layers": grad_cam.target_layers(classifier.model)[1]} | _map_numbers(
        [maps[int(i)] for i in right], [maps[int(i)] for i in wrong]
    )
    shown = split[[cell["index"] for cell in cells]] if cells else {"path": []}
    images = list(pixels_of(shown)) if cells else []
    for cell, path in zip(cells, shown["path"], strict=True):
        i = cell["index"]
        named = {"id": int(predictions.ids[i]), "path": path, "label": run.labels[predictions.labels[i]]}
        probability = {"probability": float(predictions.probabilities[i].max())}
        true = {"true_probability": float(predictions.probabilities[i, predictions.labels[i]])}
        cell.update(**named, prediction=run.labels[predictions.predicted[i]], **probability, **true)
    gallery = {"classes": classes, "cells": cells, "images": images, "maps": [maps[cell["index"]] for cell in cells]}
    gallery["notes"] = {
        row: grad_cam.shortage_note(
            cells,
            row,
            int((predictions.right & (predictions.labels == row)).sum()),
            int((~predictions.right & (predictions.labels == row)).sum()),
        )
        for row in classes
    }
    return numbers, gallery


def _map_numbers(right: list[np.ndarray], wrong: list[np.ndarray]) -> dict[str, Any]:
    result: dict[str, Any] = {"size": grad_cam.SIZE, "target": "true class", "empty": 0}
    entropies = {}
    for side, maps in (("right", right), ("wrong", wrong)):
        centre, entropy = grad_cam.describe_maps(np.stack(maps)) if maps else (np.zeros(0), np.zeros(0))
        filled = ~np.isnan(entropy)
        result["empty"] += int((~filled).sum())
        entropies[side] = entropy[filled]
        means = {"centre_share": centre[filled], "entropy": entropy[filled]}
        result[side] = {"count": int(filled.sum())}
        result[side] |= {name: float(values.mean()) if len(values) else None for name, values in means.items()}
    result["entropy_p"] = rank_test(entropies["right"], entropies["wrong"])
    return result


def hardest(split: Dataset, predictions: Predictions, names: list[str], count: int = 24) -> list[dict[str, Any]]:
    """The images of highest loss, worst first (ties by id): image, path, names, probability of the chosen class."""
    order = np.lexsort((predictions.ids, -predictions.losses))[:count]
    rows = split[order.tolist()]
    images = pixels_of(rows)
    return [
        {
            "image": image,
            "path": path,
            "label": names[predictions.labels[i]],
            "prediction": names[predictions.predicted[i]],
            "probability": float(predictions.probabilities[i].max()),
            "loss": float(predictions.losses[i]),
        }
        for i, image, path in zip(order, images, rows["path"], strict=True)
    ]
