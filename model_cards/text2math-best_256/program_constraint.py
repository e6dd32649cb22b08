"""What a program may continue with, token by token, so that constrained decoding gives programs and nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .programs import CONSTANTS, MAX_CHARACTERS, MAX_NUMBERS, MAX_PROGRAM_STEPS, MAX_STEPS, OPERATIONS

LARGEST_ARITY = max(OPERATIONS.values())
LONGEST_STEP = max(map(len, OPERATIONS)) + len("()|") + LARGEST_ARITY * (max(map(len, CONSTANTS)) + len(","))  # as text


class ProgramConstraint:
    """The admissible next tokens of B x k unfinished programs, an automaton over compact tokens (an operation followed
    by its arguments).

    Where a step may begin: every operation that leaves room to finish its arguments and end the program, and from the
    second step on the end token. Where an argument is owed: `n<i>` with i below the problem's count of numbers, `#<j>`
    with j below the count of finished steps, all constants. So what ends within `max_length` tokens parses, and until
    then there is always an admissible token. Of the programs that `models.programs` accepts, only some are refused
    whose text comes within one step of `MAX_CHARACTERS`.

    A constraint follows one search (`models.beam_search`): k is 1 at first, and `advance` changes k and B.

    Args:
        program_tokens: the vocabulary in the order of its ids; `<eos>` ends a program, other tokens in angle brackets
            are never admitted.
        numbers_count: [B], how many numbers each problem has.
        max_length: largest number of tokens, the end token included.

    Raises ValueError for a vocabulary with a token that is none of these, and for a `max_length` below 3 tokens (an
    operation, an argument, the end).
    """

    def __init__(self, program_tokens: Sequence[str], numbers_count: Tensor, max_length: int):
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}: the shortest program takes 3 tokens, the end token included")
        device = numbers_count.device
        arity, number, result, is_argument, is_end, characters = (
            torch.tensor(column, device=device)
            for column in zip(*(_describe(token) for token in program_tokens), strict=True)
        )  # each [V]
        if is_end.sum() != 1:
            raise ValueError("the program vocabulary has to hold <eos> once")
        # Rows of the table: for a start, by the largest arity there is room for and whether the program may end there;
        # after these, for an argument, by the number of finished steps.
        starts = [
            ((arity > 0) & (arity <= largest)) | (is_end & may_end)
            for largest in range(LARGEST_ARITY + 1)
            for may_end in (False, True)
        ]
        self._table = torch.stack([*starts, *(is_argument & (result < steps) for steps in range(MAX_STEPS + 1))])
        self._first_argument = len(starts)
        self._exists = number < numbers_count.view(-1, 1, 1)  # [B, 1, V], true for all tokens but those of numbers
        self._arity, self._characters, self.max_length = arity, characters, max_length
        self.length = 0  # tokens so far, the same for all
        # Of each program [B, k]: arguments owed, steps finished, characters of the text at most.
        self._owed, self._steps, self._used = torch.zeros(3, len(numbers_count), 1, dtype=torch.long, device=device)

    def admissible(self) -> Tensor:
        """bool [B, k, V]: the tokens that may come next."""
        room = self.max_length - self.length - 2  # for arguments, after the operation and before the end token
        another = (self._used <= MAX_CHARACTERS - LONGEST_STEP) & (self._steps < MAX_PROGRAM_STEPS)
        start = 2 * max(0, min(room, LARGEST_ARITY)) * another + (self._steps > 0)
        argument = self._first_argument + self._steps.clamp(max=MAX_STEPS)
        return self._table[torch.where(self._owed > 0, argument, start)] & self._exists

    def advance(self, beams: Tensor, tokens: Tensor) -> None:
        """Continue the programs `beams` [B', k'] (flat positions in the present B x k) with `tokens` [B', k']."""
        if len(beams) < len(self._exists):
            self._exists = self._exists[beams[:, 0] // self._owed.shape[1]]
        owed, steps, used = (counts.flatten()[beams] for counts in (self._owed, self._steps, self._used))
        self._owed = torch.where(owed > 0, owed - 1, self._arity[tokens])
        self._steps = steps + (owed == 1)
        self._used = used + self._characters[tokens]
        self.length += 1


def _describe(token: str) -> tuple[int, int, int, bool, bool, int]:
    """Arity (0: no operation), i of n<i> and j of #<j> (-1: no such), whether it is an argument, whether it is the
    end, and the characters that it adds to a program's text at most."""
    if token in OPERATIONS:
        return OPERATIONS[token], -1, -1, False, False, len(token) + len("()|")
    if token in CONSTANTS:
        return 0, -1, -1, True, False, len(token) + len(",")
    kind, index = token[:1], token[1:]
    if kind == "n" and index.isdecimal() and int(index) < MAX_NUMBERS:
        return 0, int(index), -1, True, False, len(token) + len(",")
    if kind == "#" and index.isdecimal() and int(index) < MAX_STEPS:
        return 0, -1, int(index), True, False, len(token) + len(",")
    if token.startswith("<") and token.endswith(">"):
        return 0, -1, -1, False, token == "<eos>", 0
    raise ValueError(f"{token!r} of the program vocabulary is no operation, argument, constant or <special> token")
