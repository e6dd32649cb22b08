"""A small VQ-VAE, trained for a moment on embedded scenes of 16x16, in a run folder as `train.py` leaves it. The first
call of a session trains, later ones copy."""

import json
import shutil
from pathlib import Path

import pandas as pd
import torch
import yaml
from trained_slotattn import DATA

from data.clevrtex import ClevrtexData, image_processor, load_clevrtex, pixels_of
from models import VQVAEConfig, VQVAEModel

MODEL = {"widths": [8, 8, 16], "blocks_per_level": 1, "num_groups": 4, "num_codes": 24, "ema_decay": 0.9}
MODEL["revive_after"] = 5


def history() -> pd.DataFrame:
    """PSNR on validation 10, 12, 15 dB, one an epoch, and train 1 dB above."""
    rows = []
    for epoch, level in enumerate((10.0, 12.0, 15.0), 1):
        for split, more in (("train", 1.0), ("val", 0.0)):
            row = {"step": 5 * epoch, "epoch": epoch, "split": split, "loss": 0.5 / epoch, "psnr": level + more}
            rows.append(row | {"codebook_use": 0.2 * epoch, "perplexity": 3.0 * epoch})
    return pd.DataFrame(rows)


def train(folder: Path, data: dict, steps: int) -> None:
    """Weights and processor of a model trained for `steps` steps of 20 scenes."""
    split = load_clevrtex(ClevrtexData(**data), need=())["train"]
    torch.manual_seed(0)
    model = VQVAEModel(VQVAEConfig(**MODEL)).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    pixels = torch.from_numpy(pixels_of(split[:]).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    for step in range(steps):
        loss = model(pixels[step * 20 % len(pixels) :][:20]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.after_optimizer_step()
    model.eval().save_pretrained(folder)
    image_processor(data["image_size"]).save_pretrained(folder)


def make_run(folder: Path, base: Path, steps: int = 60, data: dict | None = None, seed: int = 42) -> Path:
    """A run in `folder`; weights and the data's cache are kept in `base`, to be used again."""
    data = {**DATA, **(data or {}), "cache_dir": str(base / "cache")}
    kept = base / f"vae-{steps}-{abs(hash(json.dumps(data, sort_keys=True)))}"
    if not kept.is_dir():
        train(kept, data, steps)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    training = {"learning_rate": 4e-3, "per_device_train_batch_size": 20, "seed": seed}
    recipe = {"model_family": "vae", "name": f"study/{folder.name}", "model": MODEL, "data": data}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "training": training}, sort_keys=False))
    history().to_csv(folder / "history.csv", index=False)
    facts = {"seconds": 12.5, "epochs": 3, "steps": steps, "parameters": 9000, "device": "cpu"}
    facts |= {"machine": "m", "command": "train.py"}
    metrics = {"val": {"loss": 0.2, "psnr": 12.0, "codebook_use": 0.5, "perplexity": 4.0}}
    content = {"model": "vae", "name": recipe["name"], "metrics": metrics, "training": facts}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder
