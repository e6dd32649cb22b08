"""Compositional generation (experiment S2): what the clusters of a slot library hold, pictures composed of one slot of
each, and how far their distribution is from that of validation pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .frechet import distances, feature_distance, features_of, first_metric, no_metric
from .program_store import Entry, Store
from .runs import Run, RunError, digest
from .scene_data import SceneSplit
from .scene_gallery import SlotPicture, slot_pictures
from .scene_model import SceneModel
from .scene_scores import USED
from .slot_library import SlotLibrary

SEED = 0  # of clustering and drawing
DESCRIBED = 100  # training pictures whose slots are looked at to say what a cluster holds
PER_CLUSTER = 8  # pictures of a cluster on its strip
COMPOSED_SHOWN = 24


@dataclass
class ClusterStrip:
    """What the report shows of a cluster: the slots nearest to its centre."""

    cluster: int
    facts: dict[str, Any]
    pictures: list[SlotPicture]


def library_of(
    run: Run, model: SceneModel, split: SceneSplit, count: int, model_digest: str, force: bool
) -> SlotLibrary:
    """The run's slot library from `count` evenly spaced training pictures, stored in the run folder; taken from there
    where it was made from the same weights and pictures."""
    sample = split.spread(count)
    wanted = digest([], model_digest, sample.digest, SEED)
    try:
        stored = SlotLibrary.load(run.folder)
    except RunError:  # none yet, or a damaged one: it is made anew
        stored = None
    if stored is not None and stored.digest == wanted and not force:
        return stored
    slots = [model.slots(sample.images(rows), sample.ids[rows]) for rows in sample.batches(model.batch_size)]
    library = SlotLibrary.build(sample.ids, np.concatenate(slots), model.config.num_slots, SEED, wanted)
    library.save(run.folder)
    return library


def compose(model: SceneModel, library: SlotLibrary, count: int, start: int = 0) -> np.ndarray:
    """Pictures `start` to `start + count` of the series that (library, SEED) defines, uint8 [count, S, S, 3]."""
    size, made = model.batch_size, []
    for begin in range(start, start + count, size):
        numbers = range(begin, min(begin + size, start + count))
        made.append(model.compose(library.draw(len(numbers), SEED, begin), numbers))
    return np.concatenate(made)


def describe_clusters(model: SceneModel, library: SlotLibrary, split: SceneSplit) -> list[ClusterStrip]:
    """For each cluster its facts, from the slots of 100 evenly spaced pictures of the library, and its strip.

    Facts: `slots` and `share` of all slots; of those looked at (`looked_at`) the share that is `idle` (wins less than
    0.5 % of its picture), and of the others the mean `area` (share of the picture), the centre `x`, `y` of their masks
    (0 to 1, y down) with its `spread` (root mean square distance from there), and the share whose true segment is the
    `background`; the last only where masks are known.
    """
    positions = {int(number): row for row, number in enumerate(split.ids)}
    nearest = [library.members(cluster) for cluster in range(library.num_clusters)]
    shown = [list(zip(p[:PER_CLUSTER].tolist(), k[:PER_CLUSTER].tolist(), strict=True)) for p, k in nearest]
    described = np.linspace(0, len(library.ids) - 1, min(DESCRIBED, len(library.ids))).round().astype(int).tolist()
    needed = sorted({*described, *(picture for strip in shown for picture, _ in strip)})
    wanted = {pair for strip in shown for pair in strip}
    kept: dict[tuple[int, int], SlotPicture] = {}
    looked: list[list[tuple[float, float, float, bool | None]]] = [[] for _ in nearest]
    for start in range(0, len(needed), model.batch_size):
        chunk = needed[start : start + model.batch_size]
        rows = np.array([positions[int(library.ids[picture])] for picture in chunk])
        found = model.segment(split.images(rows), split.ids[rows], details=True, reconstruct=False)
        for i, (picture, row) in enumerate(zip(chunk, rows.tolist(), strict=True)):
            true = split.masks([row])[0] if split.has_mask[row] else None
            slots = {slot.slot: slot for slot in slot_pictures(found, i, true)}
            kept |= {(picture, slot): slots[slot] for slot in slots if (picture, slot) in wanted}
            if picture in described:
                for slot, cluster in enumerate(library.clusters[picture].tolist()):
                    looked[cluster].append(_traits(found.masks[i, slot], found.segments[i] == slot, true))
    return [
        ClusterStrip(cluster, _facts(library, cluster, looked[cluster]), [kept[pair] for pair in shown[cluster]])
        for cluster in range(library.num_clusters)
    ]


def _traits(mask: np.ndarray, won: np.ndarray, true: np.ndarray | None) -> tuple[float, float, float, bool | None]:
    """(share of the picture won, x and y of the mask's centre, whether most of what was won is background)."""
    size = mask.shape[0]
    place = (np.arange(size) + 0.5) / size
    total = mask.sum()
    x, y = float(mask.sum(axis=0) @ place / total), float(mask.sum(axis=1) @ place / total)
    background = None if true is None or not won.any() else bool((true[won] == 0).mean() > 0.5)
    return float(won.mean()), x, y, background


def _facts(library: SlotLibrary, cluster: int, looked: list[tuple[float, float, float, bool | None]]) -> dict[str, Any]:
    count = int((library.clusters == cluster).sum())
    facts: dict[str, Any] = {"slots": count, "share": count / library.num_slots, "looked_at": len(looked)}
    busy = [traits for traits in looked if traits[0] >= USED]
    if looked:
        facts["idle"] = 1 - len(busy) / len(looked)
    if busy:
        area, x, y = np.array([traits[:3] for traits in busy]).T
        spread = float(np.sqrt((np.square(x - x.mean()) + np.square(y - y.mean())).mean()))
        facts |= {"area": float(area.mean()), "x": float(x.mean()), "y": float(y.mean()), "spread": spread}
    known = [traits[3] for traits in busy if traits[3] is not None]
    if known:
        facts["background"] = float(np.mean(known))
    return facts


def speciality(facts: dict[str, Any]) -> str:
    """What a cluster holds, in a few words, from its facts."""
    if "area" not in facts:
        return "idle slots" if facts.get("idle") else "not looked at"
    if facts["idle"] > 0.5:
        return "mostly idle slots"
    what = "slots"
    if "background" in facts:
        share = facts["background"]
        what = "background" if share > 0.8 else "objects" if share < 0.2 else "objects and background"
    if facts["spread"] > 0.15:
        return f"{what}, anywhere"
    column = "left" if facts["x"] < 0.4 else "right" if facts["x"] > 0.6 else ""
    row = "upper" if facts["y"] < 0.4 else "lower" if facts["y"] > 0.6 else ""
    return f"{what}, {' '.join(word for word in (row, column) if word) or 'middle'}"


def frechet(
    store: Store, model: SceneModel, library: SlotLibrary, val: SceneSplit, train: SceneSplit, inputs: str
) -> Entry:
    """Distances to the validation pictures, in the features of the first extractor at hand: of as many composed ones
    (`value`, under the name `metric`), and for comparison of their own `reconstruction`s and of as many pictures of the
    training split (`train`), which nothing was generated for. Beside them `feature_distance`, of each picture to its
    own reconstruction. `unavailable` says why there is none.
    """

    if len(val) < 2:
        return {"unavailable": f"there is {len(val)} validation picture, and a covariance needs at least 2"}
    metric, missing = first_metric()
    if metric is None:
        return {"unavailable": no_metric(missing)}
    name = metric.extractor.distance_name

    def compute() -> Entry:
        size = model.batch_size
        references = features_of(metric, (val.images(rows) for rows in val.batches(size)))
        made = (compose(model, library, min(size, len(val) - at), at) for at in range(0, len(val), size))
        rebuilt = (model.segment(val.images(rows), val.ids[rows]).pixels for rows in val.batches(size))
        sides = {"value": features_of(metric, made), "reconstruction": features_of(metric, rebuilt)}
        real = train.spread(len(val))
        if val.name != "train" and len(real) == len(val):  # else they are the same, or the distance is of other counts
            sides["train"] = features_of(metric, (real.images(rows) for rows in real.batches(size)))
        result: Entry = {"metric": name, "images": len(val), "not_at_hand": missing, "features": metric.config_name}
        result |= feature_distance(references, sides["reconstruction"])
        return result | distances(metric, references, sides)

    made_from = digest([], inputs, library.digest, val.digest, train.digest, name, SEED)
    return store.remember("composition", made_from, compute)
