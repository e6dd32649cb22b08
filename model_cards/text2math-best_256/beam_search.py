"""Beam search (Graves 2012, arXiv:1211.3711; Sutskever et al. 2014, arXiv:1409.3215, section 3.2) over a decoder that
takes one step at a time, vectorised over batch x beam.

What is searched for: per example the `num_return_sequences` best hypotheses by score = log-probability / length **
length_penalty. What is kept while searching: `num_beams` running hypotheses per example. At every step their 2 *
num_beams best continuations are ranked; of the first num_beams those that end are finished hypotheses, and the first
num_beams of all that do not end run on. (At most num_beams of 2 * num_beams can end, each beam has one end token, so
the beam stays full.)

An example is done as soon as no running hypothesis can reach the worst of the finished ones that would be returned, a
bound and no heuristic: the result is that of a search to the end. Its rows then leave the batch.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Memory(Protocol):
    """What the decoder reads at every step, one row per example and never one per beam."""

    def select(self, rows: Tensor) -> "Memory":
        """The memory of these examples; rows: their positions [B'] in the present batch."""


class Constraint(Protocol):
    """Which tokens may follow, as a state per running hypothesis; made for one search and used up by it."""

    def admissible(self) -> Tensor:
        """bool [B, k, V], or what broadcasts to it: the tokens that may come next."""

    def advance(self, beams: Tensor, tokens: Tensor) -> None:
        """Continue the hypotheses `beams` [B', k'] (flat positions in the present B x k) with `tokens` [B', k']."""


@dataclass
class BeamSearchOutput:
    """The n best hypotheses of each example, best first; where there are fewer than n, the last have score -inf and
    length 0."""

    sequences: Tensor
    """int64 [B, n, T]: what was generated, without the begin token, with the end token, padded to the longest."""
    scores: Tensor
    """fp32 [B, n]: log-probability / length ** length_penalty."""
    log_probabilities: Tensor
    """fp32 [B, n]: natural logarithm of the probability of all tokens, the end token included."""
    lengths: Tensor
    """int64 [B, n]: number of tokens, the end token included."""

    @classmethod
    def empty(cls, batch_size: int, n: int, device: torch.device | str) -> "BeamSearchOutput":
        """No hypothesis yet."""
        lowest = torch.full((batch_size, n), -math.inf, device=device)
        nothing = torch.zeros((batch_size, n, 0), dtype=torch.long, device=device)
        return cls(nothing, lowest, lowest, torch.zeros((batch_size, n), dtype=torch.long, device=device))

    def select(self, rows: Tensor) -> "BeamSearchOutput":
        """These examples; rows: positions [B']."""
        return BeamSearchOutput(*(getattr(self, field)[rows] for field in self.__dataclass_fields__))

    def merge(self, other: "BeamSearchOutput", pad_token_id: int) -> "BeamSearchOutput":
        """The best n of both, n as here; of equal scores those of `self` and then those further ahead come first.
        `other` is as long as this or longer."""
        width = other.sequences.shape[2] - self.sequences.shape[2]
        sequences = torch.cat((F.pad(self.sequences, (0, width), value=pad_token_id), other.sequences), dim=1)
        scores, order = torch.cat((self.scores, other.scores), dim=1).sort(dim=1, descending=True, stable=True)
        n = self.scores.shape[1]
        order = order[:, :n]
        return BeamSearchOutput(
            sequences=sequences.take_along_dim(order.unsqueeze(2), dim=1),
            scores=scores[:, :n],
            log_probabilities=torch.cat((self.log_probabilities, other.log_probabilities), 1).gather(1, order),
            lengths=torch.cat((self.lengths, other.lengths), dim=1).gather(1, order),
        )


class DecodeStep(Protocol):
    """One step of the decoder."""

    def __call__(self, tokens: Tensor, state: Any, memory: Any, /) -> tuple[Tensor, Any]:
        """Continue k sequences of each of B examples, whose last tokens are `tokens` [B, k], by one token each.

        Returns logits [B, k, V] and the new state. B shrinks as examples are done; k is 1 at first, then at most
        num_beams.
        """


@torch.inference_mode()
def beam_search(
    decode_step: DecodeStep,
    state: Any,
    memory: Memory,
    *,
    batch_size: int,
    num_beams: int,
    max_length: int,
    bos_token_id: int,
    eos_token_id: int,
    pad_token_id: int,
    num_return_sequences: int = 1,
    length_penalty: float = 0.0,
    constraint: Constraint | None = None,
    device: torch.device | str = "cpu",
) -> BeamSearchOutput:
    """The n best sequences of each example under a decoder.

    Args:
        state: the decoder's before the first token, k = 1, in any form that [`reorder_state`] takes.
        max_length: most tokens generated, the end token included, the begin token not. A hypothesis that has not ended
            by then is returned cut off, without an end token, and competes by the same score (as in transformers).
        num_return_sequences: n, at most num_beams.
        length_penalty: 0 compares log-probabilities, 1 their means per token; above 0 favours long sequences. One beam
            is greedy search, which ends at its first end token whatever the penalty.
        constraint: admits tokens; the others have probability 0 (log-probabilities stay the decoder's own, the rest is
            not scaled up).

    The result for an example depends neither on the batch nor on the order within it, up to the rounding of the
    decoder's own products: equal scores are ordered by beam and token.

    Raises ValueError where an argument is out of range, logits have the wrong shape, or logits are not numbers.
    """
    _check_arguments(batch_size, num_beams, max_length, num_return_sequences, length_penalty)
    running = _Running.start(batch_size, bos_token_id, state, memory, constraint, device)
    found, done = BeamSearchOutput.empty(batch_size, num_return_sequences, device), []
    for length in range(1, max_length + 1):
        # 1. One step of the decoder: the log-probabilities of all continuations, [B, k, V].
        continued = running.step(decode_step, (bos_token_id, eos_token_id, pad_token_id))
        # 2. The best 2 * num_beams of them: twice as many as needed, since up to num_beams may end.
        best = _best(continued, 2 * num_beams)
        ends = best.tokens == eos_token_id if length < max_length else torch.ones_like(best.tokens, dtype=torch.bool)
        # 3. Of the first num_beams, those that end are finished: keep the n best that were found.
        if ends[:, :num_beams].any():
            found = found.merge(running.ended(best, ends, num_beams, length_penalty), pad_token_id)
        # 4. The first num_beams of the others run on.
        best = best.unfinished(ends, num_beams)
        # 5. Examples are done where even the best of these cannot reach the worst that is kept: they leave the batch.
        over = _over(best.scores, found.scores, num_beams, length, max_length, length_penalty)
        if over.any():
            done.append((running.examples[over], found.select(over)))
            rows = (~over).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            best, found = best.select(rows), found.select(rows)
            running.keep(rows)
        # 6. Everything that belongs to a running hypothesis takes the new order.
        running.advance(best)
    return _assemble(done, pad_token_id)


class _Candidates(NamedTuple):
    """Continuations of each example's running hypotheses, best first, each field [B, c]."""

    scores: Tensor  # fp32, log-probabilities
    parents: Tensor  # int64, which hypothesis is continued: its flat position in B x k
    tokens: Tensor  # int64, by what

    def select(self, rows: Tensor) -> "_Candidates":
        """Those of the examples at `rows` [B']."""
        return _Candidates(*(part[rows] for part in self))

    def unfinished(self, ends: Tensor, count: int) -> "_Candidates":
        """The first `count` that do not end; where there are fewer, some that do fill in, with a score of -inf."""
        scores, order = self.scores.masked_fill(ends, -math.inf).sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, :count], order[:, :count]
        return _Candidates(scores, self.parents.gather(1, order), self.tokens.gather(1, order))


