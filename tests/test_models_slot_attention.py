"""Slot Attention against golden values, a slow loop of algorithm 1, and its own unfolded form."""

import math

import numpy as np
import pytest
import torch
from small_slot_attention import noise, with_odd_values

from models.slot_attention import SlotAttention, SoftPositionEmbedding


def module(seed: int = 0, **fields) -> SlotAttention:
    torch.manual_seed(seed)
    settings = {"input_size": 6, "slot_size": 4, "num_slots": 3, "mlp_hidden_size": 5, **fields}
    return with_odd_values(SlotAttention(**settings))


def double(*shape: int, seed: int = 1) -> torch.Tensor:
    return noise(*shape, seed=seed, dtype=torch.float64)


# --- Values -----------------------------------------------------------------------------------------------------------

GOLDEN_NAMES = {"slots_mu": "slots_mu", "gru.": "gru.", "norm_input.": "norm_inputs.", "norm_slots.": "norm_slots."}
GOLDEN_NAMES |= {"to_q.": "project_q.", "to_k.": "project_k.", "to_v.": "project_v.", "norm_pre_ff.": "norm_mlp."}
GOLDEN_NAMES |= {"fc1.": "mlp.0.", "fc2.": "mlp.2."}


@pytest.mark.parametrize("fold", [True, False])
def test_equals_the_golden_values(shared, fold):
    golden = np.load(shared / "reference/slot_attention_golden.npz")
    state = {}
    for key in golden.files:
        if key.startswith("param.") and key != "param.slots_sigma":
            name = key.removeprefix("param.")
            prefix = next(p for p in GOLDEN_NAMES if name.startswith(p))
            tensor = torch.from_numpy(golden[key])
            state[name.replace(prefix, GOLDEN_NAMES[prefix], 1)] = tensor.clone()
    state["slots_log_sigma"] = torch.from_numpy(golden["param.slots_sigma"]).log()
    attention = SlotAttention(32, 32, 5, mlp_hidden_size=64, qkv_bias=True, fold_projections=fold)
    attention.load_state_dict(state)
    slots, weights = attention(torch.from_numpy(golden["inputs"]), torch.from_numpy(golden["slots_init"]))
    np.testing.assert_allclose(slots.detach().numpy(), golden["slots"], atol=2e-6)
    assert weights.shape == (2, 5, 49)


