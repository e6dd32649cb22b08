"""A run's weights on a device, checked: nothing missing, nothing left over, nothing that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError

from data.dataset_cache import source_of
from training.checkpoints import MANIFEST, verify

from .runs import Run, RunError, digest, weights_of


def check_files(folder: Path) -> None:
    """CheckpointError where train.py left a manifest in a run folder and a file of it is not the one it wrote. Files
    are read again only where one of the folder has changed since."""
    if (folder / MANIFEST).is_file():
        known = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
        _verified(folder.resolve(), tuple((name, found.st_size, found.st_mtime_ns) for name, found in known))


@lru_cache(maxsize=64)
def _verified(folder: Path, state: tuple[tuple[str, int, int], ...]) -> None:
    verify(folder)


def load_model(run: Run, model_class: Any) -> torch.nn.Module:
    """The run's model by `model_class.from_pretrained`, in float32 and evaluation mode.

    RunError where weights are missing, left over, of another shape, not finite, unreadable or not those that train.py
    wrote.
    """
    check_files(run.folder)
    weights_of(run.folder)
    try:
        model, info = model_class.from_pretrained(run.folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{run.folder}: the model does not load ({first_line(error)}). Resume it with train.py."
        ) from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            example = sorted(map(str, info[kind]))[0]
            raise RunError(
                f"{run.folder}: weights do not fit config.json: {len(info[kind])} {kind}, such as {example}."
            )
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise RunError(f"{run.folder}: {bad[0]} holds values that are not finite. Train again, or restore the weights.")
    return model.float().eval()


def device_of(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one. RunError where this machine has no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {name!r} cannot be used: {first_line(error)}. Take auto, or cpu.") from None
    return device


def exact() -> AbstractContextManager:
    """Float32 as it stands: no TF32 on GPUs that would round to it."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def recipe_data(run: Run, known: type) -> Any:
    """The recipe's group `data` as the dataclass `known`. RunError for a field that it does not have, and for a value
    that it refuses."""
    given = dict(run.recipe.get("data") or {})
    unknown = sorted(set(given) - {field.name for field in fields(known)})
    if unknown:
        raise RunError(
            f"{run.folder / 'recipe.yaml'}: unknown data field {unknown[0]!r}. Was it made by another version?"
        )
    try:
        return known(**given)
    except ValueError as error:
        raise RunError(f"{run.folder / 'recipe.yaml'}: {error}") from None


def data_state(run: Run, splits: Mapping[str, Dataset]) -> list[Any] | None:
    """The splits of a user's own data, to which one may have been added, and a fingerprint of the files behind them;
    None of this project's own, which the recipe says."""
    return None if run.is_generated else [sorted(splits), digest([], source_of(splits))]


def data_there(run: Run, load: Callable[[Run], Mapping[str, Dataset]]) -> list[Any] | None:
    """`data_state` as it is now; of data that are not at hand as it was at the last evaluation."""
    if run.is_generated:
        return None
    try:
        return data_state(run, load(run))
    except (OSError, ValueError):
        return run.evaluation.get("data_state")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
