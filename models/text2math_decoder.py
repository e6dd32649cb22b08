"""Decoder of the text-to-program model: an LSTM over the tokens of a program, global attention over its top state
(Luong et al. 2015, arXiv:1508.04025) with multiplicative scores or the additive ones of Bahdanau et al. 2015
(arXiv:1409.0473), and pointers to the numbers of the problem (after Vinyals et al. 2015, arXiv:1506.03134).

Shapes: B examples, S source tokens, T target tokens, k sequences of an example (beams), N = `MAX_NUMBERS`, V target
vocabulary, L layers, D width of the encoder's states, H of the decoder's, E of a token's vector.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_text2math import Text2MathConfig
from .programs import MAX_NUMBERS
from .text2math_encoder import lstm_precision
from .text2math_numbers import NumberTokens

SMALL_BATCH = 8  # sequences that an LSTM takes in one go: half of them would take about as long
State = tuple[Tensor, ...]  # hidden [B, k, L, H], cell [B, k, L, H], and with input feeding the last attentional vector


@dataclass
class Memory:
    """What the decoder knows of a batch of problems: one row per example, never one per beam."""

    mask: Tensor
    """bool [B, S]: true where there is a token."""
    hidden: Tensor
    """[B, L, H]: the decoder's hidden state before the first token."""
    cell: Tensor
    """[B, L, H]: its cell."""
    numbers_count: Tensor
    """int64 [B]: how many numbers the problem has."""
    states: Tensor | None = None
    """[B, S, D]: the encoder's states; the decoder reads only what is computed from them."""
    keys: Tensor | None = None
    """[B, S, H]: what is scored against the decoder's state (with attention)."""
    values: Tensor | None = None
    """[B, S, H]: what the attention weights sum (with attention)."""
    number_found: Tensor | None = None
    """bool [B, N]: whether n_i stands in the source (with pointers)."""
    number_keys: Tensor | None = None
    """[B, N, H]: rows of the output layer for n_i (with pointers)."""
    number_inputs: Tensor | None = None
    """[B, N, E]: input vectors of n_i (with pointers)."""

    number_gates: Tensor | None = None
    """[B, N, 4H]: what the inputs of n_i add to the gates of the first layer (for a search, with pointers)."""
    token_gates: Tensor | None = None
    """[V, 4H]: what each token's input adds to them (for a search; the same for all examples)."""

    def select(self, rows: Tensor) -> "Memory":
        """The memory of these examples; rows: their positions [B']."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "token_gates"}
        chosen = {name: None if value is None else value.index_select(0, rows) for name, value in values.items()}
        return Memory(**chosen, token_gates=self.token_gates)


class Attention(nn.Module):
    """Luong et al. 2015, equations 5 to 8: attentional vector tanh(W [c; h]), c = sum over s of softmax(score(h, s)) s.

    W [c; h] is computed as (sum of weights * W_c s) + W_h h, the same with the projection of the states moved in front
    of the sum: then one step of a beam search costs nothing that depends on D.
    """

    def __init__(self, config: Text2MathConfig):
        super().__init__()
        size = config.decoder_hidden_size
        self.key = nn.Linear(config.state_size, size, bias=False)
        self.value = nn.Linear(config.state_size, size, bias=False)
        self.hidden = nn.Linear(size, size)
        additive = config.attention_type == "additive"
        self.query = nn.Linear(size, size) if additive else None
        self.score = nn.Linear(size, 1, bias=False) if additive else None

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attentional vectors [B, T, H] of states `hidden` [B, T, H], and fp32 weights [B, T, S], zero on padding."""
        if self.query is None:
            scores = hidden @ memory.keys.transpose(1, 2)  # [B, T, S]
        else:
            sums = self.query(hidden).unsqueeze(2) + memory.keys.unsqueeze(1)  # [B, T, S, H]
            scores = self.score(sums.tanh()).squeeze(-1)
        precise = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.to(precise).masked_fill(~memory.mask.unsqueeze(1), float("-inf")).softmax(dim=-1)
        context = weights.to(memory.values.dtype) @ memory.values  # [B, T, H]
        return torch.tanh(context + self.hidden(hidden)), weights


