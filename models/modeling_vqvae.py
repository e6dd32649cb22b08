"""The VQ-VAE of the coursework: 128x128 images <-> 32x32 latents of 3 channels, quantised by 4096 codes.

van den Oord, Vinyals & Kavukcuoglu 2017 (arXiv:1711.00937) with the encoder and decoder of latent diffusion (Rombach et
al. 2022, arXiv:2112.10752). The latent that diffusion works in is the encoder's output *before* quantisation; the
decoder quantises first, so that what diffusion leaves imprecise snaps to the codebook.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_vqvae import VQVAEConfig
from .group_norm import FastGroupNorm
from .stored_weights import CheckedPreTrainedModel
from .vector_quantizer import Codebook, VectorQuantizer
from .vqvae_checkpoint import load_course_checkpoint, plain_state_dict
from .vqvae_layers import VQVAEDecoder, VQVAEEncoder


@dataclass
class VQVAEOutput(ModelOutput):
    """What [`VQVAEModel`] gives for images; losses and measures are scalars in fp32.

    Args:
        loss: reconstruction + weighted commitment and codebook losses; None with `return_loss=False`.
        reconstruction: [B, num_channels, H, W].
        latents: [B, latent_channels, H/f, W/f], before quantisation.
        codes: [B, H/f, W/f], indices into the codebook.
        reconstruction_loss: mean squared (or absolute) error over all values.
        commitment_loss: mean squared distance from latents to their codes, before its weight.
        codebook_loss: the same number, whose gradient goes to the codes; None where they are moving averages.
        perplexity: exp of the entropy of the codes in this batch, from 1 to `num_codes`.
        codebook_use: share of the codebook in this batch, in (0, 1].
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    latents: Tensor | None = None
    codes: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    commitment_loss: Tensor | None = None
    codebook_loss: Tensor | None = None
    perplexity: Tensor | None = None
    codebook_use: Tensor | None = None


