"""Settings of a run that name what a library has or has not, checked before a run begins or an older one is deleted."""

import inspect
from collections.abc import Callable

import torch
from torch import nn
from transformers import get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from training.arguments import USUAL_MULTIPLIERS, RunArguments
from training.errors import RunError


def check_names(
    args: RunArguments, groups: list[str], optimizer_class: Callable[[], type[torch.optim.Optimizer]]
) -> None:
    """Raise a RunError for an optimiser, its arguments, a parameter group, an argument of the schedule or a logger that
    does not exist or is not installed.

    `groups` are the model's parameter groups; `optimizer_class` gives the class that `args.optim` names.
    """
    for pair in (args.optim_args or "").split(","):
        if pair.strip() and "=" not in pair:
            raise RunError(f"training.optim_args must be name=value pairs, not {pair.strip()!r}")
    try:
        chosen = optimizer_class()
    except (ValueError, ImportError) as error:
        raise RunError(f"training.optim {str(args.optim)!r} with optim_args {args.optim_args!r}: {error}") from None
    given = [pair.partition("=")[0].strip() for pair in (args.optim_args or "").split(",") if pair.strip()]
    own = chosen.__module__.startswith("torch.")  # others take names that are not their arguments
    arguments = list(inspect.signature(chosen).parameters) if own else given
    for field, names, known in (
        ("lr_multipliers", args.lr_multipliers, [*groups, *USUAL_MULTIPLIERS]),
        ("group_weight_decay", args.group_weight_decay, groups),
        ("optim_args", given, arguments),
    ):
        if unknown := [name for name in names if name not in known]:
            raise RunError(f"training.{field} names {unknown[0]!r}; known are {', '.join(known)}")
    _check_schedule(args)
    _check_loggers(args)


def _check_schedule(args: RunArguments) -> None:
    """Makes the schedule of a throw-away optimiser, as the Trainer will."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kwargs = args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, kwargs if isinstance(kwargs, dict) else None)
    except (TypeError, ValueError) as error:
        schedule = f"lr_scheduler_type {str(args.lr_scheduler_type)!r} with lr_scheduler_kwargs {kwargs!r}"
        raise RunError(f"training.{schedule}: {error}") from None


def _check_loggers(args: RunArguments) -> None:
    try:
        for callback in get_reporting_integration_callbacks(args.report_to):
            callback()
    except (ValueError, ImportError, RuntimeError) as error:
        raise RunError(f"training.report_to {args.report_to!r}: {error}") from None
