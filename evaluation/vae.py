"""Evaluation of the VQ-VAE family: how much of a picture comes back, and how the codebook is used."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

import metrics
from data.dataset_cache import source_of
from metrics.bootstrap import interval
from models import VQVAEModel
from training.scene_pictures import psnr, to_pixels

from .frechet import distances, feature_distance, features_of, first_metric, no_metric
from .loading import data_state, data_there, device_of, exact, load_model
from .options import Options
from .picture_inputs import PictureInputs
from .program_store import Entry, Store
from .runs import Run, digest, weights_of
from .scene_data import CLOSE, SceneSplit, load_scenes
from .sources import code_digest, model_code
from .statistics import evenly

BATCH_SIZE = 32
SHOWN = 10
COMPARED = 500  # pictures of a Frechet distance


class Autoencoder:
    """A run's VQ-VAE on a device, in float32 and evaluation mode. Results do not depend on the batch."""

    def __init__(self, run: Run, options: Options) -> None:
        self.device = device_of(options.device)
        self.batch_size = options.batch_size or BATCH_SIZE
        self.model = load_model(run, VQVAEModel).to(self.device, memory_format=torch.channels_last)
        self.pixel_values = PictureInputs(run, self.device)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Any:
        """The model's output for pictures uint8 [B, S, S, 3]."""
        with exact():
            return self.model(self.pixel_values(images))


def settings(run: Run, options: Options) -> Any:
    """Nothing but the splits, asked for and there, changes the result. RunError for other data, which this family does
    not measure."""
    options.refuse_data(run.family)
    return [options.splits, data_there(run, load_scenes)]


def evaluate(run: Run, options: Options) -> dict[str, Any]:
    """Reconstruction error and use of the codebook on every split; pictures and a Frechet distance of one.

    Numbers of each picture are kept in generated.json. Returns what `families.py` says; `pictures` has `split` and
    `rows`: (id, decibels, image, reconstruction, error, latent), from the worst to the best.
    """
    started = time.perf_counter()
    dataset = load_scenes(run)
    wanted = options.present(dataset, run.folder)
    model, store = Autoencoder(run, options), Store(run.folder, options.force)
    files = [*weights_of(run.folder), run.folder / "config.json", run.folder / "preprocessor_config.json"]
    made_from = digest(
        [file for file in files if file.is_file()],
        run.recipe.get("data"),
        code_digest(model_code(run.family)),
        source_of(dataset),
    )
    splits = {name: SceneSplit.of(name, dataset[name]) for name in wanted}
    numbers, details, found = {}, {}, {}
    for name, split in splits.items():
        found[name] = _measured(store, model, split, made_from)
        numbers[name], details[name] = score(found[name])
    close = next(name for name in CLOSE if name in splits)
    evaluation: dict[str, Any] = {"device": str(model.device), "precision": "float32", "splits": details}
    evaluation["data_state"] = data_state(run, dataset)
    train = SceneSplit("train", dataset["train"]) if "train" in dataset and len(dataset["train"]) else None
    entry = _frechet(store, model, splits[close].spread(COMPARED), train, made_from)
    evaluation["frechet"] = {key: value for key, value in entry.items() if key != "inputs"}
    if "value" in entry:
        numbers[close][entry["metric"]] = entry["value"]
    rows = _rows(model, splits[close], psnr(np.asarray(found[close]["errors"])))
    evaluation["seconds"] = round(time.perf_counter() - started, 2)
    return {"metrics": numbers, "evaluation": evaluation, "pictures": {"split": close, "rows": rows}}


def _measured(store: Store, model: Autoencoder, split: SceneSplit, made_from: str) -> Entry:
    """Of each picture of a split its id and error, and how often each code was chosen."""

    def compute() -> Entry:
        mse = metrics.load("reconstruction_mse")
        config = model.model.config
        errors, totals, squares, losses, pixels = [], [], [], [], 0
        counts = np.zeros(config.num_codes, dtype=np.int64)
        latents = np.zeros((2, config.latent_channels))  # sums of values and of squares
        places = 0
        for rows in split.batches(model.batch_size):
            images = split.images(rows)
            output = model(images)
            unit = (output.reconstruction.float().movedim(1, -1).cpu().numpy() + 1) / 2
            pixels = unit[0].size
            scored = mse.compute(predictions=unit, references=images, resamples=1, return_samples=True)
            errors += [value / pixels for value in scored["samples"]["reconstruction_mse"]]
            values = images.reshape(len(images), -1, 3) / 255.0
            totals.append(values.mean(axis=1))
            squares.append(np.square(values).mean(axis=(1, 2)))
            losses += [float(output.loss)] * len(rows)
            counts += np.bincount(output.codes.cpu().numpy().ravel(), minlength=config.num_codes)
            found = output.latents.double().movedim(1, -1).flatten(0, -2).cpu().numpy()
            latents += np.stack([found.sum(axis=0), np.square(found).sum(axis=0)])
            places += len(found)
        colours = np.concatenate(totals)  # [N, 3], the mean colour of each picture
        mean = colours.mean(axis=0)
        spread = np.concatenate(squares) - (2 * colours * mean - np.square(mean)).mean(axis=1)
        mean_latent = latents[0] / places
        return {
            "ids": split.ids.tolist(),
            "errors": errors,
            "spread": spread.tolist(),
            "values": pixels,
            "loss": float(np.mean(losses)),
            "codes": counts.tolist(),
            "positions": int(output.codes[0].numel()),
            "latent_mean": mean_latent.tolist(),
            "latent_std": np.sqrt(np.maximum(latents[1] / places - np.square(mean_latent), 0)).tolist(),
        }

    return store.remember(f"reconstruction, {split.name}", digest([], made_from, split.digest), compute)


