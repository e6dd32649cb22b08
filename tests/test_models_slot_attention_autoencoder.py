"""The Slot Attention autoencoder: its configuration, loss and outputs, and what the library asks of a model."""

import json
import math

import pytest
import torch
from small_slot_attention import SMALL_RESNET, build, images, noise, with_odd_values
from test_models_remote_code import run_elsewhere
from transformers import AutoConfig, AutoModel

from models import SlotAttentionAutoencoder, SlotAttentionConfig, SlotAttentionModel
from models.configuration_slot_attention import PRESETS

# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "clevertex"}, r"preset='clevertex' .*did you mean 'clevrtex'"),
        ({"num_slots": 0}, r"num_slots=0 .*at least 1"),
        ({"epsilon": 0.0}, r"epsilon=0.0 .*\(0, 1\)"),
        ({"epsilon": math.nan}, r"epsilon=nan"),
        ({"slot_init": "random"}, r"slot_init='random' .*'sampled' or 'learned'"),
        ({"encoder": "resnet50"}, r"encoder='resnet50' .*'cnn' or 'resnet18'"),
        ({"image_size": 100}, r"image_size=100 .*one of 8, 16, 32, 64, 128 .*decoder_channels"),
        ({"image_size": 256}, r"image_size=256 .*one of 8, 16, 32, 64, 128"),
        ({"decoder_strides": (2, 2, 2, 1)}, r"image_size=128 .*must be 64, which decoder_resolution=8"),
        ({"decoder_strides": (2, 2, 4, 1)}, r"decoder_strides=.*4 of 1 and 2"),
        ({"decoder_kernel_size": 4}, r"decoder_kernel_size=4 .*odd"),
        ({"encoder_channels": (64, 128)}, r"encoder_strides=.*2 integers"),
        ({"encoder_channels": (64, 128, 200)}, r"encoder_channels=.*multiples of encoder_num_groups=32"),
        ({"encoder_strides": (2, 2, 2)}, r"encoder_strides=.*1 and then twice 1 or 2"),
        ({"preset": "small", "encoder": "resnet18"}, r"encoder_channels=.*three integers"),
        ({"preset": "small", "encoder_strides": (3, 1, 1, 1)}, r"image_size=64 .*multiple of 3"),
        ({"decoder_channels": ()}, r"image_size=128 .*one of 8"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        SlotAttentionConfig(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"num_slots": "7"}, {"encoder_channels": 16}, {"qkv_bias": "yes"}, {"preset": 1}])
def test_config_refuses_a_wrong_type(fields):
    with pytest.raises(Exception, match=f"field '{next(iter(fields))}'") as caught:
        SlotAttentionConfig(**fields)
    assert type(caught.value).__name__ == "StrictDataclassFieldValidationError"


def test_presets_are_the_published_sizes_and_fields_override_them():
    assert SlotAttentionConfig().preset == "clevrtex"
    clevrtex, clevr = SlotAttentionConfig(), SlotAttentionConfig(preset="clevr")
    assert (clevrtex.num_slots, clevrtex.slot_size, clevrtex.mlp_hidden_size) == (11, 192, 384)
    assert (clevrtex.slot_init, clevrtex.epsilon, clevrtex.feature_size) == ("learned", 1e-6, 32)
    assert (clevr.num_slots, clevr.slot_size, clevr.mlp_hidden_size) == (7, 64, 128)
    assert (clevr.slot_init, clevr.epsilon, clevr.feature_size) == ("sampled", 1e-8, 128)
    assert clevr.decoder_strides == [2, 2, 2, 2, 1] and clevrtex.decoder_strides == [2, 2, 2, 2]
    smaller = SlotAttentionConfig(preset="clevr", image_size=64, num_slots=5)
    assert smaller.decoder_strides == [2, 2, 2, 1, 1] and smaller.num_slots == 5 and smaller.slot_size == 64


