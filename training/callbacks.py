"""Callbacks that every family's run uses: epoch clock, signals, history, early stopping, moving average."""

import signal
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from training.checkpoints import naming_write_errors
from training.history import write_history

EMA_FILE = "ema.safetensors"


class EpochClock(TrainerCallback):
    """Tells the training collator which epoch it is, since augmentation is a function of (seed, epoch, sample id).

    accelerate forwards `set_epoch` to the data set on one process but not on several, and workers hold copies of
    the collator; a number in shared memory reaches all of them.
    """

    def __init__(self):
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def on_epoch_begin(self, args, state, control, **kwargs):
        # state.epoch is a fraction after a resume in mid-epoch and whole otherwise
        self.epoch.fill_(int((state.epoch or 0.0) + 1e-6))


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGINT while in the context: finish the step or the evaluation, save, stop. `signum` then holds the
    signal, for the exit code; of several processes once all of them have agreed on it after a step."""

    def __init__(self):
        self.signum: int | None = None
        self._received: int | None = None
        self._previous: dict[int, object] = {}
        self.accelerator = None  # set by the Trainer; agrees on the stop over processes

    def _remember(self, signum, frame):
        self._received = signum
        if self.accelerator is None or self.accelerator.num_processes == 1:
            self.signum = signum

    def __enter__(self):
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._remember)

    def __exit__(self, *error):
        # after an error, too: processes forked later could not be ended by a SIGTERM that is only remembered
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def on_evaluate(self, args, state, control, **kwargs):
        self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            if self._received is not None:
                self.accelerator.set_trigger()
            if self.accelerator.check_trigger():
                self.signum = self._received or signal.SIGTERM
        if self.signum is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        # The library's loop ends an epoch that it breaks off like any other. Its evaluation is none that an
        # uninterrupted run has: it would count for early stopping and as a candidate for the best model.
        ended = state.global_step >= state.max_steps
        if self.signum is not None and not ended and not float(state.epoch).is_integer():
            control.should_log = control.should_evaluate = control.should_save = False
        elif self.signum is not None or (ended and args.save_strategy != SaveStrategy.NO):
            control.should_save = True  # once more, with what is logged and evaluated at the end of an epoch


class RestoreRunningLoss(TrainerCallback):
    """Calls the Trainer's `restore_running_loss` once its loop has set its own sum to zero."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_running_loss(self.trainer.resumed_from)


class WriteHistory(TrainerCallback):
    """Keeps `history.csv` of the run folder in step with the Trainer's log."""

    def __init__(self, path: Path, splits: tuple[str, ...]):
        self.path = path
        self.splits = splits

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            with naming_write_errors(str(self.path)):
                write_history(self.path, state.log_history, self.splits)


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping over several evaluated splits: only the split of the metric counts.

    A metric that does not exist is an error of the Trainer (`_determine_best_metric`), not a warning.
    """

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class AfterOptimizerStep(TrainerCallback):
    """Calls the model's `after_optimizer_step` (BIN's gates are clamped there) and updates the moving average."""

    def __init__(self, model: nn.Module, average: "MovingAverage | None"):
        self.hook: Callable[[], None] | None = getattr(model, "after_optimizer_step", None)
        self.average = average

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.hook is not None:
            self.hook()
        if self.average is not None:
            self.average.update()


class MovingAverage:
    """Exponential moving average of weights and buffers: avg <- d avg + (1-d) w with d = min(decay, (1+t)/(10+t)).

    The ramp (as in Tarvainen and Valpola 2017, section 3) keeps the random start out of short runs.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model

        def average(averaged, current, num_averaged):  # all tensors of a dtype at once: one by one a GPU waits at each
            t = float(num_averaged)
            d = min(decay, (1 + t) / (10 + t))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, 1 - d)
            else:
                torch._foreach_copy_(averaged, current)

        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    def update(self) -> None:
        """Take in the model's weights after an optimiser step."""
        self.averaged.update_parameters(self.model)

    def swap(self) -> None:
        """Exchange the model's weights and the average in place; a second call undoes it."""
        with torch.no_grad():
            theirs = self.averaged.module.state_dict()
            for name, mine in self.model.state_dict().items():
                held = mine.clone()
                mine.copy_(theirs[name])
                theirs[name].copy_(held)

    def save(self, folder: Path) -> None:
        """Write `ema.safetensors`: the averaged tensors and the number of updates."""
        tensors = {name: value.contiguous() for name, value in self.averaged.state_dict().items()}
        save_file(tensors, folder / EMA_FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; every tensor has to be there."""
        self.averaged.load_state_dict(load_file(folder / EMA_FILE), strict=True)
