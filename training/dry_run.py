"""`train.py --dry-run`: what an experiment would cost on this machine, measured on a few real steps."""

import time
from dataclasses import dataclass

import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks

from training.trainer import FamilyTrainer

TIMED_SECONDS = 20.0  # at most about this long is spent on timing
FORWARD_SHARE = 1 / 3  # an evaluation pass costs about a third of a training pass (forward to forward plus backward)


@dataclass
class Cost:
    """Parameters, bytes and hours of an experiment; `batch_timed` is the batch the step time was taken
    at, `accumulated` the batches that an optimiser step sums up."""

    parameters: int
    bytes_fixed: int
    bytes_per_sample: float
    batch: int
    batch_timed: int
    accumulated: int
    seconds_per_step: float
    steps: int
    eval_samples: int

    @property
    def bytes_per_step(self) -> float:
        """Weights, gradients, optimiser state and what the backward pass keeps of one batch on one process."""
        return self.bytes_fixed + self.batch * self.bytes_per_sample

    @property
    def hours(self) -> float:
        """Training and its evaluations, checkpoints not counted."""
        evaluation = self.eval_samples * FORWARD_SHARE * self.seconds_per_step / (self.batch * self.accumulated)
        return (self.steps * self.seconds_per_step + evaluation) / 3600

    def __str__(self) -> str:
        timed = "" if self.batch_timed == self.batch else f" (scaled up from a batch of {self.batch_timed})"
        times = f" times {self.accumulated}" if self.accumulated > 1 else ""
        return (
            f"parameters           {self.parameters:,}\n"
            f"memory a step        {self.bytes_per_step / 2**30:.2f} GiB, of it {self.bytes_fixed / 2**30:.2f} GiB "
            f"weights, gradients and optimiser state, {self.bytes_per_sample / 2**20:.1f} MiB a sample\n"
            f"step time            {self.seconds_per_step:.3f} s at batch {self.batch}{times}{timed}\n"
            f"steps                {self.steps:,}\n"
            f"expected             {self.hours:.2f} h on this machine, evaluations included"
        )


def _batch(trainer: FamilyTrainer, size: int) -> dict:
    rows = [trainer.train_dataset[i % len(trainer.train_dataset)] for i in range(size)]
    return trainer.train_collator(rows)


def _step(trainer: FamilyTrainer, batch: dict) -> None:
    trainer.training_step(trainer.model_wrapped, batch)
    trainer.optimizer.step()
    trainer.model_wrapped.zero_grad()


def saved_bytes(trainer: FamilyTrainer, size: int) -> int:
    """Bytes that the forward pass keeps for the backward pass at a batch of `size`, each storage counted once."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = trainer._prepare_inputs(_batch(trainer, size))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model_wrapped, inputs)  # the graph lives until here, so no pointer recurs
    del loss
    return sum(storages.values())


def measure(trainer: FamilyTrainer) -> Cost:
    """Run a few training steps and work out what the whole run costs. The model's weights change: stop afterwards."""
    args = trainer.args
    batch, accumulated = args.train_batch_size, args.gradient_accumulation_steps
    updates, steps = trainer.planned_steps()
    trainer.create_optimizer_and_scheduler(steps)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    two, four = saved_bytes(trainer, 2), saved_bytes(trainer, 4)  # two at least: norms refuse one value per channel
    per_sample = (four - two) / 2
    small = _batch(trainer, 2)
    _step(trainer, small)
    state = sum(v.nbytes for s in trainer.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    weights = sum(p.nbytes for p in trainer.model.parameters())
    gradients = sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    fixed = weights + gradients + state
    timed, seconds = _time_step(trainer, batch, per_sample)
    every = args.eval_steps or steps
    every = {"epoch": updates, "steps": every if every >= 1 else every * steps}.get(args.eval_strategy, steps)
    evaluations = max(1, round(steps / every))  # the last one is of all splits
    eval_samples = sum(len(split) for split in trainer.eval_dataset.values())
    return Cost(
        parameters=trainer.model.num_parameters(),
        bytes_fixed=fixed,
        bytes_per_sample=per_sample,
        batch=batch,
        batch_timed=timed,
        accumulated=accumulated,
        seconds_per_step=seconds * accumulated * batch / timed,
        steps=steps,
        eval_samples=eval_samples * evaluations,
    )


def _available_bytes(device: torch.device) -> int:
    """Free memory where the model is."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _time_step(trainer: FamilyTrainer, batch: int, bytes_per_sample: float) -> tuple[int, float]:
    """(batch size timed, seconds of its step): the real batch where memory and patience allow, else a smaller one."""
    timed = batch
    while timed > 2 and timed * bytes_per_sample > 0.5 * _available_bytes(trainer.args.device):
        timed = max(2, timed // 2)
    begun = time.perf_counter()
    _step(trainer, _batch(trainer, 2))
    while timed > 2 and (time.perf_counter() - begun) * timed / 2 > TIMED_SECONDS:
        timed = max(2, timed // 2)
    times = []
    while len(times) < 2 or (sum(times) < TIMED_SECONDS / 2 and len(times) < 8):
        begun = time.perf_counter()
        _step(trainer, _batch(trainer, timed))
        times.append(time.perf_counter() - begun)
    return timed, sorted(times[1:])[len(times[1:]) // 2]  # the first one warms up
