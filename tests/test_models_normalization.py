"""The hand-written norms against torch's own layers, float64 numerical derivatives and golden values."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import normalization
from models.normalization import (
    NORM_NAMES,
    BatchInstanceNorm2d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm2d,
    build_norm,
)

CHANNELS = 16
FORMATS = [torch.contiguous_format, torch.channels_last]
PAIRS = {
    "bn": (BatchNorm2d, nn.BatchNorm2d),
    "in": (InstanceNorm2d, lambda channels: nn.InstanceNorm2d(channels, affine=True)),
    "ln": (LayerNorm2d, lambda channels: nn.GroupNorm(1, channels)),
    "gn": (lambda channels: GroupNorm(4, channels), lambda channels: nn.GroupNorm(4, channels)),
}
OWN = [name for name in NORM_NAMES if name not in ("torch_bn", "none")]


class TorchBatchInstanceNorm2d(nn.Module):
    """Nam & Kim's blend of torch's own layers."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.batch, self.instance = nn.BatchNorm2d(num_channels, affine=False), nn.InstanceNorm2d(num_channels)
        self.weight, self.bias = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels))
        self.gate = nn.Parameter(torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        gate, weight, bias = (p[:, None, None] for p in (self.gate, self.weight, self.bias))
        return (gate * self.batch(x) + (1 - gate) * self.instance(x)) * weight + bias


PAIRS["bin"] = (BatchInstanceNorm2d, TorchBatchInstanceNorm2d)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's with the same random parameters."""
    ours, theirs = (make(CHANNELS) for make in PAIRS[name])
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.uniform_(0.2, 0.8)
    copied = dict(ours.named_parameters())
    for key, parameter in theirs.named_parameters():
        parameter.data.copy_(copied[key])
    return ours, theirs


def run(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output and all gradients of one step."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(grad)
    return {"y": y.detach(), "x": x.grad} | {key: p.grad.clone() for key, p in layer.named_parameters()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Equal to `tolerance`, relative to each tensor's largest value."""
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours[key].float(), expected.float(), rtol=0, atol=tolerance * scale, msg=key)


def images(*shape: int, memory_format=torch.contiguous_format, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Input of mean 3 and deviation 2, and an output gradient."""
    x = (torch.randn(shape) * 2 + 3).to(dtype).contiguous(memory_format=memory_format)
    return x, torch.randn_like(x)


@pytest.fixture
def small_pieces(monkeypatch):
    """Makes the pieces so small that a tiny input has many, cut within samples, with a shorter last one."""
    monkeypatch.setattr(normalization.Pieces, "SIZE", 192)
    monkeypatch.setattr(normalization.Pieces, "ROW", 32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch_in_forward_and_backward(name, memory_format, training, small_pieces):
    ours, theirs = pair(name)
    for shape in ((4, CHANNELS, 9, 8), (3, CHANNELS, 7, 1), (1, CHANNELS, 5, 5)):
        x, grad = images(*shape, memory_format=memory_format)
        ours.train()(x), theirs.train()(x)  # moves the running statistics
        ours.train(training), theirs.train(training)
        found = run(ours, x, grad)
        # Contiguous truth: torch 2.14's InstanceNorm2d has a wrong gradient for one channels-last sample.
        assert_same(found, run(theirs, x.contiguous(), grad.contiguous()))
        assert found["y"].stride() == x.stride()
        assert found["x"].stride() == x.stride()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(OWN),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(2, 13)),
    last=st.booleans(),
    size=st.integers(16, 5000),
    row=st.integers(1, 600),
)
def test_pieces_of_any_size_equal_whole_tensor_formulas(name, shape, last, size, row):
    torch.manual_seed(0)
    # float64, since the variance of a handful of values can be small enough to magnify float32's rounding
    x, grad = images(shape[0], CHANNELS, *shape[1:], memory_format=FORMATS[last], dtype=torch.float64)
    ours = pair(name)[0].double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization.Pieces, "SIZE", size)
        patch.setattr(normalization.Pieces, "ROW", row)
        pieces = run(ours, x, grad)
        patch.setattr(normalization, "Pieces", normalization.Whole)
        assert_same(pieces, run(ours, x, grad))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OWN)
def test_numerical_first_and_second_derivatives(name, training):
    layer = build_norm(name, 4, num_groups=2).double().train(training)
    names = [key for key, _ in layer.named_parameters()]
    inputs = [torch.randn(2, 4, 3, 2, dtype=torch.double, requires_grad=True)]
    inputs += [torch.rand(4, dtype=torch.double, requires_grad=True) for _ in names]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_double_backward_equals_torch(name):
    found = []
    x, grad = images(4, CHANNELS, 5, 6)
    for layer in pair(name):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(leaf), leaf, grad, create_graph=True)
        first.square().sum().backward()
        found.append({"x": leaf.grad, "weight": layer.weight.grad})
    assert_same(*found)


@pytest.mark.parametrize("name", ["bn", "bin"])
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics_equal_torch(name, momentum):
    ours = PAIRS[name][0](CHANNELS, momentum=momentum)
    theirs = nn.BatchNorm2d(CHANNELS, momentum=momentum)
    for batch in (4, 2, 7):
        x, _ = images(batch, CHANNELS, 3, 5)
        ours(x), theirs(x)
    ours.eval()(x)
    for key, expected in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[key], expected, rtol=1e-5, atol=1e-6)


def test_without_running_statistics_and_affine():
    x, grad = images(4, CHANNELS, 5, 5)
    arguments = {"affine": False, "track_running_stats": False}
    ours, theirs = BatchNorm2d(CHANNELS, **arguments), nn.BatchNorm2d(CHANNELS, **arguments)
    for training in (True, False):
        assert_same(run(ours.train(training), x, grad), run(theirs.train(training), x, grad))
    assert not ours.state_dict()
    for ours, theirs in (
        (InstanceNorm2d(CHANNELS, affine=False), nn.InstanceNorm2d(CHANNELS)),
        (GroupNorm(4, CHANNELS, eps=0.1, affine=False), nn.GroupNorm(4, CHANNELS, eps=0.1, affine=False)),
    ):
        assert_same(run(ours, x, grad), run(theirs, x, grad))


@pytest.mark.parametrize("name", ["bn", "in", "ln", "gn"])
def test_weights_interchange_both_ways(name):
    x, _ = images(4, CHANNELS, 5, 5)
    for source, target in (PAIRS[name], PAIRS[name][::-1]):
        source, target = source(CHANNELS), target(CHANNELS)
        nn.init.uniform_(source.weight), nn.init.uniform_(source.bias)
        source(x)
        assert list(source.state_dict()) == list(target.state_dict())
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(source.eval()(x), target.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_inputs_have_float32_statistics(name, dtype, memory_format, small_pieces):
    ours, theirs = pair(name)
    x, grad = images(4, CHANNELS, 9, 8, memory_format=memory_format, dtype=dtype)
    with torch.autocast("cpu", dtype):
        found = run(ours, x, grad)
    expected = run(theirs, x.float(), grad.float())
    assert found["y"].dtype == found["x"].dtype == dtype
    assert found["y"].stride() == found["x"].stride() == x.stride()
    assert ours.weight.grad.dtype == torch.float32
    rounding = 2 * torch.finfo(dtype).eps
    assert_same({key: found[key] for key in "yx"}, {key: expected[key] for key in "yx"}, rounding)
    exact = [key for key in found if key not in "yx"]
    assert_same({key: found[key] for key in exact}, {key: expected[key] for key in exact})


@pytest.mark.parametrize("name", ["bn", "bin"])
def test_half_precision_parameters(name):
    layer = build_norm(name, CHANNELS).bfloat16()
    x, grad = images(4, CHANNELS, 9, 8, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in run(layer, x, grad).values()} == {torch.bfloat16}
    assert layer.eval()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", OWN)
def test_large_offset_keeps_its_variance(name, memory_format):
    x = (torch.randn(4, CHANNELS, 32, 32) + 1000).contiguous(memory_format=memory_format)
    grad = torch.randn_like(x)
    ours, _ = pair(name)
    exact = run(copy.deepcopy(ours).double(), x.double(), grad.double())
    exact.pop("gate", None)  # a difference of two nearly equal sums
    found = run(ours, x, grad)
    assert_same({key: found[key] for key in exact}, exact, 2e-4)  # the spacing of float32 at 1000 is 6e-5
    if name == "bn":
        torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * x.double().var((0, 2, 3)).float(), rtol=1e-6, atol=0)


def test_long_sums_stay_accurate():
    x = torch.randn(4, CHANNELS, 256, 256).contiguous(memory_format=torch.channels_last)
    layer = BatchNorm2d(CHANNELS, momentum=1.0)
    layer(x)
    torch.testing.assert_close(layer.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", OWN)
def test_keeps_one_input_sized_tensor_for_backward(name, memory_format):
    x, _ = images(4, CHANNELS, 16, 16, memory_format=memory_format)
    storages: dict[int, int] = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = build_norm(name, CHANNELS)(x.requires_grad_())
    assert y.grad_fn is not None
    assert storages.pop(x.untyped_storage().data_ptr()) == x.numel() * 4
    assert sum(storages.values()) < 0.15 * x.numel() * 4


@pytest.mark.parametrize("name", OWN)
def test_other_strides_and_expanded_gradients(name):
    ours, theirs = pair(name)
    x = torch.randn(6, 20, CHANNELS, 4).transpose(1, 2)[::2, :, 3:9]  # a view with holes
    grad = torch.ones(()).expand(x.shape)
    assert_same(run(ours, x, grad), run(theirs, x, grad), 2e-5)
    leaf = x.detach().requires_grad_()
    ours(leaf).sum().backward()
    assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["bn", "bin", "gn"])
def test_captured_without_graph_break_equals_eager(name, training):
    # aot_eager captures the graph and derives nothing else; code generation takes longer and is tested once below.
    eager, _ = pair(name)
    captured = copy.deepcopy(eager.train(training))
    captured.compile(fullgraph=True, backend="aot_eager")
    x, grad = images(4, CHANNELS, 8, 8, memory_format=torch.channels_last)
    x[0, :, 0, 0] += 100.0  # an outlier in the row whose mean shifts the statistics
    assert_same(run(captured, x, grad), run(eager, x, grad))
    for key, buffer in eager.named_buffers():
        torch.testing.assert_close(dict(captured.named_buffers())[key], buffer)


def test_compiled_by_inductor_equals_eager():
    eager, _ = pair("bin")
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True)
    x, grad = images(4, CHANNELS, 8, 8, memory_format=torch.channels_last)
    found = run(compiled, x, grad)
    assert_same(found, run(eager, x, grad))
    assert found["y"].stride() == found["x"].stride() == x.stride()
    torch.testing.assert_close(compiled.running_var, eager.running_var)


def test_batch_instance_norm_golden_values(shared):
    golden = {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / "reference" / "batch_instance_norm_golden.npz").items()
    }
    layer = BatchInstanceNorm2d(golden["weight"].numel())
    layer.load_state_dict({key: golden[key] for key in ("weight", "bias", "gate")}, strict=False)
    found = run(layer, golden["x"], golden["grad_output"])
    assert_same(found, {"y": golden["y"]} | {key: golden[f"grad_{key}"] for key in ("x", "weight", "bias", "gate")})
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(layer, key), golden[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.eval()(golden["x"]), golden["y_eval"], rtol=1e-5, atol=1e-5)


def test_gate_is_clamped_in_place():
    layer = BatchInstanceNorm2d(3)
    assert torch.equal(layer.gate, torch.ones(3))
    gate = layer.gate
    with torch.no_grad():
        gate.copy_(torch.tensor([-0.5, 0.25, 1.5]))
    layer.clamp_gate_()
    assert layer.gate is gate
    assert gate.tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("name", OWN)
def test_one_value_per_channel_is_refused_in_training_only(name):
    layer = build_norm(name, CHANNELS, num_groups=CHANNELS)
    x = torch.randn(1, CHANNELS, 1, 1)
    if name == "ln":  # a sample's channels are many values
        layer = LayerNorm2d(1)
        x = x[:, :1]
    with pytest.raises(ValueError, match=r"shape \(1, .*one value per channel in training.*eval"):
        layer(x)
    assert layer.eval()(x).isfinite().all()


@pytest.mark.filterwarnings("ignore:var_mean")
@pytest.mark.parametrize("name", OWN)
def test_an_empty_batch_goes_through(name):
    x = torch.zeros(0, CHANNELS, 3, 5, requires_grad=True)
    y = build_norm(name, CHANNELS).eval()(x)
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [(), (CHANNELS,), (4, CHANNELS, 5), (4, CHANNELS, 2, 2, 2)])
def test_wrong_dimensions_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"expected an input \[N, 16, H, W\], got shape .* reshape"):
        build_norm(name, CHANNELS)(torch.randn(shape))


@pytest.mark.parametrize("name", OWN)
def test_wrong_channels_are_refused(name):
    with pytest.raises(ValueError, match=r"\[N, 16, H, W\], got shape \(4, 8, 5, 5\); .*num_channels=8"):
        build_norm(name, CHANNELS)(torch.randn(4, 8, 5, 5))


def test_build_norm():
    kinds = (nn.BatchNorm2d, BatchNorm2d, InstanceNorm2d, BatchInstanceNorm2d, LayerNorm2d, GroupNorm, nn.Identity)
    assert [type(build_norm(name, 32)) for name in NORM_NAMES] == list(kinds)
    assert build_norm("gn", 32, num_groups=4).num_groups == 4
    assert build_norm("bn", 32, sync=True).sync
    assert build_norm("bin", 32, sync=True).sync
    with pytest.raises(ValueError, match=r"'group' is not known; did you mean"):
        build_norm("group", 32)
    with pytest.raises(ValueError, match=r"'gnn' is not known; did you mean 'gn'"):
        build_norm("gnn", 32)
    with pytest.raises(ValueError, match=r"num_groups=5 does not divide num_channels=32; choose one of \[1, 2, 4"):
        build_norm("gn", 32, num_groups=5)
    with pytest.raises(ValueError, match="num_channels=0"):
        build_norm("bn", 0)


def test_repr_names_the_settings():
    assert "16, eps=1e-05, affine=True, momentum=0.1, track_running_stats=True" in repr(BatchNorm2d(16))
    assert "sync=True" in repr(BatchNorm2d(16, sync=True))
    assert "num_groups=4, 16" in repr(GroupNorm(4, 16))
