"""A run's Slot Attention autoencoder: pictures in; slots, masks and reconstructions out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel, TrainingArguments

from models import SlotAttentionAutoencoder
from training.scene_pictures import to_pixels
from training.slot_noise import EVALUATION_STREAM, slot_noise

from .loading import device_of, exact, load_model
from .options import Options
from .picture_inputs import PictureInputs
from .runs import Run, RunError

BATCH_SIZE = 32


@dataclass
class Segmentation:
    """What the model made of a batch of pictures.

    Args:
        segments: the slot of each pixel, uint8 [B, S, S].
        losses: float32 [B], the model's own, see `Wording.loss` of its report.
        slots: float32 [B, K, D].
        reconstruction: float32 [B, 3, S, S], images in [-1, 1]; None where it was not asked for and costs something.
        masks: float32 [B, K, S, S], summing to 1 over the slots; only if asked for.
        contents: uint8 [B, K, S, S, 3], what is shown of each slot under its mask; only if asked for.
    """

    segments: np.ndarray
    losses: np.ndarray
    slots: np.ndarray
    reconstruction: np.ndarray | None = None
    masks: np.ndarray | None = None
    contents: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """The reconstruction as uint8 [B, S, S, 3]."""
        return to_pixels(torch.from_numpy(self.reconstruction))


class SceneModel:
    """A run's model on a device, in float32 and evaluation mode, with the run's own normalisation and slot noise.

    Results do not depend on the batch: a picture's noise is a function of the run's seed and the picture's id. They do
    depend on the family's code and on `settings`. Models whose pictures are not one pass of a decoder override what
    differs.
    """

    model_class: ClassVar[type[PreTrainedModel]] = SlotAttentionAutoencoder
    settings: Any = None  # of how pictures are made, as JSON

    def __init__(self, run: Run, options: Options) -> None:
        self.device = device_of(options.device)
        self.batch_size = options.batch_size or BATCH_SIZE
        self.model = load_model(run, self.model_class).to(self.device, memory_format=torch.channels_last)
        self.config = self.model.config
        self.seed = int((run.recipe.get("training") or {}).get("seed", TrainingArguments.seed))
        self.pixel_values = PictureInputs(run, self.device)

    @property
    def slot_config(self) -> Any:
        """The config that says how slots start."""
        return self.config

    def reconstructed(self, count: int, closely: bool) -> int:
        """How many of a split's `count` scenes are reconstructed; `closely`: of the split that pictures are composed
        for. Here all: it costs one pass."""
        return count

    def _inputs(self, images: np.ndarray, ids: Sequence[int], num_slots: int | None) -> dict[str, torch.Tensor]:
        inputs, config = {"pixel_values": self.pixel_values(images)}, self.slot_config
        if config.slot_init == "sampled":
            shape = (num_slots or self.config.num_slots, self.config.slot_size)
            inputs["slot_noise"] = slot_noise(ids, EVALUATION_STREAM, *shape, self.seed).to(self.device)
        elif num_slots not in (None, self.config.num_slots):
            raise RunError(f"this model learned its {self.config.num_slots} slots: it can take no other number")
        return inputs

    @torch.inference_mode()
    def segment(
        self,
        images: np.ndarray,
        ids: Sequence[int],
        num_slots: int | None = None,
        details: bool = False,
        reconstruct: bool = True,
    ) -> Segmentation:
        """Segmentation of pictures uint8 [B, S, S, 3] with ids in [0, 2^40).

        Args:
            num_slots: K; other than the config's only where slots are sampled, else a RunError.
            details: also give masks and contents.
            reconstruct: without it the reconstruction may be left out, where it costs more than a pass.
        """
        inputs = self._inputs(images, ids, num_slots)
        with exact():
            output = self.model(**inputs, output_contents=details)
        found = output.reconstruction.float()
        losses = (found - inputs["pixel_values"]).square().mean(dim=(2, 3)).sum(dim=1)
        return Segmentation(
            segments=output.masks.argmax(dim=1).to(torch.uint8).cpu().numpy(),
            losses=losses.cpu().numpy(),
            slots=output.slots.float().cpu().numpy(),
            reconstruction=found.cpu().numpy(),
            masks=output.masks.float().cpu().numpy() if details else None,
            contents=to_pixels(output.contents) if details else None,
        )

    @torch.inference_mode()
    def slots(self, images: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Only the slots, float32 [B, K, D]."""
        inputs = self._inputs(images, ids, None)
        with exact():
            return self.model.encode(**inputs)[0].float().cpu().numpy()

    @torch.inference_mode()
    def compose(self, slots: np.ndarray, numbers: Sequence[int], like_scenes: bool = False) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] of slots float32 [B, K, D].

        Where pictures are sampled, picture i has the noise of number i; `like_scenes`: that of the reconstruction of
        the scene whose id it is. Here nothing is.
        """
        with exact():
            return to_pixels(self.model.decode(torch.from_numpy(slots).to(self.device)).reconstruction)


def picture_id(image: np.ndarray) -> int:
    """An id in [0, 2^40) for a picture that has none: a function of its pixels, so that order does not matter."""
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()[:5], "big")
