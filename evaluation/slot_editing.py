"""Pictures of edited slots: an object removed, objects of two scenes swapped, objects before another background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.scene_pictures import sheet

from .predictions import ScenePredictions
from .scene_data import SceneSplit
from .scene_gallery import ranked
from .scene_model import SceneModel
from .scene_scores import USED
from .statistics import evenly

PAIRS = 5
MOST_SLOTS = 256
COLUMNS = (
    "first scene",
    "from its slots",
    "object removed",
    "object swapped in",
    "objects of the second, background of the first",
    "objects of the first, background of the second",
    "object swapped in",
    "object removed",
    "from its slots",
    "second scene",
)


@dataclass
class Roles:
    """Which of a scene's slots hold what, by the pixels that they win: `background` the most, `objects` (the others
    that win more than half a per cent) by descending size; the rest is idle."""

    background: int
    objects: list[int]

    @classmethod
    def of(cls, segments: np.ndarray, count: int) -> Roles:
        """From the slot of each pixel [S, S] of `count` slots."""
        shares = np.bincount(segments.ravel(), minlength=count) / segments.size
        order = np.argsort(-shares, kind="stable").tolist()
        return cls(order[0], [slot for slot in order[1:] if shares[slot] >= USED])


@dataclass
class EditRow:
    """Two scenes and what was made of their slots: ten pictures uint8 [S, S, 3] in the order of `COLUMNS`."""

    ids: tuple[int, int]
    pictures: list[np.ndarray]


def editable(predicted: ScenePredictions) -> np.ndarray:
    """Positions of up to 10 scenes with an object slot, evenly spaced by rank from the worst to the best."""
    candidates = ranked(predicted, 4 * PAIRS)
    usable = [p for p in candidates if Roles.of(predicted.segments[p], MOST_SLOTS).objects]
    return evenly(np.array(usable, dtype=int), 2 * PAIRS)


def edit(model: SceneModel, split: SceneSplit, positions: np.ndarray) -> tuple[list[EditRow], dict[str, Any] | None]:
    """Rows of edits for the scenes at these positions, the first half of them paired with the second, and their
    numbers.

    Scenes without an object slot are passed over; None where no pair is left. The removed, or swapped, object is the
    one that wins most pixels. Each picture has the noise of its scene's reconstruction, so only slots differ. Numbers,
    means over the scenes of absolute changes of values in [0, 1] against the reconstruction: `removed_inside` (where
    the object's slot wins) and `removed_outside`, `swapped_inside` and `swapped_outside`, and `scenes`.
    """
    found = _segmented(model, split, positions)
    usable = [scene for scene in found if scene.roles.objects]
    half = len(usable) // 2
    if not half:
        return [], None
    pairs = list(zip(usable[:half], usable[half : 2 * half], strict=True))
    jobs = [job for first, second in pairs for job in (*_jobs(first, second), *_jobs(second, first))]
    made = _decoded(model, jobs)
    rows, changes = [], []
    for number, (first, second) in enumerate(pairs):
        edits = made[6 * number : 6 * number + 6]  # removed, swapped and mixed of the one, then of the other
        changes += [_changes(first, edits[:2]), _changes(second, edits[3:5])]
        rows.append(
            EditRow(
                (first.id, second.id),
                [first.image, first.again, *edits[:3], *edits[5:2:-1], second.again, second.image],
            )
        )
    means = np.mean(changes, axis=0).tolist()
    names = ("removed_inside", "removed_outside", "swapped_inside", "swapped_outside")
    return rows, {"scenes": len(changes), **dict(zip(names, means, strict=True))}


@dataclass
class _Scene:
    """A scene to be edited: its picture, the reconstruction, slots [K, D], the slot of each pixel, and their roles."""

    id: int
    image: np.ndarray
    again: np.ndarray
    slots: np.ndarray
    segments: np.ndarray
    roles: Roles


def _segmented(model: SceneModel, split: SceneSplit, positions: np.ndarray) -> list[_Scene]:
    scenes = []
    for start in range(0, len(positions), model.batch_size):
        part = positions[start : start + model.batch_size]
        images, ids = split.images(part), split.ids[part]
        found = model.segment(images, ids)
        parts = zip(ids.tolist(), images, found.pixels, found.slots, found.segments, strict=True)
        scenes += [_Scene(*scene, Roles.of(scene[4], len(scene[3]))) for scene in parts]
    return scenes


def _jobs(own: _Scene, other: _Scene) -> list[tuple[np.ndarray, int]]:
    """(slots, id) of three edits of `own`: an object less, that of `other` in its place, all of `other` before the own
    background."""
    removed = np.delete(own.slots, own.roles.objects[0], axis=0)
    swapped = own.slots.copy()
    swapped[own.roles.objects[0]] = other.slots[other.roles.objects[0]]
    mixed = np.concatenate([own.slots[[own.roles.background]], other.slots[other.roles.objects]])
    return [(slots, own.id) for slots in (removed, swapped, mixed)]


def _decoded(model: SceneModel, jobs: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """A picture for each job; those of as many slots are made together."""
    made: list[np.ndarray] = [np.empty(0)] * len(jobs)
    for count in sorted({len(slots) for slots, _ in jobs}):
        places = [i for i, (slots, _) in enumerate(jobs) if len(slots) == count]
        for start in range(0, len(places), model.batch_size):
            part = places[start : start + model.batch_size]
            slots, numbers = np.stack([jobs[i][0] for i in part]), [jobs[i][1] for i in part]
            for i, picture in zip(part, model.compose(slots, numbers, like_scenes=True), strict=True):
                made[i] = picture
    return made


def _changes(scene: _Scene, edits: list[np.ndarray]) -> list[float]:
    """Mean absolute change of each edit where the edited object's slot wins, and elsewhere."""
    inside = scene.segments == scene.roles.objects[0]
    changed = np.abs(np.stack(edits).astype(float) - scene.again).mean(axis=-1) / 255  # [2, S, S]
    return [_mean(edit[where]) for edit in changed for where in (inside, ~inside)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def edits_sheet(rows: list[EditRow]) -> np.ndarray | None:
    """All rows as one picture; None where there are none."""
    if not rows:
        return None
    return sheet([np.stack([row.pictures[k] for row in rows]) for k in range(len(COLUMNS))])
