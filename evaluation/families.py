"""Which families can be evaluated, and what a family has to bring.

A family `x` (the `model_family` of a recipe) is four modules of this folder. Everything else here knows no family.

`x.py`
    `evaluate(run, options) -> dict` with three entries. `metrics`: per split a flat dict of numbers, `<name>_interval`
    [low, high] where there is one, and `samples`; it is merged into what training wrote. `evaluation`: whatever else
    the report, the card and the observations need, as JSON. Both end up in metrics.json, which may be published: no
    text and no picture of the data. `pictures`: what must not be published, kept in memory for the report.
    RunError for a run that cannot be evaluated; predictions are stored in the run folder, so that a second evaluation
    of the same weights does not compute them again.
    `settings(run, options) -> JSON`: what the result depends on besides the files of the run and this project's code.
    RunError for an option that the family cannot follow (`Options.refuse_data`).

`x_report.py`
    `PANELS`: the curves of history.csv that are drawn, as (column, title), see `figures.PANELS`.
    `PUBLISHED_FIGURES`: file names below `figures/` that may be published.
    `FIRST_SHEET`: the file below `galleries/` that the front page shows.
    `observe(run) -> list[str]`: sentences, each computed from `run.metrics` and `run.history` and carrying a number.
    `number_figures(run) -> dict[str, Figure]`: figures without any data in them, by file name.
    `build_report(run, pictures) -> Report` and `save_galleries(run, pictures)` (files that show data, not published).

`x_card.py`
    `card_content(run) -> CardContent`; has to work on a run that was only trained, too.

`x_comparison.py`
    `RULES: ComparisonRules`: what a table of several runs shows, which metric ranks them, and which samples were
    answered right, for paired tests.

Families of one task can be laid side by side, see `SIDE_BY_SIDE`: the module named there has `RULES`, `PANELS`, and
`sections(runs, options)`, what a page of several families shows besides numbers.

Adding a family means these four modules, its name in `FAMILIES`, and its model's files in `sources.MODEL_CODE`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from .runs import Run, RunError
from .sources import model_code, with_imports

FAMILIES = {  # in the order of the front page, and what they are called there
    "resnet": "ResNet",
    "text2math": "Text to program",
    "slotattn": "Slot Attention",
    "slotdiff": "Slot diffusion",
    "vae": "VQ-VAE",
}


SIDE_BY_SIDE = {frozenset({"slotattn", "slotdiff"}): "scene_sides"}  # families of one task, and what compares them


def family_module(run: Run, part: str = "") -> ModuleType:
    """The module of a run's family; `part` is "" (its evaluation), "report", "card" or "comparison".

    RunError for a family that has none.
    """
    if run.family not in FAMILIES:
        raise RunError(
            f"{run.folder}: no evaluation for the family {run.family!r} named in recipe.yaml; there is one for "
            f"{', '.join(FAMILIES)}."
        )
    return importlib.import_module(f"{__package__}.{run.family}{'_' if part else ''}{part}")


def shared_module(families: set[str]) -> ModuleType:
    """The module by which runs of several families are laid side by side: its `RULES`, `PANELS` and `sections`.

    RunError where there is none.
    """
    name = next((module for known, module in SIDE_BY_SIDE.items() if families <= known), None)
    if name is None:
        raise RunError(f"runs of {', '.join(sorted(families))} cannot be compared: they do different things.")
    return importlib.import_module(f"{__package__}.{name}")


def source_files(family: str) -> list[Path]:
    """The Python files whose change makes an evaluation of the family out of date: its modules, what they import here,
    its model, and the metrics."""
    here = Path(__file__).parent
    own = [here / f"{family}{part}.py" for part in ("", "_report", "_card", "_comparison")]
    metrics = sorted((here.parent / "metrics").rglob("*.py"))
    return [*with_imports([here / "pipeline.py", *own]), *model_code(family), *metrics]
