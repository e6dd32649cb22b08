"""The length-grouped order: a function of (seed, epoch), a permutation, and batches of similar length."""

import random

import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from training.sampling import EpochLengthGroupedSampler


def _lengths():
    generator = random.Random(0)
    return [generator.randint(5, 80) for _ in range(500)]


def test_every_sample_comes_once_and_the_order_depends_on_seed_and_epoch_alone():
    epoch = torch.zeros((), dtype=torch.int64)
    sampler = EpochLengthGroupedSampler(16, _lengths(), seed=3, epoch=epoch)
    first = list(sampler)
    torch.manual_seed(7)  # the global generator has no say
    assert list(sampler) == first
    assert sorted(first) == list(range(500))
    epoch.fill_(1)
    second = list(sampler)
    assert second != first
    epoch.fill_(0)
    assert list(sampler) == first
    assert list(EpochLengthGroupedSampler(16, _lengths(), seed=4, epoch=epoch)) != first


def test_two_processes_see_the_order_of_the_epoch_in_which_they_resume():
    epoch = torch.tensor(3)
    seen = []
    for rank in (0, 1):
        sampler = EpochLengthGroupedSampler(8, _lengths(), seed=0, epoch=epoch)
        loader = DataLoader(range(500), batch_size=4, sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=2, process_index=rank, even_batches=False)
        resumed = skip_first_batches(loader, 5)
        resumed.set_epoch(3)
        seen.append([batch.tolist() for batch in resumed])
    order = list(EpochLengthGroupedSampler(8, _lengths(), seed=0, epoch=epoch))
    batches = [order[i : i + 4] for i in range(40, 500, 4)]
    assert seen[0] == batches[0::2] and seen[1] == batches[1::2]


def test_a_batch_holds_samples_of_about_the_same_length():
    lengths = _lengths()
    order = list(EpochLengthGroupedSampler(16, lengths, seed=0, epoch=torch.tensor(0)))

    def spread(indices):
        batches = [indices[i : i + 16] for i in range(0, 496, 16)]
        return sum(max(lengths[j] for j in b) - min(lengths[j] for j in b) for b in batches) / len(batches)

    assert spread(order) < 0.5 * spread(list(range(500)))