def test_config_round_trip(tmp_path):
    config = SlotAttentionConfig(**SMALL_RESNET, slot_init="learned", qkv_bias=True, num_iterations=2)
    config.save_pretrained(tmp_path)
    for loaded in (SlotAttentionConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is SlotAttentionConfig
        assert {n: getattr(loaded, n) for n in PRESETS["tiny"]} == {n: getattr(config, n) for n in PRESETS["tiny"]}
        assert loaded.decoder_strides == [2, 2, 1] and loaded.num_iterations == 2 and loaded.qkv_bias
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(PRESETS["tiny"]) <= set(saved)  # nothing depends on what a preset means later


def test_a_field_set_after_construction_is_checked_by_the_model(tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image_size=32 is not possible"):
        SlotAttentionAutoencoder.from_pretrained(tmp_path, image_size=32)


# --- Parameters -------------------------------------------------------------------------------------------------------


def expected_parameters(c: SlotAttentionConfig) -> int:
    """Counted layer by layer from the papers' tables, not from the code."""

    def conv(c_in, c_out, k, bias=True):
        return k * k * c_in * c_out + bias * c_out

    def linear(c_in, c_out, bias=True):
        return conv(c_in, c_out, 1, bias)

    widths, d, size = c.encoder_channels, c.slot_size, c.input_size
    if c.encoder == "cnn":
        backbone = sum(conv(a, b, 5) for a, b in zip((3, *widths), widths, strict=False))
    else:
        norm = 2  # values per channel, after each convolution
        backbone = conv(3, widths[0], 3, False) + norm * widths[0]
        inputs = widths[0]
        for width in widths:
            backbone += conv(inputs, width, 3, False) + 3 * conv(width, width, 3, False) + 4 * norm * width
            if width != inputs:
                backbone += linear(inputs, width, False) + norm * width
            inputs = width
    encoder = backbone + linear(4, widths[-1]) + 2 * widths[-1] + linear(widths[-1], size) + linear(size, size)
    start = 2 * d if c.slot_init == "sampled" else c.num_slots * d
    projections = linear(d, d, False) + 2 * linear(size, d, False)
    gru, mlp = 2 * (3 * d * d + 3 * d), linear(d, c.mlp_hidden_size) + linear(c.mlp_hidden_size, d)
    attention = start + 2 * size + 4 * d + projections + gru + mlp
    layers = zip((d, *c.decoder_channels), c.decoder_channels, strict=False)
    decoder = linear(4, d) + sum(conv(a, b, 5) for a, b in layers)
    return encoder + attention + decoder + conv(c.decoder_channels[-1], 4, c.decoder_output_kernel_size)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_of_the_presets(preset):
    config = SlotAttentionConfig(preset=preset)
    with torch.device("meta"):
        model = SlotAttentionAutoencoder(config)
    assert model.num_parameters() == expected_parameters(config)
    if preset in ("clevr", "clevrtex"):
        assert model.num_parameters() == {"clevr": 890_308, "clevrtex": 5_192_708}[preset]


@pytest.mark.parametrize("fields", [{}, {"slot_init": "learned", "qkv_bias": True}, SMALL_RESNET])
def test_parameter_groups(fields):
    model = build(**fields)
    groups = model.parameter_groups()
    assert sorted(groups) == ["decay", "no_decay"]
    tensors = dict(model.named_parameters())
    assert sorted(groups["decay"] + groups["no_decay"]) == sorted(tensors)
    assert all(tensors[name].ndim in (2, 4) for name in groups["decay"])
    assert all(tensors[name].ndim in (1, 3) for name in groups["no_decay"])
    assert {n.rpartition(".")[2] for n in groups["decay"]} == {"weight", "weight_ih", "weight_hh"}


def assert_freshly_initialised(model):
    for name, tensor in model.named_parameters():
        assert tensor.device.type == "cpu" and tensor.isfinite().all() and tensor.abs().max() < 4, name
        if name.endswith("bias") or "bias_" in name:
            assert (tensor == 0).all(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        else:
            assert tensor.std() > 0, name
    for module in model.modules():
        if isinstance(module, torch.nn.GRUCell):
            gram = module.weight_hh.T @ module.weight_hh
            torch.testing.assert_close(gram, torch.eye(8), atol=1e-5, rtol=0)
    block = model.model.encoder.backbone.blocks[-1].layer2.conv
    assert block.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 8)), rel=0.2)
    fan = 5 * 5 * (8 + 8)
    assert model.decoder.network.layers[0].weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.2)


