"""A run's card, numbers and figures for others to read, with its weights for others to use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .card import card_text
from .families import family_module
from .runs import RunError, load_run, write_atomically

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ("metrics.json", "history.csv")
ANALYSIS = "analysis.md"
WEIGHTS = "model.safetensors"
LOADED = (  # what `from_pretrained` reads besides the weights; the code comes first
    "*.py",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def publish(folder: Path, destination: Path, weights: str | None = None, called: str | None = None) -> Path:
    """Copy what may be shown to `destination`/<family>-<name>: card, numbers, history, figures of numbers.

    A text about the experiment that lies there as analysis.md becomes a section of the card, and stays there.
    What shows data (report.html, galleries/) and predictions per sample stay behind. Only names on the lists above are
    copied, so a new kind of file is never published by accident.

    Args:
        weights: "full" takes weights, config and code along, "half" too, with the weights in float16, which
            `from_pretrained` makes float32 again; None leaves them behind. Into a folder of this project no code is
            copied: it is here.
        called: what the card's code calls the folder; its own name by default, in this project its path.

    Returns the folder written. RunError for a run without a card or weights, for weights beyond float16's range, and
    where weights of another training lie beside the card and would stay.
    """
    run = load_run(folder)
    target = destination / run.published_name
    if not (folder / "README.md").is_file():
        raise RunError(f"{folder}: no card to publish. Evaluate the run first.")
    (target / "figures").mkdir(parents=True, exist_ok=True)
    names = [*PUBLISHED, *(f"figures/{name}" for name in family_module(run, "report").PUBLISHED_FIGURES)]
    if weights:
        _copy_weights(folder, target, weights)
    elif (target / WEIGHTS).is_file():
        _check_weights(folder, target)
    loading, name = "nothing", None
    if (target / WEIGHTS).is_file():
        here = target.resolve().is_relative_to(ROOT)
        loading, name = "code", called or target.name
        if here:
            loading, name = "half" if _is_half(target) else "weights", str(target.resolve().relative_to(ROOT))
        names += sorted(path.name for pattern in LOADED[here:] for path in folder.glob(pattern))
    write_atomically(target / "README.md", card_text(run, analysis_of(target), loading, name))
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return target


def analysis_of(target: Path) -> str:
    """What somebody wrote about a published result, Markdown; "" where nobody has."""
    path = target / ANALYSIS
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _is_half(target: Path) -> bool:
    with safe_open(target / WEIGHTS, framework="pt") as stored:
        return any(stored.get_slice(name).get_dtype() == "F16" for name in stored.keys())  # noqa: SIM118 (no mapping)


def _check_weights(folder: Path, target: Path) -> None:
    """Raise a RunError unless the weights published earlier are those of the run, as they are or in float16."""
    same = (folder / WEIGHTS).is_file()
    if same:
        try:
            mine, theirs = load_file(folder / WEIGHTS), load_file(target / WEIGHTS)
        except SafetensorError as error:
            raise RunError(f"{folder / WEIGHTS} or {target / WEIGHTS} cannot be read: {error}") from error
        same = set(mine) == set(theirs) and all(
            torch.equal(mine[name].to(theirs[name].dtype), theirs[name]) for name in mine
        )
    if not same:
        raise RunError(
            f"{target / WEIGHTS}: is not what {folder} holds. Publish this run's with --with-weights, or delete it."
        )


def _copy_weights(folder: Path, target: Path, weights: str) -> None:
    if not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder}: no {WEIGHTS} to publish.")
    staged = target / f".{WEIGHTS}.part"
    if weights == "full":
        shutil.copyfile(folder / WEIGHTS, staged)
        staged.replace(target / WEIGHTS)
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
    save_file(halved, staged, metadata={"format": "pt"})
    staged.replace(target / WEIGHTS)
