"""The slot-conditioned UNet: figure 5 block by block, its arithmetic against a functional reference, its fast paths."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_slot_unet import TINY, build, latents_for, slots_for
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from models import SlotUNetConfig, SlotUNetModel

# --- Figure 5 ---------------------------------------------------------------------------------------------------------

# name: channels in (with the skip's) and out, both in C; resolution of the output for a 32x32 latent; skip
FIGURE_5 = """
R1   1 1 32       | R2   1 1 32       | D1  1 1 16
R3   1 2 16       | T1   2 2 16       | R4  2 2 16       | T2 2 2 16 | D2 2 2 8
R5   2 3 8        | T3   3 3 8        | R6  3 3 8        | T4 3 3 8  | D3 3 3 4
R7   3 4 4        | T5   4 4 4        | R8  4 4 4        | T6 4 4 4
R9   4 4 4        | T7   4 4 4        | R10 4 4 4
R11  8 4 4 T6     | T8   4 4 4        | R12 8 4 4 T5     | T9  4 4 4  | R13 7 4 4 D3  | T10 4 4 4  | U1 4 4 8
R14  7 3 8 T4     | T11  3 3 8        | R15 6 3 8 T3     | T12 3 3 8  | R16 5 3 8 D2  | T13 3 3 8  | U2 3 3 16
R17  5 2 16 T2    | T14  2 2 16       | R18 4 2 16 T1    | T15 2 2 16 | R19 3 2 16 D1 | T16 2 2 16 | U3 2 2 32
R20  3 1 32 R2    | R21  2 1 32 R1    | R22 2 1 32 conv_in
"""


def figure_5() -> list[tuple]:
    rows = [cell.split() for line in FIGURE_5.strip().splitlines() for cell in line.split("|")]
    return [(name, int(i), int(o), int(size), *rest) for name, i, o, size, *rest in rows]


@pytest.mark.parametrize(("preset", "width"), [("coursework", 64), ("slotdiffusion", 128)])
def test_the_block_table_is_figure_5(preset, width, capsys):
    with torch.device("meta"):
        model = SlotUNetModel(SlotUNetConfig(preset=preset))
        outputs, inputs = {}, {}
        for name, block in (("conv_in", model.conv_in), *model.blocks.items()):
            block.register_forward_hook(lambda _, args, out, name=name: outputs.update({name: out}))
            block.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        model(torch.empty(1, 3, 32, 32), torch.empty(1), torch.empty(1, 11, 192))
    rows = []
    print(f"\n{preset}: {model.num_parameters():,} parameters\nblock  channels    resolution  skip")
    for spec in model.block_table()[1:]:
        given, made = inputs[spec.name], outputs[spec.name]
        skip = [spec.skip] if spec.skip else []
        rows.append((spec.name, given.shape[1] // width, made.shape[1] // width, made.shape[2], *skip))
        print(
            f"{spec.name:5}  {given.shape[1]:3} -> {made.shape[1]:3}  {made.shape[2]:2} x {made.shape[3]:2}     ", *skip
        )
        assert (given.shape[1], made.shape[1]) == (spec.in_channels, spec.out_channels)
        assert made.shape[2] == made.shape[3] == 32 // 2**spec.level
    assert rows == figure_5()
    assert f"R13    {7 * width} -> {4 * width}   4 x  4      D3" in capsys.readouterr().out
    assert list(model.blocks) == [row[0] for row in rows]
    kinds = {"R": "residual", "T": "transformer", "D": "down", "U": "up"}
    assert all(spec.kind == kinds[spec.name[0]] for spec in model.block_table()[1:])


def expected_parameters(c: int, width: int) -> int:
    """Counted per block from the description, for the coursework's form."""

    def conv(i: int, o: int) -> int:
        return 9 * i * o + o

    total = conv(3, c) + (c * 4 * c + 4 * c) + (4 * c * 4 * c + 4 * c) + 2 * c + conv(c, 3)
    for name, i, o, *_ in figure_5():
        i, o = i * c, o * c
        if name[0] == "T":
            attentions = (4 * o * o + o) + (2 * o * o + 2 * width * o + o)
            feed_forward = (o * 8 * o + 8 * o) + (4 * o * o + o)
            total += 2 * o + 2 * (o * o + o) + attentions + feed_forward + 3 * 2 * o
        else:
            first = conv(i, o) if name[0] == "R" else 0
            total += 2 * i + first + (4 * c * o + o) + 2 * o + conv(o, o)
    return total


