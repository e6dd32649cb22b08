"""Evaluate trained runs: numbers, figures, galleries, a report in one HTML file, and a model card, for each of them.

    python evaluate_all.py                                   # every finished run below runs/, runs/report/index.html
    python evaluate_all.py --runs FOLDER                     # the same below another folder
    python evaluate_all.py runs/resnet/birds6                # one run
    python evaluate_all.py runs/resnet/normalization         # a study: each run, and comparison.html beside them
    python evaluate_all.py RUN1 RUN2 --out runs/comparison   # any runs, compared in one place
    python evaluate_all.py runs/resnet/birds6 --publish model_cards  # of a study: the cards, and a page on all
    python evaluate_all.py runs/text2math/best --beams 1 10 20  # beam search at three widths, side by side
    python evaluate_all.py runs/slotattn/textured64 --data scenes.npz  # and on data that it was never trained on
    python evaluate_all.py runs/slotattn/plain64 runs/slotdiff/plain64  # two families, side_by_side.html

A run that is up to date is skipped. One that cannot be evaluated is named, the others are done all the same, and the
exit code is 1.
"""

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

import huggingface_hub.constants
from transformers.utils import logging

from evaluation.checker import PREDICTIONS, check_run
from evaluation.families import SIDE_BY_SIDE
from evaluation.front_page import write_front_page
from evaluation.loading import check_files
from evaluation.options import Options, parse_arguments
from evaluation.pipeline import compare, evaluate_run
from evaluation.publishing import publish
from evaluation.runs import RunError, find_runs, is_finished, load_run
from evaluation.study_page import publish_studies


def gather(paths: list[Path], failures: list[str]) -> list[Path]:
    """All runs at or below the paths, each once. Unfinished ones are passed over; one named itself is an error."""
    folders = []
    for path in paths:
        try:
            found = find_runs(path)
            if found == [path] and not is_finished(path):
                raise RunError(f"{path}: the run has not finished (no metrics.json). Resume it with train.py.")
        except RunError as error:
            report_failure(error, failures)
            continue
        for folder in found:
            if not is_finished(folder):
                print(f"{folder}: not finished, passed over")
            elif folder not in folders:
                folders.append(folder)
    return folders


def report_failure(error: Exception, failures: list[str]) -> None:
    """Print an error in one line and remember it."""
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr, flush=True)
    failures.append(line)


def evaluate_each(folders: list[Path], options: argparse.Namespace, failures: list[str]) -> list[Path]:
    """Evaluate every run; returns those that have an evaluation now."""
    how, done = Options.of(options), []
    for folder in folders:
        try:
            check_files(folder)
            fresh = evaluate_run(folder, how)
        except RunError as error:
            report_failure(error, failures)
            continue
        except Exception as error:  # whatever it is, it must not cost the other runs
            report_failure(RunError(f"{folder}: {type(error).__name__}: {error}"), failures)
            continue
        print(f"{folder / 'report.html'}{'' if fresh else ' (up to date)'}", flush=True)
        done.append(folder)
    return done


def check_each(folders: list[Path], checker: Path, failures: list[str]) -> None:
    """Run the user's checker on the predictions of every run that has some; say what it said."""
    checkable = [folder for folder in folders if (folder / PREDICTIONS).is_dir()]
    if not checkable:
        report_failure(RunError(f"{checker}: none of these runs has {PREDICTIONS}/*.json for it to read"), failures)
    for folder in checkable:
        try:
            print(check_run(folder, checker), flush=True)
        except (RunError, OSError) as error:
            report_failure(error, failures)


def common_folder(folders: list[Path]) -> Path:
    """The innermost folder that holds them all."""
    if len({folder.is_absolute() for folder in folders}) > 1:
        folders = [folder.resolve() for folder in folders]
    return Path(os.path.commonpath(folders))


def compare_groups(folders: list[Path], options: argparse.Namespace, failures: list[str]) -> None:
    """A comparison for every folder that directly holds several runs of a family; one for all where --out is given, or
    where several runs from different folders were named, and then one page of families that do the same, too."""
    groups: dict[tuple[str, Path], list[Path]] = defaultdict(list)
    named = len(options.paths) > 1 and set(options.paths) >= set(folders)
    together = options.out or (common_folder(folders) if named and len(folders) > 1 else None)
    for folder in folders:
        groups[load_run(folder).family, together or folder.parent].append(folder)
    families = {family for family, _ in groups}
    for (family, where), members in groups.items():
        if len(members) > 1:
            out = where / family if together and len(families) > 1 else where
            try:
                print(compare(members, out, title=out.name.replace("_", " ")), flush=True)
            except (RunError, OSError) as error:
                report_failure(error, failures)
    for known in SIDE_BY_SIDE if together else []:
        members = [folder for family, _ in groups if family in known for folder in groups[family, together]]
        if known <= families:
            try:
                print(compare(members, together, "Side by side", Options.of(options)), flush=True)
            except (RunError, OSError, ValueError) as error:
                report_failure(error, failures)


def publish_each(folders: list[Path], options: argparse.Namespace, failures: list[str]) -> None:
    """The card of every run, and the page of every study that several of them belong to."""
    published: dict[str, Path] = {}
    for folder in folders:
        try:
            name = load_run(folder).published_name
            if name in published:
                raise RunError(f"{folder}: not published: {published[name]} has the same name, {name}")
            print(publish(folder, options.publish, options.with_weights))
            published[name] = folder
        except (RunError, OSError) as error:
            report_failure(error, failures)
    try:
        for page in publish_studies(published.values(), options.publish):
            print(page)
    except (RunError, OSError) as error:
        report_failure(error, failures)


def main(arguments: list[str] | None = None) -> int:
    """Run it all; returns 0, or 1 where anything failed."""
    options = parse_arguments(arguments, __doc__)
    everything = not options.paths
    options.paths = options.paths or [options.runs]
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # all but Inception's weights lies in the run folders
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failures: list[str] = []
    done = evaluate_each(gather(options.paths, failures), options, failures)
    compare_groups(done, options, failures)
    if options.checker:
        check_each(done, options.checker, failures)
    if everything and done:
        try:
            print(write_front_page(done, options.out or options.runs / "report"), flush=True)
        except (RunError, OSError) as error:
            report_failure(error, failures)
    if options.publish:
        publish_each(done, options, failures)
    if failures:
        print(f"error: {len(failures)} failed, {len(done)} evaluated", file=sys.stderr)
    elif not done:
        print("nothing to evaluate: no finished run", file=sys.stderr)
    return 1 if failures or not done else 0


if __name__ == "__main__":
    sys.exit(main())
