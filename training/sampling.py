"""The order in which training samples are seen, where it is not a plain shuffle."""

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Batches of samples of about the same length, in an order that is a function of (seed, epoch).

    The library's sampler takes the order from the global generator, whose position a resumed run does not share.

    Args:
        batch_size: samples that are to have about the same length.
        lengths: of every sample.
        seed: of the order.
        epoch: the epoch's number, int64 []. A number that others set ([`training.callbacks.EpochClock`]), since on
            several processes accelerate does not tell a sampler of its epoch where a run resumes in mid-epoch.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Tensor):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self):
        key = [self.seed, int(self.epoch)]
        mixed = np.random.SeedSequence(key).generate_state(1)  # torch reads 32 bits of a seed
        self.generator.manual_seed(int(mixed[0]))
        return super().__iter__()
