"""What the families that learn from scenes share: their data, batches, evaluation of masks, and pictures as they go."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from torch import Tensor
from transformers import BitImageProcessor, PreTrainedModel
from transformers.integrations import TensorBoardCallback
from transformers.utils import ModelOutput

import metrics
from data.clevrtex import ClevrtexData, crop_of, image_processor, load_clevrtex, masks_of, pixels_of
from training.arguments import RunArguments
from training.errors import RunError
from training.scene_pictures import SHEET_COLUMNS, scene_sheet, to_pixels
from training.slot_noise import EVALUATION_STREAM, slot_noise
from training.tasks import Task, build_config, build_dataclass
from training.trainer import SAMPLE_IDS, FamilyTrainer

COLUMNS = ["pixels", "mask", "has_mask", "id", "path"]
MEASURES = ("adjusted_rand_index", "foreground_adjusted_rand_index")
TRUE_MASKS, HAS_MASK = "true_masks", "has_mask"  # in a batch of evaluation; they do not go into the model


@dataclass
class SceneArguments(RunArguments):
    """[`training.arguments.RunArguments`], and:

    Args:
        progress_pictures: validation scenes that are drawn at each evaluation, to `progress/` of the run folder and
            to TensorBoard where `report_to` names it; 0 for none.
    """

    best_metric: ClassVar[str] = "val_loss"  # where a model is chosen and the recipe does not say by what

    eval_accumulation_steps: int | None = 8  # the label maps of a split need not all stay on a GPU
    progress_pictures: int = 8

    def __post_init__(self):
        if self.early_stopping_patience or self.load_best_model_at_end:
            self.metric_for_best_model = self.metric_for_best_model or self.best_metric
        super().__post_init__()
        if not 0 <= self.progress_pictures <= 64:
            raise RunError(f"training.progress_pictures must be in [0, 64], not {self.progress_pictures}")


@dataclass
class SegmentationArguments(SceneArguments):
    """[`SceneArguments`] of the families that find masks."""

    best_metric: ClassVar[str] = "val_foreground_adjusted_rand_index"


class PixelCollator:
    """Rows of scenes -> pixel values in [-1, 1].

    Args:
        processor: of the run; holds mean and standard deviation of the pixels.
    """

    def __init__(self, processor: BitImageProcessor):
        self.mean, self.std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows with `pixels`, `id` -> pixel_values float32 [B, 3, S, S] laid out channels_last, and sample_ids."""
        pixels = torch.from_numpy(pixels_of(rows).copy())  # [B, S, S, 3]
        pixel_values = ((pixels.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        return {"pixel_values": pixel_values, SAMPLE_IDS: [int(row["id"]) for row in rows]}


class SceneCollator(PixelCollator):
    """Rows of scenes -> pixel values in [-1, 1], slot noise, and in evaluation the true masks.

    Args:
        processor: of the run.
        noise_shape: (num_slots, slot_size) of sampled slots, None where the slots are learned.
        seed: of the noise.
        epoch: the shared clock of the Trainer in training, None in evaluation.
    """

    def __init__(
        self,
        processor: BitImageProcessor,
        noise_shape: tuple[int, int] | None,
        seed: int = 0,
        epoch: Tensor | None = None,
    ):
        super().__init__(processor)
        self.noise_shape, self.seed, self.epoch = noise_shape, seed, epoch

    @property
    def stream(self) -> int:
        """Which draws this batch takes: those of the epoch, or the fixed ones of evaluation."""
        return EVALUATION_STREAM if self.epoch is None else int(self.epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """As [`PixelCollator`], with slot_noise [B, K, D], and in evaluation true_masks uint8 [B, S, S] (0 where a row
        has none) and has_mask uint8 [B]."""
        batch = super().__call__(rows)
        if self.noise_shape is not None:
            batch["slot_noise"] = slot_noise(batch[SAMPLE_IDS], self.stream, *self.noise_shape, self.seed)
        if self.epoch is None:
            has_mask = [bool(row["has_mask"]) for row in rows]
            size = batch["pixel_values"].shape[-1]
            masks = np.zeros((len(rows), size, size), dtype=np.uint8)
            if any(has_mask):
                masks[has_mask] = masks_of([row for row in rows if row["has_mask"]])
            batch |= {TRUE_MASKS: torch.from_numpy(masks), HAS_MASK: torch.tensor(has_mask, dtype=torch.uint8)}
        return batch


class DrawingTrainer(FamilyTrainer):
    """Draws a sheet of pictures per evaluation; subclasses say what is on it.

    Attributes:
        sheet_title: of the sheet in TensorBoard, the names of its columns.
    """

    sheet_title: ClassVar[str]

    @abstractmethod
    def draw(self, model: PreTrainedModel, batch: dict[str, Any]) -> np.ndarray:
        """The sheet uint8 [H, W, 3] of a batch of the collator; `model` is in evaluation mode, gradients are off."""

    def evaluation_loop(self, *args, **kwargs):
        """The library's loop; after that of `val` the pictures of this step are drawn."""
        result = super().evaluation_loop(*args, **kwargs)
        if kwargs.get("metric_key_prefix") == "eval_val" and self.args.progress_pictures:
            if self.is_world_process_zero() or self.is_fsdp_enabled:  # each process holds a part of the weights
                with self.averaged_weights():
                    self._draw_progress()
            self.accelerator.wait_for_everyone()
        return result

    @torch.no_grad()
    def _draw_progress(self) -> None:
        """Write progress/step_XXXXXX.png: scenes evenly spaced over the validation split, the same every time."""
        split = self.eval_dataset["val"]
        count = min(self.args.progress_pictures, len(split))
        rows = [split[int(i)] for i in np.linspace(0, len(split) - 1, count).round()]
        drawn = self.draw(self.accelerator.unwrap_model(self.model).eval(), self.data_collator(rows))
        if not self.is_world_process_zero():
            return
        folder = self.run_folder / "progress"
        folder.mkdir(exist_ok=True)
        buffer = BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG", optimize=True)
        (folder / f"step_{self.state.global_step:06d}.png").write_bytes(buffer.getvalue())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                tag = f"val/{self.sheet_title}"
                callback.tb_writer.add_image(tag, drawn, self.state.global_step, dataformats="HWC")


class SceneTrainer(DrawingTrainer):
    """Evaluates segmentations: a loss and a label map per sample."""

    sheet_title = SHEET_COLUMNS

    @abstractmethod
    def losses_of(self, output: ModelOutput, inputs: dict[str, Any]) -> Tensor:
        """The loss [B] of each sample."""

    @abstractmethod
    def pictures_of(self, model: PreTrainedModel, output: ModelOutput) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] that the model makes of its slots."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, (losses [B], slot of each pixel uint8 [B, H, W]), (true masks [B, H, W], has_mask [B])) of a batch."""
        inputs = self._prepare_inputs(inputs)
        true = inputs.pop(TRUE_MASKS), inputs.pop(HAS_MASK)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        predicted = output.masks.argmax(dim=1).to(torch.uint8)
        return output.loss.detach(), (self.losses_of(output, inputs), predicted), true

    def draw(self, model: PreTrainedModel, batch: dict[str, Any]) -> np.ndarray:
        """Image, true masks where all have them, predicted masks, and what the model makes of its slots."""
        inputs = self._prepare_inputs(batch)
        true = inputs.pop(TRUE_MASKS).cpu().numpy()
        known = bool(inputs.pop(HAS_MASK).all())
        with self.compute_loss_context_manager():
            output = model(**inputs)
            pictures = to_pixels(self.pictures_of(model, output))
        predicted = output.masks.argmax(dim=1).to(torch.uint8).cpu().numpy()
        return scene_sheet(to_pixels(inputs["pixel_values"]), true if known else None, predicted, pictures)


class SceneTask(Task):
    """A family that learns from the scenes of CLEVRTex, of a user's folder, or of the embedded renderer."""

    data_class = ClevrtexData
    arguments_class = SceneArguments
    aliases = {"seed": "training.seed", "image_size": "data.image_size"}
    convolutional = True

    def __init__(self, recipe):
        super().__init__(recipe)
        self.config = build_config(self.config_class, self.config_fields(), recipe.source)
        if hasattr(self.config, "image_size"):
            recipe.data.setdefault("image_size", self.config.image_size)
        self.limit_objects()
        self.data_fields: ClevrtexData = build_dataclass(ClevrtexData, recipe.data, "data", recipe.source)
        self.check_fit()

    def config_fields(self) -> dict[str, Any]:
        """The config's fields: the recipe's group model, its image_size that of the data where not given."""
        fields = dict(self.recipe.model)
        if "image_size" in self.config_class.__annotations__ and "image_size" in self.recipe.data:
            fields.setdefault("image_size", self.recipe.data["image_size"])
        return fields

    def limit_objects(self) -> None:
        """Where the recipe does not say how many objects a user's own scenes may have, and the net has too few slots
        for the default: as many as it has slots for, the background taking one. Scenes beyond that are refused (or
        skipped, as `data.too_many` says) by name when they are read."""
        slots, most = getattr(self.config, "num_slots", None), ClevrtexData.max_objects
        if self.recipe.data.get("path") is not None and slots is not None and slots <= most:
            self.recipe.data.setdefault("max_objects", max(1, slots - 1))

    @abstractmethod
    def check_fit(self) -> None:
        """RunError where the net does not fit the data."""

    def check_slots(self, num_slots: int) -> None:
        """RunError where the net's size or number of slots does not fit the data."""
        fields, config, source = self.data_fields, self.config, self.recipe.source
        if config.image_size != fields.image_size:
            raise RunError(
                f"{source}: model.image_size is {config.image_size}, but data.image_size is {fields.image_size}; "
                "set both to the same, or leave one out"
            )
        name = "max_objects" if fields.path else "max_objects_drawn"
        most = getattr(fields, name)
        if num_slots < most + 1:
            least = 1 if fields.path else fields.min_objects
            fewer = f", or data.{name} to {num_slots - 1}" if num_slots > least else ""
            raise RunError(
                f"{source}: model.num_slots is {num_slots}, but scenes may have {most} objects and a "
                f"background; set model.num_slots to at least {most + 1}{fewer}"
            )

    @cached_property
    def datasets(self) -> DatasetDict:
        splits = load_clevrtex(self.data_fields, need=("train", "val"))
        return DatasetDict({name: split.select_columns(COLUMNS) for name, split in splits.items()})

    def final_splits(self) -> dict[str, Dataset]:
        """Of train the part that was evaluated all along: its masks are not trained on, so the rest says no more."""
        return {**self.datasets, "train": self.evaluation_splits()["train"]}

    @cached_property
    def processor(self) -> BitImageProcessor:
        return image_processor(self.data_fields.image_size, crop_of(self.data_fields))


class SegmentationTask(SceneTask):
    """A family whose evaluation compares masks: predictions as [`SceneTrainer`] gives them."""

    arguments_class = SegmentationArguments

    @cached_property
    def _metric(self) -> Any:
        return metrics.load("adjusted_rand_index")

    def compute_metrics(self, prediction) -> dict[str, float]:
        """The mean loss over exactly the split's samples, and the adjusted Rand index over all pixels and over the
        foreground, per image and then averaged, of the samples that have a mask."""
        losses, predicted = prediction.predictions
        true, has_mask = prediction.label_ids
        result = {"loss": float(np.mean(losses, dtype=np.float64))}
        rows = has_mask.astype(bool)
        if rows.any():
            found = self._metric.compute(predictions=predicted[rows], references=true[rows], resamples=1)
            result |= {name: found[name] for name in MEASURES if found[name] is not None}
        return result
