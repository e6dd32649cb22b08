"""Attention, pointers and the two ways through the decoder, against loops over examples, steps and tokens."""

import pytest
import torch
from small_text2math import PROBLEMS, VARIANTS, build, labels, problems

from models.programs import MAX_NUMBERS
from models.text2math_numbers import NumberTokens, quantity_features

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def bos_and(tokens: torch.Tensor) -> torch.Tensor:
    """The decoder's inputs for labels [B, T]."""
    return torch.cat((torch.ones_like(tokens[:, :1]), tokens[:, :-1].clamp(min=0)), dim=1)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_attention_against_a_loop_over_the_real_tokens(kind):
    model, inputs = build(attention_type=kind), problems()
    attention = model.decoder.attention
    with torch.no_grad():
        memory = model.encode(**inputs)
        hidden = torch.randn(4, 3, 8)
        vectors, weights = attention(hidden, memory)
        combine = torch.cat((attention.value.weight, attention.hidden.weight), dim=1)  # W of W [c; h]
        for b in range(4):
            states = memory.states[b, inputs["attention_mask"][b].bool()]  # no padding
            for t in range(3):
                h = hidden[b, t]
                if kind == "multiplicative":
                    scores = torch.stack([h @ (attention.key.weight @ s) for s in states])
                else:
                    query = attention.query(h)
                    scores = torch.stack([attention.score((query + attention.key(s)).tanh())[0] for s in states])
                expected = scores.exp() / scores.exp().sum()
                context = sum(w * s for w, s in zip(expected, states, strict=True))
                torch.testing.assert_close(weights[b, t, : len(states)], expected, **TOLERANCE)
                assert (weights[b, t, len(states) :] == 0).all()
                vector = torch.tanh(combine @ torch.cat((context, h)) + attention.hidden.bias)
                torch.testing.assert_close(vectors[b, t], vector, **TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prepared", [False, True])
def test_step_by_step_gives_the_logits_of_the_whole_sequence(variant, prepared):
    model, inputs, gold = build(variant), problems(), labels()
    tokens = bos_and(gold)
    with torch.no_grad():
        whole = model(**inputs, decoder_input_ids=tokens, output_attentions=True)
        memory = model.encode(**inputs)
        if prepared:
            memory = model.decoder.prepare_search(memory)
        state = tuple(part.repeat_interleave(3, dim=1) for part in model.initial_state(memory))
        for t in range(tokens.shape[1]):  # three equal sequences per example
            logits, state = model.decode_step(tokens[:, t : t + 1].expand(-1, 3), state, memory)
            for k in range(3):
                torch.testing.assert_close(logits[:, k], whole.logits[:, t], **TOLERANCE)
    if VARIANTS[variant].get("attention", True):
        weights = whole.cross_attentions
        torch.testing.assert_close(weights.sum(-1), torch.ones(tokens.shape))
        assert (weights.transpose(1, 2)[inputs["attention_mask"] == 0] == 0).all()
    else:
        assert whole.cross_attentions is None


@pytest.mark.parametrize("variant", ["two layers", "input feeding", "numbers"])
def test_a_reordered_state_goes_on_as_the_sequence_that_it_came_from(variant):
    model, inputs = build(variant), problems()
    size = model.config.program_vocab_size
    prefixes = torch.randint(4, size, (4, 2, 3), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0]])  # which of the two sequences each goes on from
    rows = torch.tensor([3, 0, 2])  # and the examples that are left
    with torch.no_grad():
        memory = model.encode(**inputs)
        state = tuple(part.repeat_interleave(2, dim=1) for part in model.initial_state(memory))
        for t in range(3):
            _, state = model.decode_step(prefixes[..., t], state, memory)
        examples = torch.arange(4).unsqueeze(1)
        state = tuple(part[examples, order][rows] for part in state)
        logits, _ = model.decode_step(torch.tensor([[7, 9]] * 3), state, memory.select(rows))
        for row, example in enumerate(rows):
            for k in range(2):
                prefix = torch.cat((prefixes[example, order[example, k]], torch.tensor([[7, 9][k]])))
                alone = {name: value[example : example + 1] for name, value in inputs.items()}
                expected = model(**alone, decoder_input_ids=prefix.unsqueeze(0)).logits[0, -1]
                torch.testing.assert_close(logits[row, k], expected, **TOLERANCE)


def test_the_pointer_takes_score_and_input_of_a_number_from_where_it_stands():
    model, inputs = build("numbers"), problems()
    decoder, tokens = model.decoder, bos_and(labels())
    first = model.config.program_tokens.index("n0")
    with torch.no_grad():
        memory = model.encode(**inputs)
        assert memory.numbers_count.tolist() == [2, 2, 3, 4]
        logits = model(**inputs, decoder_input_ids=tokens).logits
        vectors = decoder._vectors(tokens, memory)
        hidden = decoder.lstm(vectors, tuple(p.transpose(0, 1).contiguous() for p in (memory.hidden, memory.cell)))[0]
        behind, _ = decoder.attention(hidden, memory)
        fixed = decoder.output(behind)
        for b in range(4):
            for index in range(MAX_NUMBERS):
                here = (inputs["input_ids"][b] == model.config.number_token_ids[index]).nonzero().flatten()
                column, rows = first + index, tokens[b] == first + index
                if len(here) == 0:
                    expected, vector = fixed[b, :, column], decoder.embedding.weight[column]
                else:
                    at_number = memory.states[b, int(here)]
                    expected, vector = behind[b] @ decoder.number_key(at_number), decoder.number_input(at_number)
                torch.testing.assert_close(logits[b, :, column], expected, **TOLERANCE)
                torch.testing.assert_close(vectors[b, rows], vector.expand(int(rows.sum()), -1), **TOLERANCE)
        others = [c for c in range(model.config.program_vocab_size) if not first <= c < first + MAX_NUMBERS]
        torch.testing.assert_close(logits[..., others], fixed[..., others], **TOLERANCE)


