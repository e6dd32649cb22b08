"""Bird photographs (or any class folders) at training resolution, decoded once; pictures drawn here as the default.

dataset = load_birds(BirdsData(path="birds.tar", image_size=224))
dataset["train"].features["label"].names, pixels_of(dataset["train"][:32]).shape
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image
from transformers import BitImageProcessor

from .bird_pictures import PICTURES_VERSION, SPECIES, bird_picture
from .dataset_cache import built, cache_root, is_valid
from .image_decoding import ImageRecord, inspect
from .image_folder import SPLITS, DataError, ImageFile, assign_splits, extract_tar, list_images
from .image_folder_audit import AuditReport, examine, to_drop
from .image_rows import in_order, prepared
from .split_store import save_splits, write_rows

# Part of every cache's key: raise it when decoding, resizing or the layout of the cache changes.
PREPROCESSING_VERSION = 3


@dataclass
class BirdsData:
    """Which pictures, and how they are prepared: the `data:` group of a recipe.

    path: a folder of class folders, one with train, val and test folders of them, or a .tar of either. None draws
        pictures instead (`data/bird_pictures.py`), as the fields `num_*` and `seed` say.
    image_size: side of the square that the model sees. resize_size: the short side is scaled to this before the
        centre crop; None means image_size.
    val_fraction, test_fraction: carved from the training images, class by class, where the folder is absent.
    bad_files: "refuse" stops at files that cannot be decoded, "skip" leaves them out.
    leakage: duplicates across splits are reported, refused, or dropped: from train what val has too, from test what
        either has.
    """

    path: str | None = None
    image_size: int = 64
    resize_size: int | None = None
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    split_seed: int = 0
    bad_files: str = "refuse"
    leakage: str = "report"
    num_classes: int = 25
    num_train: int = 2000
    num_val: int = 500
    num_test: int = 500
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self):
        ranges = {
            "image_size": (8, 1024),
            "split_seed": (0, 2**31 - 1),
            "num_classes": (2, len(SPECIES)),
            "num_train": (1, 10_000_000),
            "num_val": (0, 10_000_000),
            "num_test": (0, 10_000_000),
            "seed": (0, 2**31 - 1),
        }
        if self.resize_size is not None:
            ranges["resize_size"] = (self.image_size, 2048)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"data field {name} must be an integer in [{low}, {high}], not {value!r}")
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"data field {name} must be a number in [0, 1), not {value!r}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave no train")
        for name, known in {"bad_files": ("refuse", "skip"), "leakage": ("report", "refuse", "drop")}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"data field {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("path", "cache_dir"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                raise ValueError(f"data field {name} must be a path or null, not {getattr(self, name)!r}")


def image_processor(image_size: int, resize_size: int | None = None) -> BitImageProcessor:
    """The library's processor for this data: short side to `resize_size` (antialiased bicubic), centre crop to
    `image_size`, [0, 255] -> [-1, 1]. The cache is filled by it, and a saved run carries it."""
    return BitImageProcessor(
        size={"shortest_edge": resize_size or image_size},
        crop_size={"height": image_size, "width": image_size},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def pixels_of(rows: Mapping | Iterable[Mapping]) -> np.ndarray:
    """The pictures of a batch (`dataset[:32]`), of one row or of a list of rows: uint8 [B, S, S, 3]."""
    if isinstance(rows, Mapping):
        stored = rows["pixels"]
        stored = [stored] if isinstance(stored, bytes) else list(stored)
    else:
        stored = [row["pixels"] for row in rows]
    if not stored:
        raise ValueError("pixels_of was given no rows")
    side = round((len(stored[0]) / 3) ** 0.5)
    return np.frombuffer(b"".join(stored), dtype=np.uint8).reshape(len(stored), side, side, 3)


def load_birds(fields: BirdsData, need: Iterable[str] = ("train",)) -> DatasetDict:
    """The splits train, val and test, as far as there are any, from the cache or decoded (drawn) now.

    Columns: `pixels` (read them with `pixels_of`), `label` (ClassLabel, natural order), `id` (int64, unique over the
    splits, the same in every run on the same files) and `path` (relative to the data folder). Raises `DataError` on
    data that cannot be used, bad files and leakage as the fields say, and where a split of `need` does not exist.
    """
    folder = built(*_cache_of(fields), lambda staging: _build(fields, staging))
    dataset = DatasetDict.load_from_disk(str(folder / "splits"))
    if missing := [split for split in need if split not in dataset]:
        remedy = f": set num_{missing[0]} to at least 1" if fields.path is None else ""
        name = fields.path or "the drawn data"
        raise DataError(f"{name} has no {missing[0]} split, only {', '.join(dataset)}{remedy}")
    return dataset


def audit(fields: BirdsData) -> AuditReport:
    """The report on the data: the cache's where there is one, else found by decoding every file now.

    Bad files and leaks are only listed, whatever the fields say about refusing them.
    """
    folder, description = _cache_of(fields)
    if is_valid(folder, description):
        return AuditReport.load(folder / "audit.json")
    if fields.path is None:
        return _drawn_report(fields)
    root, _, files = list_images(_data_folder(fields))
    splits = assign_splits(files, fields.val_fraction, fields.test_fraction, fields.split_seed)
    records = [record for record, _ in in_order(lambda file: (inspect(root, file.path)[0], None), files)]
    return examine(records, splits, {file.path: file.class_name for file in files})


def _cache_of(fields: BirdsData) -> tuple[Path, dict]:
    """The folder of the cache, named after the fields; and what it has to be built from, which may change under it."""
    used = dataclasses.asdict(fields)
    used.pop("cache_dir")
    if fields.path is None:
        for name in ("val_fraction", "test_fraction", "split_seed", "bad_files", "leakage"):
            used.pop(name)
        source = {"pictures": PICTURES_VERSION}
        name = "drawn"
    else:
        for name in ("num_classes", "num_train", "num_val", "num_test", "seed"):
            used.pop(name)
        path = Path(fields.path).expanduser().resolve()
        used["path"] = str(path)
        name = path.name
        source = _tar_identity(path) if path.is_file() else {"listing": _listing_digest(list_images(path)[2])}
    key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]
    description = {"version": PREPROCESSING_VERSION, "fields": used, "source": source}
    return cache_root(fields.cache_dir) / f"{name}-{fields.image_size}-{key}", description


def _tar_identity(path: Path) -> dict:
    status = path.stat()
    return {"tar": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _listing_digest(files: list[ImageFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.num_bytes}\0{file.mtime_ns}\n".encode())
    return digest.hexdigest()


def _data_folder(fields: BirdsData) -> Path:
    """The folder of `path`; a .tar is unpacked into the cache, once."""
    path = Path(fields.path).expanduser().resolve()
    if not path.is_file():
        return path
    identity = _tar_identity(path)
    key = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    target = cache_root(fields.cache_dir) / f"{path.name}-unpacked-{key}"
    return built(target, identity, lambda staging: extract_tar(path, staging))


def _write(rows: Callable[[], Iterator[dict]], names: list[str], image_size: int, staging: Path) -> Dataset:
    features = Features(
        pixels=Value("large_binary"), label=ClassLabel(names=names), id=Value("int64"), path=Value("string")
    )
    return write_rows(rows, features, 3 * image_size**2, staging)


def _build(fields: BirdsData, staging: Path) -> None:
    """Fills the empty folder: splits/, audit.json, and split.json with the split of every file ("" where dropped)."""
    processor = image_processor(fields.image_size, fields.resize_size)
    if fields.path is None:
        rows, report = _drawn_rows(fields, processor), _drawn_report(fields)
        everything = _write(rows, SPECIES[: fields.num_classes], fields.image_size, staging)
        split_of = [path.partition("/")[0] for path in everything["path"]]
    else:
        everything, split_of, report = _build_from_files(fields, processor, staging)
    report.save(staging / "audit.json")
    recorded = dict(zip(everything["path"], split_of, strict=True))
    (staging / "split.json").write_text(json.dumps({"seed": fields.split_seed, "splits": recorded}, indent=0))
    save_splits(everything, split_of, staging)


def _build_from_files(
    fields: BirdsData, processor: BitImageProcessor, staging: Path
) -> tuple[Dataset, list[str], AuditReport]:
    """(all rows, the split of each row or "" where it is dropped, the audit's report)."""
    root, names, files = list_images(_data_folder(fields))
    splits = assign_splits(files, fields.val_fraction, fields.test_fraction, fields.split_seed)
    labels = {file.path: file.class_name for file in files}
    records: list[ImageRecord] = []

    def work(file: ImageFile) -> tuple[ImageRecord, bytes | None]:
        record, image = inspect(root, file.path)
        return record, None if image is None else prepared(image, processor)

    def rows() -> Iterator[dict]:
        for number, (record, pixels) in enumerate(in_order(work, files)):
            records.append(record)
            if pixels is not None:
                yield {"pixels": pixels, "label": labels[record.path], "id": number, "path": record.path}
        _refuse_bad_files(records, fields)  # before an empty data set is written

    everything = _write(rows, names, fields.image_size, staging)
    report = examine(records, splits, labels)
    if fields.leakage == "refuse" and report.leaks:
        first, second = report.leaks[0]
        raise DataError(
            f"{fields.path}: {len(report.leaks)} images are in two splits, such as {first} = {second}: "
            'remove them, or set leakage to "drop" or "report"'
        )
    if fields.leakage == "drop":
        report.dropped = sorted(to_drop(report.leaks, splits))
        for path in report.dropped:
            report.class_counts[splits[path]][labels[path]] -= 1
    _refuse_empty_class(report, fields)
    dropped = set(report.dropped)
    return everything, ["" if path in dropped else splits[path] for path in everything["path"]], report


def _refuse_bad_files(records: list[ImageRecord], fields: BirdsData) -> None:
    bad = [record for record in records if record.error]
    if bad and (fields.bad_files == "refuse" or len(bad) == len(records)):
        listed = "; ".join(f"{record.path}: {record.error}" for record in bad[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{fields.path}: {len(bad)} of {len(records)} files are no usable images ({listed}{more}).\n"
            'Remove them, or set bad_files to "skip".'
        )


def _refuse_empty_class(report: AuditReport, fields: BirdsData) -> None:
    empty = [name for name, count in report.class_counts.get("train", {}).items() if not count]
    if empty:
        raise DataError(f"{fields.path}: no usable training image of class {empty[0]!r}: add some or remove the class")


def _drawn_counts(fields: BirdsData) -> dict[str, int]:
    return {"train": fields.num_train, "val": fields.num_val, "test": fields.num_test}


def _drawn_rows(fields: BirdsData, processor: BitImageProcessor) -> Callable[[], Iterator[dict]]:
    """Row i of a split shows species i % num_classes and depends on (seed, split, i) alone."""
    plan = [(split, index) for split, count in _drawn_counts(fields).items() for index in range(count)]

    def work(item: tuple[str, int]) -> dict:
        split, index = item
        label = index % fields.num_classes
        image = bird_picture(label, split, index, fields.seed, fields.resize_size or fields.image_size)
        return {
            "pixels": prepared(image, processor),
            "label": label,
            "id": SPLITS.index(split) * 10_000_000 + index,
            "path": f"{split}/{SPECIES[label]}/{index:05d}",
        }

    return lambda: in_order(work, plan)


def _drawn_report(fields: BirdsData) -> AuditReport:
    names = SPECIES[: fields.num_classes]
    return AuditReport(
        class_counts={
            split: {name: len(range(label, count, fields.num_classes)) for label, name in enumerate(names)}
            for split, count in _drawn_counts(fields).items()
            if count
        },
        notes=["pictures drawn by data/bird_pictures.py: nothing to audit"],
    )