def test_parameter_count():
    with torch.device("meta"):
        model = SlotUNetModel(SlotUNetConfig())
        assert model.num_parameters() == expected_parameters(64, 192) == 33_655_555
        assert SlotUNetModel(SlotUNetConfig(preset="slotdiffusion")).num_parameters() == 135_235_971
        assert all(b.head_channels == 32 for b in model.modules() if hasattr(b, "head_channels"))


# --- The arithmetic, a second time ------------------------------------------------------------------------------------


class Reference:
    """Figures 3 to 5 from torch's functions and a flat dictionary of tensors, written out block by block."""

    def __init__(self, model: SlotUNetModel, slots: torch.Tensor):
        self.p, self.slots, self.config = dict(model.state_dict()), slots, model.config

    def linear(self, x, name):
        return F.linear(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"))

    def conv(self, x, name):
        return F.conv2d(
            x, self.p[f"{name}.weight"], self.p[f"{name}.bias"], padding=self.p[f"{name}.weight"].shape[2] // 2
        )

    def norm(self, x, name):
        return F.group_norm(x, self.config.num_groups, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def layer_norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def resample(self, x, how):
        if how == "down":
            return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def residual(self, x, name, how=None):
        name = f"blocks.{name}"
        h = F.silu(self.norm(x, f"{name}.norm_1"))
        h = self.resample(h, how) if how else self.conv(h, f"{name}.conv_1")
        u = h + self.linear(F.silu(self.t), f"{name}.time")[:, :, None, None]
        v = self.conv(F.silu(self.norm(u, f"{name}.norm_2")), f"{name}.conv_2")
        if not self.config.residual_form:
            return u + v
        if how:
            return self.resample(x, how) + v
        return (self.conv(x, f"{name}.shortcut") if f"{name}.shortcut.weight" in self.p else x) + v

    def attention(self, x, context, name):
        """One head at a time, with the softmax written out."""
        width, heads = self.config.head_channels, x.shape[2] // self.config.head_channels
        if f"{name}.query_key_value.weight" in self.p:
            q, k, v = self.linear(x, f"{name}.query_key_value").chunk(3, dim=2)
        else:
            q, (k, v) = self.linear(x, f"{name}.query"), self.linear(context, f"{name}.key_value").chunk(2, dim=2)
        answers = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
            answers.append(logits.softmax(2) @ v[..., part])
        return self.linear(torch.cat(answers, dim=2), f"{name}.out")

    def feed_forward(self, x, name):
        a, b = self.linear(x, f"{name}.gated").chunk(2, dim=2)
        return self.linear(a * F.gelu(b), f"{name}.out")

    def transformer(self, x, name):
        name = f"blocks.{name}"
        h = self.norm(x, f"{name}.norm").flatten(2).transpose(1, 2)
        h = self.linear(h, f"{name}.proj_in")
        for i in range(self.config.transformer_layers):
            layer = f"{name}.layers.{i}"
            for part in ("self_attention", "cross_attention", "feed_forward"):
                norm = f"{layer}.{part.replace('attention', 'norm') if 'attention' in part else part + '_norm'}"

                def branch(y, part=part, layer=layer):
                    if part == "feed_forward":
                        return self.feed_forward(y, f"{layer}.{part}")
                    return self.attention(y, y if part == "self_attention" else self.slots, f"{layer}.{part}")

                post = not self.config.residual_form
                h = h + (self.layer_norm(branch(h), norm) if post else branch(self.layer_norm(h, norm)))
        h = self.linear(h, f"{name}.proj_out").transpose(1, 2).unflatten(2, x.shape[2:])
        return x + h if self.config.residual_form else h

    def __call__(self, sample, timesteps):
        half = self.config.base_channels // 2
        angles = timesteps[:, None] / 10_000 ** (torch.arange(half, dtype=sample.dtype) / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        self.t = self.linear(F.silu(self.linear(waves, "time_embedding.linear_1")), "time_embedding.linear_2")
        r, t = self.residual, self.transformer
        c0 = self.conv(sample, "conv_in")
        r1 = r(c0, "R1")
        r2 = r(r1, "R2")
        d1 = r(r2, "D1", "down")
        t1 = t(r(d1, "R3"), "T1")
        t2 = t(r(t1, "R4"), "T2")
        d2 = r(t2, "D2", "down")
        t3 = t(r(d2, "R5"), "T3")
        t4 = t(r(t3, "R6"), "T4")
        d3 = r(t4, "D3", "down")
        t5 = t(r(d3, "R7"), "T5")
        t6 = t(r(t5, "R8"), "T6")
        x = r(t(r(t6, "R9"), "T7"), "R10")
        for name, skip, after in (("R11", t6, "T8"), ("R12", t5, "T9"), ("R13", d3, "T10")):
            x = t(r(torch.cat([x, skip], 1), name), after)
        x = r(x, "U1", "up")
        for name, skip, after in (("R14", t4, "T11"), ("R15", t3, "T12"), ("R16", d2, "T13")):
            x = t(r(torch.cat([x, skip], 1), name), after)
        x = r(x, "U2", "up")
        for name, skip, after in (("R17", t2, "T14"), ("R18", t1, "T15"), ("R19", d1, "T16")):
            x = t(r(torch.cat([x, skip], 1), name), after)
        x = r(x, "U3", "up")
        for name, skip in (("R20", r2), ("R21", r1), ("R22", c0)):
            x = r(torch.cat([x, skip], 1), name)
        x = self.norm(x, "norm_out")
        return self.conv(F.silu(x) if self.config.residual_form else x, "conv_out")


@pytest.mark.parametrize(
    "fields",
    [{}, {"transformer_layers": 2}, {"preset": "slotdiffusion"}, {"preset": "slotdiffusion", "transformer_layers": 2}],
)
def test_equals_a_functional_reference(fields):
    model = build(**fields).double().eval()
    sample, slots, timesteps = latents_for(2, 8, 16).double(), slots_for(2).double(), torch.tensor([3, 871])
    with torch.no_grad():
        expected = Reference(model, slots)(sample, timesteps.double())
        output = model(sample, timesteps, encoder_hidden_states=slots).sample
    assert output.shape == sample.shape
    assert expected.std() > 1e-3
    torch.testing.assert_close(output, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-4)  # fp32 angles


def test_slots_time_and_sample_all_matter_and_slots_have_no_order():
    model = build().eval()
    sample, slots = latents_for(2), slots_for(2)
    with torch.no_grad():
        first = model(sample, 10, slots).sample
        for other in (
            model(latents_for(2, seed=1), 10, slots),
            model(sample, 11, slots),
            model(sample, 10, slots_for(2, seed=1)),
        ):
            assert (other.sample - first).abs().max() > 1e-4
        torch.testing.assert_close(model(sample, 10, slots.flip(1)).sample, first, atol=1e-5, rtol=1e-5)
        single = torch.cat([model(s[None], 10, c[None]).sample for s, c in zip(sample, slots, strict=True)])
        torch.testing.assert_close(single, first, atol=1e-5, rtol=1e-5)
        assert model(sample, 10, slots_for(2, count=2)).sample.shape == sample.shape
        assert torch.equal(model(sample, torch.tensor(10), slots, return_dict=False)[0], first)
        torch.testing.assert_close(model(sample, torch.tensor([10, 10]), slots).sample, first, atol=1e-5, rtol=1e-5)


def test_a_fresh_model_answers_zero_and_every_parameter_learns():
    torch.manual_seed(0)
    model = SlotUNetModel(SlotUNetConfig(**TINY))
    assert model(latents_for(1), 5, slots_for(1)).sample.abs().max() == 0
    for preset in ("coursework", "slotdiffusion"):
        model = build(preset=preset, base_channels=8).train()
        model(latents_for(2, 16), torch.tensor([3, 500]), slots_for(2)).sample.square().mean().backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
        assert still == []
        groups = model.parameter_groups()
        names = sorted(name for name, _ in model.named_parameters())
        assert sorted(groups["decay"] + groups["no_decay"]) == names
        assert all(model.get_parameter(name).dim() > 1 for name in groups["decay"])


# --- Fast paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["coursework", "slotdiffusion"])
@pytest.mark.parametrize("layers", [1, 2])
def test_precomputed_slots_and_times_equal_the_plain_path(preset, layers):
    """5 slots for heads of 4 and of 8 channels: with keys and values as they are, and folded."""
    for head_channels in (4, 8):
        model = build(preset=preset, base_channels=8, head_channels=head_channels, transformer_layers=layers).eval()
        cache = model.precompute(slots_for(2), torch.tensor([980, 500, 20, 0]))
        assert cache.slots[0][0].dim() == (4 if head_channels == 4 else 3)
        with torch.no_grad():
            for t in (980, torch.tensor(500), torch.tensor([20, 0])):
                plain = model(latents_for(2), t, encoder_hidden_states=slots_for(2)).sample
                torch.testing.assert_close(model(latents_for(2), t, cache=cache).sample, plain, atol=1e-5, rtol=1e-5)


def test_precomputing_saves_its_work_and_refuses_what_it_lacks():
    model = build().eval()
    slots, timesteps = slots_for(2), torch.tensor([980, 500, 20, 0])
    cache = model.precompute(slots, timesteps)
    with torch.no_grad():
        with FlopCounterMode(display=False) as plainly:
            model(latents_for(2), 500, slots)
        with FlopCounterMode(display=False) as cached:
            model(latents_for(2), 500, cache=cache)
        layers = [m for m in model.modules() if type(m).__name__ == "SlotUNetResidualBlock"]
        c = model.config.base_channels
        time = 2 * (c * 4 * c + 4 * c * 4 * c + sum(4 * c * block.time.out_features for block in layers))
        attentions = [m.cross_attention for m in model.modules() if hasattr(m, "cross_attention")]
        assert len(layers) == 28 and len(attentions) == 16
        projections = sum(2 * 2 * 5 * 12 * a.key_value.out_features for a in attentions)  # 2 samples, 5 slots of 12
        assert plainly.get_total_flops() - cached.get_total_flops() == time + projections
    with pytest.raises(ValueError, match=r"timestep 7 is not in the cache"):
        model(latents_for(2), torch.tensor([20, 7]), cache=cache)
    with pytest.raises(ValueError, match="slots of 2 samples for a batch of 3"):
        model(latents_for(3), 20, cache=cache)


def test_traced_for_compilation_without_breaks_and_an_unknown_timestep_shows():
    model = build(channel_multipliers=(1, 2), attention_levels=(False, True), blocks_per_level=1).eval()
    slots = slots_for(1)
    cache = model.precompute(slots, torch.tensor([40, 20]))

    def step(sample, t):
        return model(sample, t, cache=cache).sample

    traced = torch.compile(step, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(latents_for(1), torch.tensor(20)), step(latents_for(1), 20))
        assert traced(latents_for(1), torch.tensor(21)).isnan().all()


@pytest.mark.parametrize("preset", ["coursework", "slotdiffusion"])
def test_checkpointed_activations_and_channels_last_give_the_same_step(preset):
    def gradients(model, memory_format):
        torch.manual_seed(0)  # dropout
        sample = latents_for(2).contiguous(memory_format=memory_format)
        model(sample, torch.tensor([3, 500]), slots_for(2)).sample.square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters()}

    plain = gradients(build(preset=preset, base_channels=8).train(), torch.contiguous_format)
    other = build(preset=preset, base_channels=8).train()
    other.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(other, torch.contiguous_format), plain, atol=1e-6, rtol=1e-5)
    last = build(preset=preset, base_channels=8).eval().to(memory_format=torch.channels_last)
    still = build(preset=preset, base_channels=8).eval()
    torch.testing.assert_close(
        gradients(last, torch.channels_last), gradients(still, torch.contiguous_format), atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize("preset", ["coursework", "slotdiffusion"])
def test_bf16_autocast_and_bf16_weights_are_close(preset):
    model = build(preset=preset, base_channels=8).eval()
    with torch.no_grad():
        exact = model(latents_for(2), 500, slots_for(2)).sample
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(latents_for(2), 500, slots_for(2)).sample
            cached = model(latents_for(2), 500, cache=model.precompute(slots_for(2), torch.tensor([500]))).sample
        half = model.to(torch.bfloat16)(latents_for(2), 500, slots_for(2)).sample
    for result in (mixed, cached, half):
        assert result.dtype == torch.bfloat16
        assert (result.float() - exact).norm() < 0.05 * exact.norm()


# --- Errors, configuration, and what the library asks -----------------------------------------------------------------


def test_wrong_shapes_give_one_clear_error():
    model = build().eval()
    slots = slots_for(2)
    for shape in ((2, 3, 8, 12), (2, 3, 4, 4), (2, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match=r"sample has shape .*\[B, 3, h, w\] with h and w divisible by 8"):
            model(torch.zeros(shape), 1, slots)
    for wrong in (torch.zeros(2, 5, 13), torch.zeros(2, 12)):
        with pytest.raises(ValueError, match=r"\(the slots\) has shape .* \[B, K, 12\]"):
            model(latents_for(2), 1, wrong)
    with pytest.raises(ValueError, match="slots of 3 samples for a batch of 2"):
        model(latents_for(2), 1, slots_for(3))
    with pytest.raises(ValueError, match="timestep has 3 values for a batch of 2"):
        model(latents_for(2), torch.tensor([1, 2, 3]), slots)
    with pytest.raises(ValueError, match="either encoder_hidden_states"):
        model(latents_for(2), 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "paper"}, "preset='paper' .*coursework, slotdiffusion"),
        ({"base_channels": 7}, "base_channels=7 .*even"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"channel_multipliers": (1, 2)}, "attention_levels=.*as long as channel_multipliers"),
        ({"num_groups": 3}, r"num_groups=3 .*divisor of the widths \[64, 128, 192, 256\]"),
        ({"head_channels": 48}, r"head_channels=48 .*divisor of the attending widths"),
        ({"dropout": 1.0}, r"dropout=1.0 .*\[0, 1\)"),
        ({"blocks_per_level": 0}, "blocks_per_level=0"),
        ({"cross_attention_dim": 0}, "cross_attention_dim=0"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        SlotUNetConfig(**fields)
    assert "\n" not in str(caught.value)


def test_save_and_load(tmp_path):
    model = build(preset="slotdiffusion", base_channels=16, channel_multipliers=(1, 2), attention_levels=(True, False))
    model.eval().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is SlotUNetConfig and config.base_channels == 16 and config.widths == [16, 32]
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is SlotUNetModel and not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        sample, slots = latents_for(1, 6, 2), slots_for(1)  # one halving: divisible by 2 will do
        torch.testing.assert_close(loaded(sample, 5, slots).sample, model(sample, 5, slots).sample)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    siblings = {"configuration_slot_unet", "modeling_slot_unet", "slot_unet_blocks", "field_checks"}
    siblings |= {"stored_weights", "group_norm", "normalization", "normalization_passes"}
    assert {path.stem for path in tmp_path.glob("*.py")} == siblings


def test_a_missing_tensor_is_initialised_like_a_fresh_one():
    model = build()
    state = {k: v for k, v in model.state_dict().items() if "conv_out" not in k and "norm_out" not in k}
    loaded = SlotUNetModel.from_pretrained(None, config=model.config, state_dict=state)
    assert loaded.conv_out.weight.abs().max() == 0 and (loaded.norm_out.weight == 1).all()
    assert torch.equal(loaded.conv_in.weight, model.conv_in.weight)