@dataclass
class _Running:
    """The hypotheses that have not ended, k of each of the B examples that are not done, and what belongs to them."""

    examples: Tensor  # int64 [B], which of the caller's examples a row is
    sequences: Tensor  # int64 [B, k, length so far], without the begin token
    tokens: Tensor  # int64 [B, k], the last of each
    scores: Tensor  # fp32 [B, k], log-probabilities
    state: Any
    memory: Memory
    constraint: Constraint | None

    @classmethod
    def start(cls, batch_size: int, bos_token_id: int, state: Any, memory: Memory, constraint, device) -> "_Running":
        """One empty hypothesis of each example: k = 1 for the first step."""
        return cls(
            examples=torch.arange(batch_size, device=device),
            sequences=torch.zeros((batch_size, 1, 0), dtype=torch.long, device=device),
            tokens=torch.full((batch_size, 1), bos_token_id, device=device),
            scores=torch.zeros((batch_size, 1), device=device),
            state=state,
            memory=memory,
            constraint=constraint,
        )

    def step(self, decode_step: DecodeStep, special: tuple[int, int, int]) -> Tensor:
        """Log-probabilities of all hypotheses continued by each token, fp32 [B, k, V]; inadmissible ones at -inf."""
        logits, self.state = decode_step(self.tokens, self.state, self.memory)
        _check_logits(logits, self.tokens.shape, special)
        log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        if log_probabilities[..., 0].isnan().any():  # one NaN or +inf makes the whole row NaN
            length = self.sequences.shape[2] + 1
            raise ValueError(f"the decoder's logits for token {length} of a sequence are NaN or infinite")
        continued = self.scores.unsqueeze(2) + log_probabilities
        if self.constraint is not None:
            continued = continued.masked_fill(~self.constraint.admissible(), -math.inf)
        return continued

    def ended(self, best: _Candidates, ends: Tensor, count: int, length_penalty: float) -> BeamSearchOutput:
        """Those of the first `count` candidates that end, as hypotheses; the others with a score of -inf."""
        scores, parents, tokens = (part[:, :count] for part in best)
        sequences = torch.cat((reorder_state(self.sequences, parents), tokens.unsqueeze(2)), dim=2)
        length = sequences.shape[2]
        log_probabilities = scores.masked_fill(~ends[:, :count], -math.inf)
        scores = log_probabilities / length**length_penalty
        return BeamSearchOutput(sequences, scores, log_probabilities, torch.full_like(tokens, length))

    def keep(self, rows: Tensor) -> None:
        """Drop all examples but those at `rows` [B']; their hypotheses go with the next `advance`."""
        self.examples, self.memory = self.examples[rows], self.memory.select(rows)

    def advance(self, best: _Candidates) -> None:
        """Run on with `best` [B, k']."""
        self.state, sequences = reorder_state((self.state, self.sequences), best.parents)
        self.sequences = torch.cat((sequences, best.tokens.unsqueeze(2)), dim=2)
        self.tokens, self.scores = best.tokens, best.scores
        if self.constraint is not None:
            self.constraint.advance(best.parents, best.tokens)


