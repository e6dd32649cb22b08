"""The spatial broadcast decoder against torch's functions, and its slot-by-slot form."""

import torch
import torch.nn.functional as F
from small_slot_attention import build, images, noise, with_odd_values

from models.slot_decoders import SpatialBroadcastDecoder


def decoder(**fields) -> SpatialBroadcastDecoder:
    torch.manual_seed(0)
    settings = {"channels": (6, 5, 4), "strides": (2, 2, 1), "resolution": 4, "kernel_size": 5, **fields}
    return with_odd_values(SpatialBroadcastDecoder(8, **settings))


def test_equals_a_loop_over_slots_with_torchs_functions():
    model = decoder(output_kernel_size=3)
    slots = noise(2, 3, 8)
    reconstruction, masks, contents = model(slots)
    network = model.network
    grid = network.position_embedding(4, 4).permute(2, 0, 1)
    for image in range(2):
        logits, pictures = [], []
        for slot in slots[image]:
            hidden = slot[:, None, None].repeat(1, 4, 4) + grid
            for layer, stride in zip(network.layers, (2, 2, 1), strict=True):
                if stride == 2:
                    hidden = F.conv_transpose2d(hidden, layer.weight, layer.bias, 2, 2, output_padding=1)
                else:
                    hidden = F.conv2d(hidden, layer.weight, layer.bias, padding=2)
                hidden = hidden.clamp_min(0)
            hidden = F.conv2d(hidden, network.output.weight, network.output.bias, padding=1)
            logits.append(hidden[0])
            pictures.append(hidden[1:])
        weights = torch.stack(logits)
        weights = (weights - weights.amax(dim=0)).exp()
        weights = weights / weights.sum(dim=0)
        expected = sum(w * picture for w, picture in zip(weights, pictures, strict=True))
        torch.testing.assert_close(masks[image], weights, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(contents[image], torch.stack(pictures), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(reconstruction[image], expected, atol=1e-5, rtol=1e-5)


def test_shapes_of_other_layouts():
    for channels, strides, resolution, size in (
        ((4,), (2,), 8, 16),
        ((4, 4), (1, 1), 16, 16),
        ((4, 4, 4), (2, 2, 2), 5, 40),
    ):
        decoded = decoder(channels=channels, strides=strides, resolution=resolution, num_channels=1)(noise(1, 7, 8))
        assert decoded.reconstruction.shape == (1, 1, size, size)
        assert decoded.masks.shape == (1, 7, size, size) and decoded.contents.shape == (1, 7, 1, size, size)


def test_the_order_of_slots_is_of_no_account():
    model, slots = decoder(), noise(2, 3, 8)
    one, other = model(slots), model(slots.flip(1))
    torch.testing.assert_close(one.reconstruction, other.reconstruction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.masks, other.masks.flip(1), atol=1e-6, rtol=1e-5)


def test_activations_are_channels_last():
    model = decoder()
    layouts = []
    for layer in (*model.network.layers, model.network.output):
        layer.register_forward_hook(
            lambda _, __, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    model(noise(2, 3, 8))
    assert len(layouts) == 4 and all(layouts)


def test_masks_are_fp32_under_bf16_and_one_slot_takes_all():
    model = decoder()
    with torch.no_grad():
        model.network.output.weight.mul_(1e4)  # a mask's logits far apart
    slots = noise(2, 3, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        decoded = model(slots)
    assert decoded.masks.dtype == decoded.reconstruction.dtype == torch.float32
    torch.testing.assert_close(decoded.masks.sum(dim=1), torch.ones(2, 16, 16))
    decoded.reconstruction.square().sum().backward()
    assert slots.grad.isfinite().all()


def step(model, calls: list) -> dict[str, torch.Tensor]:
    model.decoder.network.layers[0].register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    loss = model(images(), slot_noise=noise(2, 3, 8)).loss
    loss.backward()
    return {"loss": loss, **{name: p.grad for name, p in model.named_parameters()}}


def test_checkpointed_slot_by_slot_decoding_gives_the_same_step():
    whole, calls = step(build().train(), first := []), []
    assert first == [6]
    for model in (build(decoder_checkpointing=True).train(), build().train()):
        if not model.config.decoder_checkpointing:
            model.activation_checkpointing_enable()
        calls.clear()
        torch.testing.assert_close(step(model, calls), whole, atol=1e-6, rtol=1e-5)
        assert calls == [2] * 6  # three slots, each twice
    evaluated = build(decoder_checkpointing=True).eval()
    calls.clear()
    step(evaluated, calls)
    assert calls == [2] * 3  # slot by slot, too: what does not fit in training does not in evaluation


def test_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for checkpointed in (False, True):
        model, sizes = build(decoder_checkpointing=checkpointed).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model.decoder(noise(2, 12, 8).requires_grad_())
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
