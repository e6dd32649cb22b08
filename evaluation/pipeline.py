"""One run from weights to metrics.json, figures, report and card; several runs to a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from training.run_folder import RunFolder

from . import comparison, figures, sections
from .card import write_card
from .families import family_module, shared_module, source_files
from .options import SPLITS, Options
from .report import TEMPLATES, render
from .runs import Run, digest, load_run, weights_of, write_atomically, write_json
from .sources import code_digest


def evaluate_run(folder: Path, options: Options) -> bool:
    """Evaluate one run and write everything into its folder; False if all was up to date. RunError if it cannot be
    done.

    Up to date means: weights, config, recipe, history and this project's evaluation code have the fingerprint that the
    last evaluation recorded in metrics.json, and it covered the splits asked for. Splits that were evaluated before
    stay: they are evaluated with those asked for, from what is stored as far as the weights are the same.
    """
    if _is_up_to_date(load_run(folder), options):
        return False
    with RunFolder(folder).locked():  # a second evaluation would write the same files
        _evaluate(load_run(folder), options)
    return True


def _is_up_to_date(run: Run, options: Options) -> bool:
    if options.force or not (run.folder / "report.html").is_file():
        return False
    return run.evaluation.get("digest") == fingerprint_of(run, with_earlier_splits(run, options))


def _evaluate(run: Run, asked: Options) -> None:
    folder, options = run.folder, with_earlier_splits(run, asked)
    evaluator, reporter = family_module(run), family_module(run, "report")
    fingerprint = fingerprint_of(run, options)
    result = evaluator.evaluate(run, options)
    if asked.splits and not result["metrics"].keys() & set(asked.splits):
        raise asked.no_split(result["metrics"], folder)
    trained = _of_training(run)
    numbers = {**trained, **{split: {**trained.get(split, {}), **new} for split, new in result["metrics"].items()}}
    run.metrics = {
        "model": run.family,
        "name": run.name,
        **run.metrics,
        "metrics": {split: numbers[split] for split in sorted(numbers, key=_place)},
        "evaluation": result["evaluation"],
    }
    run.evaluation["numbers"] = {split: sorted(new) for split, new in result["metrics"].items()}
    run.evaluation["observations"] = reporter.observe(run)
    for name, figure in reporter.number_figures(run).items():
        write_atomically(folder / "figures" / f"{name}.png", figures.to_png(figure))
    reporter.save_galleries(run, result["pictures"])
    write_atomically(folder / "report.html", render(reporter.build_report(run, result["pictures"])))
    write_json(folder / "metrics.json", run.metrics)
    write_card(folder)
    run.evaluation["digest"] = fingerprint  # written last, so that an evaluation cut short is done again
    write_json(folder / "metrics.json", run.metrics)


def _of_training(run: Run) -> dict[str, dict[str, Any]]:
    """The numbers of metrics.json that are not the last evaluation's: what it alone made must not outlive it."""
    made = run.evaluation.get("numbers") or {}
    return {
        split: {key: value for key, value in numbers.items() if key not in made.get(split, ())}
        for split, numbers in (run.metrics.get("metrics") or {}).items()
    }


def with_earlier_splits(run: Run, options: Options) -> Options:
    """The options with every split that the run was evaluated on before, so that no evaluation loses one and all
    numbers of a run are of the same weights."""
    if options.splits is None:
        return options
    wanted = {*options.splits, *(run.evaluation.get("splits") or {})}
    return replace(options, splits=tuple(split for split in SPLITS if split in wanted))


def _place(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def fingerprint_of(run: Run, options: Options) -> str:
    """What an evaluation depends on, as one hex string."""
    history = run.folder / "history.csv"
    inputs = [*weights_of(run.folder), run.folder / "config.json", run.folder / "recipe.yaml"]
    code = digest(sorted(TEMPLATES.glob("*")), code_digest(source_files(run.family)))
    settings = family_module(run).settings(run, options)
    return digest([*inputs, *([history] if history.is_file() else [])], code, settings)


def compare(folders: list[Path], out: Path, title: str, options: Options | None = None) -> Path:
    """Write comparison.html, comparison.json and figures/comparison_curves.png for evaluated runs of one family to
    `out`; for runs of families that can be laid side by side, side_by_side.html and so on, for which models may run as
    `options` say. RunError for families that cannot.
    """
    runs = [load_run(folder) for folder in folders]
    families = {run.family for run in runs}
    name, own = "comparison", []
    if len(families) == 1:
        panels = family_module(runs[0], "report").PANELS
    else:
        name, shared = "side_by_side", shared_module(families)
        panels, own = shared.PANELS, shared.sections(runs, options or Options())
    curves = comparison.curves_of(runs)
    report = comparison.build_comparison(runs, title, sections.learning_curves(curves, panels), out, own)
    measured = [curve for curve in curves if len(curve.history)]
    if measured:
        write_atomically(out / "figures" / f"{name}_curves.png", figures.to_png(figures.curves(measured, panels)))
    names = comparison.labels_of(runs)  # runs of two families, or from two folders, may have the same name
    facts = {
        "runs": names,
        "metrics": {name: run.metrics.get("metrics") for name, run in zip(names, runs, strict=True)},
        "differing": comparison.differing_settings(runs),
        "observations": comparison.observe_comparison(runs, comparison.paired_tests(runs)),
    }
    write_json(out / f"{name}.json", facts)
    write_atomically(out / f"{name}.html", render(report))
    return out / f"{name}.html"
