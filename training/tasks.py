"""A task is where one family's config, model, processor, data, collators and metrics meet.

Adding a family means one task module, an entry in `TASKS`, and the family's files in `models/`, `data/` and
`evaluation/`; `train.py` does not change.
"""

import dataclasses
import difflib
import importlib
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from data.fixed_sample import fixed_sample
from training.arguments import RunArguments
from training.errors import RunError
from training.recipe import Recipe, check_keys
from training.trainer import FamilyTrainer

TASKS = {
    "resnet": "training.resnet:ResNetTask",
    "slotattn": "training.slotattn:SlotAttentionTask",
    "slotdiff": "training.slotdiff:SlotDiffusionTask",
    "text2math": "training.text2math:Text2MathTask",
    "vae": "training.vae:VQVAETask",
}


NOT_OF_RECIPES = {"output_dir", "bf16", "fp16", "resume_from_checkpoint"}  # which a run decides itself
NOT_OF_RECIPES |= {"remove_unused_columns", "bf16_full_eval", "fp16_full_eval"}  # would lose inputs, round weights
HUB = ("hub_", "push_to_hub")  # fields of what evaluation.push does; a token would be written into recipe and card
KINDS = {  # types of fields that recipes set, in words
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


class Task(ABC):
    """One family in one experiment. Subclasses set the class attributes and implement the abstract methods.

    Attributes:
        family: the name after `--model`.
        model_class: what is trained.
        config_class, data_class, arguments_class: whose fields the recipe's three groups are.
        trainer_class: the Trainer, where evaluating takes more than a forward pass.
        aliases: short command-line names, for example `{"r": "model.num_labels"}`.
        convolutional: whether channels_last pays.
        rehearsal: set before a dry run: what only training needs may be missing then, and is not computed.
    """

    family: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    config_class: ClassVar[type[PreTrainedConfig]]
    data_class: ClassVar[type]
    arguments_class: ClassVar[type[RunArguments]] = RunArguments
    trainer_class: ClassVar[type[FamilyTrainer]] = FamilyTrainer
    aliases: ClassVar[dict[str, str]] = {}
    convolutional: ClassVar[bool] = False
    rehearsal: bool = False

    def __init__(self, recipe: Recipe):
        check_keys(recipe, self.known_fields())
        self.recipe = recipe
        self.arguments = build_dataclass(self.arguments_class, recipe.training, "training", recipe.source)

    @classmethod
    def known_fields(cls) -> dict[str, set[str]]:
        """The field names of the recipe's three groups."""
        model = set(cls.config_class.__annotations__)
        data = {f.name for f in dataclasses.fields(cls.data_class)}
        training = {f.name for f in dataclasses.fields(cls.arguments_class) if not f.name.startswith(HUB)}
        return {"model": model, "data": data, "training": training - NOT_OF_RECIPES}

    def prerequisites(self, runs: Path) -> list[Recipe]:
        """The runs that this one starts from and that have not finished yet, each to be in `runs`/<family>/<name>.

        Raises:
            RunError: such a run is there, but is another experiment.
        """
        return []

    @property
    @abstractmethod
    def datasets(self) -> DatasetDict:
        """Splits `train`, `val` and, where there is one, `test`; loaded once."""

    @property
    @abstractmethod
    def processor(self) -> Any:
        """The processor or tokenizer that is saved with the model."""

    @abstractmethod
    def build_model(self) -> PreTrainedModel:
        """A freshly initialised model for these data."""

    @abstractmethod
    def collator(self, epoch: torch.Tensor | None = None) -> Callable[[list[dict]], dict]:
        """The collator of evaluation, or, where `epoch` is given, of training with augmentation."""

    @abstractmethod
    def compute_metrics(self, prediction) -> dict[str, float]:
        """Metrics over a whole split from a [`transformers.EvalPrediction`]."""

    def evaluation_splits(self) -> dict[str, Dataset]:
        """What is evaluated as training goes: a fixed part of the training split, and the validation split."""
        train, val = self.datasets["train"], self.datasets["val"]
        return {"train": fixed_sample(train, self.arguments.train_eval_samples or len(val)), "val": val}

    def final_splits(self) -> dict[str, Dataset]:
        """What is evaluated once training has ended: all there is."""
        return dict(self.datasets)


def build_config(config_class: type[PreTrainedConfig], fields: dict[str, Any], source: str) -> PreTrainedConfig:
    """The config of a recipe's group model; RunError, which names the `source`, where a field is wrong."""
    try:
        return config_class(**fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise RunError(f"{source}, group model: {' '.join(str(error).split())}") from error


def build_dataclass(cls: type, values: dict[str, Any], group: str, source: str) -> Any:
    """Construct `cls(**values)`; a wrong type or value becomes a RunError that names the group and the source."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if wanted := _misfit(hints[name], value):
            given = "null" if value is None else repr(value)
            raise RunError(f"{source}: {group}.{name} must be {wanted}, not {given}")
    whole = {name: int(value) for name, value in values.items() if isinstance(value, float) and hints[name] is int}
    try:
        return cls(**values | whole)
    except RunError:
        raise
    except (TypeError, ValueError) as error:
        raise RunError(f"{source}, group {group}: {' '.join(str(error).split())}") from error


def _misfit(hint: Any, value: Any) -> str | None:
    """What a value of this type has to be, in words, where `value` is none; None where it fits or the type says little
    (a class of another library, which takes its values as texts)."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if any((typing.get_origin(kind) or kind) not in KINDS for kind in kinds) or any(_is_a(k, value) for k in kinds):
        return None
    return " or ".join(dict.fromkeys(map(_in_words, kinds)))


def _in_words(kind: Any) -> str:
    inner = typing.get_args(kind)
    return KINDS[typing.get_origin(kind) or kind] + (" of numbers" if inner and inner[-1] is float else "")


def _is_a(kind: Any, value: Any) -> bool:
    inner, kind = typing.get_args(kind), typing.get_origin(kind) or kind
    if inner and inner[-1] is float and isinstance(value, list | tuple | dict):
        parts = value.values() if isinstance(value, dict) else value
        return isinstance(value, dict) == (kind is dict) and all(_is_a(float, part) for part in parts)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, list | tuple if kind in (list, tuple) else kind)


def task_class(family: str, source: str = "the recipe") -> type[Task]:
    """The task of a family; an unknown name is an error that says where it stands (`source`) and the nearest one."""
    if family not in TASKS:
        near = difflib.get_close_matches(family, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TASKS)}"
        raise RunError(f"{source}: there is no model family {family!r}; {hint}")
    module, _, name = TASKS[family].partition(":")
    return getattr(importlib.import_module(module), name)