def slow_slot_attention(p, inputs, slots, iterations, epsilon):
    """Algorithm 1 for one image, number by number; `p` maps names to nested lists."""

    def layer_norm(v, name):
        mean = sum(v) / len(v)
        std = math.sqrt(sum((e - mean) ** 2 for e in v) / len(v) + 1e-5)
        return [(e - mean) / std * g + b for e, g, b in zip(v, p[f"{name}.weight"], p[f"{name}.bias"], strict=True)]

    def linear(v, weight, bias=None):
        rows = [sum(w * e for w, e in zip(row, v, strict=True)) for row in weight]
        return rows if bias is None else [r + b for r, b in zip(rows, bias, strict=True)]

    def project(v, name):
        return linear(v, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def sigmoid(e):
        return 1 / (1 + math.exp(-e))

    def gru(u, h):
        d = len(h)
        i = linear(u, p["gru.weight_ih"], p["gru.bias_ih"])
        j = linear(h, p["gru.weight_hh"], p["gru.bias_hh"])
        r = [sigmoid(i[e] + j[e]) for e in range(d)]
        z = [sigmoid(i[d + e] + j[d + e]) for e in range(d)]
        n = [math.tanh(i[2 * d + e] + r[e] * j[2 * d + e]) for e in range(d)]
        return [(1 - z[e]) * n[e] + z[e] * h[e] for e in range(d)]

    inputs = [layer_norm(x, "norm_inputs") for x in inputs]
    k, v = [project(x, "project_k") for x in inputs], [project(x, "project_v") for x in inputs]
    size = len(slots[0])
    for _ in range(iterations):
        q = [project(layer_norm(s, "norm_slots"), "project_q") for s in slots]
        attention = []  # per input, over the slots
        for key in k:
            logits = [sum(a * b for a, b in zip(key, query, strict=True)) / math.sqrt(size) for query in q]
            exponentials = [math.exp(e) for e in logits]
            attention.append([e / sum(exponentials) for e in exponentials])
        updated = []
        for slot, previous in enumerate(slots):
            column = [row[slot] + epsilon for row in attention]
            weights = [e / sum(column) for e in column]
            update = [sum(w * value[e] for w, value in zip(weights, v, strict=True)) for e in range(size)]
            state = gru(update, previous)
            hidden = [max(e, 0.0) for e in linear(layer_norm(state, "norm_mlp"), p["mlp.0.weight"], p["mlp.0.bias"])]
            residual = linear(hidden, p["mlp.2.weight"], p["mlp.2.bias"])
            updated.append([a + b for a, b in zip(state, residual, strict=True)])
        slots = updated
    return slots, [list(column) for column in zip(*attention, strict=True)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fold", [True, False])
def test_equals_a_slow_loop_of_algorithm_1(fold, bias):
    attention = module(qkv_bias=bias, fold_projections=fold, epsilon=1e-3).double()
    inputs, start = double(2, 7, 6), double(2, 3, 4, seed=2)
    slots, weights = attention(inputs, start)
    p = {name: tensor.tolist() for name, tensor in attention.state_dict().items()}
    for image in range(2):
        expected = slow_slot_attention(p, inputs[image].tolist(), start[image].tolist(), 3, 1e-3)
        np.testing.assert_allclose(slots[image].detach(), expected[0], atol=1e-12)
        np.testing.assert_allclose(weights[image].detach(), expected[1], atol=1e-12)


# --- The fold ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fold_equals_the_plain_form_with_all_gradients(bias, iterations):
    found = []
    for fold in (True, False):
        attention = module(qkv_bias=bias, fold_projections=fold, num_iterations=iterations).double()
        inputs, start = double(2, 11, 6).requires_grad_(), double(2, 5, 4, seed=2).requires_grad_()
        slots, weights = attention(inputs, start)
        loss = (slots * double(*slots.shape, seed=3)).sum() + (weights.square() * double(2, 5, 11, seed=4)).sum()
        wanted = [inputs, start] + [p for n, p in attention.named_parameters() if "_mu" not in n and "_sig" not in n]
        found.append((slots, weights, *torch.autograd.grad(loss, wanted)))
    assert all(gradient.abs().max() > 0 for gradient in found[1])
    for folded, plain in zip(*found, strict=True):
        torch.testing.assert_close(folded, plain, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("fold", [True, False])
def test_the_implicit_gradient_is_that_of_the_last_round(fold):
    attention = module(fold_projections=fold, implicit_gradient=True, num_iterations=3).double()
    inputs, start = double(2, 11, 6).requires_grad_(), double(2, 5, 4, seed=2).requires_grad_()
    parameters = [p for n, p in attention.named_parameters() if not n.startswith("slots_")]
    slots, weights = attention(inputs, start)
    found = torch.autograd.grad(slots.square().sum() + weights.square().sum(), [inputs, start, *parameters])
    one_round = module(fold_projections=fold, num_iterations=1).double()
    one_round.load_state_dict(attention.state_dict())
    before = module(fold_projections=fold, num_iterations=2).double()
    before.load_state_dict(attention.state_dict())
    leaf = before(inputs, start)[0].detach().requires_grad_()
    last = one_round(inputs, leaf)
    torch.testing.assert_close((slots, weights), last, atol=1e-14, rtol=0)
    parameters = [p for n, p in one_round.named_parameters() if not n.startswith("slots_")]
    expected = torch.autograd.grad(last[0].square().sum() + last[1].square().sum(), [inputs, leaf, *parameters])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    unrolled = module(fold_projections=fold, num_iterations=3).double()
    unrolled.load_state_dict(attention.state_dict())
    torch.testing.assert_close(slots, unrolled(inputs, start)[0], atol=0, rtol=0)
    attention(inputs, noise=noise(2, 4, 4).double())[0].square().sum().backward()
    assert attention.slots_mu.grad.abs().min() > 0 and attention.slots_log_sigma.grad.abs().min() > 0


def test_gradients_are_those_of_finite_differences():
    attention = module(qkv_bias=True, num_iterations=2).double()
    inputs, start = double(1, 4, 6).requires_grad_(), double(1, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: attention(x, s), (inputs, start), atol=1e-6)


def test_second_derivatives():
    found = []
    for fold in (True, False):
        attention = module(fold_projections=fold, num_iterations=2).double()
        inputs, start = double(1, 5, 6).requires_grad_(), double(1, 3, 4, seed=2).requires_grad_()
        first = torch.autograd.grad(attention(inputs, start)[0].square().sum(), (inputs, start), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), (inputs, start)))
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-8)


