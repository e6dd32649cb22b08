"""Small recipes of the VAE and of slot diffusion, on embedded scenes of 16x16, for the tests of both tasks."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from training.recipe import Recipe
from training.slotdiff import SlotDiffusionTask
from training.vae import VQVAETask

DATA = {"image_size": 16, "difficulty": "plain", "min_objects": 1, "max_objects_drawn": 3}
DATA |= {"num_train": 24, "num_val": 7, "num_test": 3}
VAE = {"widths": [8, 8, 16], "blocks_per_level": 1, "num_groups": 4, "num_codes": 12}
VAE |= {"ema_decay": 0.9, "revive_after": 3}
SLOTS = {"mlp_hidden_size": 12, "encoder_channels": [6, 8], "encoder_strides": [2, 1], "input_size": 10}
UNET = {"base_channels": 8, "channel_multipliers": [1, 2], "attention_levels": [False, True], "num_groups": 4}
UNET |= {"head_channels": 4, "blocks_per_level": 1}
SLOTDIFF = {"preset": "tiny", "num_slots": 4, "slot_size": 8, "slot_config": SLOTS, "unet_config": UNET}
TRAINING = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 4}
TRAINING |= {"learning_rate": 2e-3, "optim": "adamw_torch", "disable_tqdm": True, "precision": "fp32"}
TRAINING |= {"save_strategy": "steps", "save_steps": 2, "weight_decay": 0.0, "progress_pictures": 0}


def vae_task(cache: Path, model=None, data=None, **training) -> VQVAETask:
    """6 steps (2 epochs) on 24 scenes."""
    fields = {**DATA, "cache_dir": str(cache), **(data or {})}
    return VQVAETask(Recipe("vae", "run", {**VAE, **(model or {})}, fields, {**TRAINING, **training}))


def slotdiff_task(cache: Path, vae: Path | None, model=None, data=None, **training) -> SlotDiffusionTask:
    """Likewise, in the latent space of `vae`."""
    fields = {**DATA, "cache_dir": str(cache), **(data or {})}
    named = {} if vae is None else {"vae": str(vae)}
    recipe = Recipe("slotdiff", "run", {**SLOTDIFF, **named, **(model or {})}, fields, {**TRAINING, **training})
    return SlotDiffusionTask(recipe)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The published weights of a run folder."""
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one: Path, other: Path, **tolerance: float) -> None:
    """Two run folders hold the same weights: to the bit, or within `atol`."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if tolerance:
            torch.testing.assert_close(value, second[name], rtol=0, msg=name, **tolerance)
        else:
            assert torch.equal(value, second[name]), name
