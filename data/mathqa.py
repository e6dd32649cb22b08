"""MathQA: word problems with programs and answers, from JSON files; problems written here as the default.

dataset = load_mathqa(MathQAData(path="mathqa"))
dataset["train"][0]["problem"], dataset["train"][0]["program"], dataset["train"][0]["answer"]
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from .dataset_cache import built, cache_root
from .image_folder import DataError
from .mathqa_files import SPLIT_FILES, find_files, read_records
from .word_problems import PROBLEMS_VERSION, word_problem

__all__ = ["DataError", "MathQAData", "load_mathqa", "mask_numbers", "place_of", "source_of"]

logger = logging.getLogger(__name__)

# Part of every cache's key: raise it when checks, groups, carving or columns change.
PREPROCESSING_VERSION = 1
# The id of record i of a file is i plus this, per split in the order of SPLIT_FILES.
ID_STEP = 10_000_000
FEATURES = Features(
    id=Value("int64"),
    problem=Value("string"),
    program=Value("string"),
    answer=Value("float64"),
    group=Value("int64"),
    novel=Value("bool"),
    length=Value("int64"),
)
_DRAWN_FIELDS = ("num_train", "num_dev", "num_test")
_FILE_FIELDS = ("max_source_length", "bad_records")
_NUMBER = re.compile(r"\d+\.?\d*")


@dataclass
class MathQAData:
    """Which problems, and how they are split: the `data:` group of a recipe.

    path: a folder with train.json, dev.json, test.json, as far as there are any. None writes problems instead
        (`data/word_problems.py`), `num_train`, `num_dev` and `num_test` of them, drawn from `seed`.
    tune_size: so many problems are carved from train and stand as `val` instead of dev, which becomes the split `dev`.
        Problems with the same masked text stay together, so that none of `val` has a twin in what remains of train.
    dev_fraction: the same share of train is carved as `val` where there is no dev.json (num_dev is 0).
    seed: of the written problems, and of what is carved.
    max_source_length: longest problem, in words; a longer one is a bad record.
    bad_records: "refuse" stops at records that cannot be used, "skip" leaves them out and says so.
    """

    path: str | None = None
    tune_size: int = 0
    dev_fraction: float = 0.0
    max_source_length: int = 512
    bad_records: str = "refuse"
    num_train: int = 4000
    num_dev: int = 500
    num_test: int = 500
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self):
        ranges = {
            "tune_size": (0, ID_STEP),
            "max_source_length": (1, 100_000),
            "num_train": (1, ID_STEP),
            "num_dev": (0, ID_STEP),
            "num_test": (0, ID_STEP),
            "seed": (0, 2**31 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"data field {name} must be an integer in [{low}, {high}], not {value!r}")
        fraction = self.dev_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
            raise ValueError(f"data field dev_fraction must be a number in [0, 1), not {fraction!r}")
        if self.tune_size and self.dev_fraction:
            raise ValueError("data fields tune_size and dev_fraction both carve val from train: set one of them")
        if self.bad_records not in ("refuse", "skip"):
            raise ValueError(f"data field bad_records must be one of refuse, skip, not {self.bad_records!r}")
        for name in ("path", "cache_dir"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                raise ValueError(f"data field {name} must be a path or null, not {getattr(self, name)!r}")


class _Row(NamedTuple):
    id: int
    problem: str
    program: str
    answer: float
    twins: str  # equal for problems that differ in numbers only


def mask_numbers(problem: str) -> str:
    """The problem with `#` for every number: equal for problems that are the same but for their numbers."""
    return _NUMBER.sub("#", problem)


def load_mathqa(fields: MathQAData, need: Iterable[str] = ("train",)) -> DatasetDict:
    """The splits train, val, test as far as there are any, and dev where `tune_size` puts another part in its place.

    `val` is dev.json, or a part of train where `tune_size` or `dev_fraction` says so. Columns:

    - `id` (int64): the record's place in its file, plus 10,000,000 for dev and 20,000,000 for test;
    - `problem`, `program` (as in the file), `answer` (float64);
    - `group` (int64): problems of one group differ in their numbers only (same masked text; for problems written
      here: same template), in whatever split they are;
    - `novel` (bool): no problem of the group is in the split train as returned; null where there is no train;
    - `length` (int64): words of the problem, for `train_sampling_strategy="group_by_length"`.

    Raises `DataError` on data that cannot be used, and where a split of `need` does not exist.
    """
    folder = built(*_cache_of(fields, need), lambda staging: _build(fields, staging))
    if skipped := json.loads((folder / "skipped.json").read_text()):
        logger.warning("%s: %d bad records left out (%s)", fields.path, len(skipped), _listed(skipped))
    return DatasetDict.load_from_disk(str(folder / "splits"))


def source_of(fields: MathQAData) -> dict[str, str | int]:
    """What the problems are made from: the sha256 of each split's file, or the version of those written here.

    DataError where there are no files.
    """
    if fields.path is None:
        return {"problems": PROBLEMS_VERSION}
    files = find_files(Path(fields.path).expanduser().resolve())
    return {split: hashlib.sha256(file.read_bytes()).hexdigest() for split, file in files.items()}


def place_of(fields: MathQAData, sample: int) -> str:
    """Where the problem with this id stands: "train.json, record 7 (from 0)"."""
    number, position = divmod(sample, ID_STEP)
    split = list(SPLIT_FILES)[number]
    if fields.path is None:
        return f"problem {position} written for {split}"
    files = find_files(Path(fields.path).expanduser().resolve())
    return f"{files[split]}, record {position} (from 0)"


def _cache_of(fields: MathQAData, need: Iterable[str]) -> tuple[Path, dict]:
    """The folder of the cache, named after the fields; and what it has to be built from, which may change under it.

    DataError, before anything is read, where a split of `need` will not be there.
    """
    used = dataclasses.asdict(fields)
    used.pop("cache_dir")
    source = source_of(fields)
    if fields.path is None:
        for name in _FILE_FIELDS:
            used.pop(name)
        counts = _drawn_counts(fields)
        present = {split for split, count in counts.items() if count}
        name = "word_problems"
    else:
        for name in _DRAWN_FIELDS:
            used.pop(name)
        path = Path(fields.path).expanduser().resolve()
        used["path"] = str(path)
        present = set(source)
        name = path.name
    _check_splits(fields, present, need)
    key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]
    description = {"version": PREPROCESSING_VERSION, "fields": used, "source": source}
    return cache_root(fields.cache_dir) / f"{name}-{key}", description


def _check_splits(fields: MathQAData, present: set[str], need: Iterable[str]) -> None:
    carves = fields.tune_size or (fields.dev_fraction and "val" not in present)
    place = "the data written here" if fields.path is None else fields.path
    if carves and "train" not in present:
        raise DataError(f"{place} has no train.json to carve val from")
    for split in need:
        if split == "val" and carves:
            continue
        source = "val" if split == "dev" and fields.tune_size else split
        if source in present:
            continue
        if source not in SPLIT_FILES:
            raise DataError(f"{place} has no {split} split: that one exists only with tune_size")
        hint = ", or set tune_size or dev_fraction to carve it from train" if split == "val" else ""
        wanted = f"num_{'dev' if source == 'val' else source} > 0" if fields.path is None else SPLIT_FILES[source][0]
        raise DataError(f"{place} has no {split} split: it needs {wanted}{hint}")


def _drawn_counts(fields: MathQAData) -> dict[str, int]:
    return {"train": fields.num_train, "val": fields.num_dev, "test": fields.num_test}


def _build(fields: MathQAData, staging: Path) -> None:
    """Fills the empty folder: splits/, and skipped.json with what was wrong with the records left out."""
    rows, skipped = (_drawn_rows(fields), []) if fields.path is None else _rows_from_files(fields)
    number_of: dict[str, int] = {}
    groups = {
        split: np.array([number_of.setdefault(row.twins, len(number_of)) for row in part], dtype=np.int64)
        for split, part in rows.items()
    }
    size = fields.tune_size
    if fields.dev_fraction and "val" not in rows:
        size = max(1, round(fields.dev_fraction * len(rows["train"])))
    parts = {split: (part, groups[split]) for split, part in rows.items()}
    if size:
        parts = _with_carved_val(parts, size, fields.seed)
    known = np.unique(parts["train"][1]) if "train" in parts else None
    dataset = DatasetDict()
    for split, (part, numbers) in parts.items():
        columns = {name: [getattr(row, name) for row in part] for name in ("id", "problem", "program", "answer")}
        columns["group"] = numbers
        columns["novel"] = [None] * len(part) if known is None else ~np.isin(numbers, known)
        columns["length"] = [len(row.problem.split()) for row in part]
        dataset[split] = Dataset.from_dict(columns, features=FEATURES)
    dataset.save_to_disk(str(staging / "splits"))
    (staging / "skipped.json").write_text(json.dumps(skipped))


def _with_carved_val(
    parts: dict[str, tuple[list[_Row], np.ndarray]], size: int, seed: int
) -> dict[str, tuple[list[_Row], np.ndarray]]:
    """train less at most `size` rows in whole groups, these as val, and the former val as dev."""
    rows, groups = parts["train"]
    chosen = _choose_groups(groups, size, seed)
    if not chosen or len(chosen) == len(set(groups.tolist())):
        raise DataError(f"no {size} of train's {len(rows)} problems can be carved in whole groups of equal masked text")
    inside = np.isin(groups, sorted(chosen))
    carved = {"val": inside, "train": ~inside}
    found = {split: ([rows[i] for i in np.flatnonzero(rule)], groups[rule]) for split, rule in carved.items()}
    others = {"dev" if split == "val" else split: part for split, part in parts.items() if split != "train"}
    return {"train": found["train"], "val": found["val"], **others}


def _choose_groups(groups: np.ndarray, size: int, seed: int) -> set[int]:
    """Groups in random order, as many as `size` rows have room for."""
    counts = Counter(groups.tolist())
    order = np.random.default_rng(seed).permutation(sorted(counts))
    chosen: set[int] = set()
    for group in order.tolist():
        if counts[group] <= size:
            chosen.add(group)
            size -= counts[group]
        if not size:
            break
    return chosen


def _rows_from_files(fields: MathQAData) -> tuple[dict[str, list[_Row]], list[str]]:
    rows: dict[str, list[_Row]] = {}
    complaints: list[str] = []
    files = find_files(Path(fields.path).expanduser().resolve())
    for split, path in files.items():
        records, bad = read_records(path, fields.max_source_length)
        complaints += bad
        if not records and not bad:
            raise DataError(f"{path} holds no records")
        first = list(SPLIT_FILES).index(split) * ID_STEP
        rows[split] = [
            _Row(first + record.position, record.problem, record.program, record.answer, mask_numbers(record.problem))
            for record in records
        ]
    empty = [split for split, part in rows.items() if not part]
    if complaints and (fields.bad_records == "refuse" or empty):
        remedy = f"{files[empty[0]].name} has no other." if empty else 'Mend them, or set bad_records to "skip".'
        raise DataError(f"{fields.path}: {len(complaints)} bad records ({_listed(complaints)}).\n{remedy}")
    return rows, complaints


def _listed(complaints: list[str]) -> str:
    more = f"; and {len(complaints) - 5} more" if len(complaints) > 5 else ""
    return "; ".join(complaints[:5]) + more


def _drawn_rows(fields: MathQAData) -> dict[str, list[_Row]]:
    """Row i of a split depends on (seed, split, i) alone; its twins are the problems of its template."""
    rows = {}
    for number, (split, count) in enumerate(_drawn_counts(fields).items()):
        problems = [word_problem(split, index, fields.seed) for index in range(count)]
        if problems:
            rows[split] = [
                _Row(number * ID_STEP + index, p.problem, p.program, p.answer, p.template)
                for index, p in enumerate(problems)
            ]
    return rows