def test_gradients_of_a_part_of_the_graph_and_twice():
    attention = module().double()
    frozen = double(2, 9, 6)
    inputs, start = frozen.clone().requires_grad_(), double(2, 3, 4, seed=2)
    slots, weights = attention(inputs, start)
    weight = attention.project_k.weight
    first = torch.autograd.grad(slots.sum(), weight, retain_graph=True)[0]
    both = torch.autograd.grad(slots.sum(), (weight, inputs), retain_graph=True)
    again = torch.autograd.grad(slots.sum(), (weight, inputs), retain_graph=True)
    torch.testing.assert_close(first, both[0], atol=0, rtol=0)
    torch.testing.assert_close(both, again, atol=0, rtol=0)
    without_inputs = torch.autograd.grad(attention(frozen, start)[0].sum(), weight)[0]
    torch.testing.assert_close(without_inputs, first, atol=1e-14, rtol=0)
    plain = module(fold_projections=False).double()
    leaf = frozen.clone().requires_grad_()
    expected = torch.autograd.grad(plain(leaf, start)[1].square().sum(), leaf)[0]
    from_attention = torch.autograd.grad(weights.square().sum(), inputs)[0]
    torch.testing.assert_close(from_attention, expected, atol=1e-13, rtol=0)


# --- Initial slots ----------------------------------------------------------------------------------------------------


def test_sampled_slots_are_reparameterised():
    attention = module()
    draws = noise(2, 3, 4)
    expected = attention.slots_mu + attention.slots_log_sigma.exp() * draws
    torch.testing.assert_close(attention.initial_slots(2, noise=draws), expected)
    attention(noise(2, 9, 6), noise=draws)[0].square().sum().backward()
    assert attention.slots_mu.grad.abs().min() > 0 and attention.slots_log_sigma.grad.abs().min() > 0


def test_noise_comes_from_the_generator_that_is_given():
    attention, inputs = module(), noise(2, 9, 6)
    seeded = [attention(inputs, generator=torch.Generator().manual_seed(s))[0] for s in (3, 3, 4)]
    torch.manual_seed(3)
    from_global = attention(inputs)[0]
    assert torch.equal(seeded[0], seeded[1]) and torch.equal(seeded[0], from_global)
    assert not torch.equal(seeded[0], seeded[2])


def test_another_number_of_slots_at_inference():
    attention, inputs = module(num_slots=3), noise(2, 9, 6)
    for number in (1, 2, 8):
        slots, weights = attention(inputs, num_slots=number)
        assert slots.shape == (2, number, 4) and weights.shape == (2, number, 9)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 9))
    assert attention(inputs, noise=noise(2, 5, 4))[0].shape == (2, 5, 4)


@pytest.mark.parametrize("number", [0, -1, 2.0, True])
@pytest.mark.parametrize("fields", [{}, {"slot_init": "learned"}])
def test_an_impossible_number_is_named(number, fields):
    attention, message = module(**fields), rf"num_slots={number} .* an integer of at least 1"
    with pytest.raises(ValueError, match=message):
        attention(noise(2, 9, 6), num_slots=number)
    with pytest.raises(ValueError, match=message):
        attention.initial_slots(2, number)
    with pytest.raises(ValueError, match=message):
        module(**{**fields, "num_slots": number})
    attention.num_iterations = number
    with pytest.raises(ValueError, match=message.replace("num_slots", "num_iterations")):
        attention(noise(2, 9, 6))


def test_learned_slots():
    attention, inputs = module(slot_init="learned"), noise(2, 9, 6)
    assert {n for n, _ in attention.named_parameters() if n.startswith("slots")} == {"slots_init"}
    slots, _ = attention(inputs)
    assert torch.equal(slots, attention(inputs)[0])
    torch.testing.assert_close(slots, attention(inputs, attention.slots_init.expand(2, -1, -1))[0])
    slots.square().sum().backward()
    assert attention.slots_init.grad.abs().sum(dim=-1).min() > 0
    with pytest.raises(ValueError, match="num_slots=4: slot_init='learned' has 3"):
        attention(inputs, num_slots=4)
    with pytest.raises(ValueError, match="noise was given"):
        attention(inputs, noise=noise(2, 3, 4))