class ProgramDecoder(nn.Module):
    """LSTM over the tokens of a program, attention, and the next token's logits.

    [`forward`] takes whole sequences in one go, [`step`] one token of each of k sequences; both compute the same.
    """

    def __init__(self, config: Text2MathConfig):
        super().__init__()
        size, self.num_layers = config.decoder_hidden_size, config.num_layers
        self.first_number = config.program_tokens.index("n0")
        self.input_feeding = config.input_feeding
        self.embedding = nn.Embedding(config.program_vocab_size, config.program_embedding_size)
        self.bridge = nn.Linear(config.state_size, 2 * self.num_layers * size)
        input_size = config.program_embedding_size + (size if config.input_feeding else 0)
        dropout = config.dropout if self.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(input_size, size, self.num_layers, batch_first=True, dropout=dropout)
        self.attention = Attention(config) if config.attention else None
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(size, config.program_vocab_size)
        self.number_key = nn.Linear(config.state_size, size) if config.pointer else None
        self.number_input = nn.Linear(config.state_size, config.program_embedding_size) if config.pointer else None

    # ---- What is computed once per problem ----

    def remember(self, states: Tensor, mask: Tensor, summary: Tensor, numbers: NumberTokens) -> Memory:
        """The memory of problems with encoder states [B, S, D] (dropout not yet applied) and summaries [B, D]."""
        hidden, cell = self.bridge(summary).view(len(summary), 2, self.num_layers, -1).unbind(1)  # each [B, L, H]
        cell = cell.to(torch.promote_types(cell.dtype, torch.float32))  # sums over many steps: not in bf16
        memory = Memory(mask, hidden.tanh(), cell, numbers.count, states)
        states = self.dropout(states)
        if self.attention is not None:
            memory.keys, memory.values = self.attention.key(states), self.attention.value(states)
        if self.number_key is not None:
            at_numbers = states.take_along_dim(numbers.positions.unsqueeze(-1), dim=1)  # [B, N, D]
            memory.number_found = numbers.found
            memory.number_keys, memory.number_inputs = self.number_key(at_numbers), self.number_input(at_numbers)
        return memory

    def initial_state(self, memory: Memory) -> State:
        """The state before the first token: hidden and cell [B, 1, L, H]."""
        state = (memory.hidden.unsqueeze(1), memory.cell.unsqueeze(1))  # one sequence per example
        return (*state, torch.zeros_like(memory.hidden[:, :1])) if self.input_feeding else state

    # ---- Whole sequences ----

    def forward(self, tokens: Tensor, memory: Memory, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits [B, T, V] of the tokens that follow each of `tokens` [B, T], and attention weights [B, T, S].

        With `lengths` [B], how many of the tokens count, logits behind those mean nothing, and on a CPU the LSTM does
        not run there.
        """
        inputs = self._vectors(tokens, memory)
        state = tuple(part.transpose(0, 1).to(inputs.dtype) for part in (memory.hidden, memory.cell))  # each [L, B, H]
        with lstm_precision(inputs.device):
            if lengths is None or inputs.device.type != "cpu":
                hidden, _ = self.lstm(inputs, tuple(part.contiguous() for part in state))
            else:
                hidden = self._within(lengths, inputs, state)
        return self._predict(hidden, memory)[:2]

    def _within(self, lengths: Tensor, inputs: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """The LSTM's states [B, T, H] of `inputs` [B, T, E], zero somewhere behind `lengths` [B]: the batch runs to
        where the shorter half of it ends, the longer half goes on to where half of that ends, and so on. (Of a batch of
        64 programs of MathQA only a third of [B, T] are tokens; one long program makes all others long.)"""
        order = lengths.argsort(descending=True)
        ends = lengths[order].clamp(min=1).tolist()
        inputs, state = inputs[order], tuple(part[:, order] for part in state)
        pieces, start, rows = [], 0, len(ends)
        while rows > 0:
            left = rows // 2 if rows > SMALL_BATCH else 0
            end = ends[left]
            if end > start:
                state = tuple(part[:, :rows].contiguous() for part in state)
                hidden, state = self.lstm(inputs[:rows, start:end], state)
                pieces.append(F.pad(hidden, (0, 0, 0, 0, 0, len(ends) - rows)))
            start, rows = end, left
        hidden = F.pad(torch.cat(pieces, dim=1), (0, 0, 0, inputs.shape[1] - start))
        return hidden[order.argsort()]

    def _vectors(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Input vectors [B, T, E]."""
        return self.dropout(self._looked_up(tokens, self.embedding.weight, memory.number_inputs, memory.number_found))

    def _looked_up(self, tokens: Tensor, table: Tensor, of_numbers: Tensor | None, found: Tensor | None) -> Tensor:
        """The rows [B, T, C] of `table` [V, C] for `tokens` [B, T]; with pointers those of n_i, where the source has
        it (`found` [B, N]), come from `of_numbers` [B, N, C]."""
        rows = F.embedding(tokens, table)
        if of_numbers is None:
            return rows
        index = tokens - self.first_number
        inside = (index >= 0) & (index < MAX_NUMBERS)
        inside &= found.gather(1, index.clamp(0, MAX_NUMBERS - 1))
        example, position = inside.nonzero(as_tuple=True)
        pointed = of_numbers[example, index[example, position]]  # [tokens that are such an n_i, C]
        return rows.index_put((example, position), pointed.to(rows.dtype))

    def _predict(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits [B, T, V] of states `hidden` [B, T, H], attention weights [B, T, S], and the vectors [B, T, H] behind
        the logits."""
        weights = None
        if self.attention is not None:
            hidden, weights = self.attention(self.dropout(hidden), memory)
        dropped = self.dropout(hidden)
        logits = self.output(dropped)
        if memory.number_keys is not None:
            first, last = self.first_number, self.first_number + MAX_NUMBERS
            pointed = dropped @ memory.number_keys.transpose(1, 2).to(dropped.dtype)  # [B, T, N]
            fixed = logits[..., first:last]
            chosen = torch.where(memory.number_found.unsqueeze(1), pointed.to(fixed.dtype), fixed)
            logits = torch.cat((logits[..., :first], chosen, logits[..., last:]), dim=-1)
        return logits, weights, hidden

    # ---- One step ----

    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor | None]:
        """Continue k sequences of each example by one token: `tokens` [B, k] -> logits [B, k, V], the new state, and
        attention weights [B, k, S]."""
        hidden, cell = state[:2]
        gates = self._input_gates(tokens, state, memory)  # [B, k, 4H]
        hiddens, cells = [], []
        for layer in range(self.num_layers):
            if layer > 0:
                inputs = F.dropout(hiddens[-1], self.lstm.dropout, self.training)
                gates = F.linear(inputs, *self._weights("ih", layer))
            new_hidden, new_cell = self._cell(gates, hidden[:, :, layer], cell[:, :, layer], layer)
            hiddens.append(new_hidden)
            cells.append(new_cell)
        logits, weights, vector = self._predict(hiddens[-1], memory)
        state = (torch.stack(hiddens, dim=2), torch.stack(cells, dim=2))
        return logits, (*state, vector) if self.input_feeding else state, weights

    def _weights(self, kind: str, layer: int) -> tuple[Tensor, Tensor]:
        return getattr(self.lstm, f"weight_{kind}_l{layer}"), getattr(self.lstm, f"bias_{kind}_l{layer}")

    def _input_gates(self, tokens: Tensor, state: State, memory: Memory) -> Tensor:
        """What the first layer's input adds to its gates [B, k, 4H]."""
        weight, bias = self._weights("ih", 0)
        size = self.embedding.embedding_dim
        if memory.token_gates is None:
            gates = F.linear(self._vectors(tokens, memory), weight[:, :size], bias)
        else:
            gates = self._looked_up(tokens, memory.token_gates, memory.number_gates, memory.number_found)
        return gates + F.linear(state[2], weight[:, size:]) if self.input_feeding else gates

    def prepare_search(self, memory: Memory) -> Memory:
        """The memory without what a search does not need, and with the products of all tokens' inputs: there are fewer
        tokens than steps in a search. In evaluation mode only, since inputs have no dropout there."""
        weight, bias = self._weights("ih", 0)
        weight = weight[:, : self.embedding.embedding_dim]
        numbers = memory.number_inputs
        of_numbers = None if numbers is None else F.linear(numbers, weight, bias)
        of_tokens = F.linear(self.embedding.weight, weight, bias)
        return replace(memory, states=None, number_inputs=None, number_gates=of_numbers, token_gates=of_tokens)

    def _cell(self, gates: Tensor, hidden: Tensor, cell: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """One step of one layer of `self.lstm`, `gates` [B, k, 4H] being what its input adds: hidden state and cell
        [B, k, H], in their dtypes."""
        gates = gates + F.linear(hidden, *self._weights("hh", layer))
        into, forget, new, out = gates.to(cell.dtype).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
        return (out.sigmoid() * cell.tanh()).to(hidden.dtype), cell

    def run(self, gold: Tensor, keep: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Step by step: logits [B, T, V] and attention weights [B, T, S].

        Where `keep` [B, T] is true token t is `gold` [B, T], else the most probable one by the logits of step t - 1.
        """
        state, tokens = self.initial_state(memory), gold[:, :1]
        all_logits, all_weights = [], []
        for position in range(gold.shape[1]):
            logits, state, weights = self.step(tokens, state, memory)
            all_logits.append(logits)
            all_weights.append(weights)
            following = slice(position + 1, position + 2)  # empty behind the last step
            tokens = torch.where(keep[:, following], gold[:, following], logits.argmax(dim=-1))
        weights = None if self.attention is None else torch.cat(all_weights, dim=1)
        return torch.cat(all_logits, dim=1), weights

    @torch.no_grad()
    def own_tokens(self, gold: Tensor, keep: Tensor, memory: Memory) -> Tensor:
        """The tokens [B, T] that [`run`] feeds without input feeding, in evaluation mode: there is no dropout here.

        No step is taken for an example that will not be fed a token of its own any more.
        """
        last = (~keep * torch.arange(gold.shape[1], device=gold.device)).amax(dim=1)  # [B]: 0 where there is none
        order = last.argsort(descending=True)
        last, tokens = last[order].tolist(), gold.clone()
        memory, rows = self.prepare_search(memory).select(order), order
        state = self.initial_state(memory)
        for position in range(last[0]):
            left = sum(step > position for step in last)
            if left <= 0.8 * len(rows):  # fewer are not worth the copy of their memory
                memory = memory.select(torch.arange(left, device=gold.device))
                rows, state = rows[:left], tuple(part[:left] for part in state)
            logits, state, _ = self.step(tokens[rows, position].unsqueeze(1), state, memory)
            own, following = logits.argmax(dim=-1).squeeze(1), position + 1
            tokens[rows, following] = torch.where(keep[rows, following], gold[rows, following], own.to(tokens.dtype))
        return tokens
