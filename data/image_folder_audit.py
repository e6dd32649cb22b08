"""The audit before training: bad files, duplicates within and across splits, class counts, sizes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from .image_decoding import THUMBNAIL, ImageRecord

# Two pictures are near duplicates if their 64-bit difference hashes differ in at most HASH_BITS bits AND their 16x16
# thumbnails, each brought to mean 0 and deviation 1, differ by less than THUMBNAIL_RMS. The hash alone flags
# thousands of unrelated small pictures (plain sky, a dark blob on white); the thumbnail is what tells them apart.
HASH_BITS = 8
THUMBNAIL_RMS = 0.45
# Thumbnails flatter than this (grey levels) carry no picture to compare: a blank page equals any blank page.
MIN_CONTRAST = 4.0
SHOWN = 20  # bad files, and pairs, that a printed report lists; a saved one has all


@dataclass
class AuditReport:
    """What was found in a data set. `print(report)` shows a few lines, `report.save(path)` keeps all of it."""

    class_counts: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> good images
    bad_files: list[dict[str, str]] = field(default_factory=list)  # {"path", "reason"}
    exact_within: list[list[str]] = field(default_factory=list)  # pairs of equal content in one split
    exact_across: list[list[str]] = field(default_factory=list)  # pairs of equal content in two splits: leakage
    near_across: list[list[str]] = field(default_factory=list)  # pairs that look the same in two splits: leakage
    conflicting: list[list[str]] = field(default_factory=list)  # pairs of equal content under two classes
    dropped: list[str] = field(default_factory=list)  # left out because of leakage="drop"
    modes: dict[str, int] = field(default_factory=dict)
    width_range: list[int] = field(default_factory=list)  # smallest, median, largest
    height_range: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        return sum(sum(counts.values()) for counts in self.class_counts.values())

    @property
    def leaks(self) -> list[list[str]]:
        """All pairs across splits, exact and near."""
        return self.exact_across + self.near_across

    def __str__(self) -> str:
        sizes = ", ".join(f"{split} {sum(counts.values())}" for split, counts in self.class_counts.items())
        num_classes = len(next(iter(self.class_counts.values()), {}))
        lines = [f"{self.num_images} images, {num_classes} classes: {sizes}"]
        if self.width_range:
            (w0, w1, w2), (h0, h1, h2) = self.width_range, self.height_range
            modes = ", ".join(f"{mode} {count}" for mode, count in self.modes.items())
            lines.append(f"width {w0}..{w2} (median {w1}), height {h0}..{h2} (median {h1}); modes: {modes}")
        per_class = [count for counts in self.class_counts.values() for count in counts.values()]
        if per_class:
            lines.append(f"images per class and split: {min(per_class)} to {max(per_class)}")
        lines.append(
            f"bad files: {len(self.bad_files)}; duplicates across splits: {len(self.exact_across)} exact, "
            f"{len(self.near_across)} near; within a split: {len(self.exact_within)} exact; "
            f"equal images under two classes: {len(self.conflicting)}; dropped: {len(self.dropped)}"
        )
        for kind, found in (
            ("bad", [f"{bad['path']}: {bad['reason']}" for bad in self.bad_files]),
            ("in two splits", [f"{first} = {second}" for first, second in self.leaks]),
        ):
            lines += [f"  {kind}: {line}" for line in found[:SHOWN]]
            lines += [f"  and {len(found) - SHOWN} more" for _ in found[SHOWN : SHOWN + 1]]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def counts(self) -> dict[str, int]:
        """How many there are of each kind of finding, for a file that must not name the user's files."""
        kinds = ("bad_files", "exact_within", "exact_across", "near_across", "conflicting", "dropped")
        return {kind: len(getattr(self, kind)) for kind in kinds}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> AuditReport:
        return cls(**json.loads(path.read_text()))


COMPARED_AT_ONCE = 4096  # pairs of thumbnails: 12 MB each way


