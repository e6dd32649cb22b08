"""Timesteps and noise of the denoising loss, as functions of (seed, stream, sample id).

So the loss of a picture depends neither on the batch it is in nor on the number of processes, and the validation loss
is always taken at the same timesteps and noise.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.augmentation import sample_generator

STREAMS = 1 << 23  # above the streams of the slots' noise: drawn from the same numbers it would give the answer away


def diffusion_draws(
    sample_ids: Sequence[int], stream: int, shape: tuple[int, ...], num_timesteps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Timesteps int64 [B], uniform over 0..num_timesteps - 1, and standard normal noise float32 [B, *shape].

    Args:
        sample_ids: in [0, 2^40).
        stream: the epoch, or `slot_noise.EVALUATION_STREAM`.
        shape: of one latent, (C, h, w).
    """
    generators = [sample_generator(seed, STREAMS + stream, int(i)) for i in sample_ids]
    timesteps = [int(generator.integers(num_timesteps)) for generator in generators]
    noise = [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
    return torch.tensor(timesteps), torch.from_numpy(np.stack(noise))
