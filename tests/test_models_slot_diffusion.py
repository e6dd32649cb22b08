"""Slot diffusion: the loss against the paper's equation, masks, the frozen autoencoder, precisions and bad input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_slot_diffusion import build, config, images, training_inputs
from transformers import AutoConfig, AutoModel

from models import SlotDiffusionConfig, SlotDiffusionModel, SlotUNetConfig, VQVAEConfig

# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "latent", "slots", "init", "schedule", "parameters"),
    [
        ("coursework", (3, 32, 32), (11, 192), "learned", "linear", (3_347_520, 33_655_555, 13_857_886)),
        ("slotdiffusion", (3, 32, 32), (11, 192), "learned", "scaled_linear", (3_347_520, 135_235_971, 13_857_886)),
        ("small", (3, 16, 16), (11, 64), "sampled", "linear", (140_160, 8_339_843, 2_696_638)),
        ("tiny", (3, 16, 16), (11, 32), "sampled", "linear", (29_616, 975_875, 679_150)),
    ],
)
def test_presets(preset, latent, slots, init, schedule, parameters, tmp_path):
    made = SlotDiffusionConfig(preset=preset)
    assert made.latent_shape == latent
    assert (made.num_slots, made.slot_size) == slots == (made.slot_config.num_slots, made.slot_config.slot_size)
    assert made.slot_config.slot_init == init
    assert (made.beta_start, made.beta_end, made.beta_schedule) == (0.0015, 0.0195, schedule)
    made.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, SlotDiffusionConfig) and again.to_diff_dict() == made.to_diff_dict()
    with torch.device("meta"):
        model = SlotDiffusionModel(made)
    counted = [sum(p.numel() for p in part.parameters()) for part in (model.slot_encoder, model.unet, model.vae)]
    assert tuple(counted) == parameters
    assert all(p.device.type == "meta" for p in model.parameters())


def test_fields_over_a_preset():
    small = SlotDiffusionConfig(preset="small", num_slots=5, image_size=96, unet_config={"base_channels": 64})
    assert (small.slot_config.num_slots, small.slot_config.image_size) == (5, 96)
    assert small.slot_config.encoder_channels == [32] * 4  # as the preset says
    assert (small.unet_config.base_channels, small.unet_config.dropout) == (64, 0.0)
    assert small.unet_config.cross_attention_dim == small.slot_size == 64
    own = SlotDiffusionConfig(preset="small", slot_config={"preset": "small_resnet"}, vae_config={"num_codes": 64})
    assert own.slot_config.encoder == "resnet18" and own.vae_config.widths == [32, 64, 128]
    whole = SlotDiffusionConfig(preset="small", unet_config=SlotUNetConfig(cross_attention_dim=64))
    assert whole.unet_config.base_channels == 64 and whole.unet_config.dropout == 0.1
    own.image_size = 32  # as from_pretrained(..., image_size=32) does
    own.validate_fields()
    assert own.slot_config.image_size == 32 and own.latent_shape == (3, 8, 8)
    four = SlotDiffusionConfig(preset="small", vae_config=VQVAEConfig(latent_channels=4))
    assert four.unet_config.in_channels == four.unet_config.out_channels == four.latent_channels == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "smal"}, "did you mean 'small'"),
        ({"preset": "small", "image_size": 72}, r"image_size=72 .* multiple of 32: the VAE divides it by 4"),
        ({"unet_config": {"cross_attention_dim": 64}}, r"unet_config.cross_attention_dim=64 .* slot_size=192"),
        ({"unet_config": {"in_channels": 4}}, r"unet_config.in_channels=4 .* 3, the channels of the latent"),
        ({"slot_config": {"num_channels": 1}}, r"slot_config.num_channels=1 .* 3"),
        ({"num_slots": 0}, r"slot_config: num_slots=0 .* at least 1"),
        ({"slot_config": {"num_iters": 2}}, r"slot_config has no field 'num_iters' .*'num_iterations'"),
        ({"unet_config": {"num_groups": 24}}, r"unet_config: num_groups=24"),
        ({"vae_config": {"_class_name": "UNet2DModel"}}, r"vae_config._class_name='UNet2DModel' .* VQModel"),
        ({"vae_config": {"model_type": "bert"}}, r"vae_config.model_type='bert' .* 'slot_vqvae'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"beta_start": 0.0}, r"beta_start=0.0 .* \(0, 1\)"),
        ({"beta_end": 0.001}, r"beta_end=0.001 .* from beta_start=0.0015"),
        ({"beta_schedule": "cosine"}, "beta_schedule='cosine'.* linear, scaled_linear"),
        ({"prediction_type": "noise"}, "prediction_type='noise'"),
        ({"latent_scale": 0.0}, "latent_scale=0.0"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SlotDiffusionConfig(**fields)


# --- Loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_the_loss_is_the_papers(prediction_type, beta_schedule):
    model = build(prediction_type=prediction_type, beta_schedule=beta_schedule, latent_scale=0.5)
    inputs = training_inputs(model)
    with torch.no_grad():
        output = model(**inputs)

        if beta_schedule == "linear":
            betas = np.linspace(0.0015, 0.0195, 1000)
        else:
            betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
        abar = torch.from_numpy(np.cumprod(1 - betas)).float()[inputs["timesteps"]].view(-1, 1, 1, 1)
        x_0 = 0.5 * model.vae.encode(inputs["pixel_values"])
        epsilon = inputs["noise"]
        x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * epsilon
        slots, attention = model.slot_encoder(inputs["pixel_values"], inputs["slot_noise"], return_dict=False)
        answer = model.unet(x_t, inputs["timesteps"], slots).sample
        truth = {"epsilon": epsilon, "sample": x_0, "v_prediction": abar.sqrt() * epsilon - (1 - abar).sqrt() * x_0}
        expected = ((answer - truth[prediction_type]) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(output.losses, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.loss, expected.mean(), rtol=1e-4, atol=1e-6)
    assert torch.equal(output.slots, slots) and torch.equal(output.attention, attention)


def test_what_is_not_given_is_encoded_and_drawn():
    model = build()
    given = training_inputs(model)
    torch.manual_seed(3)
    drawn = model(given["pixel_values"], slot_noise=given["slot_noise"])
    torch.manual_seed(3)
    latents = model.encode_images(given["pixel_values"])
    noise = torch.randn_like(latents)
    timesteps = torch.randint(1000, (3,))
    assert torch.equal(
        drawn.losses, model(given["pixel_values"], latents, timesteps, noise, given["slot_noise"]).losses
    )
    alone = model(**given, return_loss=False)
    assert alone.loss is None and alone.losses is None and alone.slots.shape == (3, 3, 8)
    assert model.train()(**given).masks is None and model(**given, output_masks=True).masks is not None
    assert len(model.eval()(**given, return_dict=False)) == 5


def test_a_samples_loss_does_not_depend_on_its_batch():
    model = build()
    inputs = training_inputs(model, batch=4)
    together = model(**inputs).losses
    alone = [model(**{name: value[i : i + 1] for name, value in inputs.items()}).losses for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_named():
    model = build()
    inputs = training_inputs(model)
    wrong = {
        "latents": (torch.zeros(3, 3, 8, 8), r"latents have shape \[3, 3, 8, 8\]: they must be \[3, 3, 4, 4\]"),
        "noise": (torch.zeros(2, 3, 4, 4), r"noise have shape \[2, 3, 4, 4\]"),
        "timesteps": (torch.tensor([5]), r"timesteps have shape \[1\]: they must be \[3\]"),
        "pixel_values": (torch.zeros(3, 3, 8, 8), r"pixel_values have shape \[3, 3, 8, 8\]"),
        "slot_noise": (torch.zeros(3, 3, 9), r"noise has shape \[3, 3, 9\]"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            model(**{**inputs, name: value})
    with pytest.raises(ValueError, match="timesteps run from 4 to 1000: the chain has 0 to 999"):
        model(**{**inputs, "timesteps": torch.tensor([4, 1000, 6])})
    learned = build(slot_config={"slot_init": "learned"})
    with pytest.raises(ValueError, match=r"num_slots=4: slot_init='learned' has 3"):
        learned.encode_slots(images(2), num_slots=4)


# --- Masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 24, (8, 20)])
def test_masks_are_the_resized_attention(size):
    model = build()
    slots, attention = model.encode_slots(images(2), torch.randn(2, 5, 8), num_slots=5)
    assert slots.shape == (2, 5, 8) and attention.shape == (2, 5, 64)
    masks = model.masks(attention, size)
    shape = {None: (16, 16), 24: (24, 24)}.get(size, size)
    expected = F.interpolate(attention.reshape(2, 5, 8, 8), shape, mode="bilinear", align_corners=False)
    torch.testing.assert_close(masks, expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(masks.sum(1), torch.ones(2, *shape))
    with pytest.raises(ValueError, match=r"attention has shape \[2, 5, 49\]: it must be \[B, K, 64\]"):
        model.masks(attention[..., :49])


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot_init", ["sampled", "learned"])
def test_gradients_reach_slots_and_unet_and_never_the_vae(slot_init):
    model = build(slot_config={"slot_init": slot_init}).train()
    model(**training_inputs(model)).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("vae."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name
    assert not any(module.training for module in model.vae.modules())
    assert model.unet.training and model.slot_encoder.training


def test_parameter_groups_hold_each_trained_parameter_once():
    model = build()
    groups = model.parameter_groups()
    assert list(groups) == ["slots_decay", "slots_no_decay", "unet_decay", "unet_no_decay"]
    members = [name for names in groups.values() for name in names]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(members) == sorted(trained) and len(set(members)) == len(members)
    parameters = dict(model.named_parameters())
    assert all(name.startswith("unet.") and parameters[name].ndim > 1 for name in groups["unet_decay"])
    assert "slot_encoder.slot_attention.slots_mu" in groups["slots_no_decay"]


@pytest.mark.parametrize("vae", [{}, {"ema_decay": 0.9, "revive_after": 2}])
def test_the_vae_survives_training_saving_and_loading_bit_for_bit(vae, tmp_path):
    model = build(vae_config=vae).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        model(**training_inputs(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    again, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, SlotDiffusionModel) and not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
        assert torch.equal(tensor, before[name]) or not name.startswith("vae."), name
    assert not torch.equal(again.unet.conv_in.weight, before["unet.conv_in.weight"])
    assert not any(parameter.requires_grad for parameter in again.vae.parameters())
    assert all(parameter.requires_grad for parameter in again.unet.parameters())
    assert not again.train().vae.training
    inputs = training_inputs(model)
    assert torch.equal(again.eval()(**inputs).losses, model.eval()(**inputs).losses)


# --- Precisions -------------------------------------------------------------------------------------------------------


def test_latents_do_not_depend_on_autocast_and_cached_ones_give_the_same_loss():
    model = build(latent_scale=2.0)
    inputs = training_inputs(model)
    with torch.no_grad():
        latents = model.encode_images(inputs["pixel_values"])
        pictures = model.decode_latents(latents)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.encode_images(inputs["pixel_values"]), latents)
            assert torch.equal(model.decode_latents(latents), pictures)
            half = model(**inputs, latents=latents)
            assert torch.equal(half.losses, model(**inputs).losses)
        full = model(**inputs, latents=latents)
        torch.testing.assert_close(latents, 2 * model.vae.encode(inputs["pixel_values"]))
        torch.testing.assert_close(pictures, model.vae.decode(latents / 2))
    assert torch.equal(full.losses, model(**inputs).losses)
    assert half.losses.dtype == torch.float32 and half.masks.dtype == torch.float32
    torch.testing.assert_close(half.losses, full.losses, rtol=0.1, atol=0.05)
    assert not torch.equal(half.losses, full.losses)


def test_bf16_weights(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    half = SlotDiffusionModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    inputs = training_inputs(model)
    output = half(**inputs)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.losses, model(**inputs).losses, rtol=0.1, atol=0.1)
    output.loss.backward()
    assert half.unet.conv_in.weight.grad.dtype == torch.bfloat16


def test_gradient_checkpointing_changes_nothing():
    model = build().train()
    inputs = training_inputs(model)
    gradients = []
    for enabled in (False, True):
        if enabled:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_schedule_of_a_model_made_without_storage(tmp_path):
    with torch.device("meta"):
        empty = SlotDiffusionModel(config())
    scheduler = empty.scheduler()
    assert scheduler.betas.device.type == "cpu" and scheduler.config.prediction_type == "epsilon"
    np.testing.assert_allclose(scheduler.betas.numpy(), np.linspace(0.0015, 0.0195, 1000), rtol=1e-6)