def test_quantity_features_by_hand():
    values = torch.tensor([[2.0, -0.5, 2.0, 1000.0, float("nan")], [float("nan")] * 5, [0.25] + [float("nan")] * 4])
    features = quantity_features(values)
    log = [torch.tensor(v).log1p().item() / 5 for v in (2.0, 0.5, 1000.0, 0.25)]
    expected = [
        [log[0], 0, 1, 0, 1, 1 / 3, 0, 1],
        [log[1], 1, 0, 0, 1, 0, 0, 0],
        [log[0], 0, 1, 0, 1, 1 / 3, 0, 1],
        [log[2], 0, 1, 0, 0, 1, 1, 0],
        [0] * 8,
    ]
    torch.testing.assert_close(features[0], torch.tensor(expected))
    assert (features[1] == 0).all() and (features[2, 1:] == 0).all()
    torch.testing.assert_close(features[2, 0], torch.tensor([log[3], 0, 0, 1, 1, 0, 1, 0]))


def test_where_the_numbers_stand():
    ids = list(range(3, 21))
    input_ids = torch.tensor([[30, 3, 31, 4, 2], [30, 31, 32, 2, 0], [3, 4, 5, 6, 7]])
    numbers = NumberTokens.find(input_ids, ids, None)
    assert numbers.count.tolist() == [2, 0, 5]
    assert numbers.found[:, :6].tolist() == [[True] * 2 + [False] * 4, [False] * 6, [True] * 5 + [False]]
    assert numbers.positions[0, :2].tolist() == [1, 3] and numbers.positions[2, :5].tolist() == list(range(5))
    values = torch.full((3, 18), float("nan"))
    values[0, :4] = 1.0  # two of its four numbers were cut off
    assert NumberTokens.find(input_ids, ids, values).count.tolist() == [4, 0, 0]


def test_quantities_are_added_where_the_numbers_stand_and_nowhere_else():
    for variant in ("numbers", "frozen bert"):
        model, inputs = build(variant), problems()
        size = model.encoder.quantity.projection.out_features
        numbers = NumberTokens.find(inputs["input_ids"], model.config.number_token_ids, inputs["number_values"])
        vectors = torch.randn(*inputs["input_ids"].shape, size)
        with torch.no_grad():
            added = model.encoder.quantity(vectors, numbers) - vectors
            features = quantity_features(inputs["number_values"])
            for b, row in enumerate(inputs["input_ids"].tolist()):
                for s, token in enumerate(row):
                    if token in model.config.number_token_ids:
                        index = model.config.number_token_ids.index(token)
                        expected = model.encoder.quantity.projection(features[b, index])
                        torch.testing.assert_close(added[b, s], expected, **TOLERANCE)
                    else:
                        assert (added[b, s] == 0).all()


def many(model, length: int) -> tuple:
    """The memory of 40 problems, tokens [40, length] for each, and how many of those count: from none to all."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, model.config.program_vocab_size, (40, length), generator=generator)
    lengths = torch.randint(0, 5, (40,), generator=generator)
    lengths[[3, 17, 18]] = torch.tensor([length, 9, 9])
    return model.encode(**problems([PROBLEMS[i % 4] for i in range(40)])), tokens, lengths


@pytest.mark.parametrize("variant", ["two layers", "numbers", "no attention"])
def test_the_lengths_of_programs_change_nothing_up_to_their_ends(variant):
    model = build(variant)
    memory, tokens, lengths = many(model, 12)
    inside = torch.arange(12) < lengths.unsqueeze(1)
    whole, within = (model.decoder(tokens, memory, given)[0] for given in (None, lengths))
    torch.testing.assert_close(within[inside], whole[inside], **TOLERANCE)
    assert within.shape == whole.shape and not torch.allclose(within, whole)  # it did not run behind all of the ends
    weights = torch.randn(inside.sum(), whole.shape[-1], generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad((logits[inside] * weights).sum(), list(model.parameters()), retain_graph=True)
        for logits in (whole, within)
    ]
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["two layers", "numbers", "no attention"])
def test_a_models_own_tokens_do_not_depend_on_the_rest_of_the_batch(variant):
    model = build(variant)
    memory, gold, lengths = many(model, 12)
    own = torch.rand(gold.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    keep = ~own | (torch.arange(12) >= lengths.unsqueeze(1))
    fed = model.decoder.own_tokens(gold, keep, memory)
    alone = [
        model.decoder.own_tokens(gold[i : i + 1], keep[i : i + 1], memory.select(torch.tensor([i]))) for i in range(40)
    ]
    assert torch.equal(fed, torch.cat(alone))
    assert torch.equal(fed[keep], gold[keep]) and (fed != gold).any(dim=1).sum() > 10
