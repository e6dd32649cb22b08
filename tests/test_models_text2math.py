"""The text-to-program model: loss and gradient, teacher forcing, and independence of padding and batch."""

import math

import pytest
import torch
from small_text2math import PROGRAMS, VARIANTS, build, labels, problems, tokenizer
from transformers import GenerationConfig

from models import Text2MathForProgramGeneration
from models.programs import parse
from models.text2math_options import generation_options

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def own_tokens(model, inputs, gold, keep):
    """The tokens fed under a teacher forcing mask, one example and one step at a time through whole sequences."""
    fed = torch.zeros_like(gold)
    with torch.no_grad():
        for b in range(len(gold)):
            alone = {name: value[b : b + 1] for name, value in inputs.items()}
            tokens = [model.config.bos_token_id]
            for t in range(1, gold.shape[1]):
                logits = model(**alone, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
                reference = int(gold[b, t - 1]) if gold[b, t - 1] >= 0 else model.config.pad_token_id
                tokens.append(reference if keep[b, t] or gold[b, t] < 0 else int(logits.argmax()))
            fed[b] = torch.tensor(tokens)
    return fed


# --- Loss -------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_tokens_that_count():
    model, inputs, gold = build(label_smoothing=0.1, dropout=0.0), problems(), labels()
    output = model(**inputs, labels=gold)
    plain, smoothed, count = 0.0, 0.0, 0
    for b in range(4):
        for t in range(gold.shape[1]):
            if gold[b, t] >= 0:
                log_probabilities = output.logits[b, t].double().log_softmax(-1)
                plain -= log_probabilities[gold[b, t]].item()
                smoothed -= 0.9 * log_probabilities[gold[b, t]].item() + 0.1 * log_probabilities.mean().item()
                count += 1
    assert count == sum(len(tokenizer().encode_program(program)) - 1 for program in PROGRAMS)
    assert output.loss.item() == pytest.approx(plain / count, rel=1e-5)
    assert model.train()(**inputs, labels=gold).loss.item() == pytest.approx(smoothed / count, rel=1e-5)
    in_parts = model.eval()(**inputs, labels=gold, num_items_in_batch=2 * count).loss.item()
    assert in_parts == pytest.approx(plain / (2 * count), rel=1e-5)
    assert output.loss.dtype == torch.float32 and model.accepts_loss_kwargs


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "frozen bert"])
def test_gradient_against_finite_differences(variant):
    model = build(variant).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in problems().items()}
    gold, keep = labels(), torch.rand(labels().shape, generator=torch.Generator().manual_seed(3)) < 0.5

    def loss():
        return model(**inputs, labels=gold, teacher_forcing_mask=keep).loss

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    epsilon, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * epsilon)
            values.append(loss().item())
    expected = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert (values[0] - values[1]) / (2 * epsilon) == pytest.approx(expected, rel=1e-5)


