"""What the text-to-program model returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ModelOutput


@dataclass
class Text2MathOutput(ModelOutput):
    """What `forward` returns."""

    loss: Tensor | None = None
    """Mean cross-entropy over the tokens that count, fp32 scalar, where labels are given."""
    logits: Tensor | None = None
    """[B, T, program_vocab_size]: of the token at each position, given those in front of it."""
    cross_attentions: Tensor | None = None
    """fp32 [B, T, S], if asked: the weights with which each token was predicted."""
    encoder_last_hidden_state: Tensor | None = None
    """[B, S, state_size]: the encoder's states."""


@dataclass
class Text2MathGenerateOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate`: rows b * n to b * n + n - 1 are the n best programs of
    example b, best first."""

    sequences: Tensor | None = None
    """int64 [B * n, T]: target ids, `<eos>` included, `<bos>` not, padded with `<pad>`."""
    sequences_scores: Tensor | None = None
    """fp32 [B * n]: log-probability / length ** length_penalty."""
    log_probabilities: Tensor | None = None
    """fp32 [B * n]: natural logarithm of the probability of the tokens, `<eos>` included."""
    lengths: Tensor | None = None
    """int64 [B * n]: number of tokens, `<eos>` included; 0 where there are fewer than n programs."""