def near_pairs(
    hashes_a: np.ndarray, thumbnails_a: np.ndarray, hashes_b: np.ndarray, thumbnails_b: np.ndarray
) -> np.ndarray:
    """Pairs (i, j) of pictures of a and b that look the same, [P, 2].

    hashes: uint64 [N]; thumbnails: uint8 [N, T, T, 3]. All pairs are compared by hash, a block at a time
    (10,000 x 40,000 pairs take seconds), and those that pass by thumbnail.
    """
    flat_a, flat_b = _standardised(thumbnails_a), _standardised(thumbnails_b)
    blank_a, blank_b = ~flat_a.any(axis=1), ~flat_b.any(axis=1)  # the all-zero row: a blank picture resembles nothing
    found = []
    rows = max(1, 2**22 // max(1, len(hashes_b)))
    for start in range(0, len(hashes_a), rows):
        distance = np.bitwise_count(hashes_a[start : start + rows, None] ^ hashes_b[None, :])  # [rows, N_b]
        distance[blank_a[start : start + rows]], distance[:, blank_b] = HASH_BITS + 1, HASH_BITS + 1
        pairs = np.argwhere(distance <= HASH_BITS) + np.array([start, 0])
        for few in np.array_split(pairs, len(pairs) // COMPARED_AT_ONCE + 1):  # of drawings nearly all pairs may pass
            i, j = few.T
            different = np.sqrt(np.mean((flat_a[i] - flat_b[j]) ** 2, axis=1))
            found.append(few[different < THUMBNAIL_RMS])
    return np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)


def _standardised(thumbnails: np.ndarray) -> np.ndarray:
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL * THUMBNAIL * 3).astype(np.float32)  # [N, T*T*3]
    flat -= flat.mean(axis=1, keepdims=True)
    deviation = flat.std(axis=1, keepdims=True)
    return np.where(deviation >= MIN_CONTRAST, flat / np.maximum(deviation, MIN_CONTRAST), 0.0)


def _exact_pairs(records: list[ImageRecord], groups: dict[str, str], *, same: bool) -> list[list[str]]:
    """Pairs of equal content whose group (split or class, by path) is the same or, with same=False, another.

    Of many copies not all pairs are given, but every copy occurs in one (in one for each other group that has it).
    """
    by_content: dict[str, dict[str, list[str]]] = {}
    for record in records:
        by_content.setdefault(record.sha256, {}).setdefault(groups[record.path], []).append(record.path)
    pairs = []
    for copies in by_content.values():
        if same:
            pairs += [[first, path] for first, *others in copies.values() for path in others]
        else:
            for (first_a, *others_a), (first_b, *others_b) in combinations(copies.values(), 2):
                pairs += [[path, first_b] for path in (first_a, *others_a)]
                pairs += [[first_a, path] for path in others_b]
    return pairs


def _near_across(records: list[ImageRecord], splits: dict[str, str]) -> list[list[str]]:
    arrays = {}
    for split in ("train", "val", "test"):
        chosen = [record for record in records if splits[record.path] == split]
        hashes = np.array([record.dhash for record in chosen], dtype=np.uint64)
        thumbnails = np.frombuffer(b"".join(record.thumbnail for record in chosen), dtype=np.uint8)
        arrays[split] = chosen, hashes, thumbnails.reshape(len(chosen), THUMBNAIL, THUMBNAIL, 3)
    pairs = []
    for first, second in (("val", "train"), ("test", "train"), ("test", "val")):
        (chosen_a, *a), (chosen_b, *b) = arrays[first], arrays[second]
        for i, j in near_pairs(*a, *b):
            if chosen_a[i].sha256 != chosen_b[j].sha256:
                pairs.append([chosen_a[i].path, chosen_b[j].path])
    return pairs


def examine(records: list[ImageRecord], splits: dict[str, str], labels: dict[str, str]) -> AuditReport:
    """The report on `records`, given the split and the class name of every path. Every class is counted per split."""
    good = [record for record in records if not record.error]
    present = [split for split in ("train", "val", "test") if split in set(splits.values())]
    counts = Counter((splits[record.path], labels[record.path]) for record in good)
    names = list(dict.fromkeys(labels.values()))
    report = AuditReport(
        class_counts={split: {name: counts[split, name] for name in names} for split in present},
        bad_files=[{"path": record.path, "reason": record.error} for record in records if record.error],
        exact_within=_exact_pairs(good, splits, same=True),
        exact_across=_exact_pairs(good, splits, same=False),
        near_across=_near_across(good, splits),
        conflicting=_exact_pairs(good, labels, same=False),
        modes=dict(Counter(record.mode for record in good).most_common()),
    )
    for name in ("width", "height"):
        values = sorted(getattr(record, name) for record in good)
        setattr(report, f"{name}_range", [values[0], values[len(values) // 2], values[-1]] if values else [])
    for split in present:
        if missing := [name for name in names if not counts[split, name]]:
            report.notes.append(f"{split} has no image of {len(missing)} classes: {', '.join(missing[:5])}")
    return report


def to_drop(pairs: list[list[str]], splits: dict[str, str]) -> set[str]:
    """The member of each pair to leave out: the one of train where the other is of val, and the one of test of every
    other pair, so that train and val are the same whether or not test is there yet."""
    order = {"test": 0, "train": 1, "val": 2}
    return {min(pair, key=lambda path: order[splits[path]]) for pair in pairs}
