"""Train a model family from a recipe.

    accelerate launch train.py --model resnet                       # recipes/resnet/tiny.yaml: minutes on 2 cores
    accelerate launch train.py --recipe recipes/resnet/birds6.yaml --path ../birds6.tar
    accelerate launch train.py --recipe recipes/resnet/normalization  # a folder of recipes is a study
    python train.py --recipe recipes/resnet/coursework.yaml --dry-run

Every field of a recipe's groups model, data and training can be set by name: --n 3 --norm gn --learning_rate 1e-2.
"""

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path, PurePath

import torch
from accelerate import PartialState
from transformers.utils import logging

from evaluation.card import write_card
from training.dry_run import measure
from training.errors import RunError, Terminated
from training.recipe import Recipe, apply_overrides, load_recipe, study_recipes
from training.run import build_trainer, check_settings, execute
from training.run_folder import RunFolder
from training.tasks import TASKS, Task, task_class

WAITED_FOR = timedelta(hours=6)
ROOT = Path(__file__).resolve().parent


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the rest: overrides of recipe fields."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", choices=sorted(TASKS), help="family; alone it runs recipes/<model>/tiny.yaml")
    parser.add_argument("--recipe", type=Path, help="a recipe file, or a folder of them (a study)")
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: runs)")
    parser.add_argument("--dry-run", action="store_true", help="print parameters, memory, hours expected, and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete what the run folder holds and start anew")
    parser.add_argument("--processes", type=int, help="stop unless this many processes were started")
    return parser.parse_known_args(arguments)


def gather_recipes(options: argparse.Namespace, overrides: list[str]) -> list[Recipe]:
    """The recipes to run: a study's, the one named, or the family's tiny one."""
    if options.recipe is None:
        if options.model is None:
            raise RunError("say what to train: --model resnet, or --recipe FILE or FOLDER")
        options.recipe = ROOT / "recipes" / options.model / "tiny.yaml"
        if any(token.partition("=")[0] in ("--path", "--data.path") for token in overrides):
            say(f"NO RECIPE GIVEN: {options.recipe.name} trains {options.model} for minutes, meant for EMBEDDED data.")
        else:
            say(f"NO RECIPE GIVEN: training {options.model} for minutes on EMBEDDED data ({options.recipe.name}).")
        say("Use --recipe for a real experiment.")
    recipes = study_recipes(options.recipe) if options.recipe.is_dir() else [load_recipe(options.recipe)]
    if options.name is not None:
        if len(recipes) > 1:
            raise RunError("--name goes with one recipe, not with a study; the runs of a study have their files' names")
        recipes[0].name = options.name
    for recipe in recipes:
        if options.model not in (None, recipe.model_family):
            raise RunError(f"{recipe.source} is a recipe of {recipe.model_family}, not of {options.model}")
        parts = PurePath(recipe.name).parts
        if not parts or PurePath(recipe.name).is_absolute() or any(part.startswith(".") for part in parts):
            raise RunError(
                f"{recipe.source}: the run's name is {recipe.name!r}; it must be a folder below {options.runs}"
            )
    return recipes


def build_task(recipe: Recipe, overrides: list[str]) -> Task:
    """The recipe's task with the command line's overrides applied and every field checked."""
    family = task_class(recipe.model_family, recipe.source)
    apply_overrides(recipe, overrides, family.known_fields(), family.aliases)
    return family(recipe)


def train_one(task: Task, options: argparse.Namespace, overwrite: bool) -> None:
    """Train (or cost) one experiment, the runs that it starts from first, then write its card."""
    folder = options.runs / task.family / task.recipe.name
    done = RunFolder(folder).finished and not overwrite and not options.dry_run
    for recipe in [] if done else task.prerequisites(options.runs):
        say(f"{task.recipe.name} starts from {recipe.model_family}/{recipe.name}")
        try:
            train_one(build_task(recipe, []), options, overwrite=False)
        except RunError as error:
            raise RunError(f"{recipe.source}, which {task.recipe.name} starts from: {error}") from error
    if options.dry_run:
        task.rehearsal = True
        check_settings(task)
        with tempfile.TemporaryDirectory() as scratch:
            say(f"{task.recipe.name}\n{measure(build_trainer(task, task.build_model(), Path(scratch)))}")
        return
    say(f"{task.recipe.name}: training on {PartialState().num_processes} process(es) into {folder}")
    if not execute(task, folder, overwrite=overwrite):
        say(f"{folder} has finished before; --overwrite trains it again")
        if (folder / "README.md").is_file():
            return
    if PartialState().is_main_process:
        write_card(folder)
    say(f"finished: {folder}\nfor the report: python evaluate_all.py {folder}")


def say(text: str) -> None:
    """Print once, whatever the number of processes."""
    PartialState().print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run everything asked for; returns the exit code: 0, 2 for an error of input, 128 + signal when stopped."""
    options, overrides = parse_arguments(arguments)
    logging.set_verbosity_warning()
    failed = []
    try:
        # The group of processes is made here, once; the others wait while the first one fills the data cache.
        processes = PartialState(cpu=not torch.accelerator.is_available(), timeout=WAITED_FOR).num_processes
        if options.processes not in (None, processes):
            raise RunError(
                f"{processes} process(es) were started, not {options.processes}; on CPU use "
                "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N` or torchrun"
            )
        recipes = gather_recipes(options, overrides)
        tasks = [build_task(recipe, overrides) for recipe in recipes]  # all are checked before one runs
        for task in tasks:
            try:
                train_one(task, options, options.overwrite)
            except (ValueError, OSError) as error:
                if len(tasks) == 1 or processes > 1:  # the others may not have failed, and wait in this run
                    raise
                line = " ".join(str(error).split())
                print(f"error in {task.recipe.name}: {line}", file=sys.stderr, flush=True)
                failed.append(task.recipe.name)
    except Terminated as stopped:
        print(f"{stopped}{', without --overwrite' if options.overwrite else ''}", file=sys.stderr)
        return 128 + stopped.signum
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if failed:
        print(f"error: {len(failed)} of {len(tasks)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