def test_slots_are_exchangeable():
    """Permuting the initial slots permutes the result (the paper's proposition 1)."""
    attention, inputs, start, order = module(), noise(2, 9, 6), noise(2, 3, 4), [2, 0, 1]
    slots, weights = attention(inputs, start)
    permuted = attention(inputs, start[:, order])
    torch.testing.assert_close(permuted, (slots[:, order], weights[:, order]), atol=1e-6, rtol=1e-5)
    shuffled = attention(inputs[:, torch.randperm(9)], start)[0]  # and the inputs' order is of no account
    torch.testing.assert_close(shuffled, slots, atol=1e-6, rtol=1e-5)


def test_initial_values():
    torch.manual_seed(0)
    attention = SlotAttention(48, 64, 5)
    for parameter in (attention.slots_mu, attention.slots_log_sigma):
        assert 0.2 < parameter.abs().max() <= math.sqrt(6 / 65)
    recurrent = attention.gru.weight_hh  # [192, 64] with orthonormal columns
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(64), atol=1e-5, rtol=0)
    assert attention.project_k.weight.std().item() == pytest.approx(math.sqrt(2 / (48 + 64)), rel=0.1)
    assert attention.mlp[0].out_features == 128 and (attention.mlp[0].bias == 0).all()
    assert attention.project_q.bias is None
    learned = SlotAttention(48, 64, 50, slot_init="learned").slots_init
    assert learned.std().item() == pytest.approx(1, rel=0.1)


# --- Precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_large_logits_and_starved_slots_give_no_nan(fold, bf16):
    attention = module(num_slots=5, fold_projections=fold, qkv_bias=True)
    with torch.no_grad():
        attention.project_q.weight.mul_(1e4)
        attention.project_k.bias.mul_(1e4)
    inputs = (1e3 * noise(2, 40, 6)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        slots, weights = attention(inputs, noise=noise(2, 5, 4))
    assert (weights.sum(dim=2) < 1e-6).any()  # a slot that has won nothing
    assert slots.dtype == weights.dtype == torch.float32
    (slots.square().sum() + weights.square().sum()).backward()
    gradients = [inputs.grad, *(p.grad for p in attention.parameters())]
    assert all(tensor.isfinite().all() for tensor in (slots, weights, *gradients))


@pytest.mark.parametrize("fold", [True, False])
def test_bf16_autocast_stays_near_fp32(fold):
    attention = module(input_size=32, slot_size=32, num_slots=6, fold_projections=fold)
    inputs, start = noise(2, 100, 32), noise(2, 6, 32)
    exact = attention(inputs, start)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(inputs, start)
    assert rounded[0].dtype == rounded[1].dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    torch.testing.assert_close(rounded[1].sum(dim=1), torch.ones(2, 100))
    whole = attention.to(torch.bfloat16)(inputs.bfloat16(), start.bfloat16())
    assert whole[0].dtype == torch.bfloat16 and whole[1].dtype == torch.float32
    torch.testing.assert_close(whole[1], exact[1], atol=0.1, rtol=0.1)


# --- Wrong use --------------------------------------------------------------------------------------------------------


def test_wrong_shapes_are_named():
    attention, inputs = module(), noise(2, 9, 6)
    with pytest.raises(ValueError, match=r"inputs have shape \[2, 9, 4\]: .*\[B, N, 6\]"):
        attention(noise(2, 9, 4))
    for start in (noise(1, 3, 4), noise(2, 3, 5), noise(2, 4)):
        with pytest.raises(ValueError, match=r"slots have shape .*\[2, K, 4\]"):
            attention(inputs, start)
    for draws, number in ((noise(1, 3, 4), None), (noise(2, 3, 5), None), (noise(2, 3, 4), 5), (noise(3, 4), None)):
        with pytest.raises(ValueError, match="noise has shape"):
            attention(inputs, num_slots=number, noise=draws)
    with pytest.raises(ValueError, match="slot_init='random' is not possible"):
        SlotAttention(6, 4, 3, slot_init="random")


# --- Position embedding -----------------------------------------------------------------------------------------------


def test_position_embedding_is_linear_in_the_grid():
    embedding = with_odd_values(SoftPositionEmbedding(5))
    values = embedding(3, 4)
    for i, y in enumerate((0, 0.5, 1)):
        for j, x in enumerate((0, 1 / 3, 2 / 3, 1)):
            expected = embedding.dense.weight @ torch.tensor([y, x, 1.0 - y, 1.0 - x]) + embedding.dense.bias
            torch.testing.assert_close(values[i, j], expected)
    assert embedding(1, 1).shape == (1, 1, 5)
