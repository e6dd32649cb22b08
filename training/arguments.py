"""`RunArguments`: transformers' TrainingArguments with this project's defaults and the few fields it adds."""

from dataclasses import dataclass, field

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from training.errors import RunError
from training.precision import MEMORY_FORMATS, PRECISIONS, use_bf16

COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
NOT_NEGATIVE = (
    *("weight_decay", "max_grad_norm", "learning_rate"),
    *("halve_lr_every", "early_stopping_patience", "train_eval_samples"),
)
SAMPLING = ("random", "sequential", "group_by_length")
USUAL_MULTIPLIERS = {"gate": 10.0}  # of groups that few nets have


@dataclass
class RunArguments(TrainingArguments):
    """Every field of [`transformers.TrainingArguments`], and:

    Args:
        precision: `auto` (bf16 autocast where the machine has native bf16), `bf16` or `fp32`.
        memory_format: `auto` (channels_last for convolutional nets), `channels_last` or `contiguous`.
        lr_multipliers: learning rate of a named parameter group relative to `learning_rate`; that of BIN's `gate` is
            10 unless given.
        group_weight_decay: weight decay of a named parameter group, where it is not `weight_decay` (`decay`, and
            `x_decay` of a part x of the model) or 0 (every other group).
        halve_lr_every: steps in which the learning rate falls to half, smoothly from the first step on and beside the
            warm-up; 0 for never. Goes with `lr_scheduler_type: constant_with_warmup`.
        ema_decay: decay of an exponential moving average of the weights in [0, 1), 0 for none. Where it is on,
            the averaged weights are evaluated and published.
        early_stopping_patience: evaluations without improvement of `metric_for_best_model` before the run ends;
            0 for never. As with `load_best_model_at_end`, checkpoints are then written when it evaluates.
        train_eval_samples: how many training samples are evaluated, without augmentation, at each evaluation;
            0 for as many as the validation split has.
        keep_checkpoints: keep the resumable checkpoints after the run has finished.
    """

    output_dir: str | None = None
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    logging_strategy: str = "epoch"
    report_to: str | list[str] | None = "none"
    dataloader_drop_last: bool = True
    remove_unused_columns: bool | None = False
    logging_nan_inf_filter: bool = False
    restore_callback_states_from_checkpoint: bool = True
    disable_tqdm: bool | None = False

    precision: str = "auto"
    memory_format: str = "auto"
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    group_weight_decay: dict[str, float] = field(default_factory=dict)
    halve_lr_every: int = 0
    ema_decay: float = 0.0
    early_stopping_patience: int = 0
    train_eval_samples: int = 0
    keep_checkpoints: bool = False

    def __post_init__(self):
        self._check_own_fields()
        self.lr_multipliers = USUAL_MULTIPLIERS | self.lr_multipliers
        self.bf16 = use_bf16(self.precision)
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # else bf16 is refused on a CPU
        if self.data_seed is None:
            self.data_seed = self.seed  # the order of samples then does not hang on the generator's position
        self.load_best_model_at_end = self.load_best_model_at_end or bool(self.early_stopping_patience)
        if self.load_best_model_at_end:
            self.metric_for_best_model = self.metric_for_best_model or "val_accuracy"
        if self.load_best_model_at_end and self.eval_strategy == self.save_strategy == "steps":
            self.save_steps = self.eval_steps or self.save_steps  # the library asks for a checkpoint of each evaluation
        if self.greater_is_better is None and (self.metric_for_best_model or "").endswith(("_error", "_mse")):
            self.greater_is_better = False  # the library knows of losses only
        super().__post_init__()
        if self.n_gpu > 1:  # the library would wrap the model in DataParallel, whose replicas have no parameters
            raise RunError(
                f"one process sees {self.n_gpu} GPUs: start one per GPU with accelerate launch --multi_gpu, or let it "
                "see one with CUDA_VISIBLE_DEVICES=0"
            )

    def _check_own_fields(self) -> None:
        if self.precision not in PRECISIONS:
            raise RunError(f"training.precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.memory_format not in MEMORY_FORMATS:
            raise RunError(
                f"training.memory_format must be one of {', '.join(MEMORY_FORMATS)}, not {self.memory_format!r}"
            )
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise RunError(f"training.num_train_epochs must be more than 0, not {self.num_train_epochs}")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise RunError(f"training.{name} must be 1 or more, not {getattr(self, name)}")
        if self.train_sampling_strategy not in SAMPLING:
            raise RunError(
                f"training.train_sampling_strategy must be one of {', '.join(SAMPLING)}, not "
                f"{self.train_sampling_strategy!r}"
            )
        if self.label_smoothing_factor:
            raise RunError("training.label_smoothing_factor is not used here: set model.label_smoothing")
        if not 0 <= self.ema_decay < 1:
            raise RunError(f"training.ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.ema_decay and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            raise RunError("training.ema_decay averages whole weights and FSDP splits them: --ema_decay 0, or ddp.yaml")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise RunError(f"training.{name} must be 0 or more, not {getattr(self, name)}")
        if self.halve_lr_every and self.lr_scheduler_type not in ("constant", "constant_with_warmup"):
            raise RunError(
                f"training.halve_lr_every goes with lr_scheduler_type constant_with_warmup, not "
                f"{self.lr_scheduler_type}"
            )
        for name in ("fp16", "bf16"):
            if getattr(self, name):
                raise RunError(f"training.{name} is not used here: choose training.precision bf16 or fp32")
