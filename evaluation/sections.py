"""Parts of a report that every family has: learning curves, and how the run was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.portable import portable_path

from . import figures
from .report import Figures, Section, Table, Text, duration
from .runs import Run


def data_name(run: Run, generated: str) -> str:
    """The data set by its last path component (a report travels, a path does not), or what the generator makes."""
    path = (run.recipe.get("data") or {}).get("path")
    return Path(str(path)).name.removesuffix(".tar") if path else generated


def footer(run: Run, shown: str = "Pictures") -> str:
    """The last lines of a report that shows the data: `shown`."""
    foreign = not run.is_generated or run.evaluation.get("other_data")
    return (
        f"Made by evaluate_all.py from {run.folder.name}; evaluated in {run.evaluation.get('precision')} on "
        f"{run.evaluation.get('device')} in {duration(run.evaluation.get('seconds'))}."
        + (
            f" {shown} in this file come from the data set: mind its licence before passing the file on."
            * bool(foreign)
        )
    )


def size_of(run: Run) -> str:
    """ ", 172,246 parameters", and how many of them were trained where some are frozen; "" where it is not known."""
    count, trained = run.training.get("parameters"), run.training.get("trained_parameters")
    if not count:
        return ""
    return f", {count:,} parameters" + (f" ({trained:,} of them trained)" if trained not in (None, count) else "")


def trained_for(run: Run) -> str:
    """ ", trained for 50 epochs in 28 min", as far as the run says."""
    epochs, seconds = run.training.get("epochs"), run.training.get("seconds")
    return (f", trained for {epochs:g} epochs" if epochs else "") + (f" in {duration(seconds)}" if seconds else "")


def filled(sections: list[Section]) -> list[Section]:
    """The sections that have something to say."""
    return [s for s in sections if any(not isinstance(block, Text) or block.paragraphs for block in s.blocks)]


def learning_curves(runs: list[figures.Curve], panels: figures.Panels) -> list[Any]:
    """The panels of curves for one run or several, of those that were evaluated more than once."""
    runs = [run for run in runs if run.has_a_line]
    if not runs:
        return [Text(["history.csv holds no two evaluations, so there are no curves."], quiet=True)]
    who = ", ".join(run.label for run in runs)
    drawn = [figures.curve_panel(runs, metric, title) for metric, title in panels]
    titles = [f"{title} by epoch, train and validation, of {who}" for _, title in panels]
    dev = " Dotted: dev, which served to report and not to choose." if any(_has_dev(run) for run in runs) else ""
    caption = f"Solid: validation. Dashed: a fixed part of train, in evaluation mode.{dev}"
    return [Figures.of(drawn, titles, caption=caption)]


def _has_dev(run: figures.Curve) -> bool:
    return bool((run.history["split"] == "dev").any())


def settings_rows(run: Run) -> list[list[str]]:
    """Group, name and value of every field of the recipe; of a path that leads elsewhere only the last part."""
    return [
        [group, key, _shown(portable_path(value))]
        for group in ("model", "data", "training")
        for key, value in (run.recipe.get(group) or {}).items()
    ]


def training_rows(run: Run) -> list[list[str]]:
    """Name and value of what a training was: its time, size, machine and settings."""
    facts = {key: value for key, value in run.training.items() if value is not None and key != "command"}
    shown = {key: f"{value:,}" if type(value) is int else _shown(value) for key, value in facts.items()}
    if "seconds" in shown:
        shown = {"time": duration(facts["seconds"]), **shown}
        del shown["seconds"]
    return [[key.replace("_", " "), text] for key, text in shown.items()]


def setup(run: Run) -> list[Any]:
    """Hyper-parameters, machine, time and command."""
    rows, machine = settings_rows(run), training_rows(run)
    blocks: list[Any] = []
    if run.training.get("command"):
        blocks.append(Table(["Command"], [[str(run.training["command"])]], text_columns=1))
    if machine:
        blocks.append(Table(["Training", ""], machine, text_columns=2))
    if rows:
        blocks.append(Table(["Group", "Hyper-parameter", "Value"], rows, text_columns=3))
    return blocks


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
