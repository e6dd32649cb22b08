"""Ancestral sampling of all steps beside DDIM and DPM-Solver++ of few: quality and time on the same slots and noise."""

from __future__ import annotations

import base64
import time
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

import metrics

from .diffusion_scene_model import DiffusionSceneModel, possible_steps
from .frechet import distances, features_of, first_metric
from .program_store import Entry, Store
from .runs import digest
from .scene_data import SceneSplit

ANCESTRAL = "ddpm"
SAMPLERS = ((ANCESTRAL, None), ("ddim", 200), ("ddim", 50), ("dpmsolver++", 20))  # None: all steps of the chain
NAMES = {"ddpm": "ancestral", "ddim": "DDIM", "dpmsolver++": "DPM-Solver++"}
SEED, DRAWS = 2, 3  # of the noise, and how often each scene is sampled
REFERENCES = 500  # pictures that samples are compared with
WARM_UP = 2  # steps of a first run that is not timed
SHOWN = 8


@dataclass(frozen=True)
class Sampler:
    """One way to sample."""

    scheduler: str
    steps: int

    @property
    def label(self) -> str:
        """Such as "DDIM 50"."""
        return f"{NAMES[self.scheduler]} {self.steps}"


def samplers_of(length: int) -> list[Sampler]:
    """The samplers compared for a chain of `length` steps, the slowest first; each at most once."""
    chosen = [Sampler(name, possible_steps(name, steps or length, length)) for name, steps in SAMPLERS]
    return list(dict.fromkeys(chosen))


@dataclass
class _Task:
    """Scenes to be sampled from their own slots, each 3 times, and what samples are compared with.

    Args:
        model: that samples.
        images: uint8 [N, S, S, 3].
        slots: [3 N, K, D], draw after draw; the noise is that of the position.
        references: pictures of a Frechet distance.
        metric: the distance, None where there is none.
    """

    model: DiffusionSceneModel
    images: np.ndarray
    slots: torch.Tensor
    references: SceneSplit
    metric: Any

    @cached_property
    def _features(self) -> np.ndarray:
        batches = self.references.batches(self.model.batch_size)
        return features_of(self.metric, (self.references.images(rows) for rows in batches))

    def distance(self, pictures: np.ndarray) -> float | None:
        """Of pictures to the references."""
        if self.metric is None:
            return None
        return distances(self.metric, self._features, {"value": features_of(self.metric, [pictures])})["value"]

    def measure(self, sampler: Sampler) -> Entry:
        """A row of `samplers`, see `compare_samplers`, and its pictures."""
        numbers = range(len(self.slots))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "sampling begins at")  # nobody looks at what so few steps give
            self.model.sample(self.slots, numbers, SEED, sampler.scheduler, min(WARM_UP, sampler.steps))
        begun = time.perf_counter()
        pictures = self.model.sample(self.slots, numbers, SEED, sampler.scheduler, sampler.steps)
        seconds = (time.perf_counter() - begun) / len(pictures)
        made = pictures.reshape(DRAWS, *self.images.shape)
        errors = np.stack([squared_errors(drawn, self.images) for drawn in made])  # [draws, N]
        return {
            "label": sampler.label,
            "steps": sampler.steps,
            "seconds": seconds,
            "errors": errors.mean(axis=0).tolist(),
            "mse": errors.mean(axis=1).tolist(),
            "distance": [self.distance(drawn) for drawn in made] if self.metric is not None else None,
            "pictures": base64.b64encode(made[0][:SHOWN].tobytes()).decode(),
        }

    def floors(self) -> Entry:
        """What is left without slots and diffusion, and without anything: marks to measure samplers by."""
        sides = {"VAE alone": self.model.autoencoded(self.images), "pictures themselves": self.images}
        rows = [
            {"label": label, "mse": float(squared_errors(made, self.images).mean()), "distance": self.distance(made)}
            for label, made in sides.items()
        ]
        return {"rows": rows}


def compare_samplers(
    store: Store, model: DiffusionSceneModel, split: SceneSplit, count: int, made_from: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Numbers of each sampler on `count` scenes evenly spaced, and 8 pictures of the first draw by label.

    The scenes' own slots are sampled from with 3 draws of the noise, the same for every sampler. Each row of `samplers`
    has `label, steps, seconds` (of one picture, decoding included), `errors` (squared error of each picture in [0, 1],
    summed over it, mean over the draws), `mse` per draw and, where features are at hand, `distance` per draw: the
    Frechet distance to up to 500 pictures of the split. `floors` has the same of the
    autoencoder's own reconstructions, and of the pictures themselves.
    """
    chosen, references = split.spread(count), split.spread(REFERENCES)
    images = chosen.images(np.arange(len(chosen)))
    slots = torch.from_numpy(model.slots(images, chosen.ids)).repeat(DRAWS, 1, 1)
    metric, missing = first_metric() if len(chosen) > 1 else (None, [])
    name = None if metric is None else metric.extractor.distance_name
    task = _Task(model, images, slots, references, metric)
    at = [str(model.device), torch.get_num_threads()]  # times of two machines, or threads, are not compared
    inputs = digest([], made_from, chosen.digest, references.digest, name, SEED, DRAWS, model.batch_size, at)
    rows = [
        store.remember(f"sampler, {sampler.label}", inputs, partial(task.measure, sampler))
        for sampler in samplers_of(model.config.num_train_timesteps)
    ]
    first = images[:SHOWN]
    shown = {"image": first} | {
        row["label"]: np.frombuffer(base64.b64decode(row["pictures"]), dtype=np.uint8).reshape(first.shape)
        for row in rows
    }
    result = {
        "split": split.name,
        "images": len(chosen),
        "of": len(split),
        "draws": DRAWS,
        "references": len(references),
        "metric": name,
        "not_at_hand": missing,
        "threads": torch.get_num_threads(),
        "batch": min(model.batch_size, len(slots)),
        "samplers": [{key: row[key] for key in row if key not in ("inputs", "pictures")} for row in rows],
        "floors": store.remember("sampler, floors", inputs, task.floors)["rows"],
    }
    return result, shown


def squared_errors(pictures: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Squared error of each picture [N], values in [0, 1], summed over it; both uint8 [N, S, S, 3]."""
    found = metrics.load("reconstruction_mse").compute(
        predictions=pictures, references=images, resamples=1, return_samples=True
    )
    return np.asarray(found["samples"]["reconstruction_mse"])