class VQVAEModel(CheckedPreTrainedModel):
    """Encoder, codebook and decoder; `VQVAEModel()` is the coursework's.

    Example:
    ```python
    >>> vae = VQVAEModel.from_course_checkpoint("vae_checkpoint.pth").eval()
    >>> latents = vae.encode(images)  # images [B, 3, 128, 128] in [-1, 1] -> [B, 3, 32, 32]
    >>> images = vae.decode(latents)
    ```
    """

    config: VQVAEConfig
    config_class = VQVAEConfig
    base_model_prefix = "vqvae"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the batch: the trainer divides by the accumulation steps
    _no_split_modules = ["VQVAEResidualBlock", "VQVAEAttentionBlock"]

    def __init__(self, config: VQVAEConfig | None = None):
        config = VQVAEConfig() if config is None else config
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)
        widths, blocks, groups = config.widths, config.blocks_per_level, config.num_groups
        self.encoder = VQVAEEncoder(config.num_channels, config.latent_channels, widths, blocks, groups)
        self.decoder = VQVAEDecoder(config.latent_channels, config.num_channels, widths, blocks + 1, groups)
        self.quantize = VectorQuantizer(
            config.num_codes, config.latent_channels, config.ema_decay, config.revive_after, config.seed
        )
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.post_init()

    @property
    def downsampling_factor(self) -> int:
        """Image size over latent size."""
        return self.config.downsampling_factor

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.config.latent_channels

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's default for convolutions; codes from a unit normal, and their averages from the codes."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, FastGroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Codebook):
            init.normal_(module.weight)
        elif isinstance(module, VectorQuantizer):
            if module.ema_decay is not None:
                init.ones_(module.cluster_size)
                init.copy_(module.cluster_sum, module.embedding.weight)
            if module.revive_after:
                init.constant_(module.idle_updates, module.revive_after - 1)
            if module.needs_update:
                init.zeros_(module.num_updates)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Images [B, num_channels, H, W] in [-1, 1] -> continuous latents [B, latent_channels, H/f, W/f], unscaled.

        Raises ValueError where H or W is no multiple of the factor f, or the channels differ.
        """
        factor, channels = self.downsampling_factor, self.config.num_channels
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != channels or shape[2] % factor or shape[3] % factor:
            raise ValueError(f"pixel_values has shape {shape}: it must be [B, {channels}, H, W], divisible by {factor}")
        return self.quant_conv(self.encoder(pixel_values.to(self.dtype)))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, latent_channels, h, w] -> images [B, num_channels, h*f, w*f], about [-1, 1], not clipped.

        Each latent vector becomes its nearest code first; a gradient passes straight through.
        """
        if latents.dim() != 4 or latents.shape[1] != self.latent_channels:
            shape = tuple(latents.shape)
            raise ValueError(f"latents has shape {shape}: it must be [B, {self.latent_channels}, h, w]")
        return self._decode_codes(self.quantize(latents.to(self.dtype), observe=False).values)

    def _decode_codes(self, quantized: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(quantized))

    def forward(
        self, pixel_values: Tensor, return_loss: bool = True, return_dict: bool | None = None
    ) -> VQVAEOutput | tuple:
        """Reconstruct images [B, num_channels, H, W] in [-1, 1], with the loss of the paper's equation 3."""
        if return_dict is None:
            return_dict = self.config.return_dict
        latents = self.encode(pixel_values)
        quantized = self.quantize(latents)
        reconstruction = self._decode_codes(quantized.values)
        loss = reconstruction_loss = None
        codebook_loss = quantized.codebook_loss if self.config.ema_decay is None else None
        if return_loss:
            distance = F.mse_loss if self.config.reconstruction_loss == "mse" else F.l1_loss
            reconstruction_loss = distance(reconstruction.float(), pixel_values.float())
            loss = reconstruction_loss + self.config.commitment_weight * quantized.commitment_loss
            if codebook_loss is not None:
                loss = loss + self.config.codebook_weight * codebook_loss
        output = VQVAEOutput(
            loss=loss,
            reconstruction=reconstruction,
            latents=latents,
            codes=quantized.codes,
            reconstruction_loss=reconstruction_loss,
            commitment_loss=quantized.commitment_loss,
            codebook_loss=codebook_loss,
            perplexity=quantized.perplexity,
            codebook_use=quantized.codebook_use,
        )
        return output if return_dict else output.to_tuple()

    def parameter_groups(self) -> dict[str, list[str]]:
        """Every parameter's name, in `decay` (weights of convolutions) or `no_decay` (all others)."""
        groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                decays = isinstance(module, nn.Conv2d) and name == "weight"
                groups["decay" if decays else "no_decay"].append(f"{prefix}.{name}")
        return groups

    def after_optimizer_step(self) -> None:
        """Move the codebook's averages and revive dead codes, where the config asks for it."""
        self.quantize.update()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As of every module; also takes the course's checkpoint wrapped in a dict or with its `loss.*` tensors."""
        return super().load_state_dict(plain_state_dict(state_dict), strict=strict, assign=assign)

    @classmethod
    def from_course_checkpoint(
        cls, path: str | Path, folder: str | Path | None = None, config: VQVAEConfig | None = None
    ) -> "VQVAEModel":
        """The model with the weights of the course's `vae_checkpoint.pth`, in eval mode.

        Args:
            path: a state dict, plain or wrapped; tensors named `loss.*` are ignored.
            folder: where its conversion to safetensors is kept, by default beside it.
            config: where it is not the coursework's; averages for `ema_decay` start from the loaded codes.

        Raises:
            FileNotFoundError, ValueError, OSError: see `vqvae_checkpoint.load_course_checkpoint`.
        """
        model = cls(config)
        statistics = {f"quantize.{name}" for name, _ in model.quantize.named_buffers(recurse=False)}
        expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in statistics}
        model.load_state_dict(load_course_checkpoint(path, expected, folder), strict=False)
        model.quantize.reset_statistics()
        return model.eval()


VQVAEConfig.register_for_auto_class()
VQVAEModel.register_for_auto_class("AutoModel")

__all__ = ["VQVAEConfig", "VQVAEModel", "VQVAEOutput"]
