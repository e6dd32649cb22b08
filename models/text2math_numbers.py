"""The numbers of a problem as the model sees them: where they stand, and features of their values.

Shapes: B examples, S source tokens, N = `MAX_NUMBERS` numbers at most.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

QUANTITY_FEATURES = 8


@dataclass
class NumberTokens:
    """The numbers of a batch of problems."""

    positions: Tensor
    """int64 [B, N]: where n_i stands; 0 where there is none."""
    found: Tensor
    """bool [B, N]: whether n_i stands anywhere."""
    count: Tensor
    """int64 [B]: how many numbers the problem has."""
    values: Tensor | None
    """[B, N]: their values, NaN where there are fewer."""

    @classmethod
    def find(cls, input_ids: Tensor, number_token_ids: list[int], values: Tensor | None) -> "NumberTokens":
        """Of `input_ids` [B, S]. The count is that of `values` [B, N] where they are given, so that numbers cut off
        with the end of a long problem count too; ValueError where they have another shape."""
        expected = (len(input_ids), len(number_token_ids))
        if values is not None and values.shape != expected:
            raise ValueError(f"number_values is {list(values.shape)}: it must be {list(expected)}, as the tokenizer's")
        ids = torch.tensor(number_token_ids, device=input_ids.device)
        here = (input_ids.unsqueeze(-1) == ids).to(torch.uint8)  # [B, S, N]
        found, positions = here.max(dim=1)
        index = torch.arange(1, len(number_token_ids) + 1, device=input_ids.device)
        count = (found * index).amax(dim=1) if values is None else values.isfinite().sum(dim=1)
        return cls(positions, found.bool(), count, values)


class QuantityEmbedding(nn.Module):
    """Adds a linear function of each number's features where it stands."""

    def __init__(self, size: int):
        super().__init__()
        self.projection = nn.Linear(QUANTITY_FEATURES, size)

    def forward(self, vectors: Tensor, numbers: NumberTokens) -> Tensor:
        """`vectors` [B, S, size] with the numbers' own added; ValueError where their values are not given."""
        if numbers.values is None:
            raise ValueError(
                "number_values is missing: with quantity_embeddings the model needs what the tokenizer gives"
            )
        features = quantity_features(numbers.values).to(self.projection.weight.dtype)
        known = (numbers.found & numbers.values.isfinite()).unsqueeze(-1)
        added = (self.projection(features) * known).to(vectors.dtype)  # [B, N, size]
        return vectors.scatter_add(1, numbers.positions.unsqueeze(-1).expand_as(added), added)


def quantity_features(values: Tensor) -> Tensor:
    """Features [B, N, 8] of numbers `values` [B, N], zero where there is none (NaN): a fifth of the
    logarithm of 1 + |v|, negative, whole, 0 < v < 1, at most 100, rank among the problem's numbers (0 the smallest, 1
    the largest), largest, and whether the value occurs twice. From 0 to about 3, 18 for the largest float."""
    present = values.isfinite()
    v = values.nan_to_num(0.0)
    pairs = present.unsqueeze(1) & present.unsqueeze(2)  # [B, N, N]
    smaller = ((v.unsqueeze(1) < v.unsqueeze(2)) & pairs).sum(dim=2)
    equal = ((v.unsqueeze(1) == v.unsqueeze(2)) & pairs).sum(dim=2)
    count = present.sum(dim=1, keepdim=True)
    features = (
        v.abs().log1p() / 5,
        v < 0,
        v == v.floor(),
        (v > 0) & (v < 1),
        v <= 100,
        smaller / (count - 1).clamp(min=1),
        smaller + equal == count,
        equal > 1,
    )
    stacked = torch.stack([feature.to(values.dtype) for feature in features], dim=-1)
    return stacked * present.unsqueeze(-1)
