"""A run's slot diffusion model: pictures in; slots, masks from the attention, and pictures sampled from slots out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models import SlotDiffusionModel, SlotDiffusionPipeline
from training.diffusion_noise import diffusion_draws
from training.scene_pictures import to_pixels
from training.slot_noise import EVALUATION_STREAM

from .loading import exact
from .options import Options
from .runs import Run
from .scene_model import SceneModel, Segmentation, picture_id

SCHEDULER, STEPS = "dpmsolver++", 20  # how pictures are sampled where nothing else is said
OTHER_SPLITS = 64  # scenes reconstructed of the splits that are not looked at closely
SCENE_SEED, COMPOSED_SEED = 0, 1
REMEMBERED = 2048  # pictures


def possible_steps(scheduler: str, steps: int, length: int) -> int:
    """`steps`, or as many as a chain of `length` has: DPM-Solver++ needs one less, for it takes the last twice."""
    return min(steps, max(1, length - 1) if scheduler == SCHEDULER else length)


class DiffusionSceneModel(SceneModel):
    """As its base; but a picture costs a sampling run, so only a part of the scenes is reconstructed.

    A slot's mask is its attention, resized to the picture; what is shown of it is the picture itself. The loss is the
    error of the denoising at one timestep and noise per scene, those of the validation in training. A picture's noise
    is a function of its id or number, so samples do not depend on the batch either.
    """

    model_class = SlotDiffusionModel

    def __init__(self, run: Run, options: Options) -> None:
        super().__init__(run, options)
        self.pipeline = SlotDiffusionPipeline(self.model, self.pixel_values.processor)
        self.most = options.sampled_images
        self.steps = possible_steps(SCHEDULER, STEPS, self.config.num_train_timesteps)
        self.settings = [SCHEDULER, self.steps, self.most]
        self._known: dict[Any, np.ndarray] = {}

    @property
    def slot_config(self) -> Any:
        return self.config.slot_config

    def reconstructed(self, count: int, closely: bool) -> int:
        """At most `--sampled-images` of the split looked at closely, and at most 64 of each other."""
        most = min(count, self.most or count)
        return most if closely else min(most, OTHER_SPLITS)

    @torch.inference_mode()
    def segment(
        self,
        images: np.ndarray,
        ids: Sequence[int],
        num_slots: int | None = None,
        details: bool = False,
        reconstruct: bool = True,
    ) -> Segmentation:
        inputs = self._inputs(images, ids, num_slots)
        draws = diffusion_draws(
            ids, EVALUATION_STREAM, self.config.latent_shape, self.config.num_train_timesteps, self.seed
        )
        timesteps, noise = (part.to(self.device) for part in draws)
        with exact():
            output = self.model(**inputs, timesteps=timesteps, noise=noise, output_masks=True)
        masks = output.masks.float()
        rebuilt = self._reconstructions(images, ids, output.slots) if reconstruct else None
        size = masks.shape[1]
        return Segmentation(
            segments=masks.argmax(dim=1).to(torch.uint8).cpu().numpy(),
            losses=output.losses.float().cpu().numpy(),
            slots=output.slots.float().cpu().numpy(),
            reconstruction=None if rebuilt is None else np.moveaxis(rebuilt, -1, 1).astype(np.float32) / 127.5 - 1,
            masks=masks.cpu().numpy() if details else None,
            contents=np.broadcast_to(images[:, None], (len(images), size, *images.shape[1:])) if details else None,
        )

    @torch.inference_mode()
    def slots(self, images: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        with exact():
            return self.model.encode_slots(**self._inputs(images, ids, None))[0].float().cpu().numpy()

    def compose(self, slots: np.ndarray, numbers: Sequence[int], like_scenes: bool = False) -> np.ndarray:
        keys = [(like_scenes, int(number), own.tobytes()) for number, own in zip(numbers, slots, strict=True)]
        return self._remembered(keys, torch.from_numpy(slots), numbers, SCENE_SEED if like_scenes else COMPOSED_SEED)

    def _reconstructions(self, images: np.ndarray, ids: Sequence[int], slots: torch.Tensor) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] of the scenes' own slots."""
        keys = [(int(number), picture_id(image), slots.shape[1]) for number, image in zip(ids, images, strict=True)]
        return self._remembered(keys, slots, ids, SCENE_SEED)

    def _remembered(self, keys: list[Any], slots: torch.Tensor, numbers: Sequence[int], seed: int) -> np.ndarray:
        """Samples of slots [B, K, D]; those made before, by their keys, are not made again."""
        new = [i for i, key in enumerate(keys) if key not in self._known]
        made = dict(zip(new, self.sample(slots[new], [int(numbers[i]) for i in new], seed), strict=True)) if new else {}
        pictures = np.stack([made[i] if i in made else self._known[key] for i, key in enumerate(keys)])
        if len(self._known) + len(made) > REMEMBERED:
            self._known.clear()
        self._known |= {keys[i]: picture for i, picture in made.items()}
        return pictures

    @torch.inference_mode()
    def sample(
        self,
        slots: torch.Tensor,
        numbers: Sequence[int],
        seed: int = SCENE_SEED,
        scheduler: str = SCHEDULER,
        steps: int | None = None,
    ) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] sampled from slots [B, any K, D] with the noise of (seed, number)."""
        with exact():
            images = self.pipeline(
                slots=slots.to(self.device),
                seed=seed,
                sample_ids=list(numbers),
                scheduler=scheduler,
                num_inference_steps=self.steps if steps is None else steps,
                batch_size=self.batch_size,
                progress_bar=False,
            ).images
        return to_pixels(images)

    @torch.inference_mode()
    def autoencoded(self, images: np.ndarray) -> np.ndarray:
        """What the frozen autoencoder alone makes of pictures uint8 [B, S, S, 3], without slots and diffusion."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            with exact():
                latents = self.model.encode_images(self.pixel_values(images[start : start + self.batch_size]))
                parts.append(to_pixels(self.model.decode_latents(latents)))
        return np.concatenate(parts)
