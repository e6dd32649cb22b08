"""The encoders of the text-to-program model: torch's packed LSTM is the truth, and a BERT's own states."""

import pytest
import torch
from small_text2math import build, problems
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.text2math_encoder import BidirectionalLSTM, lstm_precision, reversed_within_length

LENGTHS = torch.tensor([5, 1, 9, 3])
MASK = torch.arange(9) < LENGTHS.unsqueeze(1)


def packed(lstm: nn.LSTM, inputs: torch.Tensor) -> torch.Tensor:
    sequences = pack_padded_sequence(inputs, LENGTHS, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(lstm(sequences)[0], batch_first=True)[0]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_has_the_states_and_gradients_of_torchs_packed_lstm(layers):
    ours = BidirectionalLSTM(6, 4, layers, dropout=0.5).double().eval()
    theirs = nn.LSTM(6, 4, layers, batch_first=True, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    inputs = torch.randn(4, 9, 6, dtype=torch.double)
    weight = torch.randn(4, 9, 8, dtype=torch.double)
    results = []
    for lstm, run in ((ours, lambda x: ours(x, MASK)), (theirs, lambda x: packed(theirs, x))):
        x = inputs.clone().requires_grad_()
        states = run(x)
        results.append((states, torch.autograd.grad((states * weight).sum(), [x, *lstm.parameters()])))
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-10)


def test_padding_is_neither_read_nor_written():
    lstm = BidirectionalLSTM(6, 4, 2, dropout=0.0)
    inputs = torch.randn(4, 9, 6)
    states = lstm(inputs, MASK)
    assert (states[~MASK] == 0).all() and (states[MASK] != 0).all()
    inputs[~MASK] = 1e6
    assert torch.equal(lstm(inputs, MASK), states)
    longer = nn.functional.pad(inputs, (0, 0, 0, 3), value=7.0)
    torch.testing.assert_close(lstm(longer, nn.functional.pad(MASK, (0, 3)))[:, :9], states)


def test_reversed_within_length():
    order = reversed_within_length(MASK)
    rows = torch.arange(4 * 9).view(4, 9).flatten()[order].view(4, 9).tolist()
    assert rows[0] == [4, 3, 2, 1, 0, 5, 6, 7, 8] and rows[1] == list(range(9, 18))
    assert rows[2] == list(range(26, 17, -1))
    assert torch.equal(order[order], torch.arange(36))


def test_dropout_between_layers_in_training_only():
    inputs = torch.randn(4, 9, 6)
    lstm = BidirectionalLSTM(6, 4, 2, dropout=0.5)
    assert not torch.equal(lstm.train()(inputs, MASK), lstm(inputs, MASK))
    assert torch.equal(lstm.eval()(inputs, MASK), lstm(inputs, MASK))
    one = BidirectionalLSTM(6, 4, 1, dropout=0.5).train()
    assert one.dropout == 0 and torch.equal(one(inputs, MASK), one(inputs, MASK))


def test_bf16_autocast_is_close():
    lstm, inputs = BidirectionalLSTM(32, 16, 2, dropout=0.0), torch.randn(4, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        states = lstm(inputs, MASK)
    torch.testing.assert_close(states.float(), lstm(inputs, MASK), atol=0.03, rtol=0)
    half = lstm.bfloat16()(inputs.bfloat16(), MASK)
    torch.testing.assert_close(half, states.bfloat16(), atol=0.05, rtol=0)


def test_the_lstms_summary_is_the_last_state_of_each_direction():
    encoder = build().encoder
    mask = problems()["attention_mask"].bool()
    states = torch.randn(*mask.shape, 16)
    for row, summary in enumerate(encoder.summary(states, mask)):
        last = int(mask[row].sum()) - 1
        assert torch.equal(summary, torch.cat((states[row, last, :8], states[row, 0, 8:])))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_berts_summary(pooling):
    encoder = build("bert", pooling=pooling).encoder
    mask = problems()["attention_mask"].bool()
    states = torch.randn(*mask.shape, 16)
    for row, summary in enumerate(encoder.summary(states, mask)):
        expected = states[row, mask[row]].mean(dim=0) if pooling == "mean" else states[row, 0]
        torch.testing.assert_close(summary, expected)


def test_berts_states_are_those_of_the_bert_alone():
    model, inputs = build("bert"), problems()
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        alone = model.encoder.bert(input_ids=inputs["input_ids"][row : row + 1, mask]).last_hidden_state[0]
        states = model.encoder_states(inputs["input_ids"], inputs["attention_mask"])[row, mask]
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


def test_a_frozen_bert_stays_in_evaluation_mode_and_gets_no_gradient():
    inputs = problems()
    model = build("frozen bert").train()
    assert model.decoder.training and not any(module.training for module in model.encoder.bert.modules())
    states = model.encoder_states(inputs["input_ids"], inputs["attention_mask"])
    assert not states.requires_grad
    assert torch.equal(states, model.encoder_states(inputs["input_ids"], inputs["attention_mask"]))
    tuned = build("bert").train()
    states = tuned.encoder_states(inputs["input_ids"], inputs["attention_mask"])
    assert states.requires_grad and tuned.encoder.bert.training
    assert not torch.equal(states, tuned.encoder_states(inputs["input_ids"], inputs["attention_mask"]))


def test_a_problem_longer_than_bert_takes_is_refused():
    with pytest.raises(ValueError, match=r"70 tokens, this encoder takes 64: .*max_length=64"):
        build("bert").encode(torch.full((1, 70), 5))


def test_sequences_of_an_lstm_stay_out_of_autocast_on_a_gpu_alone():
    torch.set_autocast_enabled("cuda", True)  # as torch.autocast does where there is one
    try:
        with lstm_precision(torch.device("cuda")):
            assert not torch.is_autocast_enabled("cuda")
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)
    with torch.autocast("cpu", torch.bfloat16), lstm_precision(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu")
