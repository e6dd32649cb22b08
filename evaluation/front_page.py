"""The front page over all runs: a table, curves and observations for every study, pictures, settings, and time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from . import sections
from .comparison import (
    best_of,
    commands_table,
    curves_of,
    labels_of,
    observe_comparison,
    paired_tests,
    results_table,
    rules_of,
    settings_table,
)
from .families import FAMILIES, family_module
from .report import NO_VALUE, Cell, Gallery, Picture, Report, Section, Table, Text, data_uri, duration, render
from .runs import Run, RunError, load_run, write_atomically

SHOWN_PIXELS = 900  # the longer side of a sheet of pictures on this page


def write_front_page(folders: list[Path], out: Path) -> Path:
    """Write index.html on these evaluated runs to the folder `out`; returns its path. RunError where there is none."""
    runs = [load_run(folder) for folder in folders]
    if not runs:
        raise RunError("no evaluated run: there is nothing to make a front page of.")
    write_atomically(out / "index.html", render(build_front_page(runs, out)))
    return out / "index.html"


def build_front_page(runs: list[Run], out: Path) -> Report:
    """The page, to lie in the folder `out`: a section for every family, in it a part for every study."""
    seconds = sum(run.training.get("seconds") or 0 for run in runs)
    families = [family for family in FAMILIES if any(run.family == family for run in runs)]
    studies = {family: studies_of([run for run in runs if run.family == family]) for family in families}
    parts = []
    for family in families:
        blocks = [block for title, members in studies[family].items() for block in _study(title, members, out)]
        parts.append(Section(FAMILIES[family], [*blocks, *_pictures(studies[family].values())]))
    return Report(
        title="All runs",
        kicker="Results",
        lead="Every trained run with what it gave. A name leads to the run's own report; every number is from its "
        "metrics.json.",
        headline=[
            ("Runs", str(len(runs)), ", ".join(FAMILIES[family] for family in families)),
            ("Studies", str(sum(len(members) > 1 for found in studies.values() for members in found.values())), ""),
            ("Training", duration(seconds), "of all runs together"),
        ],
        sections=[
            *parts,
            Section("Settings", [_settings(run) for run in runs]),
            Section("Time and commands", [commands_table(runs), _links(runs, out)]),
        ],
        footer="Made by evaluate_all.py.",
    )


def studies_of(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of one family by study: a folder of runs is one; single runs belong together where their data are the
    same."""
    studies: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        single = run.folder.parent.name in (run.family, "runs", "")
        studies[rules_of([run]).data_key(run) if single else run.folder.parent.name.replace("_", " ")].append(run)
    return dict(studies)


def _study(title: str, runs: list[Run], out: Path) -> list[Table | Text | Gallery]:
    """Results, observations, and the curves of what ranks the runs laid over each other."""
    table = results_table(runs, out)
    table.caption = f"{title[:1].upper()}{title[1:]}. {table.caption}"
    blocks = [table]
    if len(runs) > 1:
        blocks.append(Text(observe_comparison(runs, paired_tests(runs)), listed=True))
    panels = [panel for panel in family_module(runs[0], "report").PANELS if panel[0] in ("loss", rules_of(runs).metric)]
    curves = curves_of(runs)
    if any(curve.has_a_line for curve in curves):
        blocks += sections.learning_curves(curves, panels)
    if len(runs) > 1:
        differing = settings_table(runs)
        for block in differing:
            if isinstance(block, Table):
                block.folded, block.caption = True, "What differs in the recipes"
        blocks += differing
    return blocks


def _pictures(studies: Iterable[list[Run]]) -> list[Gallery]:
    """Of the best run of every study the sheet that its family puts first, its top where it is higher than wide."""
    shown = []
    for runs in studies:
        best = best_of(runs) or 0
        path = runs[best].folder / "galleries" / family_module(runs[best], "report").FIRST_SHEET
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            top = pixels[: pixels.shape[1]]
            shown.append(Picture([data_uri(top, longest=SHOWN_PIXELS)], [labels_of(runs)[best]]))
    note = "The top of a sheet each; the whole ones, and what they show, are in the reports."
    return [Gallery("Pictures", [("", shown)], note, wide=True)] if shown else []


def _settings(run: Run) -> Table:
    rows = sections.settings_rows(run)
    return Table(["Group", "Hyper-parameter", "Value"], rows, f"{FAMILIES[run.family]}: {run.name}", 3, folded=True)


def _links(runs: list[Run], out: Path) -> Table:
    """Where each run's card and the comparison of its study lie."""
    rows = []
    for run in runs:
        study = run.folder.parent / "comparison.html"
        links = [("README.md", run.folder / "README.md"), ("comparison.html", study)]
        cells = [
            Cell(name, href=quote(os.path.relpath(path, out))) if path.is_file() else NO_VALUE for name, path in links
        ]
        rows.append([f"{run.family}/{run.name}", *cells])
    return Table(["Run", "Model card", "Comparison"], rows, text_columns=3)
