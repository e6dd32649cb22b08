"""The task of the Slot Attention autoencoder: scenes in; masks, reconstructions and slots out (experiment S1)."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import SlotAttentionAutoencoder, SlotAttentionAutoencoderOutput, SlotAttentionConfig
from training.errors import RunError
from training.scene_task import SceneCollator, SceneTrainer, SegmentationTask


class SlotAttentionTrainer(SceneTrainer):
    """Evaluates by the squared error of the reconstructions."""

    def losses_of(self, output: SlotAttentionAutoencoderOutput, inputs: dict[str, Any]) -> Tensor:
        squared = (output.reconstruction - inputs["pixel_values"]).float().square()
        return squared.mean(dim=(2, 3)).sum(dim=1)  # summed over the channels, as the coursework's loss

    def pictures_of(self, model: PreTrainedModel, output: SlotAttentionAutoencoderOutput) -> Tensor:
        return output.reconstruction


class SlotAttentionTask(SegmentationTask):
    """Reconstruct scenes slot by slot."""

    family = "slotattn"
    model_class = SlotAttentionAutoencoder
    config_class = SlotAttentionConfig
    trainer_class = SlotAttentionTrainer

    def check_fit(self) -> None:
        self.check_slots(self.config.num_slots)
        if self.config.num_channels != 3:
            raise RunError(
                f"{self.recipe.source}: model.num_channels is {self.config.num_channels}, but the pictures have 3"
            )

    def build_model(self) -> PreTrainedModel:
        torch.manual_seed(self.arguments.seed)  # variants of a study start from the same weights
        return SlotAttentionAutoencoder(self.config)

    def collator(self, epoch: Tensor | None = None) -> SceneCollator:
        sampled = self.config.slot_init == "sampled"
        shape = (self.config.num_slots, self.config.slot_size) if sampled else None
        return SceneCollator(self.processor, shape, self.arguments.seed, epoch)
