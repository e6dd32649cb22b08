"""The autoencoder of a slot diffusion model: where it comes from, and what happens where it is missing or damaged."""

import json
import logging
import re

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file, save_file
from small_slot_diffusion import build, config, images, training_inputs
from small_vqvae import build as build_vae

from models import SlotDiffusionModel, SlotUNetModel

# --- Taking over a trained one ----------------------------------------------------------------------------------------


def assert_same_state(module: torch.nn.Module, other: torch.nn.Module) -> None:
    left, right = module.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("kind", ["module", "run folder", "checkpoint"])
def test_from_parts_copies_the_vae(kind, tmp_path):
    fields = {"num_codes": 20} if kind == "checkpoint" else {"num_codes": 20, "ema_decay": 0.9, "revive_after": 3}
    vae = build_vae(seed=4, **fields)
    given = vae
    if kind == "run folder":
        given = tmp_path / "run"
        vae.save_pretrained(given)
    elif kind == "checkpoint":
        given = tmp_path / "vae_checkpoint.pth"
        torch.save({"state_dict": {**vae.state_dict(), "loss.weight": torch.ones(2)}}, given)
    asked = config(vae_config={"num_codes": 20}) if kind == "checkpoint" else config()
    model = SlotDiffusionModel.from_parts(asked, given)
    assert_same_state(model.vae, vae)
    assert model.config.vae_config.num_codes == 20 and model.config.vae_config.ema_decay == fields.get("ema_decay")
    assert not model.vae.training and not any(parameter.requires_grad for parameter in model.vae.parameters())
    assert str(tmp_path) not in model.config.to_json_string()
    with torch.no_grad():
        vae.encoder.conv_in.weight.zero_()
    assert bool(model.vae.encoder.conv_in.weight.any())  # a copy


def library_vae(kind: str, latent_channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    fields = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 8],
        "norm_num_groups": 4,
        "latent_channels": latent_channels,
        "scaling_factor": 0.5,
    }
    if kind == "AutoencoderKL":
        return AutoencoderKL(**fields, shift_factor=0.25).eval()
    return VQModel(**fields, num_vq_embeddings=32).eval()


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_autoencoders_of_diffusers(kind, tmp_path):
    library = library_vae(kind)
    library.save_pretrained(tmp_path / "vae")
    model = SlotDiffusionModel.from_parts(config(), tmp_path / "vae")
    assert_same_state(model.vae, library)
    assert_same_state(SlotDiffusionModel.from_parts(config(), library).vae, library)
    assert model.config.latent_shape == (3, 4, 4) and model.config.downsampling_factor == 4
    with torch.no_grad():
        if kind == "AutoencoderKL":
            expected = (library.encode(images()).latent_dist.mean - 0.25) * 0.5
        else:
            expected = library.encode(images()).latents * 0.5
        torch.testing.assert_close(model.encode_images(images()), expected)
        pictures = model.decode_latents(expected)
    model.train()(**training_inputs(model)).loss.backward()
    assert not model.vae.training and all(parameter.grad is None for parameter in model.vae.parameters())
    model.save_pretrained(tmp_path / "run")
    again = SlotDiffusionModel.from_pretrained(tmp_path / "run")
    assert type(again.vae) is type(library) and again.config.vae_config["_class_name"] == kind
    assert_same_state(again.vae, library)
    with torch.no_grad():
        torch.testing.assert_close(again.decode_latents(expected), pictures)


def test_the_unet_follows_the_channels_of_the_autoencoder():
    library = library_vae("AutoencoderKL", latent_channels=4)
    model = SlotDiffusionModel.from_parts(config(), library)
    assert model.config.latent_shape == (4, 4, 4)
    assert model.unet.config.in_channels == model.unet.config.out_channels == 4
    assert model.config.unet_config.base_channels == config().unet_config.base_channels
    assert model(**training_inputs(model)).loss.isfinite()


def test_a_latent_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"image_size=16 .* a multiple of 32: the VAE divides it by 16"):
        SlotDiffusionModel.from_parts(config(), build_vae(widths=(8, 8, 8, 8, 8)))
    with pytest.raises(TypeError, match="SlotUNetModel is no autoencoder"):
        SlotDiffusionModel.from_parts(config(), SlotUNetModel(config().unet_config))


# --- Where it cannot be had -------------------------------------------------------------------------------------------


