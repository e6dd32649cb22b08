"""Run folders as `train.py` leaves them: finding, reading and fingerprinting them, and writing back without a torn
file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from training.errors import RunError

MODEL_TYPES = {  # whose families have other names
    "resnet6n2": "resnet",
    "slot_attention": "slotattn",
    "slot_diffusion": "slotdiff",
    "slot_vqvae": "vae",
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
HISTORY_COLUMNS = ("step", "epoch", "split", "loss", "accuracy", "f1_micro", "f1_macro")


@dataclass
class Run:
    """One run folder in memory.

    `history` has one row per (step, split), splits `running`, `train` and `val`, and is empty where none was written.
    `metrics` is metrics.json as it stands, `{}` where there is none yet.
    """

    folder: Path
    recipe: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def family(self) -> str:
        return str(self.recipe.get("model_family") or self.metrics.get("model") or "")

    @property
    def is_generated(self) -> bool:
        """Whether the data are this project's own, drawn or written by it, which may be shown anywhere."""
        return not (self.recipe.get("data") or {}).get("path")

    @property
    def published_name(self) -> str:
        """Of its card and of the folder that this lies in: "resnet-normalization-bn"."""
        return f"{self.family}-{self.name.replace('/', '-')}"

    @property
    def labels(self) -> list[str]:
        """Class names in index order, from `id2label`."""
        names = self.config.get("id2label") or {}
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def training(self) -> dict[str, Any]:
        return self.metrics.get("training") or {}

    @property
    def evaluation(self) -> dict[str, Any]:
        return self.metrics.get("evaluation") or {}


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: a recipe.yaml lies in it (checkpoints inside a run have none)."""
    return (folder / "recipe.yaml").is_file()


def is_finished(folder: Path) -> bool:
    """Whether training has ended: metrics.json is what `train.py` writes last."""
    return (folder / "metrics.json").is_file()


def find_runs(path: Path) -> list[Path]:
    """The run folders at or below `path`, sorted, unfinished ones included. RunError if there is none.

    Does not look inside a run for further runs.
    """
    if not path.exists():
        raise RunError(f"{path}: no such folder. Give a run folder, or a folder of runs (train.py writes to runs/).")
    found, waiting = [], [path]
    while waiting:
        folder = waiting.pop()
        if is_run(folder):
            found.append(folder)
        elif folder.is_dir():
            waiting.extend(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not found:
        raise RunError(f"{path}: no run in it (a run has a recipe.yaml). Train one with train.py first.")
    return sorted(found)


def load_run(folder: Path) -> Run:
    """Read recipe, config, metrics and history of one run. RunError names the first file that is missing or damaged."""
    folder = Path(folder)
    if folder.name in ("", ".."):  # texts name a run by its folder
        folder = folder.resolve()
    recipe = _read(folder / "recipe.yaml", yaml.safe_load)
    config = _read(folder / "config.json", json.loads)
    metrics = _read(folder / "metrics.json", json.loads) if (folder / "metrics.json").exists() else {}
    for name, value in (("recipe.yaml", recipe), ("config.json", config), ("metrics.json", metrics)):
        if not isinstance(value, dict):
            raise RunError(
                f"{folder / name}: holds a {type(value).__name__} where a mapping belongs. Train the run again."
            )
    return Run(folder, recipe, config, metrics, read_history(folder / "history.csv"))


def load_checkpoint(folder: Path) -> Run:
    """A run; or what is in any other folder with a config.json, such as a published checkpoint: its family is then
    that of the config's `model_type`, and there is no recipe. RunError names the file that is missing or damaged."""
    folder = Path(folder)
    if is_run(folder):
        return load_run(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder. Give a run folder or a published checkpoint.")
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: neither recipe.yaml nor config.json in it: no run and no published checkpoint.")
    config = _read(folder / "config.json", json.loads)
    if not isinstance(config, dict):
        raise RunError(f"{folder / 'config.json'}: holds a {type(config).__name__} where a mapping belongs.")
    kind = config.get("model_type")
    return Run(folder, {"model_family": MODEL_TYPES.get(kind, kind)}, config)


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: missing. The run did not finish, or this is no run folder.") from None
    except (ValueError, yaml.YAMLError) as error:
        first_line = str(error).splitlines()[0]
        raise RunError(f"{path}: cannot be read ({first_line}). Restore the file or train the run again.") from None


def read_history(path: Path) -> pd.DataFrame:
    """history.csv as a table; columns that an older run lacks are filled with NaN. Empty table where the file is
    absent.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return pd.DataFrame(columns=list(HISTORY_COLUMNS))
    try:
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise RunError(f"{path}: not a readable CSV ({error}). Delete it to go on without curves.") from None
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *HISTORY_COLUMNS])))


def weights_of(folder: Path) -> list[Path]:
    """The weight files of a run, shards included. RunError where there are none or one is missing."""
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return [single]
    if not index.is_file():
        raise RunError(f"{folder}: no weights ({WEIGHTS[0]}). The run did not finish; resume it with train.py.")
    shards = sorted({folder / name for name in _read(index, json.loads).get("weight_map", {}).values()})
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise RunError(f"{folder}: weight shards missing: {', '.join(missing) or 'all'}. Train the run again.")
    return [*shards, index]


def digest(paths: list[Path], *values: Any) -> str:
    """sha256 over the names and contents of files and over JSON-able values, as a hex string of 64 characters."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    total.update(json.dumps(values, sort_keys=True, default=str).encode())
    return total.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, flush it to disk and rename it: a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staged.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for JSON: readable (a row of numbers is one line), never NaN, which other readers refuse."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    flat = re.sub(
        r"\[[\d\s.,+\-e]+\]", lambda row: re.sub(r"\s+", " ", row[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    write_atomically(path, flat + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value
