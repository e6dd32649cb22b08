"""One experiment from recipe to finished run folder."""

import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from training import checkpoints
from training.callbacks import EpochClock, WriteHistory
from training.digests import data_digests
from training.errors import RunError, Terminated
from training.portable import portable_command
from training.run_folder import RunFolder
from training.tasks import Task
from training.trainer import FamilyTrainer


def check_settings(task: Task) -> None:
    """Raise a RunError if the training split is smaller than one batch over all processes, or the metric by which to
    choose is of no split that is evaluated."""
    args, samples = task.arguments, len(task.datasets["train"])
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if samples < batch and args.dataloader_drop_last:
        raise RunError(
            f"the training split has {samples} samples, fewer than one batch of {batch}; "
            "lower training.per_device_train_batch_size"
        )
    metric, splits = (args.metric_for_best_model or "").removeprefix("eval_"), list(task.evaluation_splits())
    if metric and metric.partition("_")[0] not in splits:
        raise RunError(
            f"training.metric_for_best_model is {metric!r}, which is not measured: it must begin with one of "
            f"{', '.join(f'{split}_' for split in splits)}, such as val_loss"
        )


def build_trainer(task: Task, model: PreTrainedModel, run_folder: Path) -> FamilyTrainer:
    """The Trainer of a task, its data and model; makes the run folder's `checkpoints/`."""
    AcceleratorState._reset_state()  # the run before this one in the same process may have had another precision
    clock = EpochClock()
    try:
        return task.trainer_class(
            model=model,
            args=task.arguments,
            run_folder=run_folder,
            convolutional=task.convolutional,
            epoch_clock=clock,
            train_dataset=task.datasets["train"],
            eval_dataset=task.evaluation_splits(),
            data_collator=task.collator(),
            train_collator=task.collator(clock.epoch),
            compute_metrics=task.compute_metrics,
            processing_class=task.processor,
        )
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "install" not in str(error):
            raise
        raise RunError(f"{task.recipe.source}: {error}") from error  # a logger or an engine that is not there


def execute(task: Task, path: Path, *, overwrite: bool = False) -> bool:
    """Train, evaluate and publish one experiment into `path`; continue it where it was interrupted.

    Returns:
        False if the run had finished before and nothing was done.

    Raises:
        RunError: what the user can mend, such as a folder that holds another experiment.
        Terminated: a signal stopped the run, its state is saved.
    """
    state = PartialState()
    folder = RunFolder(path)
    if folder.finished and not overwrite:
        folder.check_same(task.recipe)
        return False
    with folder.locked() if state.is_main_process else contextlib.nullcontext(), _naming_lack_of_memory():
        with state.main_process_first():
            model = task.build_model()  # the first process fills the data cache, the others read it
        check_settings(task)
        task.trainer_class.check_names(task.arguments, model)  # before an older run is deleted
        if state.is_main_process:
            folder.claim(task.recipe, data_digests(task.datasets), overwrite=overwrite)
        state.wait_for_everyone()
        trainer = build_trainer(task, model, folder.path)
        _warn_of_few_steps(trainer)
        with trainer.stop_on_signal:
            _train(trainer, folder)
            _publish(trainer, task, folder)
    return True


def _warn_of_few_steps(trainer: FamilyTrainer) -> None:
    """Say so where a recipe that counts steps meets data of fewer: it trains at a low rate, and has no curve."""
    args, (_, steps) = trainer.args, trainer.planned_steps()
    warmup, every = args.get_warmup_steps(steps), args.eval_steps or 0
    told = []
    if warmup >= steps:
        told.append(f"all of them in the warm-up (training.warmup_steps is {warmup:,}; 0.05 is a share)")
    if args.eval_strategy == "steps" and every > steps:
        told.append(f"no evaluation before the end (training.eval_steps is {every:,}; eval_strategy epoch)")
    if told and trainer.is_world_process_zero():
        print(f"warning: this training has {steps:,} steps, {', and '.join(told)}", file=sys.stderr)


@contextlib.contextmanager
def _naming_lack_of_memory() -> Iterator[None]:
    """Turn the error of a GPU or of the machine that there is no more memory into a RunError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch says it of a GPU with a class of its own, of the CPU in words
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise RunError(
            "out of memory: lower training.per_device_train_batch_size (and raise gradient_accumulation_steps as much) "
            f"or per_device_eval_batch_size ({str(error).splitlines()[0] if str(error) else 'MemoryError'})"
        ) from error


def _train(trainer: FamilyTrainer, folder: RunFolder) -> None:
    checkpoint, passed_over = checkpoints.newest_valid(folder.checkpoint_root)
    if trainer.is_world_process_zero():
        for line in passed_over:
            print(f"passed over {line}", file=sys.stderr)
        if checkpoint is not None:
            print(f"resuming from {checkpoint}", file=sys.stderr)
        elif passed_over:
            print("no valid checkpoint is left: starting from the beginning", file=sys.stderr)
    if checkpoint is not None and trainer.stopped_early(checkpoint):  # killed between its end and its publication
        trainer.restore_best(checkpoint)
        return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _stop_if_told(trainer)


def _stop_if_told(trainer: FamilyTrainer) -> None:
    """Raise Terminated where a signal has arrived; the last step was saved."""
    if trainer.stop_on_signal.signum is not None:
        raise Terminated(trainer.stop_on_signal.signum, trainer.state.global_step)


def _publish(trainer: FamilyTrainer, task: Task, folder: RunFolder) -> None:
    trainer.adopt_average()
    trainer.remove_callback(WriteHistory)  # the history ends with training
    measured = {}
    for name, split in task.final_splits().items():
        measured[name] = _evaluate(trainer, split, name)
        _stop_if_told(trainer)
    # all processes gather what FSDP has split among them
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        folder.publish_model(trainer.accelerator.unwrap_model(trainer.model), task.processor, weights)
        facts = {"model": task.family, "name": task.recipe.name, "metrics": measured, "training": facts_of(trainer)}
        folder.write_metrics(facts)
        if not task.arguments.keep_checkpoints:
            folder.drop_checkpoints()
    trainer.accelerator.wait_for_everyone()


def _evaluate(trainer: FamilyTrainer, split, name: str) -> dict[str, float]:
    prefix = f"eval_{name}"
    result = trainer.evaluate(eval_dataset=split, metric_key_prefix=prefix)
    speed = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    result = {k.removeprefix(f"{prefix}_"): v for k, v in result.items() if k.startswith(f"{prefix}_")}
    return {k: v for k, v in result.items() if k not in speed}


def machine_name() -> str:
    """What the run was computed on, for people: GPU name or processor and cores."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def facts_of(trainer: FamilyTrainer) -> dict[str, Any]:
    """Time, size, machine and settings of a finished training, for `metrics.json`."""
    args = trainer.args
    log = trainer.state.log_history
    return {
        "seconds": next((e["seconds"] for e in reversed(log) if "train_runtime" in e), log[-1]["seconds"]),
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "parameters": trainer.model.num_parameters(),
        "trained_parameters": trainer.model.num_parameters(only_trainable=True),
        "device": str(args.device.type),
        "machine": machine_name(),
        "processes": args.world_size,
        "precision": "bf16" if args.bf16 else "fp32",
        "channels_last": trainer.memory_format is torch.channels_last,
        "compiled": bool(args.torch_compile),
        "command": portable_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }
