"""The task of the 6n+2 ResNet: class folders in, image classifier out."""

import sys
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from accelerate import PartialState
from datasets import DatasetDict
from transformers import PreTrainedModel

import metrics
from data.birds import BirdsData, audit, image_processor, load_birds, pixels_of
from models import ResNet6n2Config, ResNet6n2ForImageClassification
from training.arguments import RunArguments
from training.augmentation import ImageAugmentation, ImageCollator
from training.errors import RunError
from training.tasks import Task, build_config, build_dataclass


@dataclass
class ResNetArguments(RunArguments):
    """[`training.arguments.RunArguments`] and the fields of [`training.augmentation.ImageAugmentation`]."""

    train_size: int | None = None
    crop_padding: int = 0
    crop_area: list[float] | None = None
    horizontal_flip: bool = False
    color_jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.augmentation()

    def augmentation(self) -> ImageAugmentation:
        """The augmentation that these fields describe; raises RunError where a value is out of its range."""
        return ImageAugmentation(**{f.name: getattr(self, f.name) for f in fields(ImageAugmentation)})


class ResNetTask(Task):
    """Experiments R1 to R3: train an image classifier on class folders or on the embedded pictures."""

    family = "resnet"
    model_class = ResNet6n2ForImageClassification
    config_class = ResNet6n2Config
    data_class = BirdsData
    arguments_class = ResNetArguments
    aliases = {"r": "model.num_labels", "seed": "training.seed"}
    convolutional = True

    @classmethod
    def known_fields(cls) -> dict[str, set[str]]:
        known = super().known_fields()
        return {**known, "model": known["model"] | {"num_labels"}}

    def __init__(self, recipe):
        super().__init__(recipe)
        wanted = recipe.model.get("num_labels")
        if wanted is not None and recipe.data.get("path") is None:
            recipe.data["num_classes"] = wanted  # the generator draws as many classes as the net is to have
        self.data_fields: BirdsData = build_dataclass(BirdsData, recipe.data, "data", recipe.source)

    @cached_property
    def datasets(self) -> DatasetDict:
        splits = load_birds(self.data_fields, need=("train", "val"))
        if self.data_fields.path is not None and PartialState().is_main_process:
            print(audit(self.data_fields), file=sys.stderr, flush=True)
        classes = splits["train"].features["label"].names
        wanted = self.recipe.model.get("num_labels", len(classes))
        if wanted != len(classes):
            where = self.data_fields.path or "the embedded pictures"
            raise RunError(
                f"model.num_labels (--r) is {wanted}, but {where} has {len(classes)} classes: --r {len(classes)}"
            )
        return splits

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in label order."""
        return self.datasets["train"].features["label"].names

    @cached_property
    def processor(self):
        return image_processor(self.data_fields.image_size, self.data_fields.resize_size)

    @cached_property
    def _metric_modules(self) -> tuple:
        return metrics.load("accuracy"), metrics.load("f1")

    def build_model(self) -> PreTrainedModel:
        names = dict(enumerate(self.class_names))
        fields = {key: value for key, value in self.recipe.model.items() if key != "num_labels"}
        fields |= {"id2label": names, "label2id": {name: label for label, name in names.items()}}
        config = build_config(ResNet6n2Config, fields, self.recipe.source)
        torch.manual_seed(self.arguments.seed)  # variants of a study start from the same weights
        return ResNet6n2ForImageClassification(config)

    def collator(self, epoch: torch.Tensor | None = None) -> ImageCollator:
        return ImageCollator(
            pixels_of,
            self.processor.image_mean,
            self.processor.image_std,
            num_labels=len(self.class_names),
            augmentation=None if epoch is None else self.arguments.augmentation(),
            epoch=epoch,
            seed=self.arguments.seed,
        )

    def compute_metrics(self, prediction) -> dict[str, float]:
        """Accuracy, micro and macro F1, and the mean cross-entropy over exactly the split's samples.

        The loss is computed here because the Trainer's own weighs a last, smaller batch like a full one.
        """
        logits, labels = prediction.predictions, prediction.label_ids  # [N,classes], [N]
        predicted = np.argmax(logits, axis=-1)
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits).float(), torch.from_numpy(labels))
        accuracy, f1 = self._metric_modules
        return {
            "loss": loss.item(),
            **accuracy.compute(predictions=predicted, references=labels),
            "f1_micro": f1.compute(predictions=predicted, references=labels, average="micro")["f1"],
            "f1_macro": f1.compute(predictions=predicted, references=labels, average="macro")["f1"],
        }
