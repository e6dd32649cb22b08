"""Encoders of the text-to-program model: a bidirectional LSTM (Hochreiter & Schmidhuber 1997; Schuster & Paliwal 1997)
over word vectors, or a BERT (Devlin et al. 2019, arXiv:1810.04805).

Both give `states` from tokens (what of a frozen BERT can be kept and reused), `complete` them with what is trained in
any case, and sum up a problem in one vector, the `summary`, from which the decoder starts.

Shapes: B problems, S tokens, D width of the states, E of a word vector.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel

from .configuration_text2math import Text2MathConfig
from .text2math_numbers import NumberTokens, QuantityEmbedding


class LSTMProblemEncoder(nn.Module):
    """Word vectors, with `quantity_embeddings` also vectors of the numbers' values, and a bidirectional LSTM."""

    def __init__(self, config: Text2MathConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.quantity = QuantityEmbedding(config.embedding_size) if config.quantity_embeddings else None
        self.lstm = BidirectionalLSTM(config.embedding_size, config.hidden_size, config.num_layers, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def states(self, input_ids: Tensor, mask: Tensor, numbers: NumberTokens) -> Tensor:
        """[B, S, 2 hidden_size], zero on padding."""
        vectors = self.embedding(input_ids)
        if self.quantity is not None:
            vectors = self.quantity(vectors, numbers)
        return self.lstm(self.dropout(vectors), mask)

    def complete(self, states: Tensor, numbers: NumberTokens) -> Tensor:
        """The states as they are."""
        return states

    def summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """The last state of each direction [B, 2 hidden_size]."""
        last = (mask.sum(dim=1) - 1).view(-1, 1, 1)
        forward, backward = states.chunk(2, dim=-1)  # each [B, S, hidden_size]
        return torch.cat((forward.take_along_dim(last, dim=1)[:, 0], backward[:, 0]), dim=-1)


class BertProblemEncoder(nn.Module):
    """A BERT, trained further or frozen; with `quantity_embeddings` vectors of the numbers' values on its states."""

    def __init__(self, config: Text2MathConfig):
        super().__init__()
        self.bert = BertModel(config.to_bert_config(), add_pooling_layer=False)
        self.quantity = QuantityEmbedding(config.state_size) if config.quantity_embeddings else None
        self.frozen, self.pooling = config.freeze_encoder, config.pooling

    def train(self, mode: bool = True) -> "BertProblemEncoder":
        """As in torch, but a frozen BERT stays in evaluation mode: its states do not change from epoch to epoch."""
        super().train(mode)
        if self.frozen:
            self.bert.eval()
        return self

    def states(self, input_ids: Tensor, mask: Tensor, numbers: NumberTokens) -> Tensor:
        """BERT's last states [B, S, D]; ValueError for a problem that is longer than it can take."""
        longest = self.bert.config.max_position_embeddings
        if input_ids.shape[1] > longest:
            raise ValueError(
                f"a problem has {input_ids.shape[1]} tokens, this encoder takes {longest}: tokenize with "
                f"truncation=True, max_length={longest}"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.bert(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state

    def complete(self, states: Tensor, numbers: NumberTokens) -> Tensor:
        """The states with the vectors of the numbers' values."""
        return states if self.quantity is None else self.quantity(states, numbers)

    def summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """The mean of the states, or the first [B, D]."""
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


class BidirectionalLSTM(nn.LSTM):
    """[`torch.nn.LSTM`] on padded batches, with the results it has on packed ones and with its parameters.

    The backward direction reads each sentence reversed within its own length, so that it begins at the sentence's
    last token and padding stays behind it; then its outputs are put back in order. Without packing the whole batch
    goes through the fused kernel at once (`benchmarks/lstm_encoder.py`).
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float):
        dropout = dropout if num_layers > 1 else 0.0
        super().__init__(input_size, hidden_size, num_layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """States [B, S, 2 hidden_size] of inputs [B, S, input_size]; zero where `mask` [B, S] is false. Each row of
        the mask is true up to the sentence's end, and false behind it."""
        order = reversed_within_length(mask)
        hidden = inputs
        for layer in range(self.num_layers):
            forward = self._direction(hidden, f"l{layer}")
            backward = self._direction(_reordered(hidden, order), f"l{layer}_reverse")
            hidden = torch.cat((forward, _reordered(backward, order)), dim=-1)
            if layer < self.num_layers - 1:
                hidden = F.dropout(hidden, self.dropout, self.training)
        return hidden.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _direction(self, inputs: Tensor, suffix: str) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{name}_{suffix}") for name in names]
        with lstm_precision(inputs.device):
            start = inputs.new_zeros(1, len(inputs), self.hidden_size)
            return torch.lstm(inputs, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]


def lstm_precision(device: torch.device) -> AbstractContextManager:
    """What an LSTM's whole sequences run in: on a GPU without autocast, which casts cuDNN's LSTMs to fp16 even where it
    is set to bf16. With no scaled loss the smallest of their gradients would become zero in fp16."""
    return torch.autocast(device.type, enabled=False) if device.type == "cuda" else nullcontext()


def reversed_within_length(mask: Tensor) -> Tensor:
    """Positions [B * S] in the flattened batch that reverse each row within its own length and leave padding where it
    is. Applied twice it changes nothing."""
    batch, width = mask.shape
    position = torch.arange(width, device=mask.device)
    length = mask.sum(dim=1, keepdim=True)
    column = torch.where(position < length, length - 1 - position, position)  # [B, S]
    return (column + width * torch.arange(batch, device=mask.device).unsqueeze(1)).flatten()


def _reordered(values: Tensor, order: Tensor) -> Tensor:
    return values.flatten(0, 1).index_select(0, order).view(values.shape)


def checked_mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The attention mask as bool [B, S]; ValueError where problems are not what a tokenizer gives."""
    if input_ids.ndim != 2 or input_ids.is_floating_point() or input_ids.shape[1] == 0:
        raise ValueError(f"input_ids is {input_ids.dtype} {list(input_ids.shape)}: it must be ids [batch, tokens]")
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask is {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}")
    mask = attention_mask.bool()
    if not bool(mask[:, 0].all() & (mask[:, 1:] <= mask[:, :-1]).all()):
        raise ValueError("attention_mask must be 1 from each problem's first token to its last, and 0 behind it")
    return mask
