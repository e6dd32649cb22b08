"""The VQ-VAE: its configuration, its loss and gradients, its training, and what the library asks of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_vqvae import TINY, build, images
from transformers import AutoModel

from models import VQVAEConfig, VQVAEModel


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (8, 10)}, r"widths=\[8, 10\].*multiples of num_groups=4"),
        ({"num_codes": 1}, "num_codes=1 .*at least 2"),
        ({"reconstruction_loss": "l2"}, "reconstruction_loss='l2' .*'mse' or 'l1'"),
        ({"commitment_weight": -1.0}, "commitment_weight=-1.0"),
        ({"commitment_weight": math.nan}, "commitment_weight=nan"),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 .*\(0, 1\)"),
        ({"revive_after": -1}, "revive_after=-1"),
        ({"blocks_per_level": 0}, "blocks_per_level=0"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**{**TINY, **fields})


def test_wrong_shapes_give_one_clear_error():
    model = build()
    for wrong in ((2, 3, 18, 16), (2, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"pixel_values has shape .* must be \[B, 3, H, W\]"):
            model.encode(torch.zeros(wrong))
    with pytest.raises(ValueError, match=r"latents has shape .* must be \[B, 3, h, w\]"):
        model.decode(torch.zeros(2, 4, 4, 4))


def test_encode_is_continuous_and_decode_quantises():
    model = build().eval()
    with torch.no_grad():
        latents = model.encode(images())
        assert latents.shape == (2, 3, 4, 4) and model.downsampling_factor == 4
        codes = model.quantize.embedding.weight
        assert torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), codes).min(1).values.min() > 0
        nearest = torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), codes).argmin(1)
        quantized = codes[nearest].view(2, 4, 4, 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(model.decode(latents), model.decode(quantized), atol=1e-6, rtol=0)
        torch.testing.assert_close(model(images()).codes, nearest.view(2, 4, 4))
        torch.testing.assert_close(model(images()).reconstruction, model.decode(latents))


def test_losses_and_gradients_follow_equation_3():
    model = build(commitment_weight=0.5, codebook_weight=2.0).double().train()
    pixels = images().double()
    output = model(pixels)
    latents = model.encode(pixels).detach().requires_grad_()
    codebook = model.quantize.embedding.weight.detach().clone().requires_grad_()
    chosen = codebook[output.codes].permute(0, 3, 1, 2)
    reconstruction = model._decode_codes(chosen.detach())
    assert output.reconstruction_loss.item() == pytest.approx(
        (reconstruction - pixels).square().mean().item(), rel=1e-5
    )
    assert output.commitment_loss.item() == pytest.approx((latents - chosen).square().mean().item(), rel=1e-5)
    total = output.reconstruction_loss + (0.5 + 2.0) * output.commitment_loss
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-6)

    model.zero_grad()
    output.loss.backward()
    expected = torch.autograd.grad(2.0 * (chosen - latents.detach()).square().mean(), codebook)[0]
    torch.testing.assert_close(model.quantize.embedding.weight.grad, expected, atol=1e-6, rtol=1e-4)
    # straight through: the encoder's gradient is that of the decoder's input, plus the commitment's
    decoder_input = chosen.detach().requires_grad_()
    error = (model._decode_codes(decoder_input) - pixels).square().mean()
    arriving = torch.autograd.grad(error, decoder_input)[0] + latents.detach().sub(chosen.detach()) / latents.numel()
    encoder_grad = torch.autograd.grad(model.encode(pixels), model.quant_conv.weight, arriving)[0]
    torch.testing.assert_close(model.quant_conv.weight.grad, encoder_grad, atol=1e-6, rtol=1e-4)


def test_l1_and_no_loss_and_tuples():
    model = build(reconstruction_loss="l1").eval()
    with torch.no_grad():
        output = model(images())
        assert output.reconstruction_loss == F.l1_loss(output.reconstruction, images())
        assert model(images(), return_loss=False).loss is None
        values = model(images(), return_dict=False)
    assert isinstance(values, tuple) and values[0] == output.loss and torch.equal(values[1], output.reconstruction)


@pytest.mark.parametrize("fields", [{"ema_decay": 0.9}, {"revive_after": 2}, {"ema_decay": 0.9, "revive_after": 2}])
def test_training_resumes_bit_for_bit_and_codes_come_into_use(fields, tmp_path):
    def steps(model, first, last):
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for step in range(first, last):
            output = model(images(4, seed=step))
            output.loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            model.after_optimizer_step()
        return output

    whole = build(**fields).train()
    before = steps(whole, 0, 1)
    after = steps(whole, 1, 6)
    if "revive_after" in fields:
        assert after.codebook_use > before.codebook_use and after.perplexity > before.perplexity
    half = build(**fields).train()
    steps(half, 0, 3)
    half.save_pretrained(tmp_path)
    resumed, info = VQVAEModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    steps(resumed.train(), 3, 6)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), atol=0, rtol=0)
    groups = resumed.parameter_groups()
    assert sorted(groups["decay"] + groups["no_decay"]) == sorted(name for name, _ in resumed.named_parameters())
    assert ("quantize.embedding.weight" in groups["no_decay"]) == ("ema_decay" not in fields)


def test_decoding_does_not_move_the_codebook():
    model = build(ema_decay=0.9, revive_after=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.decode(model.encode(images()))
    model.after_optimizer_step()
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_gradient_accumulation_equals_the_large_batch():
    whole, split = build(ema_decay=0.9, revive_after=1).train(), build(ema_decay=0.9, revive_after=1).train()
    with torch.no_grad():
        whole(images(4))
        whole.after_optimizer_step()
        for part in images(4).split(2):
            split(part)
        split.after_optimizer_step()
    torch.testing.assert_close(split.state_dict(), whole.state_dict(), atol=1e-5, rtol=1e-5)


def test_save_and_load(tmp_path):
    model = build(seed=3).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is VQVAEModel and loaded.config.widths == [8, 8, 16]
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    siblings = {"configuration_vqvae", "modeling_vqvae", "vector_quantizer", "vqvae_checkpoint", "vqvae_layers"}
    siblings |= {"field_checks", "stored_weights", "group_norm", "normalization", "normalization_passes"}
    assert {path.stem for path in tmp_path.glob("*.py")} == siblings


def test_checkpointed_activations_and_channels_last_give_the_same_step():
    plain = build().train()
    plain(images()).loss.backward()
    other = build().train().to(memory_format=torch.channels_last)
    other.gradient_checkpointing_enable()
    other(images().contiguous(memory_format=torch.channels_last)).loss.backward()
    for (name, first), second in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_bf16_autocast_is_close():
    model = build().train()
    exact = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images())
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
