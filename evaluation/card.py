"""The model card: README.md of a run folder, with metadata that the Hub reads, from the run's own files alone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from training.portable import portable_command

from . import figures
from .families import family_module
from .report import NO_VALUE, interval, percent
from .runs import Run, load_run, write_atomically
from .sections import settings_rows, training_rows

TEMPLATES = Path(__file__).resolve().parents[1] / "model_cards"
TEMPLATE = TEMPLATES / "template.md"
LICENSE = "apache-2.0"
COUNTS = {"samples": "Samples", "samples_with_masks": "Of them with masks", "reconstructed": "Of them reconstructed"}
HUB_METRICS = {"f1_micro": ("f1", {"average": "micro"}), "f1_macro": ("f1", {"average": "macro"})}


@dataclass
class CardContent:
    """What only the family knows; `usage` is Python.

    `measures` maps a metric's key in metrics.json to its name; they are the model's results, in the table and in the
    metadata. `beside` are further rows of the table, such as a baseline's. `shares` are the keys shown as per cent,
    `intervals_note` says how their intervals were made, and `panels` are the curves drawn. `pictures` maps files below
    figures/ to what they show; only of data whose pictures may be published, and those that are there are linked.
    """

    task: str
    task_name: str
    title: str
    summary: str
    usage: str
    procedure: str
    intended_use: str
    limits: list[str]
    dataset_name: str
    dataset_type: str
    measures: dict[str, str]
    beside: dict[str, str] = field(default_factory=dict)
    shares: frozenset[str] = frozenset()
    intervals_note: str = ""
    panels: figures.Panels = figures.PANELS
    pictures: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    library: str = "transformers"


def optimisation(run: Run) -> str:
    """Optimiser, learning rate and schedule, as far as the recipe names them."""
    training = run.recipe.get("training") or {}
    optimiser = training.get("optim", "the Trainer's default optimiser")
    rate = f", learning rate {training['learning_rate']:g}" if "learning_rate" in training else ""
    schedule = f", {training['lr_scheduler_type']} schedule" if "lr_scheduler_type" in training else ""
    return f"{optimiser}{rate}{schedule}"


def write_card(run_folder: Path) -> Path:
    """Write README.md of a run from recipe.yaml, config.json, metrics.json and history.csv, and the curves it links.

    Works on a run that was only trained (no intervals, no observations yet) and on one that was evaluated. The card
    shows numbers and curves, never a picture of the data. Returns the path of the card; RunError where a file is
    missing.
    """
    run = load_run(Path(run_folder))
    content: CardContent = family_module(run, "card").card_content(run)
    curve, path = figures.Curve(run.folder.name, figures.BLUE, run.history), run.folder / "figures" / "curves.png"
    if curve.has_a_line:
        write_atomically(path, figures.to_png(figures.curves([curve], content.panels)))
    elif len(run.history):
        path.unlink(missing_ok=True)
    path = run.folder / "README.md"
    write_atomically(path, card_text(run))
    return path


def card_text(run: Run, analysis: str = "", loading: str = "code", folder: str | None = None) -> str:
    """The card of a run.

    Args:
        run: the run.
        analysis: a section of Markdown that somebody wrote about it.
        loading: what lies beside the card: "code", the weights and the model's code, as in a run folder; "weights",
            those alone, for the classes of this project, or "half", the same in float16; "nothing", neither.
        folder: what the loading code calls the folder; the run folder's name by default.
    """
    content: CardContent = family_module(run, "card").card_content(run)
    content.usage = content.usage.replace(f'"{run.folder.name}"', f'"{folder or run.folder.name}"')
    if loading in ("weights", "half"):
        content.usage = f"import models  # of this project\n{content.usage}".replace(", trust_remote_code=True", "")
    text = markdown_template(TEMPLATE).render(
        card_data=_metadata(run, content).to_yaml(),
        content=content,
        loading=loading,
        results=_results(run, content),
        intervals=any(key.endswith("_interval") for split in _splits(run).values() for key in split),
        observations=run.evaluation.get("observations") or [],
        analysis=analysis,
        settings=settings_rows(run),
        training=training_rows(run),
        command=portable_command(shlex.split(run.training.get("command") or "")),
        pictures={k: v for k, v in content.pictures.items() if (run.folder / "figures" / k).is_file()},
        curves="figures/curves.png" if (run.folder / "figures" / "curves.png").is_file() else None,
    )
    return str(ModelCard(text)).rstrip() + "\n"


def markdown_template(path: Path) -> Template:
    """A template of Markdown. Not ModelCard.from_template: its environment keeps the line of every tag, and blank lines
    break a table."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(path.read_text(encoding="utf-8"))


def _splits(run: Run) -> dict[str, dict[str, Any]]:
    return run.metrics.get("metrics") or {}


def _metadata(run: Run, content: CardContent) -> ModelCardData:
    results = [
        EvalResult(
            task_type=content.task,
            task_name=content.task_name,
            dataset_type=content.dataset_type,
            dataset_name=content.dataset_name,
            dataset_split={"val": "validation"}.get(split, split),
            metric_type=HUB_METRICS.get(key, (key, None))[0],
            metric_args=HUB_METRICS.get(key, (key, None))[1],
            metric_name=name,
            metric_value=round(numbers[key], 6),
        )
        for split, numbers in _splits(run).items()
        for key, name in content.measures.items()
        if numbers.get(key) is not None
    ]
    return ModelCardData(
        license=LICENSE,
        library_name=content.library,
        pipeline_tag=content.task,
        tags=content.tags,
        metrics=sorted({result.metric_type for result in results}),
        model_name=run.published_name,
        eval_results=results or None,
    )


def _results(run: Run, content: CardContent) -> dict[str, Any]:
    """The results as a Markdown table: one row per metric, one column per split, intervals in brackets."""
    splits = {
        name: numbers for name, numbers in _splits(run).items() if any(key in numbers for key in content.measures)
    }
    rows = []
    for key, name in (content.measures | content.beside).items():
        values = [_value(key, numbers, key in content.shares) for numbers in splits.values()]
        if any(value != NO_VALUE for value in values):
            rows.append([name, *values])
    for key, name in COUNTS.items():
        counts = [numbers.get(key) for numbers in splits.values()]
        if any(counts):
            rows.append([name, *(NO_VALUE if count is None else f"{count:,}" for count in counts)])
    return {"splits": list(splits), "rows": rows}


def _value(key: str, numbers: dict[str, Any], share: bool) -> str:
    value = numbers.get(key)
    if value is None:
        return NO_VALUE
    bounds = numbers.get(f"{key}_interval")
    if share:
        return f"{percent(value)} ({interval(bounds)})" if bounds else percent(value)
    return f"{value:.3f}"
