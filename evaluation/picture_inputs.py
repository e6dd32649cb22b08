"""Pictures as a run's model takes them: the normalisation of the image processor that was saved with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import BitImageProcessor

from .loading import first_line
from .runs import Run, RunError


class PictureInputs:
    """uint8 pictures -> pixel values on a device. RunError where the run has no image processor."""

    def __init__(self, run: Run, device: torch.device) -> None:
        try:
            self.processor = BitImageProcessor.from_pretrained(run.folder)
        except (OSError, ValueError) as error:
            raise RunError(f"{run.folder}: no image processor ({first_line(error)}). Train the run again.") from None
        self.device = device
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(self.processor.image_mean, device=device).view(shape)
        self.std = torch.tensor(self.processor.image_std, device=device).view(shape)

    def __call__(self, images: np.ndarray) -> Tensor:
        """uint8 [B, S, S, 3] -> float32 [B, 3, S, S], channels_last."""
        pixels = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2)
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