def test_a_small_model_learns_its_programs_by_heart():
    torch.manual_seed(0)
    model = build("numbers", hidden_size=24, embedding_size=16, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    inputs, gold = problems(), labels()
    for _ in range(60):
        loss = model(**inputs, labels=gold).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for constrained in (False, True):
        sequences = model.generate(**inputs, num_beams=3, constrained=constrained)
        assert [tokenizer().decode_program(ids) for ids in sequences] == PROGRAMS, loss.item()


# --- Teacher forcing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mask_of_ones_is_the_fast_path(variant):
    model, inputs, gold = build(variant), problems(), labels()
    whole = model(**inputs, labels=gold)
    masked = model(**inputs, labels=gold, teacher_forcing_mask=torch.ones_like(gold, dtype=torch.bool))
    torch.testing.assert_close(masked.logits, whole.logits, **TOLERANCE)
    torch.testing.assert_close(masked.loss, whole.loss)


@pytest.mark.parametrize("variant", ["plain", "no attention", "input feeding", "numbers", "frozen bert"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_where_the_mask_is_false_the_models_own_token_is_fed(variant, ratio):
    model, inputs, gold = build(variant), problems(), labels()
    keep = torch.rand(gold.shape, generator=torch.Generator().manual_seed(1)) < ratio
    fed = own_tokens(model, inputs, gold, keep)
    assert (fed[:, 1:] != gold[:, :-1])[gold[:, 1:] >= 0].any()
    expected = model(**inputs, decoder_input_ids=fed).logits
    output = model(**inputs, labels=gold, teacher_forcing_mask=keep)
    torch.testing.assert_close(output.logits, expected, **TOLERANCE)


def test_the_models_own_tokens_are_chosen_without_dropout():
    model, inputs, gold = build(dropout=0.5), problems(), labels()
    keep = torch.zeros_like(gold, dtype=torch.bool)
    expected = own_tokens(model, inputs, gold, keep)
    memory = model.encode(**inputs)
    fed = model.train()._own_tokens(model._shifted(gold, 4), keep | (gold < 0), memory)
    assert torch.equal(fed, expected)
    assert all(module.training for module in model.modules())


def test_gradients_under_autocast_reach_every_weight_also_after_the_pass_without_gradient():
    model, inputs, gold = build("numbers", hidden_size=16).train(), problems(), labels()
    with torch.autocast("cpu", torch.bfloat16):
        keep = torch.zeros_like(gold, dtype=torch.bool)
        model(**inputs, labels=gold, teacher_forcing_mask=keep).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []
    assert model.training and model.decoder.training


# --- Independence of padding and batch --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_do_not_depend_on_padding_or_on_the_rest_of_the_batch(variant):
    model, inputs, gold = build(variant), problems(), labels()
    gold = gold.masked_fill(gold < 0, 2)
    whole = model(**inputs, labels=gold).logits
    for b in range(4):
        length = int(inputs["attention_mask"][b].sum())
        alone = {name: value[b : b + 1] for name, value in inputs.items()}
        short = alone | {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(**short, labels=gold[b : b + 1]).logits[0], whole[b], **TOLERANCE)
    padding = inputs["attention_mask"] == 0
    assert padding.any()
    garbled = inputs | {"input_ids": inputs["input_ids"].masked_fill(padding, 25)}
    torch.testing.assert_close(model(**garbled, labels=gold).logits, whole, **TOLERANCE)


@pytest.mark.parametrize("variant", ["plain", "input feeding", "numbers", "frozen bert"])
@pytest.mark.parametrize("constrained", [False, True])
def test_generated_programs_do_not_depend_on_padding_or_on_the_rest_of_the_batch(variant, constrained):
    model, inputs = build(variant), problems()
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9, "constrained": constrained}
    whole = model.generate(**inputs, **options, return_dict_in_generate=True)
    for b in range(4):
        length = int(inputs["attention_mask"][b].sum())
        alone = {name: value[b : b + 1] for name, value in inputs.items()}
        alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
        found = model.generate(**alone, **options, return_dict_in_generate=True)
        rows = slice(4 * b, 4 * b + 4)
        width = found.sequences.shape[1]
        assert torch.equal(found.sequences, whole.sequences[rows, :width])
        assert torch.equal(found.lengths, whole.lengths[rows])
        torch.testing.assert_close(found.log_probabilities, whole.log_probabilities[rows], atol=1e-4, rtol=1e-4)


# --- generate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["plain", "no attention", "input feeding", "numbers", "bert"])
def test_log_probabilities_are_those_of_the_forward_pass(variant):
    model, inputs = build(variant), problems()
    found = model.generate(
        **inputs,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=7,
        length_penalty=0.5,
        return_dict_in_generate=True,
    )
    repeated = {name: value.repeat_interleave(3, dim=0) for name, value in inputs.items()}
    beyond = torch.arange(found.sequences.shape[1]) >= found.lengths.unsqueeze(1)
    with torch.no_grad():
        output = model(**repeated, labels=found.sequences.masked_fill(beyond, -100))
    log_probabilities = output.logits.log_softmax(-1).gather(-1, found.sequences.unsqueeze(-1)).squeeze(-1)
    expected = log_probabilities.masked_fill(beyond, 0.0).sum(1)
    torch.testing.assert_close(found.log_probabilities, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.sequences_scores, expected / found.lengths**0.5, atol=1e-4, rtol=1e-4)


def test_one_beam_is_the_greedy_search():
    model, inputs = build(), problems()
    sequences = model.generate(**inputs, num_beams=1, max_new_tokens=8)
    for b, sequence in enumerate(sequences.tolist()):
        alone, tokens = {name: value[b : b + 1] for name, value in inputs.items()}, [1]
        while len(tokens) <= 8 and tokens[-1] != 2:
            tokens.append(int(model(**alone, decoder_input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert sequence[: len(tokens) - 1] == tokens[1:] and set(sequence[len(tokens) - 1 :]) <= {0}


def test_constrained_programs_parse_and_use_numbers_that_there_are():
    model, inputs = build(), problems()
    found = model.generate(**inputs, num_beams=5, num_return_sequences=5, max_new_tokens=12, constrained=True)
    free = model.generate(**inputs, num_beams=5, num_return_sequences=5, max_new_tokens=12)
    counts = [2, 2, 3, 4]
    for row, ids in enumerate(found):
        steps = parse(tokenizer().decode_program(ids))
        numbers = [int(a[1:]) for _, arguments in steps for a in arguments if a.startswith("n")]
        assert all(index < counts[row // 5] for index in numbers)
    assert not all(tokenizer().decode_program(ids, return_valid=True)[1] for ids in free)


def test_options_come_from_the_call_then_the_generation_config_then_the_defaults(tmp_path):
    model, inputs = build(), problems()
    model.generation_config.update(num_beams=2, max_new_tokens=4)
    model.generation_config.constrained = True
    model.save_pretrained(tmp_path)
    loaded = Text2MathForProgramGeneration.from_pretrained(tmp_path)
    chosen = generation_options({"num_beams": 3}, loaded.generation_config, 160)
    assert chosen == {
        "num_beams": 3,
        "num_return_sequences": 1,
        "max_new_tokens": 4,
        "length_penalty": 0.0,
        "constrained": True,
        "return_dict_in_generate": False,
    }
    assert torch.equal(loaded.generate(**inputs), model.generate(**inputs, num_beams=2, max_new_tokens=4))
    (tmp_path / "generation_config.json").unlink()
    plain = Text2MathForProgramGeneration.from_pretrained(tmp_path)
    defaults = generation_options({}, plain.generation_config, plain.config.max_program_length)
    assert defaults["num_beams"] == 10 and defaults["max_new_tokens"] == 160 and defaults["constrained"] is False
    with pytest.raises(TypeError, match=r"no option beams; it has num_beams, .*"):
        model.generate(**inputs, beams=3)
    for sampling in (True, False):
        with pytest.raises(TypeError, match="no option do_sample"):
            model.generate(**inputs, do_sample=sampling)
    with pytest.raises(ValueError, match="num_return_sequences"):
        model.generate(**inputs, num_return_sequences=3)
    model.generation_config.do_sample = True
    with pytest.raises(ValueError, match="does not sample"):
        model.generate(**inputs)


@pytest.mark.parametrize("setting", [{"max_length": 7}, {"temperature": 0.5}, {"early_stopping": True}])
def test_a_generation_config_that_cannot_be_followed_is_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"generation_config sets {name}="):
        build().generate(**problems(), generation_config=GenerationConfig(num_beams=2, **setting))


def test_a_generation_config_takes_the_place_of_the_models_own():
    model, inputs = build(), problems()
    given = GenerationConfig(num_beams=2, max_new_tokens=5, do_sample=False, use_cache=True, eos_token_id=2)
    expected = model.generate(**inputs, num_beams=2, max_new_tokens=5)
    assert torch.equal(model.generate(**inputs, generation_config=given), expected)


def test_no_problems_give_no_programs():
    none = {name: value[:0] for name, value in problems().items()}
    found = build().generate(**none, num_return_sequences=2, return_dict_in_generate=True)
    assert [tuple(part.shape) for part in found.to_tuple()] == [(0, 0), (0,), (0,), (0,)]
    assert build().generate(**none).shape == (0, 0)


def test_generate_has_no_dropout_and_leaves_the_mode_as_it_was():
    model, inputs = build(), problems()
    expected = model.generate(**inputs, num_beams=2, max_new_tokens=6)
    assert torch.equal(model.train().generate(**inputs, num_beams=2, max_new_tokens=6), expected) and model.training
    with pytest.raises(ValueError, match="num_beams is 0"):
        model.generate(**inputs, num_beams=0)
    assert model.training and math.isfinite(model(**inputs, labels=labels()).loss.item())


@pytest.mark.parametrize("variant", ["plain", "numbers", "bert", "frozen bert"])
def test_the_encoders_states_can_be_given(variant):
    model, inputs, gold = build(variant), problems(), labels()
    states = model.encoder_states(**inputs)
    expected = model(**inputs, labels=gold)
    for given in (states, (states,), expected.to_tuple()[-1:]):
        called = []
        hook = model.encoder.register_forward_hook(lambda *a, called=called: called.append(a))
        output = model(**inputs, labels=gold, encoder_outputs=given)
        hook.remove()
        torch.testing.assert_close(output.logits, expected.logits, **(TOLERANCE if given is states else {}))
        if variant == "frozen bert":  # quantities are in the output's states already, and not in `encoder_states`
            break
    programs = model.generate(**inputs, encoder_outputs=states, num_beams=2, max_new_tokens=5)
    assert torch.equal(programs, model.generate(**inputs, num_beams=2, max_new_tokens=5))


# --- Wrong inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": None}, "needs labels"),
        ({"labels": torch.zeros(3, 5, dtype=torch.long)}, r"labels are torch.int64 \[3, 5\]: .*\[4, T\]"),
        ({"labels": torch.zeros(4, 5)}, r"labels are torch.float32"),
        ({"teacher_forcing_mask": torch.ones(4, 2, dtype=torch.bool)}, r"teacher_forcing_mask is torch.bool \[4, 2\]"),
        ({"teacher_forcing_mask": torch.ones(4, 6)}, r"teacher_forcing_mask is torch.float32"),
        ({"input_ids": torch.zeros(4, dtype=torch.long)}, r"input_ids is torch.int64 \[4\]"),
        ({"input_ids": torch.zeros(4, 0, dtype=torch.long)}, r"input_ids is torch.int64 \[4, 0\]"),
        ({"attention_mask": torch.ones(4, 3)}, r"attention_mask is \[4, 3\]"),
        ({"attention_mask": "left"}, r"attention_mask must be 1 from each problem's first token"),
        ({"attention_mask": "empty"}, r"attention_mask must be 1 from each problem's first token"),
        ({"number_values": torch.ones(4, 3)}, r"number_values is \[4, 3\]: it must be \[4, 18\]"),
        ({"encoder_outputs": torch.ones(4, 3, 16)}, r"encoder_outputs are \(4, 3, 16\)"),
    ],
)
def test_wrong_inputs_are_named(changed, message):
    model, inputs = build(), problems() | {"labels": labels()}
    mask = inputs["attention_mask"].clone()
    if isinstance(changed.get("attention_mask"), str):
        changed = {"attention_mask": mask.flip(1) if changed["attention_mask"] == "left" else mask * (mask[:1] * 0)}
    with pytest.raises(ValueError, match=message) as caught:
        model(**inputs | changed)
    assert "\n" not in str(caught.value)


def test_missing_number_values_are_named():
    inputs = problems()
    del inputs["number_values"]
    for variant in ("numbers", "frozen bert"):
        with pytest.raises(ValueError, match="number_values is missing"):
            build(variant)(**inputs, labels=labels())
