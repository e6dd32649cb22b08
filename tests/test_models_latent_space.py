"""Autoencoders of diffusers in the place of ours."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from small_vqvae import build, images

from models.latent_space import LatentSpace, as_latent_space


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_diffusers_autoencoders_stand_in(kind):
    fields = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 8],
        "norm_num_groups": 4,
        "latent_channels": 3,
    }
    if kind == "kl":
        library = AutoencoderKL(**fields, scaling_factor=0.5, shift_factor=0.25).eval()
    else:
        library = VQModel(**fields, num_vq_embeddings=32, scaling_factor=0.5).eval()
    space = as_latent_space(library)
    assert space.downsampling_factor == 4 and isinstance(space, LatentSpace) and isinstance(space, torch.nn.Module)
    with torch.no_grad():
        latents = space.encode(images())
        assert latents.shape == (2, space.latent_channels, 4, 4)
        assert torch.equal(latents, space.encode(images()))  # no draw from the posterior
        if kind == "kl":
            own = library.encode(images()).latent_dist.mean
            torch.testing.assert_close(latents, (own - 0.25) * 0.5)
        else:
            own = library.encode(images()).latents
            torch.testing.assert_close(latents, own * 0.5)
        torch.testing.assert_close(space.decode(latents), library.decode(own).sample, atol=1e-4, rtol=1e-4)
    assert set(space.state_dict()) == {f"autoencoder.{name}" for name in library.state_dict()}


def test_as_latent_space_keeps_ours_and_refuses_others():
    model = build()
    assert as_latent_space(model) is model
    with pytest.raises(TypeError, match="Linear is no autoencoder"):
        as_latent_space(torch.nn.Linear(2, 2))
