"""A library of slots and what can be composed of it: K-means over training slots, one slot of each cluster a picture.

Compositional generation as SlotDiffusion evaluates it (Wu et al. 2023, arXiv:2305.11281, section 4.3).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from data.scene_archive import DAMAGED
from training.augmentation import sample_generator

from .runs import RunError, write_atomically

FILE_NAME = "slot_library.npz"
DRAWING_STREAM = (1 << 23) - 2  # apart from the streams of slot noise
RESTARTS = 4
MANY = 100_000


@dataclass
class SlotLibrary:
    """Slots of training pictures and their clusters.

    Args:
        ids: int64 [N], the pictures.
        slots: float32 [N, K, D].
        clusters: int64 [N, K], the cluster of each slot, the largest cluster is 0.
        centres: float32 [C, D], the mean of each cluster.
        requested: how many clusters were asked for; C is less where there are not as many different slots.
        digest: of what the slots were computed from, "" where it does not matter.
    """

    ids: np.ndarray
    slots: np.ndarray
    clusters: np.ndarray
    centres: np.ndarray
    requested: int
    digest: str = ""

    @classmethod
    def build(
        cls, ids: np.ndarray, slots: np.ndarray, num_clusters: int, seed: int = 0, digest: str = ""
    ) -> SlotLibrary:
        """Cluster slots [N, K, D] by K-means (k-means++, 4 restarts, fixed seed).

        Fewer different slots than clusters give as many clusters as there are different slots; none is empty.
        ValueError for no slots, slots that are not finite, or fewer than one cluster.
        """
        if slots.ndim != 3 or not slots.size or len(ids) != len(slots):
            raise ValueError(f"slots have shape {list(slots.shape)} for {len(ids)} ids: they must be [N, K, D], N > 0")
        if num_clusters < 1:
            raise ValueError(f"num_clusters must be at least 1, not {num_clusters}")
        if not np.isfinite(slots).all():
            raise ValueError("slots hold values that are not finite")
        slots = slots.astype(np.float32)
        flat = slots.reshape(-1, slots.shape[2])
        few = flat if len(flat) <= MANY else flat[:MANY]  # among so many there are enough different ones, or hardly any
        possible = min(num_clusters, len(np.unique(few, axis=0)))
        found = KMeans(possible, n_init=RESTARTS, random_state=seed).fit(flat).labels_
        names, labels, counts = np.unique(found, return_inverse=True, return_counts=True)  # no name is empty
        rank = np.empty(len(names), dtype=np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
        labels = rank[labels]
        centres = np.stack([flat[labels == cluster].mean(axis=0, dtype=np.float64) for cluster in range(len(names))])
        shape = slots.shape[:2]
        ids = np.asarray(ids, dtype=np.int64)
        return cls(
            ids, slots.astype(np.float32), labels.reshape(shape), centres.astype(np.float32), num_clusters, digest
        )

    @property
    def num_clusters(self) -> int:
        return len(self.centres)

    @property
    def num_slots(self) -> int:
        """How many slots it holds in all."""
        return self.clusters.size

    def members(self, cluster: int) -> tuple[np.ndarray, np.ndarray]:
        """(picture, slot) positions of a cluster's slots, the nearest to its centre first."""
        pictures, places = np.nonzero(self.clusters == cluster)
        distances = np.square(self.slots[pictures, places] - self.centres[cluster]).sum(axis=1)
        order = np.argsort(distances, kind="stable")
        return pictures[order], places[order]

    def draw(self, count: int, seed: int = 0, start: int = 0) -> np.ndarray:
        """Slots float32 [count, C, D] of pictures `start` to `start + count`: one of each cluster, all equally likely.

        A picture's slots are a function of (seed, its number), so that batches do not matter.
        """
        members = [np.argwhere(self.clusters == cluster) for cluster in range(self.num_clusters)]
        drawn = []
        for number in range(start, start + count):
            generator = sample_generator(seed, DRAWING_STREAM, number)
            chosen = [own[generator.integers(len(own))] for own in members]
            drawn.append([self.slots[picture, place] for picture, place in chosen])
        return np.asarray(drawn, dtype=np.float32)

    def save(self, folder: Path) -> Path:
        """Write slot_library.npz to a folder."""
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        write_atomically(folder / FILE_NAME, buffer.getvalue())
        return folder / FILE_NAME

    @classmethod
    def load(cls, folder: Path) -> SlotLibrary:
        """Read what `save` wrote. RunError for a file that is missing or damaged."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise RunError(f"{path}: there is no slot library. Evaluate the run with evaluate_all.py first.")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            arrays |= {"requested": int(arrays["requested"]), "digest": str(arrays["digest"])}
            return cls(**arrays)
        except DAMAGED as error:
            raise RunError(f"{path}: damaged ({error}). Delete it, or evaluate with --force.") from None
