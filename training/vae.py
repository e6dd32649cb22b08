"""The task of the VQ-VAE: scenes in, the latent space of slot diffusion out."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from transformers import PreTrainedModel

from models import VQVAEConfig, VQVAEModel
from training.errors import RunError
from training.recipe import Recipe
from training.scene_pictures import psnr, sheet, to_pixels
from training.scene_task import DrawingTrainer, PixelCollator, SceneTask


class VQVAETrainer(DrawingTrainer):
    """Evaluates reconstructions, and which codes of the codebook a whole split uses."""

    sheet_title = "image, reconstruction"

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, (losses [B], squared errors [B] of images in [0, 1], codes int32 [B, h w]), sample ids [B])."""
        inputs = self._prepare_inputs(inputs)
        images = inputs["pixel_values"].float()
        with self.compute_loss_context_manager():
            output = model(**inputs)
        config, codebook = self.model.config, self.accelerator.unwrap_model(model).quantize.embedding.weight
        difference = output.reconstruction.float() - images
        distance = difference.square() if config.reconstruction_loss == "mse" else difference.abs()
        chosen = codebook.float()[output.codes].permute(0, 3, 1, 2)  # [B, C, h, w]
        quantisation = (output.latents.float() - chosen).square().mean(dim=(1, 2, 3))
        weight = config.commitment_weight + (config.codebook_weight if config.ema_decay is None else 0)
        losses = distance.mean(dim=(1, 2, 3)) + weight * quantisation
        errors = (output.reconstruction.float().clamp(-1, 1) - images).square().mean(dim=(1, 2, 3)) / 4
        ids = torch.tensor(self._sample_ids, device=images.device)
        return output.loss.detach(), (losses, errors, output.codes.flatten(1).to(torch.int32)), ids

    def draw(self, model: PreTrainedModel, batch: dict[str, Any]) -> np.ndarray:
        inputs = self._prepare_inputs(batch)
        with self.compute_loss_context_manager():
            output = model(**inputs)
        return sheet([to_pixels(inputs["pixel_values"]), to_pixels(output.reconstruction)])


class VQVAETask(SceneTask):
    """Reconstruct scenes through a codebook."""

    family = "vae"
    model_class = VQVAEModel
    config_class = VQVAEConfig
    trainer_class = VQVAETrainer

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        if parse_flag_from_env("ACCELERATE_USE_FSDP"):
            raise RunError("the family vae does not train with FSDP, which splits its codebook: use ddp.yaml")

    def check_fit(self) -> None:
        size, factor = self.data_fields.image_size, self.config.downsampling_factor
        if size % factor:
            raise RunError(
                f"{self.recipe.source}: data.image_size is {size}, but model.widths has {len(self.config.widths)} "
                f"levels; set a multiple of {factor}"
            )
        if self.config.num_channels != 3:
            raise RunError(
                f"{self.recipe.source}: model.num_channels is {self.config.num_channels}, but the pictures have 3"
            )

    def build_model(self) -> PreTrainedModel:
        torch.manual_seed(self.arguments.seed)
        return VQVAEModel(self.config)

    def collator(self, epoch: Tensor | None = None) -> PixelCollator:
        return PixelCollator(self.processor)

    def compute_metrics(self, prediction) -> dict[str, float]:
        """Mean loss; mean_squared_error of clipped images in [0, 1] and psnr in dB, per image and then averaged; and
        of the codes of the whole split codebook_use in (0, 1] and perplexity from 1 to the size of the codebook."""
        losses, errors, codes = prediction.predictions
        counts = np.bincount(np.asarray(codes).ravel(), minlength=self.config.num_codes)
        share = counts[counts > 0] / counts.sum()
        errors = np.asarray(errors, dtype=np.float64)
        return {
            "loss": float(np.mean(losses, dtype=np.float64)),
            "mean_squared_error": float(errors.mean()),
            "psnr": float(psnr(errors).mean()),
            "codebook_use": float((counts > 0).mean()),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        }
