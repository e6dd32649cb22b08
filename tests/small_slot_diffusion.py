"""Small slot diffusion models and images for the tests."""

import small_slot_attention
import small_slot_unet
import small_vqvae
import torch

from models import SlotDiffusionConfig, SlotDiffusionModel

SLOTS = {name: value for name, value in small_slot_attention.SMALL.items() if not name.startswith("decoder")}
UNET = {
    **{name: value for name, value in small_slot_unet.TINY.items() if name != "cross_attention_dim"},
    "channel_multipliers": (1, 2),
    "attention_levels": (False, True),
    "blocks_per_level": 1,
    "dropout": 0.0,
}
SMALL = {"slot_config": SLOTS, "unet_config": UNET, "vae_config": small_vqvae.TINY}
PARTS = (("slot_config", SLOTS), ("unet_config", UNET), ("vae_config", small_vqvae.TINY))

images = small_vqvae.images


def config(**fields) -> SlotDiffusionConfig:
    """16x16 images, 4x4 latents, 3 sampled slots of 8; a dict for a part overrides fields of it."""
    parts = {name: {**small, **fields.pop(name, {})} for name, small in PARTS}
    return SlotDiffusionConfig(**{"preset": "tiny", **parts, **fields})


def build(seed: int = 0, **fields) -> SlotDiffusionModel:
    """In eval mode, with all trained parameters moved off their initial values: a fresh UNet answers zero."""
    torch.manual_seed(seed)
    model = SlotDiffusionModel(config(**fields)).eval()
    generator = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def training_inputs(model: SlotDiffusionModel, batch: int = 3, seed: int = 5) -> dict[str, torch.Tensor]:
    generator, fields = torch.Generator().manual_seed(seed), model.config
    inputs = {
        "pixel_values": images(batch, fields.image_size, seed),
        "timesteps": torch.randint(fields.num_train_timesteps, (batch,), generator=generator),
        "noise": torch.randn(batch, *fields.latent_shape, generator=generator),
    }
    if fields.slot_config.slot_init == "sampled":
        inputs["slot_noise"] = torch.randn(batch, fields.num_slots, fields.slot_size, generator=generator)
    return inputs


def slots_for(count: int, slots: int = 3, seed: int = 0) -> torch.Tensor:
    """Slots [count, slots, 8] of the small model."""
    return torch.randn(count, slots, 8, generator=torch.Generator().manual_seed(seed))
