"""The 6n+2 ResNet: its layers against an independent reference, its loss, and what a trainer asks of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_resnet import NORMS, build, images, with_odd_values

from models import ResNet6n2Config, ResNet6n2ForImageClassification

# --- Architecture -----------------------------------------------------------------------------------------------------


def expected_parameters(n: int, r: int, norm: str, shortcut: str) -> int:
    """Counted per layer from the description of the paper, not from the code."""
    per_channel = {"none": 1, "bin": 3}.get(norm, 2)  # bias; scale, shift and gate; scale and shift

    def layer(c_in: int, c_out: int, k: int) -> int:
        return k * k * c_in * c_out + per_channel * c_out

    same = sum((2 * n - (stage > 0)) * layer(width, width, 3) for stage, width in enumerate((16, 32, 64)))
    changes = layer(16, 32, 3) + layer(32, 64, 3)
    projections = layer(16, 32, 1) + layer(32, 64, 1) if shortcut == "B" else 0
    return layer(3, 16, 3) + same + changes + projections + 64 * r + r


@pytest.mark.parametrize(
    ("n", "r", "norm", "shortcut"),
    [(2, 25, norm, shortcut) for norm in NORMS for shortcut in "AB"]
    + [(1, 2, "bn", "A"), (3, 10, "none", "B"), (5, 10, "bin", "A"), (9, 100, "gn", "A")],
)
def test_parameter_count(n, r, norm, shortcut):
    model = build(n=n, num_labels=r, norm=norm, shortcut=shortcut)
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(n, r, norm, shortcut)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convs) + 1 == 6 * n + 2  # and the linear layer


def test_the_courseworks_net_has_173481_parameters():
    model = ResNet6n2ForImageClassification(ResNet6n2Config())
    assert model.num_parameters() == expected_parameters(2, 25, "bn", "A") == 173_481


@pytest.mark.parametrize(
    ("size", "maps"), [((256, 256), (256, 128, 64)), ((32, 32), (32, 16, 8)), ((33, 33), (33, 17, 9))]
)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_shapes_layer_by_layer(size, maps, shortcut):
    model = build(n=2, num_labels=25, shortcut=shortcut).eval()
    shapes = []
    for conv in model.conv_layers():
        conv.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        outputs = model.resnet(torch.randn(1, 3, *size), output_hidden_states=True)
        logits = model.classifier(outputs.pooler_output)
    assert shapes == [(1, width, m, m) for width, m in zip((16, 32, 64), maps, strict=True) for _ in range(4)]
    assert [tuple(h.shape) for h in outputs.hidden_states] == [
        (1, width, m, m) for width, m in zip((16, 16, 32, 64), (maps[0], *maps), strict=True)
    ]
    assert outputs.pooler_output.shape == (1, 64) and logits.shape == (1, 25)


def test_convolutions_have_strides_and_biases_where_they_belong():
    for norm in NORMS:
        model = build(n=3, norm=norm, shortcut="B")
        assert [conv.stride[0] for conv in model.conv_layers()] == [1] * 6 + ([2] + [1] * 5) * 2
        convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        assert all((conv.bias is not None) == (norm == "none") for conv in convs)
    assert model.gradcam_layers() == model.conv_layers()[-6:]
    assert [conv.out_channels for conv in model.gradcam_layers()] == [64] * 6


def functional_norm(norm, x, p, prefix, training):
    """torch's own functions on the model's tensors."""
    if norm == "none":
        return x
    weight, bias = p[f"{prefix}.weight"], p[f"{prefix}.bias"]
    if norm == "gn":
        return F.group_norm(x, 8, weight, bias)
    if norm == "ln":
        return F.group_norm(x, 1, weight, bias)
    if norm == "in":
        return F.instance_norm(x, weight=weight, bias=bias)
    running = [p[f"{prefix}.{name}"].detach().clone() for name in ("running_mean", "running_var")]
    if norm in ("bn", "torch_bn"):
        return F.batch_norm(x, *running, weight, bias, training)
    gate = p[f"{prefix}.gate"][:, None, None]
    mixed = gate * F.batch_norm(x, *running, training=training) + (1 - gate) * F.instance_norm(x)
    return mixed * weight[:, None, None] + bias[:, None, None]


def functional_resnet(config, x, p, training):
    """The net of section 4.2, assembled a second time from torch's functions and a flat dictionary of tensors."""

    def layer(x, prefix, stride=1, padding=1):
        x = F.conv2d(x, p[f"{prefix}.conv.weight"], p.get(f"{prefix}.conv.bias"), stride, padding)
        return functional_norm(config.norm, x, p, f"{prefix}.norm", training)

    x = layer(x, "resnet.stem").clamp_min(0)
    for i in range(3):
        for j in range(config.n):
            block, stride = f"resnet.stages.{i}.{j}", 2 if i > 0 and j == 0 else 1
            if stride == 1:
                shortcut = x
            elif config.shortcut == "A":
                subsampled = F.max_pool2d(x, kernel_size=1, stride=2)
                shortcut = torch.cat([subsampled, torch.zeros_like(subsampled)], dim=1)
            else:
                shortcut = layer(x, f"{block}.shortcut", stride=2, padding=0)
            y = layer(layer(x, f"{block}.layer1", stride).clamp_min(0), f"{block}.layer2")
            x = (shortcut + y).clamp_min(0)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), p["classifier.weight"], p["classifier.bias"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_a_functional_reference(norm, shortcut, training):
    model = with_odd_values(build(n=2, norm=norm, shortcut=shortcut)).train(training)
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
    for name, _ in model.named_parameters():
        tensors[name].requires_grad_()
    x = images(4, 16)
    labels = torch.tensor([0, 1, 2, 4])

    expected = functional_resnet(model.config, x, tensors, training)
    output = model(x, labels=labels)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
    expected_loss = -expected.log_softmax(1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(output.loss, expected_loss, atol=1e-5, rtol=1e-5)
    output.loss.backward()
    expected_loss.backward()
    for name, parameter in model.named_parameters():
        scale = max(1.0, tensors[name].grad.abs().max().item())
        torch.testing.assert_close(parameter.grad, tensors[name].grad, atol=1e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("norm", NORMS)
def test_channels_last_is_kept(norm):
    for shortcut in "AB":
        model = build(norm=norm, shortcut=shortcut).train()
        expected = model(images()).logits
        model = build(norm=norm, shortcut=shortcut).train().to(memory_format=torch.channels_last)
        kept = {}
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *call, name=name, kept=kept: kept.update({name: call[2]}))
        logits = model(images().to(memory_format=torch.channels_last)).logits
        assert any(name.endswith("shortcut") for name in kept)
        for name in [name for name, output in kept.items() if torch.is_tensor(output) and output.ndim == 4]:
            assert kept[name].is_contiguous(memory_format=torch.channels_last), name
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_activations_of_the_convolutions_are_not_overwritten(norm):
    model = build(n=2, norm=norm)
    seen = []
    for layer in model.conv_layers():
        layer.register_forward_hook(lambda module, args, output: seen.append((output, output.detach().clone())))
    model(images()).logits.sum().backward()
    assert len(seen) == 12 and all(torch.equal(output, copy) for output, copy in seen)


@pytest.mark.parametrize("norm", NORMS)
def test_compiles_into_one_graph(norm):
    torch.compiler.reset()
    labels = torch.tensor([0, 1, 2, 4])
    results = []
    for compiled in (False, True):
        model = build(norm=norm)
        step = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        output = step(images(), labels=labels)
        output.loss.backward()
        results.append((output.logits, output.loss, model.classifier.weight.grad, model.resnet.stem.conv.weight.grad))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
)
def test_wrong_images_are_refused(wrong):
    with pytest.raises(ValueError, match=r"pixel_values is .*takes normalised floating-point images \[batch, 3"):
        build()(wrong)


# --- Loss -------------------------------------------------------------------------------------------------------------


def test_loss_of_hard_and_soft_labels():
    model = build(label_smoothing=0.2)
    hard = torch.tensor([0, 3, 1, 4])
    soft = torch.rand(4, 5).softmax(1)
    for training in (True, False):
        model.train(training)
        for labels, target in ((hard, F.one_hot(hard, 5).float()), (soft, soft), (F.one_hot(hard, 5).double(), None)):
            output = model(images(), labels=labels)
            target = F.one_hot(hard, 5).float() if target is None else target
            target = 0.8 * target + 0.2 / 5 if training else target
            expected = -(target * output.logits.log_softmax(1)).sum(1).mean()
            torch.testing.assert_close(output.loss, expected)


def test_loss_is_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        output = build()(images(), labels=torch.tensor([0, 3, 1, 4]))
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32


@pytest.mark.parametrize(
    "labels", [torch.zeros(4, 5, dtype=torch.long), torch.zeros(4), torch.zeros(3).long(), torch.zeros(4, 6)]
)
def test_wrong_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels are .*class indices \[4\] or floating-point soft labels \[4, 5\]"):
        build()(images(), labels=labels)


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains(norm):
    model = build(norm=norm, n=2).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(4):
        loss = model(images(), labels=torch.tensor([0, 1, 2, 4])).loss
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_bn_follows_the_curve_of_torch_bn():
    """The coursework's sanity check: same seed, same data, same curve."""
    generator = torch.Generator().manual_seed(3)
    prototypes = torch.randn(5, 3, 16, 16, generator=generator)
    batches = []
    for _ in range(30):
        labels = torch.randint(5, (16,), generator=generator)
        batches.append((prototypes[labels] + torch.randn(16, 3, 16, 16, generator=generator), labels))
    curves, evaluated = {}, {}
    for norm in ("torch_bn", "bn"):
        model = build(norm=norm).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        curves[norm] = []
        for pixel_values, labels in batches:
            loss = model(pixel_values, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curves[norm].append(loss.item())
        evaluated[norm] = model.eval()(batches[0][0], labels=batches[0][1]).loss.item()
    assert curves["torch_bn"][-1] < 0.5 * curves["torch_bn"][0]
    np.testing.assert_allclose(curves["bn"], curves["torch_bn"], atol=2e-3)
    assert evaluated["bn"] == pytest.approx(evaluated["torch_bn"], abs=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_parameter_groups(norm):
    model = build(norm=norm, shortcut="B")
    groups = model.parameter_groups()
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    tensors = dict(model.named_parameters())
    assert all(tensors[name].ndim in (2, 4) for name in groups["decay"])
    assert all(tensors[name].ndim == 1 for name in groups["no_decay"])
    assert len(groups["decay"]) == 1 + 6 + 2 + 1  # stem, blocks, projections, linear
    assert ("gate" in groups) == (norm == "bin")
    if norm == "bin":
        assert len(groups["gate"]) == 9 and all((tensors[name] == 1).all() for name in groups["gate"])
        with torch.no_grad():
            for name in groups["gate"]:
                tensors[name].copy_(torch.linspace(-1, 2, tensors[name].numel()))
        model.after_optimizer_step()
        assert all(tensors[name].min() == 0 and tensors[name].max() == 1 for name in groups["gate"])


@pytest.mark.parametrize("norm", ["bn", "torch_bn", "bin", "gn"])
def test_checkpointed_activations_give_the_same_step(norm):
    """Gradients, and running statistics too: the second run of a block must not move them again."""
    states = []
    for checkpointed in (False, True):
        model = build(norm=norm, n=2).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            calls = []
            first = model.resnet.stages[0][0].layer1.conv
            first.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(images(), labels=torch.tensor([0, 1, 2, 4])).loss.backward()
        states.append({**model.state_dict(), **{f"grad {n}": p.grad for n, p in model.named_parameters()}})
    assert len(calls) == 2
    torch.testing.assert_close(states[1], states[0], atol=0, rtol=0)