def _over(
    running: Tensor, found: Tensor, num_beams: int, length: int, max_length: int, length_penalty: float
) -> Tensor:
    """bool [B]: no running hypothesis, whatever its further tokens, reaches the worst that was found.

    running: log-probabilities [B, k] after `length` tokens, best first; found: scores [B, n], best first.
    Log-probabilities are at most 0 and only fall, so a score profits from the greatest length if the penalty is
    positive, from the least if it is negative. A single beam is over where it has ended.
    """
    bound = running[:, 0] / (max_length if length_penalty > 0 else length + 1) ** length_penalty
    over = bound <= found[:, -1]
    return over | (found[:, 0] > -math.inf) if num_beams == 1 else over


def _best(scores: Tensor, count: int) -> _Candidates:
    """The `count` best of each example's scores [B, k, V], all at most 0; equal ones in order of beam and token.

    topk orders equal values as its kernel happens to, which differs by device and size. Here a score and its place
    form one integer and no two are equal: bits of floats from 0 up are ordered as the floats are.
    """
    examples, width, vocabulary = scores.shape
    bits = scores.flatten(1).abs().view(torch.int32).to(torch.int64)
    keys = (bits << 32) | torch.arange(bits.shape[1], device=scores.device)
    keys = keys.topk(min(count, bits.shape[1]), dim=1, largest=False, sorted=True).values
    places = keys & 0xFFFFFFFF
    first = torch.arange(0, examples * width, width, device=scores.device).unsqueeze(1)  # each example's first beam
    best = -(keys >> 32).to(torch.int32).view(torch.float32)
    return _Candidates(best, first + places // vocabulary, places % vocabulary)


def reorder_state(state: Any, beams: Tensor) -> Any:
    """The state of the sequences `beams` [B', k'], flat positions in the B x k of the state's tensors [B, k, ...].

    A state is such a tensor, a nested tuple, list or dict of them, or an object with a method `reorder(beams)`.
    """
    if isinstance(state, Tensor):
        return state.flatten(0, 1).index_select(0, beams.flatten()).unflatten(0, beams.shape)
    if isinstance(state, dict):
        return {key: reorder_state(value, beams) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        values = [reorder_state(value, beams) for value in state]
        return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)
    return state.reorder(beams)


@torch.inference_mode(False)  # so that the caller may write into what is returned
def _assemble(done: list[tuple[Tensor, BeamSearchOutput]], pad_token_id: int) -> BeamSearchOutput:
    """One output of all (examples, their hypotheses), in the caller's order and cut to the longest hypothesis."""
    examples, parts = torch.cat([rows for rows, _ in done]), [part for _, part in done]
    width = max(part.sequences.shape[2] for part in parts)
    padded = [F.pad(part.sequences, (0, width - part.sequences.shape[2]), value=pad_token_id) for part in parts]
    output = BeamSearchOutput(
        sequences=torch.cat(padded),
        scores=torch.cat([part.scores for part in parts]),
        log_probabilities=torch.cat([part.log_probabilities for part in parts]),
        lengths=torch.cat([part.lengths for part in parts]),
    )
    missing = output.scores == -math.inf
    output.lengths[missing] = 0
    output.sequences[missing] = pad_token_id
    output.sequences = output.sequences[..., : int(output.lengths.max())]
    return output.select(examples.argsort())


def _check_arguments(batch_size: int, num_beams: int, max_length: int, n: int, length_penalty: float) -> None:
    counts = {"batch_size": batch_size, "num_beams": num_beams, "max_length": max_length, "num_return_sequences": n}
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}: beam search needs a whole number from 1 up")
    if n > num_beams:
        raise ValueError(f"num_return_sequences is {n} and num_beams {num_beams}: no more are returned than are kept")
    if not isinstance(length_penalty, (int, float)) or not -10 <= length_penalty <= 10:
        raise ValueError(f"length_penalty is {length_penalty!r}: it must be a number between -10 and 10")


def _check_logits(logits: Tensor, shape: tuple[int, int], special: tuple[int, int, int]) -> None:
    if logits.ndim != 3 or logits.shape[:2] != shape:
        raise ValueError(
            f"decode_step gave logits of shape {tuple(logits.shape)} for {shape[0]} x {shape[1]} sequences"
        )
    if not all(0 <= token < logits.shape[2] for token in special):
        raise ValueError(f"bos, eos and pad are tokens {special}, the decoder's vocabulary has {logits.shape[2]}")
