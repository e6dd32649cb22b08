"""What slot diffusion asks of an autoencoder, and an adapter by which those of diffusers fulfil it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class LatentSpace(Protocol):
    """An autoencoder: images [B, 3, H, W] in [-1, 1] <-> latents [B, latent_channels, H/f, W/f], both deterministic."""

    downsampling_factor: int
    latent_channels: int

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Latents of images."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents."""


class DiffusersLatentSpace(nn.Module):
    """A diffusers `VQModel` or `AutoencoderKL` as a [`LatentSpace`].

    The latent of a `VQModel` is the one before quantisation, that of an `AutoencoderKL` the mean of the posterior.
    Latents are `(latent - shift) * scale` with the model's own `shift_factor` and `scaling_factor`.

    Args:
        autoencoder: the model; its weights are a part of this module.
    """

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        config = autoencoder.config
        self.autoencoder = autoencoder
        self.scaling_factor = float(getattr(config, "scaling_factor", None) or 1.0)
        self.shift_factor = float(getattr(config, "shift_factor", None) or 0.0)
        self.downsampling_factor = 2 ** (len(config.block_out_channels) - 1)
        self.latent_channels = config.latent_channels

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return next(self.autoencoder.parameters()).dtype

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> scaled latents [B, latent_channels, H/f, W/f]."""
        encoded = self.autoencoder.encode(pixel_values.to(self.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents - self.shift_factor) * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> images, about [-1, 1], not clipped."""
        return self.autoencoder.decode(latents.to(self.dtype) / self.scaling_factor + self.shift_factor).sample


def as_latent_space(autoencoder: nn.Module) -> LatentSpace:
    """`autoencoder` itself where it is a [`LatentSpace`], else a diffusers one in an adapter.

    Raises `TypeError` for any other model.
    """
    if hasattr(autoencoder, "encode") and hasattr(getattr(autoencoder, "config", None), "block_out_channels"):
        return DiffusersLatentSpace(autoencoder)
    if isinstance(autoencoder, LatentSpace):
        return autoencoder
    raise TypeError(
        f"{type(autoencoder).__name__} is no autoencoder: give a VQVAEModel, or a VQModel or AutoencoderKL of diffusers"
    )
