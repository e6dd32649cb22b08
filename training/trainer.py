"""The Trainer that all families share: transformers' own loop, with verified checkpoints and honest failures."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerState

from training import checkpoints
from training.arguments import RunArguments
from training.callbacks import (
    AfterOptimizerStep,
    EarlyStopping,
    EpochClock,
    MovingAverage,
    RestoreRunningLoss,
    StopOnSignal,
    WriteHistory,
)
from training.errors import CheckpointError, NonFiniteError, RunError
from training.named_settings import check_names
from training.precision import memory_format
from training.sampling import EpochLengthGroupedSampler

RUNNING_LOSS = "running_loss.json"  # what the Trainer has summed up since it last logged; it does not keep this itself
SAMPLE_IDS = "sample_ids"  # what the collators call the ids; they do not go into the model


def warm_up_and_halve(step: int, warmup: int, every: int) -> float:
    """The share of the learning rate at a step: a line from 0 to 1 over the warm-up, times half per `every` steps, both
    smooth and from the first step on, as Locatello et al. 2020 train Slot Attention."""
    rise = step / warmup if step < warmup else 1.0
    return rise * 0.5 ** (step / every)


class FamilyTrainer(Trainer):
    """[`transformers.Trainer`] plus named parameter groups, moving average, and crash-safe checkpoints.

    Args:
        run_folder: the folder of the run; checkpoints go to `checkpoints/` in it, the log to `history.csv`.
        convolutional: whether `memory_format: auto` means channels_last.
        epoch_clock: the clock that the training collator reads.
        kwargs: as for [`transformers.Trainer`]; `eval_dataset` is a dict of splits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: RunArguments,
        *,
        run_folder: Path,
        convolutional: bool,
        epoch_clock: EpochClock,
        train_collator,
        **kwargs: Any,
    ):
        self.run_folder = Path(run_folder)
        self.checkpoint_root = self.run_folder / "checkpoints"
        args.output_dir = str(self.checkpoint_root)
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.run_folder / "tensorboard")  # else with the checkpoints
        self.drop_last, args.dataloader_drop_last = args.dataloader_drop_last, False
        self.memory_format = memory_format(args.memory_format, convolutional=convolutional)
        model.to(memory_format=self.memory_format)
        super().__init__(model=model, args=args, **kwargs)
        self.train_collator, self.epoch_clock = train_collator, epoch_clock
        self.average = MovingAverage(model, args.ema_decay) if args.ema_decay else None
        self.stop_on_signal = StopOnSignal()
        self.stop_on_signal.accelerator = self.accelerator
        splits = tuple(self.eval_dataset) if isinstance(self.eval_dataset, dict) else ()
        callbacks = [
            epoch_clock,
            self.stop_on_signal,
            AfterOptimizerStep(model, self.average),
            RestoreRunningLoss(self),
        ]
        callbacks.append(WriteHistory(self.run_folder / "history.csv", splits))
        if args.early_stopping_patience:
            callbacks.append(EarlyStopping(args.early_stopping_patience))
        for callback in callbacks:
            self.add_callback(callback)
        self._sample_ids: list[int] = []
        self._clock_start = time.time()
        self._earlier_seconds: float | None = None

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        self.resumed_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # ---- Data ----

    def get_train_dataloader(self):
        """With the training collator, and without an incomplete last batch: only here, an evaluation sees them all."""
        held = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.train_collator, self.drop_last
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self.args.dataloader_drop_last = held

    def planned_steps(self) -> tuple[int, int]:
        """Optimiser steps of an epoch, and of the whole training."""
        args = self.args
        batches = len(self.train_dataset) // (args.train_batch_size * args.world_size) or 1
        updates = math.ceil(batches / args.gradient_accumulation_steps)
        return updates, args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates)

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        column, data = self.args.length_column_name, train_dataset or self.train_dataset
        if column not in data.column_names:
            raise RunError(
                f"training.train_sampling_strategy is group_by_length, but the data have no column {column!r}"
            )
        # Of all processes: so the order of the samples is the same whatever their number.
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochLengthGroupedSampler(batch, list(data[column]), self.args.data_seed, self.epoch_clock.epoch)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        self._sample_ids = inputs.pop(SAMPLE_IDS, [])
        inputs = super()._prepare_inputs(inputs)
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.dim() == 4 and value.is_floating_point():
                inputs[name] = value.contiguous(memory_format=self.memory_format)
        return inputs

    # ---- Optimisation ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """One optimiser group per named group of `model.parameter_groups()`, with its own rate and decay."""
        if self.optimizer is None:
            target = model if model is not None else self.model
            parameters = {n: p for n, p in target.named_parameters() if p.requires_grad}
            groups = []
            for name, members in self.model.parameter_groups().items():
                decays = name.split("_")[-1] == "decay" and "no" not in name.split("_")
                decay = self.args.group_weight_decay.get(name, self.args.weight_decay if decays else 0.0)
                rate = self.args.learning_rate * self.args.lr_multipliers.get(name, 1.0)
                params = [parameters[m] for m in members if m in parameters]
                if params:
                    groups.append({"params": params, "lr": rate, "weight_decay": decay, "name": name})
            grouped = {id(p) for group in groups for p in group["params"]}
            ungrouped = [n for n, p in parameters.items() if id(p) not in grouped]
            if ungrouped:
                name = type(self.model).__name__
                raise ValueError(f"{name}.parameter_groups() leaves out {', '.join(ungrouped[:5])}")
            self.check_names(self.args, self.model)
            optimizer_class, keywords = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **keywords)
        return self.optimizer

    @classmethod
    def check_names(cls, args: RunArguments, model: PreTrainedModel) -> None:
        """Raise a RunError for a setting of a group, an optimiser, a schedule or a logger that names none of theirs."""
        check_names(args, list(model.parameter_groups()), lambda: cls.get_optimizer_cls_and_kwargs(args, model)[0])

    def create_scheduler(self, num_training_steps: int, optimizer=None) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule that `lr_scheduler_type` names, or warm-up and then half the rate every `halve_lr_every`."""
        if self.lr_scheduler is None and self.args.halve_lr_every:
            warmup = self.args.get_warmup_steps(num_training_steps)
            factor = partial(warm_up_and_halve, warmup=warmup, every=self.args.halve_lr_every)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if model.training and not bool(torch.isfinite(loss).all()):
            self._stop_non_finite("loss", loss.detach().float().mean().item())
        return result

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(float(norm)):
            self._stop_non_finite("gradient norm", float(norm))
        return norm

    def _stop_non_finite(self, what: str, value: float) -> None:
        ids = [int(i) for i in self._sample_ids]
        report = {"what": what, "value": repr(value), "step": self.state.global_step, "epoch": self.state.epoch}
        report |= {"learning_rate": self._get_learning_rate(), "sample_ids": ids}
        path = self.run_folder / f"non_finite_{self.args.process_index}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        raise NonFiniteError(
            f"the {what} is {value} at step {self.state.global_step}; the weights were not changed by it. "
            f"The {len(ids)} sample ids are in {path}; lower training.learning_rate or use precision fp32."
        )

    # ---- Evaluation ----

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """With the moving average, where there is one, as the model's weights."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def evaluation_loop(self, *args, **kwargs):
        with self.averaged_weights():
            if self.args.world_size > 1:  # running statistics differ from process to process; the first one's are saved
                for buffer in self.model.buffers():
                    torch.distributed.broadcast(buffer, src=0)
            return super().evaluation_loop(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._earlier_seconds is None:  # seconds that runs before a resume took
            earlier = [entry["seconds"] for entry in self.state.log_history if "seconds" in entry]
            self._earlier_seconds = earlier[-1] if earlier else 0.0
        logs["seconds"] = round(self._earlier_seconds + time.time() - self._clock_start, 3)
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics, trial) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError:
            told = ("_per_second", "runtime", "model_preparation_time", "seconds", "epoch")
            known = ", ".join(k.removeprefix("eval_") for k in metrics if not k.endswith(told))
            raise RunError(
                f"training.metric_for_best_model is {self.args.metric_for_best_model!r}, which is not measured; "
                f"known are {known}"
            ) from None

    # ---- Checkpoints ----

    def _save_checkpoint(self, model, trial) -> None:
        step = self.state.global_step
        name = f"{checkpoints.PREFIX}{step}"
        staging = checkpoints.staging_folder(self.checkpoint_root, name)
        target = self.checkpoint_root / name
        self._name_best()
        with checkpoints.naming_write_errors(f"checkpoint {target}"):
            staging.mkdir(parents=True, exist_ok=True)
            self._write_state(staging)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.commit(staging, target)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = {Path(self.state.best_model_checkpoint)} if self.state.best_model_checkpoint else set()
            checkpoints.rotate(self.checkpoint_root, self.args.save_total_limit, best)

    def _name_best(self) -> None:
        """Say where the best checkpoint lies, by its step: the path of an earlier run need not be that of this one."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(
                self.checkpoint_root / f"{checkpoints.PREFIX}{self.state.best_global_step}"
            )

    def _write_state(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        running = self.accelerator.gather(self._tr_loss.reshape(1)).mean().item()
        if not self.args.should_save:
            return
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing here reads
        if self.average is not None:
            self.average.save(folder)
        facts = {"sum": running, "since": self._globalstep_last_logged, "processes": self.args.world_size}
        (folder / RUNNING_LOSS).write_text(json.dumps(facts))
        for callback in [*self.callback_handler.callbacks, self.control]:
            if hasattr(callback, "state") and type(callback).__name__ in self.state.stateful_callbacks:
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        checkpoints.verify(resume_from_checkpoint)
        running = json.loads((Path(resume_from_checkpoint) / RUNNING_LOSS).read_text(encoding="utf-8"))
        if running.get("processes", self.args.world_size) != self.args.world_size:
            raise CheckpointError(
                f"{resume_from_checkpoint} was made by {running['processes']} process(es), this run has "
                f"{self.args.world_size}, whose batches are others: start as many, or take another --name"
            )
        saved = json.loads((Path(resume_from_checkpoint) / "config.json").read_text(encoding="utf-8"))
        mine = json.loads(self.model.config.to_json_string(use_diff=False))
        ignored = {"transformers_version", "dtype", "architectures", "auto_map", "_name_or_path"}
        for key in sorted(saved.keys() & mine.keys() - ignored):
            if saved[key] != mine[key]:
                raise CheckpointError(
                    f"{resume_from_checkpoint} was made with {key}={saved[key]!r}, this run has {mine[key]!r}; "
                    "use the old value or another --name"
                )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.average is not None:
            self.average.load(Path(checkpoint))

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        checkpoints.verify(best)
        super()._load_best_model()
        if self.average is not None:
            self.average.load(best)

    def stopped_early(self, checkpoint: Path) -> bool:
        """Whether the run had come to its end by early stopping when this checkpoint was saved."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        saved = state.stateful_callbacks.get(EarlyStopping.__name__, {}).get("attributes", {})
        patience = self.args.early_stopping_patience
        return 0 < patience <= saved.get("early_stopping_patience_counter", 0)

    def restore_best(self, checkpoint: Path) -> None:
        """Take the log of a checkpoint and the weights of its best evaluation, as the end of a training does."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self._name_best()
        self._load_best_model()

    def _issue_warnings_after_load(self, load_result) -> None:
        if load_result.missing_keys or load_result.unexpected_keys:
            raise CheckpointError(
                f"the checkpoint does not fit the model: missing {load_result.missing_keys[:5]}, "
                f"surplus {load_result.unexpected_keys[:5]}"
            )

    def restore_running_loss(self, checkpoint: str | None) -> None:
        """Go on summing the training loss where the checkpoint stood, so that the history has no seam."""
        if checkpoint is not None:
            saved = json.loads((Path(checkpoint) / RUNNING_LOSS).read_text(encoding="utf-8"))
            self._tr_loss += saved["sum"]
            self._globalstep_last_logged = saved["since"]
            self._name_best()

    def adopt_average(self) -> None:
        """Make the moving average, where there is one, the model's weights for good."""
        if self.average is not None:
            self.average.swap()
            self.average = None