def test_initialisation_also_from_meta():
    config = SlotAttentionConfig(**SMALL_RESNET)
    torch.manual_seed(0)
    assert_freshly_initialised(SlotAttentionAutoencoder(config))
    assert_freshly_initialised(SlotAttentionAutoencoder.from_pretrained(None, config=config, state_dict={}))


# --- Loss and outputs -------------------------------------------------------------------------------------------------


def test_outputs_and_loss():
    model = build().eval()
    output = model(images(), slot_noise=noise(2, 3, 8), output_contents=True)
    assert output.reconstruction.shape == (2, 3, 16, 16) and output.masks.shape == (2, 3, 16, 16)
    assert output.slots.shape == (2, 3, 8) and output.attention.shape == (2, 3, 64)
    assert output.contents.shape == (2, 3, 3, 16, 16)
    mixed = sum(output.masks[:, k, None] * output.contents[:, k] for k in range(3))
    torch.testing.assert_close(output.reconstruction, mixed)
    expected = ((images() - mixed) ** 2).sum() / (2 * 16 * 16)  # 1/(B H W), summed over the channels
    torch.testing.assert_close(output.loss, expected)
    plain = model(images(), slot_noise=noise(2, 3, 8), return_loss=False)
    assert plain.loss is None and plain.contents is None
    values = model(images(), slot_noise=noise(2, 3, 8), return_dict=False)
    assert isinstance(values, tuple) and len(values) == 5 and torch.equal(values[0], output.loss)


def test_encode_and_decode_make_up_the_forward_pass():
    model = build().eval()
    output = model(images(), slot_noise=noise(2, 3, 8))
    slots, attention = model.encode(images(), slot_noise=noise(2, 3, 8))
    assert torch.equal(slots, output.slots) and torch.equal(attention, output.attention)
    decoded = model.decode(slots)
    assert torch.equal(decoded.reconstruction, output.reconstruction) and torch.equal(decoded.masks, output.masks)
    composed = model.decode(torch.cat((slots[:1], slots[1:, :2]), dim=1))  # five slots of two images
    assert composed.reconstruction.shape == (1, 3, 16, 16) and composed.masks.shape == (1, 5, 16, 16)


