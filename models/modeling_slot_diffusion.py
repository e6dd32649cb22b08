"""Slot diffusion (Wu et al. 2023, "SlotDiffusion", arXiv:2305.11281): an image becomes slots, slots become an image.

Slot Attention reads the image; a UNet denoises the latent of a frozen autoencoder given the slots. Both are trained
together on nothing but the error of the denoising (Ho et al. 2020, arXiv:2006.11239, equation 14).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_slot_diffusion import SlotDiffusionConfig
from .latent_space import LatentSpace, as_latent_space
from .modeling_slot_attention import SlotAttentionModel
from .modeling_slot_unet import SlotUNetCache, SlotUNetModel
from .scheduling_ddpm import LatentDDPMScheduler
from .slot_diffusion_vae import build_vae, check_finite, config_of_vae, load_vae
from .stored_weights import CheckedPreTrainedModel

VAE_PREFIX = "vae."


@contextmanager
def load_reports_withheld() -> Iterator[Callable[[], None]]:
    """Withholds what the library logs of the weights that it loads; the function given lets it through afterwards."""
    logger, records = logging.getLogger("transformers.modeling_utils"), []

    def _withhold(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    def _release() -> None:
        for record in records:
            logger.handle(record)

    logger.addFilter(_withhold)
    try:
        yield _release
    finally:
        logger.removeFilter(_withhold)


@dataclass
class SlotDiffusionOutput(ModelOutput):
    """What [`SlotDiffusionModel`] gives for images.

    Args:
        loss: mean squared error of the denoising over batch, channels and positions, fp32; None with
            `return_loss=False`.
        losses: [B], the same per sample, fp32.
        slots: [B, K, slot_size].
        attention: [B, K, N] of the last iteration, summing to 1 over the slots.
        masks: [B, K, H, W], the attention at the image's resolution, summing to 1 over the slots; only if asked for.
    """

    loss: Tensor | None = None
    losses: Tensor | None = None
    slots: Tensor | None = None
    attention: Tensor | None = None
    masks: Tensor | None = None


class SlotDiffusionModel(CheckedPreTrainedModel):
    """Slot encoder, UNet and frozen autoencoder; sampling is in [`SlotDiffusionPipeline`].

    The autoencoder is part of the checkpoint. It is never trained and always in eval mode, and a checkpoint that lacks
    one of its tensors does not load.

    Example:
    ```python
    >>> model = SlotDiffusionModel.from_parts(SlotDiffusionConfig(preset="small"), "runs/vae/plain64")
    >>> loss = model(images).loss  # images [B, 3, 64, 64] in [-1, 1]
    ```
    """

    config: SlotDiffusionConfig
    base_model_prefix = "slot_diffusion"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the batch: the trainer divides by the accumulation steps
    _no_split_modules = ["ResNet6n2Block", "SlotUNetResidualBlock", "SlotUNetTransformer", "VQVAEResidualBlock"]

    def __init__(self, config: SlotDiffusionConfig):
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)
        self.slot_encoder = SlotAttentionModel(config.slot_config)
        self.unet = SlotUNetModel(config.unet_config)
        self.vae = build_vae(config.vae_config)
        self._forward_process = self.scheduler()
        self.post_init()
        self._freeze()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: each part initialises itself."""

    # ---- The frozen autoencoder ----

    def _freeze(self) -> None:
        self.vae.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SlotDiffusionModel":
        """As of every module, but for the autoencoder, which stays in eval mode."""
        super().train(mode)
        self.vae.eval()
        return self

    @property
    def latent_space(self) -> LatentSpace:
        """The autoencoder behind one interface, whosoever's it is; its latents are not scaled by `latent_scale`."""
        return as_latent_space(self.vae)

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> latents [B, C, H/f, W/f] times `latent_scale`, fp32, without gradient.

        Computed in the autoencoder's own precision under autocast too, so that latents kept on disk are the same.
        """
        with torch.autocast(pixel_values.device.type, enabled=False):
            latents = self.latent_space.encode(pixel_values.to(self.vae.dtype))
        return latents.float() * self.config.latent_scale

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents as of `encode_images` -> images [B, 3, H, W], about [-1, 1], not clipped, fp32."""
        with torch.autocast(latents.device.type, enabled=False):
            unscaled = (latents.float() / self.config.latent_scale).to(self.vae.dtype)
            return self.latent_space.decode(unscaled).float()

    # ---- Slots ----

    def encode_slots(
        self,
        pixel_values: Tensor,
        slot_noise: Tensor | None = None,
        num_slots: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, slot_size] and attention [B, K, N] of images [B, 3, H, W] in [-1, 1].

        `slot_noise`, `num_slots` and `generator` as [`SlotAttentionModel`]'s: sampled slots are drawn in evaluation
        too, and only with them may K be another than the config's.
        """
        return self.slot_encoder(pixel_values, slot_noise, num_slots, generator, return_dict=False)

    def masks(self, attention: Tensor, size: int | tuple[int, int] | None = None) -> Tensor:
        """Attention [B, K, N] -> masks [B, K, H, W], resized bilinearly and summing to 1 over the slots, fp32.

        `size` is that of the image by default.
        """
        side = self.config.slot_config.feature_size
        if attention.dim() != 3 or attention.shape[2] != side**2:
            raise ValueError(f"attention has shape {list(attention.shape)}: it must be [B, K, {side**2}]")
        size = self.config.image_size if size is None else size
        size = (size, size) if isinstance(size, int) else tuple(size)
        maps = F.interpolate(attention.float().unflatten(2, (side, side)), size, mode="bilinear", align_corners=False)
        return maps / maps.sum(dim=1, keepdim=True)

    # ---- Diffusion ----

    def scheduler(self) -> LatentDDPMScheduler:
        """A new scheduler of the config's chain."""
        config = self.config
        with torch.device("cpu"):  # its coefficients are numbers, also where a model is built without storage
            return LatentDDPMScheduler(
                num_train_timesteps=config.num_train_timesteps,
                beta_start=config.beta_start,
                beta_end=config.beta_end,
                beta_schedule=config.beta_schedule,
                prediction_type=config.prediction_type,
            )

    def denoise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor | int,
        slots: Tensor | None = None,
        cache: SlotUNetCache | None = None,
    ) -> Tensor:
        """The UNet's prediction [B, C, h, w] (what `prediction_type` says) for noisy latents at timesteps [B] or one.

        `cache` is what `unet.precompute(slots, timesteps)` gave, in place of the slots [B, K, slot_size].
        """
        return self.unet(noisy_latents, timesteps, slots, return_dict=False, cache=cache)[0]

    def forward(
        self,
        pixel_values: Tensor,
        latents: Tensor | None = None,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        slot_noise: Tensor | None = None,
        return_loss: bool = True,
        output_masks: bool | None = None,
        return_dict: bool | None = None,
    ) -> SlotDiffusionOutput | tuple:
        """Slots of images [B, 3, H, W] in [-1, 1], and the error of denoising the images' latents given the slots.

        Args:
            latents: [B, C, h, w] as of `encode_images`, which by default is run.
            timesteps: int64 [B] in [0, T). Default: drawn uniformly from torch's global generator.
            noise: standard normal, of the latents' shape. Default: drawn likewise.
            slot_noise: standard normal [B, K, slot_size] for sampled slots. Default: drawn likewise.
            return_loss: `False` leaves out latents, UNet and loss.
            output_masks: compute `masks`; default: outside training.
            return_dict: `False` gives a plain tuple without the values that are None.

        Raises:
            ValueError: a shape that does not fit, saying which; a timestep outside the chain (on a CPU).
        """
        slots, attention = self.encode_slots(pixel_values, slot_noise)
        loss = losses = None
        if return_loss:
            losses = self._losses(pixel_values, latents, timesteps, noise, slots)
            loss = losses.mean()
        if output_masks is None:
            output_masks = not self.training
        output = SlotDiffusionOutput(
            loss=loss,
            losses=losses,
            slots=slots,
            attention=attention,
            masks=self.masks(attention) if output_masks else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _losses(
        self,
        pixel_values: Tensor,
        latents: Tensor | None,
        timesteps: Tensor | None,
        noise: Tensor | None,
        slots: Tensor,
    ) -> Tensor:
        """Mean squared error [B] of the UNet's prediction at one timestep per sample."""
        # 1. clean latents, noise, timesteps
        latents = self.encode_images(pixel_values) if latents is None else latents.float()
        expected, count = (pixel_values.shape[0], *self.config.latent_shape), self.config.num_train_timesteps
        if noise is None:
            noise = torch.randn_like(latents)
        if timesteps is None:
            timesteps = torch.randint(count, (expected[0],), device=latents.device)
        for name, value in (("latents", latents), ("noise", noise)):
            if tuple(value.shape) != expected:
                raise ValueError(f"{name} have shape {list(value.shape)}: they must be {list(expected)}")
        if tuple(timesteps.shape) != expected[:1]:
            raise ValueError(f"timesteps have shape {list(timesteps.shape)}: they must be [{expected[0]}], one each")

        # 2. noisy latents, prediction, error
        noise = noise.float()
        noisy = self._forward_process.add_noise(latents, noise, timesteps)
        target = self._forward_process.training_target(latents, noise, timesteps)
        prediction = self.denoise(noisy, timesteps, slots)
        return (prediction.float() - target).square().mean(dim=(1, 2, 3))

    # ---- Training ----

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of all trained parameters in `slots_decay`, `slots_no_decay`, `unet_decay`, `unet_no_decay`: encoder
        or UNet, and weights of linear and convolutional layers or the rest. Those of the autoencoder are in none."""
        parts = (("slots", "slot_encoder", self.slot_encoder), ("unet", "unet", self.unet))
        return {
            f"{group}_{kind}": [f"{prefix}.{name}" for name in names]
            for group, prefix, module in parts
            for kind, names in module.parameter_groups().items()
        }

    # ---- Building and loading ----

    @classmethod
    def from_parts(cls, config: SlotDiffusionConfig, vae: nn.Module | str | Path) -> "SlotDiffusionModel":
        """A model with untrained encoder and UNet, and a copy of a trained autoencoder.

        Args:
            config: the model's; the autoencoder's own takes the place of its `vae_config`.
            vae: the autoencoder (a `VQVAEModel`, or a `VQModel` or `AutoencoderKL` of diffusers), or where it is: a run
                folder of the family `vae`, a folder of diffusers, or the course's `.pth`, which has the architecture
                of `config.vae_config`.

        Raises:
            FileNotFoundError, ValueError: see [`slot_diffusion_vae.load_vae`]; a latent that does not fit the config.
            TypeError: no autoencoder.
        """
        if isinstance(vae, (str, Path)):
            vae = load_vae(vae, config.vae_config)
        unet, channels = config.unet_config.to_dict(), config.latent_channels
        for field in ("in_channels", "out_channels"):
            if unet[field] == channels:  # those of the old autoencoder: left out, they are the new one's
                del unet[field]
        model = cls(type(config)(**{**config.to_dict(), "unet_config": unet, "vae_config": config_of_vae(vae)}))
        model.vae.load_state_dict(vae.state_dict())
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in the library; but the autoencoder is frozen, and has to be there whole.

        Raises:
            ValueError: unreadable weights; weights of another shape, of the autoencoder even where
                `ignore_mismatched_sizes` is set; an autoencoder that lacks tensors or has values that are not finite.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
        source = str(pretrained_model_name_or_path)
        options = {**kwargs, "ignore_mismatched_sizes": True, "output_loading_info": True}  # told in one line, below
        try:
            with load_reports_withheld() as release:
                model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        except SafetensorError as error:
            raise ValueError(
                f"{source}: the weights cannot be read as safetensors ({error}); the file is damaged, take another copy"
            ) from error
        mismatched = sorted(entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"])
        lost = sorted(name for name in [*info["missing_keys"], *mismatched] if name.startswith(VAE_PREFIX))
        if lost:
            whole = len(lost) == sum(name.startswith(VAE_PREFIX) for name in model.state_dict())
            what = "the whole VAE is missing" if whole else f"{len(lost)} tensors of the VAE are missing or misshapen"
            raise ValueError(
                f"{source}: {what}, such as {lost[0]}. The VAE is not trained here and cannot be made anew: take "
                "another copy of the checkpoint"
            )
        if mismatched and not ignore_mismatched:
            raise ValueError(
                f"{source}: {len(mismatched)} of the weights are of another shape than config.json says, the first is "
                f"{mismatched[0]}; take another copy of the checkpoint"
            )
        release()
        check_finite(model.vae, source)
        model._freeze()
        return (model, info) if wants_info else model

    def pipeline(self, processor: Any = None) -> Any:
        """A [`SlotDiffusionPipeline`] with this model."""
        from .pipeline_slot_diffusion import SlotDiffusionPipeline  # which imports this file

        return SlotDiffusionPipeline(self, processor)


SlotDiffusionConfig.register_for_auto_class()
SlotDiffusionModel.register_for_auto_class("AutoModel")

__all__ = ["SlotDiffusionModel", "SlotDiffusionOutput"]
