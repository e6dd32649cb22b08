"""Sampling of slot diffusion: from slots, or from an image by way of its slots, to new images.

Ho, Jain & Abbeel 2020 (arXiv:2006.11239), algorithm 2, is the reference; DDIM (Song et al. 2021, arXiv:2010.02502) and
DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) are diffusers' and take fewer steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BitImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME, ModelOutput, cached_file

from .field_checks import is_integer
from .foreign_schedulers import (
    afresh,
    check_chain,
    check_instance,
    check_timesteps,
    takes_generators,
    warn_of_late_start,
)
from .modeling_slot_diffusion import SlotDiffusionModel, load_reports_withheld
from .pipeline_inputs import (
    as_tensor,
    check_finite,
    check_folder,
    check_options,
    check_range,
    checked_ids,
    default_processor,
    naming_what_is_nowhere,
    normal,
    sample_generators,
    seed_of,
    to_pil,
    upright_rgb,
)

DEFAULT_STEPS = {"ddpm": 1000, "ddim": 50, "dpmsolver++": 20}
LATENT_STREAM, SLOT_STREAM = 1, 2  # what a sample's noise is for
HUB_OPTIONS = ("subfolder", "revision", "token", "cache_dir", "local_files_only", "force_download")


@dataclass
class SlotDiffusionPipelineOutput(ModelOutput):
    """What [`SlotDiffusionPipeline`] gives for N samples.

    Args:
        images: [N, 3, H, W] fp32 in [-1, 1], or N PIL pictures.
        latents: [N, C, h, w], denoised, as of `model.encode_images`, fp32.
        slots: [N, K, slot_size] that the images were drawn from.
        masks: [N, K, H, W] of the images given, None where slots were given.
    """

    images: Tensor | list[Image.Image] | None = None
    latents: Tensor | None = None
    slots: Tensor | None = None
    masks: Tensor | None = None


class SlotDiffusionPipeline:
    """Draws images from slots with a trained [`SlotDiffusionModel`].

    The noise of a sample is a function of (seed, sample id, step): neither the batch size nor the other samples change
    a picture (beyond the rounding of sums that a device orders by batch size).

    Args:
        model: in any precision, on any device; it is put into eval mode.
        processor: for pictures given as such; default: short side to the model's size, centre crop, to [-1, 1].

    Example:
    ```python
    >>> pipeline = SlotDiffusionPipeline.from_pretrained("runs/slotdiff/plain64")
    >>> again = pipeline(image=picture, scheduler="dpmsolver++", output_type="pil").images[0]
    >>> without_the_third = pipeline(slots=slots[:, [0, 1, 3, 4]], seed=1).images
    ```
    """

    def __init__(self, model: SlotDiffusionModel, processor: Any = None):
        self.model = model.eval()
        self.processor = default_processor(model.config.image_size) if processor is None else processor

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> "SlotDiffusionPipeline":
        """Model and image processor of a run folder.

        `kwargs` go to `SlotDiffusionModel.from_pretrained` (such as `dtype`), whose errors see; besides,
        FileNotFoundError where there is no such folder and the Hub gives none of this name, ValueError where it holds
        another model, or any of the weights is missing or of another shape. Convolutions are laid out channels_last,
        which is the faster format.
        """
        check_folder(folder, kwargs.get("subfolder") or "")
        options = {**kwargs, "ignore_mismatched_sizes": False, "output_loading_info": True}
        with load_reports_withheld() as release, naming_what_is_nowhere(folder):
            model, info = SlotDiffusionModel.from_pretrained(folder, **options)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{folder}: {len(missing)} of the weights are missing, the first is {missing[0]}; take another copy of "
                "the folder"
            )
        release()
        model = model.to(memory_format=torch.channels_last)
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        own = cached_file(folder, IMAGE_PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False, **hub)
        return cls(model, None if own is None else BitImageProcessor.from_pretrained(folder, **hub))

    @property
    def device(self) -> torch.device:
        """That of the model."""
        return self.model.device

    def to(self, *args: Any, **kwargs: Any) -> "SlotDiffusionPipeline":
        """Move the model; arguments as of every module's `to`."""
        self.model.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(
        self,
        slots: Tensor | np.ndarray | Sequence | None = None,
        image: Tensor | Image.Image | Sequence[Image.Image] | None = None,
        seed: int | torch.Generator | None = None,
        sample_ids: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        scheduler: str | Any | None = None,
        batch_size: int = 16,
        progress_bar: bool = True,
        output_type: str = "pt",
        latents: Tensor | np.ndarray | None = None,
        num_slots: int | None = None,
        generator: torch.Generator | None = None,
    ) -> SlotDiffusionPipelineOutput:
        """Draw one image for each set of slots, or for the slots of each image.

        Args:
            slots: [N, K, slot_size] from anywhere, a tensor, array or nested lists: any K, any mixture of images.
                Exclusive with `image`.
            image: [N, 3, H, W] in [-1, 1] of the model's size, or pictures of any size.
            seed: of all noise, in [0, 2^63), default 0; a generator gives one by one draw.
            sample_ids: N integers in [0, 2^40), default 0, 1, …; samples of the same id get the same noise.
            num_inference_steps: from 1 to T, for `"dpmsolver++"` to T - 1. Default: 1000, 50 and 20 in the order of
                `scheduler`'s names (the most where that is less); of an instance those that it is set to. A
                warning says so where they begin far from the chain's end.
            scheduler: `"ddpm"` (ancestral, ours, the default), `"ddim"` or `"dpmsolver++"` (diffusers', with our
                chain), or any scheduler with diffusers' interface and the model's chain; an instance is left as it is.
            batch_size: samples denoised at a time, at least 1.
            progress_bar: one over all steps of all batches, on stderr.
            output_type: `"pt"` or `"pil"`.
            latents: [N, C, h, w] to begin with, standard normal. Default: drawn.
            num_slots: K for `image`; another than the config's only where slots are sampled.
            generator: stands for `seed`, exclusive with it.

        Raises:
            ValueError: an argument that does not fit, saying which and how; slots that are not finite; latents that
                become so.
        """
        check_options(output_type, batch_size)
        self.model.eval()  # it may have been trained since

        # 1. slots or images, ids and seed of the samples
        slots, latents = as_tensor(slots, "slots"), as_tensor(latents, "latents")
        pixel_values = self._check_source(slots, image, num_slots)
        count = len(slots) if pixel_values is None else len(pixel_values)
        ids = checked_ids(sample_ids, count)
        seed = seed_of(seed, generator)
        self._check_latents(latents, count)

        # 2. the timesteps
        prepared = self._prepared("ddpm" if scheduler is None else scheduler, num_inference_steps)
        if latents is None:
            warn_of_late_start(prepared, self.model.scheduler())

        # 3. batch after batch
        parts: list[tuple[Tensor | None, ...]] = []
        starts = range(0, count, batch_size)
        total = len(starts) * len(prepared.timesteps)
        with tqdm(total=total, disable=not progress_bar, unit="step") as bar:
            for start in starts:
                rows = slice(start, start + batch_size)
                masks = None
                if pixel_values is None:
                    chosen = slots[rows].to(self.device)
                else:
                    chosen, masks = self._slots_of(pixel_values[rows], ids[rows], seed, num_slots)
                check_finite(chosen, "slots", start)
                first = None if latents is None else latents[rows]
                done = self._denoise(chosen, first, ids[rows], seed, copy.deepcopy(prepared), bar)
                images = self.model.decode_latents(done).clamp(-1, 1)
                parts.append((images, done, chosen, masks))
        images, done, chosen, masks = (None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True))
        pictures = to_pil(images) if output_type == "pil" else images
        return SlotDiffusionPipelineOutput(images=pictures, latents=done, slots=chosen, masks=masks)

    # ---- Inputs ----

    def _check_source(self, slots: Tensor | None, image: Any, num_slots: int | None) -> Tensor | None:
        """Pixel values of `image`; None where there are slots, and these are well-formed."""
        if (slots is None) == (image is None):
            raise ValueError("give either slots or image")
        if num_slots is not None and not is_integer(num_slots, 1):
            raise ValueError(f"num_slots={num_slots!r} is not possible: it must be an integer of at least 1")
        if image is not None:
            values = self._pixel_values(image)
            check_finite(values, "image", 0)
            if isinstance(image, Tensor):
                check_range(values)
            return values
        width, shape = self.model.config.slot_size, tuple(slots.shape)
        if len(shape) != 3 or shape[2] != width or 0 in shape:
            raise ValueError(f"slots have shape {list(shape)}: they must be [N, K, {width}] with N and K at least 1")
        if num_slots not in (None, shape[1]):
            raise ValueError(f"num_slots={num_slots}, but the slots given are {shape[1]}; leave num_slots out")
        check_finite(slots, "slots", 0)
        return None

    def _pixel_values(self, image: Any) -> Tensor:
        if isinstance(image, Tensor):
            size = self.model.config.image_size
            expected = (self.model.config.slot_config.num_channels, size, size)
            if image.dim() != 4 or tuple(image.shape[1:]) != expected or len(image) == 0:
                wanted = ", ".join(map(str, expected))
                raise ValueError(f"image has shape {list(image.shape)}: it must be [N, {wanted}] in [-1, 1]")
            return image
        pictures = [image] if isinstance(image, Image.Image) else list(image)
        if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
            raise ValueError("image must be a tensor [N, 3, H, W] in [-1, 1], a PIL picture or a list of at least one")
        values = self.processor([upright_rgb(picture) for picture in pictures], return_tensors="pt")
        return self._pixel_values(values["pixel_values"])

    def _check_latents(self, latents: Tensor | None, count: int) -> None:
        if latents is None:
            return
        expected = (count, *self.model.config.latent_shape)
        if tuple(latents.shape) != expected:
            raise ValueError(f"latents have shape {list(latents.shape)}: they must be {list(expected)}")
        check_finite(latents, "latents", 0)

    def _slots_of(
        self, pixel_values: Tensor, ids: list[int], seed: int, num_slots: int | None
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, slot_size] and masks [B, K, H, W] of images."""
        config, noise = self.model.config.slot_config, None
        if config.slot_init == "sampled":
            shape = (num_slots or config.num_slots, config.slot_size)
            noise = normal(sample_generators(seed, SLOT_STREAM, ids), shape).to(self.device)
        slots, attention = self.model.encode_slots(pixel_values.to(self.device), noise, num_slots)
        return slots.float(), self.model.masks(attention)

    # ---- Sampling ----

    def _prepared(self, scheduler: str | Any, steps: int | None) -> Any:
        """A scheduler of its own, set to its timesteps."""
        own = self.model.scheduler()
        length = own.config.num_train_timesteps
        most = max(1, length - 1) if scheduler == "dpmsolver++" else length  # diffusers' looks one step further
        steps = int(steps) if isinstance(steps, np.integer) else steps
        if steps is not None and (not is_integer(steps, 1) or steps > most):
            raise ValueError(f"num_inference_steps={steps!r} is not possible: it must be from 1 to {most}")
        if isinstance(scheduler, str):
            if scheduler not in DEFAULT_STEPS:
                known = ", ".join(DEFAULT_STEPS)
                raise ValueError(f"scheduler={scheduler!r} is not known; choose one of {known}, or give an instance")
            steps = min(DEFAULT_STEPS[scheduler], most) if steps is None else steps
            chosen = {
                "ddpm": lambda: own,
                "ddim": lambda: DDIMScheduler.from_config(own.config),
                "dpmsolver++": lambda: DPMSolverMultistepScheduler.from_config(
                    own.config, algorithm_type="dpmsolver++"
                ),
            }[scheduler]()
        else:
            check_instance(scheduler, tuple(DEFAULT_STEPS))
            check_chain(scheduler, own)
            chosen = copy.deepcopy(scheduler) if steps is not None else afresh(scheduler, self.device)
            # Some of diffusers' clip samples unless told otherwise, and latents are not confined to [-1, 1].
            if "clip_sample" in chosen.config:
                chosen.register_to_config(clip_sample=own.config.clip_sample)
        if steps is not None:
            chosen.set_timesteps(steps, device=self.device)
        check_timesteps(chosen)
        return chosen

    def _denoise(
        self, slots: Tensor, latents: Tensor | None, ids: list[int], seed: int, scheduler: Any, bar: tqdm
    ) -> Tensor:
        """Latents [B, C, h, w] of slots [B, K, slot_size]: the reverse process, from noise to t = 0."""
        generators = sample_generators(seed, LATENT_STREAM, ids)
        drawn = normal(generators, self.model.config.latent_shape)  # even if not used, for the noise of the steps
        sample = (drawn if latents is None else latents.float()).to(self.device) * scheduler.init_noise_sigma
        timesteps = torch.as_tensor(scheduler.timesteps, device=self.device)
        cache = self.model.unet.precompute(slots, timesteps)
        noisy = takes_generators(scheduler)
        for t in timesteps:
            # 1. what the UNet says of the noise
            prediction = self.model.denoise(scheduler.scale_model_input(sample, t), t, cache=cache).float()
            # 2. x_t -> x_(t - 1)
            options = {"generator": generators} if noisy else {}
            sample = scheduler.step(prediction, t, sample, **options).prev_sample
            bar.update()
        if not bool(sample.isfinite().all()):
            bad = ids[int((~sample.isfinite().flatten(1).all(1)).nonzero()[0, 0])]
            raise ValueError(f"the latent of sample id {bad} is not finite: the UNet's weights are damaged")
        return sample


__all__ = ["DEFAULT_STEPS", "SlotDiffusionPipeline", "SlotDiffusionPipelineOutput"]