def damage_folder(folder, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "not a header":
        weights.write_bytes(b"\xff" * 200)
    elif how == "another model":
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(fields | {"model_type": "bert"}))
    elif how == "broken config":
        (folder / "config.json").write_text("{")
    elif how == "a list":
        (folder / "config.json").write_text("[1]")
    else:
        state = load_file(weights)
        if how == "a tensor less":
            del state["quantize.embedding.weight"]
        elif how == "not finite":
            state["decoder.conv_in.bias"][0] = float("nan")
        save_file(state, weights, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("no config", FileNotFoundError, "has no config.json; give a run of the family vae"),
        ("no weights", FileNotFoundError, "has no weights"),
        ("cut", ValueError, "the VAE in .* does not load"),
        ("not a header", ValueError, "the VAE in .* does not load"),
        ("another model", ValueError, "does not load: its model_type is 'bert' instead of 'slot_vqvae'"),
        ("broken config", ValueError, "does not load"),
        ("a list", ValueError, "does not load: its config.json holds a list where an object belongs"),
        ("a tensor less", ValueError, "1 missing keys such as quantize.embedding.weight"),
        ("not finite", ValueError, "tensor decoder.conv_in.bias of the VAE holds values that are not finite"),
    ],
)
def test_a_damaged_vae_folder_is_one_clear_error(how, error, message, tmp_path):
    build_vae().save_pretrained(tmp_path)
    damage_folder(tmp_path, how)
    with pytest.raises(error, match=message) as caught:
        SlotDiffusionModel.from_parts(config(), tmp_path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_damaged_vae_checkpoint_is_one_clear_error(tmp_path):
    path = tmp_path / "vae_checkpoint.pth"
    torch.save(build_vae().state_dict(), path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        SlotDiffusionModel.from_parts(config(), path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        SlotDiffusionModel.from_parts(config(), tmp_path / "other.pth")


# --- A checkpoint of the whole model ----------------------------------------------------------------------------------


def rewrite(folder, change) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file(change(state), path, metadata={"format": "pt"})


def without(*names: str):
    """Leaves out the tensors whose names begin with one of these."""
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(names)}


def misshapen(name: str):
    return lambda state: state | {name: torch.zeros(5, 3)}


def with_infinity(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"vae.quant_conv.bias": torch.full((3,), torch.inf)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vae."), r"the whole VAE is missing, such as vae\..*cannot be made anew"),
        (
            without("vae.quant_conv."),
            r"2 tensors of the VAE are missing or misshapen, such as vae.quant_conv.bias\. .*another copy",
        ),
        (
            misshapen("vae.quantize.embedding.weight"),
            r"1 tensors of the VAE are .*, such as vae.quantize.embedding.weight",
        ),
        (
            misshapen("unet.conv_in.weight"),
            r"1 of the weights are of another shape .* is unet.conv_in.weight; take ano",
        ),
        (with_infinity, "tensor quant_conv.bias of the VAE holds values that are not finite"),
    ],
)
def test_a_checkpoint_without_its_vae_does_not_load(change, message, tmp_path, caplog):
    build().save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        SlotDiffusionModel.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert "LOAD REPORT" not in caplog.text


def test_other_weights_may_be_missing_as_in_the_library(tmp_path, caplog):
    model = build()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: {k: v for k, v in state.items() if k != "unet.conv_in.weight"})
    with caplog.at_level(logging.WARNING, logger="transformers"):
        again, info = SlotDiffusionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"unet.conv_in.weight"} and "LOAD REPORT" in caplog.text
    assert_same_state(again.vae, model.vae)


def test_an_ignored_mismatch_does_not_replace_the_vae(tmp_path):
    build().save_pretrained(tmp_path)
    rewrite(tmp_path, misshapen("vae.quantize.embedding.weight"))
    with pytest.raises(ValueError, match=r"1 tensors of the VAE are .*, such as vae.quantize.embedding.weight"):
        SlotDiffusionModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    build().save_pretrained(tmp_path)
    rewrite(tmp_path, misshapen("unet.conv_in.weight"))
    SlotDiffusionModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)  # elsewhere it is as in the library


@pytest.mark.parametrize("how", ["cut", "not a header"])
def test_a_damaged_checkpoint_is_one_clear_error(how, tmp_path):
    build().save_pretrained(tmp_path)
    damage_folder(tmp_path, how)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path)) + ".*damaged, take another copy"):
        SlotDiffusionModel.from_pretrained(tmp_path)
