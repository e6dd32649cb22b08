"""A part of a split that is always the same."""

import torch
from datasets import Dataset


def fixed_sample(data: Dataset, count: int) -> Dataset:
    """`count` rows by one fixed permutation, in their order; all where there are no more. A smaller sample is a part of
    a larger one, so that what is measured of one can be told of the other."""
    if len(data) <= count:
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
    return data.select(sorted(order.tolist()))