def score(found: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headline numbers of a split, and the details behind them.

    Numbers: `loss`, `reconstruction_mse` (images in [0, 1], summed over an image), `psnr` (decibels, per picture and
    then averaged), `explained_variance` (1 - squared error / squared distance from the split's mean colour),
    `codebook_use` (share of the codes that occur), `perplexity` (exp of the entropy of the codes), `samples`; 95 %
    intervals over the pictures of what is a mean over them. Details: `codes` (share of the positions that each takes,
    descending, those that occur), `num_codes`, `positions` and `values` of a picture, `latent_mean` and `latent_std`
    per channel, `psnr`.
    """
    errors, spread = np.asarray(found["errors"]), np.asarray(found["spread"])
    levels = psnr(errors)
    counts = np.asarray(found["codes"])
    shares = np.sort(counts[counts > 0] / counts.sum())[::-1]
    sums = errors * found["values"]
    numbers = {
        "loss": found["loss"],
        "mean_squared_error": float(errors.mean()),
        "reconstruction_mse": float(sums.mean()),
        "reconstruction_mse_interval": interval(sums),
        "psnr": float(levels.mean()),
        "psnr_interval": interval(levels),
        "codebook_use": len(shares) / len(counts),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "samples": len(errors),
    }
    if spread.sum() > 0:
        low, high = interval(errors, spread)
        numbers["explained_variance"] = float(1 - errors.sum() / spread.sum())
        numbers["explained_variance_interval"] = [1 - high, 1 - low]
    details = {key: found[key] for key in ("positions", "values", "latent_mean", "latent_std")}
    details |= {"num_codes": len(counts), "codes": shares.tolist()}
    details["psnr"] = {"lowest": float(levels.min()), "highest": float(levels.max())}
    return numbers, details


def _frechet(store: Store, model: Autoencoder, split: SceneSplit, train: SceneSplit | None, made_from: str) -> Entry:
    """Distance of reconstructions to the pictures themselves (`value`), and of as many training pictures (`train`)."""
    if len(split) < 2:
        return {"unavailable": f"there is {len(split)} picture, and a covariance needs at least 2"}
    metric, missing = first_metric()
    if metric is None:
        return {"unavailable": no_metric(missing)}
    name = metric.extractor.distance_name

    def compute() -> Entry:
        batches = list(split.batches(model.batch_size))
        references = features_of(metric, (split.images(rows) for rows in batches))
        rebuilt = (to_pixels(model(split.images(rows)).reconstruction) for rows in batches)
        sides = {"value": features_of(metric, rebuilt)}
        real = train.spread(len(split)) if train is not None and split.name != "train" else None
        if real is not None and len(real) == len(split):  # distances of other numbers of pictures cannot be compared
            sides["train"] = features_of(metric, (real.images(rows) for rows in real.batches(model.batch_size)))
        result: Entry = {"metric": name, "images": len(split), "split": split.name, "not_at_hand": missing}
        return result | feature_distance(references, sides["value"]) | distances(metric, references, sides)

    made = digest([], made_from, split.digest, train.digest if train else None, name)
    return store.remember("reconstruction, distance", made, compute)


def _rows(model: Autoencoder, split: SceneSplit, levels: np.ndarray) -> list[tuple[Any, ...]]:
    """Pictures evenly spaced by rank from the worst to the best: (id, decibels, image, reconstruction, error x 4,
    latent), uint8 [S, S, 3]."""
    chosen = evenly(np.lexsort((split.ids, levels)), SHOWN)
    images = split.images(chosen)
    rows = []
    for start in range(0, len(chosen), model.batch_size):
        part = images[start : start + model.batch_size]
        output = model(part)
        rebuilt = to_pixels(output.reconstruction)
        error = np.clip(4 * np.abs(rebuilt.astype(int) - part), 0, 255).astype(np.uint8)
        latents = [_colours(latent) for latent in output.latents.float().cpu().numpy()]
        enlarged = [
            latent.repeat(model.model.downsampling_factor, 0).repeat(model.model.downsampling_factor, 1)
            for latent in latents
        ]
        here = chosen[start : start + model.batch_size]
        rows += list(zip(split.ids[here].tolist(), levels[here].tolist(), part, rebuilt, error, enlarged, strict=True))
    return rows


def _colours(latent: np.ndarray) -> np.ndarray:
    """The first three channels of a latent [c, h, w] as a picture uint8 [h, w, 3], each from its 1st to its 99th
    percentile; fewer than three are repeated."""
    channels = latent[[0, 1, 2] if len(latent) >= 3 else [0, 0, 0]]
    low, high = np.percentile(channels, [1, 99], axis=(1, 2), keepdims=True)
    unit = (channels - low) / np.maximum(high - low, 1e-6)
    return np.moveaxis(np.round(255 * unit.clip(0, 1)), 0, -1).astype(np.uint8)
