"""Schedulers that a user brings to sampling, with diffusers' interface: do they fit the model, and fresh copies."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch

SEEN = 0.02  # share of the picture at the first timestep beyond which a warning is due
ROUNDING = 1e-3  # relative, of alphas_cumprod: diffusers multiplies a thousand numbers in fp32


def takes_generators(scheduler: Any) -> bool:
    """Whether its `step` draws noise from a generator that is given."""
    return "generator" in scheduler.step.__code__.co_varnames


def check_instance(scheduler: Any, names: Sequence[str]) -> None:
    """ValueError where this is no scheduler but a class or another object; `names` are those that may be given."""
    if isinstance(scheduler, type):
        name = scheduler.__name__
        raise ValueError(
            f"scheduler is the class {name}; give an instance: {name}.from_config(model.scheduler().config)"
        )
    if not all(hasattr(scheduler, name) for name in ("config", "set_timesteps", "step")):
        raise ValueError(
            f"scheduler is of type {type(scheduler).__name__}; give one of {', '.join(names)}, or an instance"
        )


def check_chain(scheduler: Any, own: Any) -> None:
    """ValueError, saying in what, where a scheduler walks another chain than `own`, that of the model's training."""
    different = []
    for field in ("prediction_type", "num_train_timesteps"):
        theirs, ours = getattr(scheduler.config, field, None), own.config[field]
        if theirs != ours:
            different.append(f"{field} {theirs!r} instead of {ours!r}")
    theirs, ours = getattr(scheduler, "alphas_cumprod", None), own.alphas_cumprod
    if theirs is None:
        different.append("no alphas_cumprod")
    elif len(theirs) == len(ours):
        error = (torch.as_tensor(theirs, dtype=torch.float32, device="cpu") / ours - 1).abs()
        t = int(error.argmax())
        if not error[t] < ROUNDING:
            different.append(f"other betas (alphas_cumprod[{t}] is {theirs[t]:.4g} instead of {ours[t]:.4g})")
    if different:
        name = type(scheduler).__name__
        raise ValueError(
            f"this {name} does not fit the model's chain: it has {', '.join(different)}; make it by "
            f"{name}.from_config(model.scheduler().config)"
        )


def afresh(scheduler: Any, device: torch.device) -> Any:
    """A copy of a scheduler at the beginning of the timesteps that it is set to."""
    name, count = type(scheduler).__name__, getattr(scheduler, "num_inference_steps", None)
    if count is None:
        raise ValueError(f"give num_inference_steps, or a {name} on which set_timesteps was called")
    fresh = copy.deepcopy(scheduler)
    fresh.set_timesteps(count, device=device)
    given = torch.as_tensor(scheduler.timesteps, device=device)
    if torch.equal(torch.as_tensor(fresh.timesteps, device=device), given):
        return fresh
    if getattr(scheduler, "step_index", None) is not None:  # timesteps that were given one by one
        raise ValueError(f"this {name} has been used; call its set_timesteps again, or give num_inference_steps")
    return copy.deepcopy(scheduler)


def check_timesteps(scheduler: Any) -> None:
    """ValueError where more steps were asked for than the scheduler finds timesteps, as some of diffusers' do at T.

    Those of second order have each timestep twice.
    """
    timesteps = torch.as_tensor(scheduler.timesteps).tolist()
    if len(set(timesteps)) < len(timesteps) / 2:
        raise ValueError(
            f"num_inference_steps={len(timesteps)} is more than this {type(scheduler).__name__} finds timesteps for: "
            f"it must be from 1 to {scheduler.config.num_train_timesteps - 1}"
        )


def warn_of_late_start(scheduler: Any, own: Any) -> None:
    """A warning where sampling from noise alone begins at a timestep at which training still saw much of the picture.

    With the spacing "leading" the first of n timesteps is about (n - 1) floor(T / n), which may be far from T.
    """
    signal = own.alphas_cumprod.sqrt()  # [T]
    first = min(max(round(float(scheduler.timesteps[0])), 0), len(signal) - 1)
    if signal[first] > 2 * signal[-1] + SEEN:
        warnings.warn(
            f"sampling begins at timestep {first} of {len(signal)}, at which training saw {signal[first]:.0%} of the "
            "picture, but here is noise alone: take another num_inference_steps, or a scheduler with "
            "timestep_spacing='trailing'",
            stacklevel=4,
        )


__all__ = ["afresh", "check_chain", "check_instance", "check_timesteps", "takes_generators", "warn_of_late_start"]