def test_a_sample_does_not_depend_on_the_others():
    model = build().eval()
    whole = model(images(4), slot_noise=noise(4, 3, 8))
    for i in range(4):
        alone = model(images(4)[i : i + 1], slot_noise=noise(4, 3, 8)[i : i + 1])
        torch.testing.assert_close(alone.reconstruction[0], whole.reconstruction[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.masks[0], whole.masks[i], atol=1e-5, rtol=1e-5)


def test_another_number_of_slots_and_a_generator():
    model = build().eval()
    generator = torch.Generator().manual_seed(5)
    output = model(images(), num_slots=6, generator=generator)
    assert output.masks.shape == (2, 6, 16, 16)
    again = model(images(), num_slots=6, generator=torch.Generator().manual_seed(5))
    assert torch.equal(output.reconstruction, again.reconstruction)
    with pytest.raises(ValueError, match="slot_init='learned' has 3"):
        build(slot_init="learned")(images(), num_slots=6)


@pytest.mark.parametrize("fields", [{}, {"slot_init": "learned"}, SMALL_RESNET])
def test_every_parameter_gets_a_gradient(fields):
    model = build(**fields).train()
    model(images()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_wrong_images_are_named():
    for pixel_values in (images(size=32), images()[:, :1], images()[0]):
        with pytest.raises(ValueError, match=r"pixel_values have shape .*this model takes \[B, 3, 16, 16\]"):
            build()(pixel_values)


def test_bf16_autocast_and_channels_last_stay_near_fp32():
    model = build().eval()
    exact = model(images(), slot_noise=noise(2, 3, 8))
    model.to(memory_format=torch.channels_last)
    pixel_values = images().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(pixel_values, slot_noise=noise(2, 3, 8))
    assert rounded.loss.dtype == rounded.masks.dtype == rounded.slots.dtype == torch.float32
    torch.testing.assert_close(rounded.loss, exact.loss, atol=0.05, rtol=0)
    torch.testing.assert_close(rounded.masks, exact.masks, atol=0.05, rtol=0)


def test_learns_to_reconstruct():
    model = build(slot_init="learned").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pixel_values = torch.zeros(4, 3, 16, 16)
    for i in range(4):  # a bright square, elsewhere in each image
        pixel_values[i, :, 3 * i : 3 * i + 5, 2 * i : 2 * i + 5] = torch.tensor([1.0, -1.0, 0.5])[:, None, None]
    losses = []
    for _ in range(60):
        loss = model(pixel_values).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- What the library asks of a model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {**SMALL_RESNET, "slot_init": "learned", "qkv_bias": True}])
def test_save_and_load(fields, tmp_path):
    model = with_odd_values(build(**fields)).eval()
    model.save_pretrained(tmp_path)
    expected = model(images(), generator=torch.Generator().manual_seed(0))
    for loader in (SlotAttentionAutoencoder, AutoModel):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is SlotAttentionAutoencoder and not loaded.training
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
        got = loaded(images(), generator=torch.Generator().manual_seed(0))
        assert torch.equal(got.reconstruction, expected.reconstruction)
    base = SlotAttentionModel.from_pretrained(tmp_path)
    assert torch.equal(base(images(), generator=torch.Generator().manual_seed(0)).slots, expected.slots)


ELSEWHERE = """
import sys
sys.modules["models"] = None
import torch
from transformers import AutoConfig, AutoModel
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).decoder_strides == [2, 2, 1]
inputs = torch.load(f"{folder}/inputs.pt", weights_only=True)
with torch.no_grad():
    output = model(**inputs)
torch.save((output.reconstruction, output.masks), f"{folder}/outputs.pt")
"""


def test_loads_where_the_project_is_not_importable(tmp_path):
    model = with_odd_values(build(**SMALL_RESNET)).eval()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    inputs = {"pixel_values": images(), "slot_noise": noise(2, 3, 8)}
    torch.save(inputs, folder / "inputs.pt")
    result = run_elsewhere(tmp_path, ELSEWHERE, folder)
    assert result.returncode == 0, result.stderr
    reconstruction, masks = torch.load(folder / "outputs.pt", weights_only=True)
    with torch.no_grad():
        expected = model(**inputs)
    torch.testing.assert_close(reconstruction, expected.reconstruction, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(masks, expected.masks, atol=1e-6, rtol=1e-5)


def test_loads_in_bf16(tmp_path):
    model = build(slot_init="learned").eval()
    model.save_pretrained(tmp_path)
    loaded = SlotAttentionAutoencoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in loaded.parameters())
    output = loaded(images())  # fp32 images are cast
    assert output.loss.dtype == output.masks.dtype == torch.float32
    torch.testing.assert_close(output.masks, model(images()).masks, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 9)])
def test_slots_of_another_shape_are_not_decoded(shape):
    with pytest.raises(ValueError, match=r"slots have shape .*: they must be \[B, K, 8\]"):
        build().decode(torch.zeros(shape))
