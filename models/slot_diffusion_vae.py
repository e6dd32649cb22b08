"""The frozen autoencoder of a slot diffusion model: made from a config, or read from where a trained one is kept."""

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig

from .configuration_slot_diffusion import LIBRARY_VAES
from .modeling_vqvae import VQVAEModel

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")


def build_vae(config: PreTrainedConfig | dict[str, Any]) -> nn.Module:
    """A `VQVAEModel`, or from a dict with `_class_name` the autoencoder of diffusers, with untrained weights."""
    if isinstance(config, dict):
        return getattr(diffusers, config["_class_name"]).from_config(config)
    return VQVAEModel(config)


def config_of_vae(vae: nn.Module) -> PreTrainedConfig | dict[str, Any]:
    """What `vae_config` is for this autoencoder. Raises TypeError where it is neither ours nor one of diffusers."""
    if isinstance(getattr(vae, "config", None), PreTrainedConfig) and vae.config.model_type == "slot_vqvae":
        config = copy.deepcopy(vae.config)
        config.name_or_path = ""  # where it was loaded from is a folder of this machine
        return config
    name = type(vae).__name__
    if name not in LIBRARY_VAES:
        raise TypeError(f"{name} is no autoencoder: give a VQVAEModel, or a VQModel or AutoencoderKL of diffusers")
    fields = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    return {"_class_name": name, **json.loads(json.dumps(fields))}


def load_vae(path: str | Path, config: PreTrainedConfig | dict[str, Any]) -> nn.Module:
    """The trained autoencoder at `path`, in fp32.

    Args:
        path: a folder with config and weights (a run of the family `vae`, or an autoencoder saved by diffusers), or a
            checkpoint of the course, see [`VQVAEModel.from_course_checkpoint`].
        config: the `vae_config` of a checkpoint, which does not say it itself.

    Raises:
        FileNotFoundError: nothing there, or a folder without config or weights.
        ValueError: damaged, or not the weights of such a model, or with values that are not finite.
    """
    path = Path(path)
    if path.suffix in CHECKPOINT_SUFFIXES:
        if isinstance(config, dict):
            raise ValueError(f"{path} is a checkpoint of the course, but vae_config is a {config['_class_name']}")
        return VQVAEModel.from_course_checkpoint(path, config=config)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no folder with a VAE: it has no config.json; give a run of the family vae")
    if not any(path.glob("*.safetensors")):
        raise FileNotFoundError(f"{path} has no weights (*.safetensors); train the VAE to its end first")
    vae = _from_folder(path)
    check_finite(vae, str(path))
    return vae


def _from_folder(path: Path) -> nn.Module:
    try:
        fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"its config.json holds a {type(fields).__name__} where an object belongs")
        name = fields.get("_class_name")
        if name is not None:
            if name not in LIBRARY_VAES:
                raise ValueError(f"it holds a {name}, no {' or '.join(LIBRARY_VAES)}")
            loader, keywords = getattr(diffusers, name), {"torch_dtype": torch.float32}
        elif fields.get("model_type") == "slot_vqvae":
            loader, keywords = VQVAEModel, {"dtype": torch.float32}
        else:
            raise ValueError(f"its model_type is {fields.get('model_type')!r} instead of 'slot_vqvae'")
        vae, info = loader.from_pretrained(path, output_loading_info=True, local_files_only=True, **keywords)
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the VAE in {path} does not load: {reason[:300]}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            example = sorted(map(str, info[kind]))[0]
            raise ValueError(
                f"the VAE in {path} does not load: its weights do not fit its config.json, {len(info[kind])} "
                f"{kind.replace('_', ' ')} such as {example}"
            )
    return vae


def check_finite(vae: nn.Module, source: str) -> None:
    """ValueError, naming the first, where a tensor of the VAE holds values that are not finite."""
    for name, tensor in vae.state_dict().items():
        if tensor.is_floating_point() and tensor.device.type != "meta" and not bool(tensor.isfinite().all()):
            raise ValueError(f"{source}: tensor {name} of the VAE holds values that are not finite; take another copy")


__all__ = ["build_vae", "check_finite", "config_of_vae", "load_vae"]
