"""A run's card, numbers and figures for others to read, with its weights for others to use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .card import card_text
from .families import family_module
from .runs import RunError, load_run, write_atomically

PUBLISHED = ("metrics.json", "history.csv")
ANALYSIS = "analysis.md"
WEIGHTS = "model.safetensors"
LOADED = (  # what `from_pretrained` reads besides the weights
    "*.py",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def publish(folder: Path, destination: Path, weights: str | None = None) -> Path:
    """Copy what may be shown to `destination`/<family>-<name>: card, numbers, history, figures of numbers.

    A text about the experiment that lies there as analysis.md becomes a section of the card, and stays there.
    What shows data (report.html, galleries/) and predictions per sample stay behind. Only names on the lists above are
    copied, so a new kind of file is never published by accident.

    Args:
        weights: "full" takes weights, config and code along, "half" too, with the weights in float16, which
            `from_pretrained` makes float32 again; None leaves them behind.

    Returns the folder written. RunError for a run without a card or weights, and for weights beyond float16's range.
    """
    run = load_run(folder)
    target = destination / run.published_name
    if not (folder / "README.md").is_file():
        raise RunError(f"{folder}: no card to publish. Evaluate the run first.")
    (target / "figures").mkdir(parents=True, exist_ok=True)
    names = [*PUBLISHED, *(f"figures/{name}" for name in family_module(run, "report").PUBLISHED_FIGURES)]
    if weights:
        _copy_weights(folder, target, weights)
        names += sorted(path.name for pattern in LOADED for path in folder.glob(pattern))
    write_atomically(target / "README.md", card_text(run, analysis_of(target)))
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return target


def analysis_of(target: Path) -> str:
    """What somebody wrote about a published result, Markdown; "" where nobody has."""
    path = target / ANALYSIS
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _copy_weights(folder: Path, target: Path, weights: str) -> None:
    if not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: no {WEIGHTS} to publish.")
    if weights == "full":
        shutil.copyfile(folder / WEIGHTS, target / WEIGHTS)
        return
    if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype", "float32") != "float32":
        raise RunError(f"{folder / 'config.json'}: dtype is not float32. Publish these weights as they are (full).")
    halved = {}
    with safe_open(folder / WEIGHTS, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (this is no mapping)
            tensor = stored.get_tensor(name)
            halved[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
            if not bool(halved[name].isfinite().all()) and bool(tensor.isfinite().all()):
                raise RunError(
                    f"{folder / WEIGHTS}: {name} goes beyond float16. Publish these weights as they are (full)."
                )
    save_file(halved, target / WEIGHTS, metadata={"format": "pt"})
