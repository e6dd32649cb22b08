"""A small slot diffusion model, trained for a moment on embedded scenes of 16x16, in a run folder as `train.py` leaves
it. The first call of a session trains, later ones copy."""

import json
import shutil
from pathlib import Path

import small_slot_diffusion
import torch
import trained_vae
import yaml
from trained_slotattn import DATA, history

from data.clevrtex import ClevrtexData, image_processor, load_clevrtex, pixels_of
from models import SlotDiffusionConfig, SlotDiffusionModel

LENGTH = 10  # steps of the chain
FIELDS = {
    "image_size": 16,
    "num_slots": 4,
    "slot_size": 16,
    "num_train_timesteps": LENGTH,
    "beta_start": 0.02,
    "beta_end": 0.6,
    "slot_config": small_slot_diffusion.SLOTS,
    "unet_config": small_slot_diffusion.UNET,
}


def train(folder: Path, vae: Path, data: dict, steps: int) -> None:
    """Weights and processor of a model trained for `steps` steps of 20 scenes."""
    split = load_clevrtex(ClevrtexData(**data), need=())["train"]
    torch.manual_seed(0)
    model = SlotDiffusionModel.from_parts(SlotDiffusionConfig(preset="tiny", **FIELDS), vae).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    pixels = torch.from_numpy(pixels_of(split[:]).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    for step in range(steps):
        loss = model(pixels[step * 20 % len(pixels) :][:20]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    image_processor(data["image_size"]).save_pretrained(folder)


def make_run(folder: Path, base: Path, steps: int = 30, data: dict | None = None, seed: int = 42) -> Path:
    """A run in `folder`; weights and the data's cache are kept in `base`, to be used again."""
    data = {**DATA, **(data or {}), "cache_dir": str(base / "cache")}
    kept = base / f"slotdiff-{steps}-{abs(hash(json.dumps(data, sort_keys=True)))}"
    if not kept.is_dir():
        train(kept, trained_vae.make_run(base / f"vae-of-{kept.name}", base, 30, data), data, steps)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    training = {"learning_rate": 4e-3, "per_device_train_batch_size": 20, "seed": seed}
    recipe = {"model_family": "slotdiff", "name": f"study/{folder.name}", "model": {"preset": "tiny"}, "data": data}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "training": training}, sort_keys=False))
    history([0.1, 0.6, 0.5]).to_csv(folder / "history.csv", index=False)
    facts = {
        "seconds": 12.5,
        "epochs": 3,
        "steps": steps,
        "parameters": 9000,
        "trained_parameters": 7000,
        "device": "cpu",
    }
    facts |= {"machine": "m", "command": "train.py"}
    metrics = {"val": {"loss": 0.2, "adjusted_rand_index": 0.1, "foreground_adjusted_rand_index": 0.3}}
    content = {"model": "slotdiff", "name": recipe["name"], "metrics": metrics, "training": facts}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder
