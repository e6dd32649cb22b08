"""The published page of a study: its runs in one table, their curves in one figure, and what the numbers say."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from training.portable import portable_command

from . import figures
from .card import TEMPLATES, markdown_template
from .comparison import commands_table, curves_of, labels_of, observe_comparison, paired_tests, results_table, rules_of
from .comparison import settings_table as differing_table
from .families import FAMILIES, family_module
from .publishing import analysis_of
from .report import Cell, Table
from .runs import Run, load_run, write_atomically

TEMPLATE = TEMPLATES / "study.md"


def publish_studies(folders: Iterable[Path], destination: Path) -> list[Path]:
    """The page of every study that several of these evaluated runs belong to, `destination`/<family>-<study>/README.md
    with figures/curves.png; it links to the runs' own cards. Returns the folders written.

    A text about the study that lies there as analysis.md becomes a section of the page, and stays there.
    """
    studies: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for folder in folders:
        run = load_run(folder)
        studies[run.family, run.name.rpartition("/")[0]].append(run)
    several = {key: runs for key, runs in studies.items() if key[1] and len(runs) > 1}
    return [_publish(runs, study, destination) for (_, study), runs in several.items()]


def _publish(runs: list[Run], study: str, destination: Path) -> Path:
    target = destination / f"{runs[0].family}-{study.replace('/', '-')}"
    for run in runs:  # these were loaded for this page alone
        run.training["command"] = portable_command(shlex.split(run.training.get("command") or ""))
    panels = family_module(runs[0], "report").PANELS
    curves = [curve for curve in curves_of(runs) if curve.has_a_line]
    if curves:
        write_atomically(target / "figures" / "curves.png", figures.to_png(figures.curves(curves, panels)))
    results = results_table(runs, target)
    for row, run in zip(results.rows, runs, strict=False):  # rows of means and of baselines follow
        row[0].href = f"../{run.published_name}/README.md"
    text = markdown_template(TEMPLATE).render(
        title=f"{FAMILIES[runs[0].family]}: {study.replace('_', ' ')}",
        labels=labels_of(runs),
        data=sorted({rules_of(runs).data_key(run) for run in runs}),
        results=results,
        observations=observe_comparison(runs, paired_tests(runs)),
        analysis=analysis_of(target),
        curves="figures/curves.png" if curves else None,
        panels=[title for _, title in panels],
        differing=[block for block in differing_table(runs) if isinstance(block, Table)],
        commands=commands_table(runs),
        markdown=markdown_table,
    )
    write_atomically(target / "README.md", text.rstrip() + "\n")
    return target


def markdown_table(table: Table) -> str:
    """A report's table in Markdown, with the quieter line of a cell in brackets, the best in bold, and its caption."""
    rows = [[_markdown(cell) for cell in row] for row in table.cells()]
    align = ["---" if i < table.text_columns else "---:" for i in range(len(table.columns))]
    lines = [f"| {' | '.join(cells)} |" for cells in [table.columns, align, *rows]]
    return "\n".join([*lines, *(["", f"*{table.caption}*"] if table.caption else [])])


def _markdown(cell: Cell) -> str:
    text = cell.value.replace("|", "\\|")
    text = f"[{text}]({cell.href})" if cell.href else text
    text = f"**{text}**" if cell.best else text
    return f"{text} ({cell.note})" if cell.note else text
