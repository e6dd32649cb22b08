"""The frozen autoencoder that slot diffusion works in: found by a path, checked, loaded."""

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from models import VQVAEConfig
from models.slot_diffusion_vae import load_vae
from models.vqvae_checkpoint import ForeignCheckpoint
from training import checkpoints
from training.errors import RunError

CONFIG = "config.json"


def autoencoder_config(path: Path, where: str) -> VQVAEConfig | dict[str, Any] | None:
    """What an autoencoder's folder says it is: our config, or a dict with `_class_name` of a diffusers model.

    None for a file (the course's checkpoint says nothing of itself) and where nothing is there (yet).

    Args:
        path: a run folder of the family vae, a folder of diffusers, or a file.
        where: what names the path, for errors; such as "recipe.yaml: model.vae".
    """
    if not (path / CONFIG).is_file():
        return None
    try:
        values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__} where an object belongs")
        if "_class_name" in values:
            return values
        if values.get("model_type") != VQVAEConfig.model_type:
            raise ValueError(f"it is of a {values.get('model_type')!r}, not of a {VQVAEConfig.model_type!r}")
        return VQVAEConfig.from_pretrained(path)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{where} names {path}, whose {CONFIG} cannot be used: {_one_line(error)}") from error


def load_autoencoder(path: Path, config: PreTrainedConfig | dict[str, Any], where: str) -> nn.Module:
    """The autoencoder at `path`, in fp32 and evaluation mode, frozen.

    Args:
        path: a run folder of the family vae (its manifest is checked), a folder of a diffusers `VQModel` or
            `AutoencoderKL`, or a file of the course's layout (`vae_checkpoint.pth`).
        config: of the autoencoder, which a file does not say itself.
        where: what names the path, for errors.

    Raises:
        RunError: nothing there, not finished, damaged, or not an autoencoder.
    """
    if not path.exists():
        raise RunError(
            f"{where} names {path}, which is not there; give a run folder of the family vae or the course's "
            "vae_checkpoint.pth, or set training.vae_recipe to have one trained first"
        )
    try:
        if (path / checkpoints.MANIFEST).is_file():
            checkpoints.verify(path)
        model = load_vae(path, config)
    except ForeignCheckpoint as error:
        raise RunError(f"{where} cannot be used: {error.brief}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{where} cannot be used: {_one_line(error)}") from error
    return model.eval().requires_grad_(False)


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:400]
