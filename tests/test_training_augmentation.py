"""Augmentation: a function of (seed, epoch, sample id), and of nothing else."""

import numpy as np
import pytest
import torch

from training.augmentation import ImageAugmentation, ImageCollator, augment, sample_generator
from training.errors import RunError

ALL = ImageAugmentation(
    crop_padding=4, crop_area=(0.3, 1.0), horizontal_flip=True, color_jitter=0.4, erasing=0.5, mixup=0.2
)


def rows(count=6, side=24, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)
    return [{"pixels": p, "label": i % 3, "id": 100 + i} for i, p in enumerate(pixels)]


def collator(augmentation, epoch=0, seed=0):
    stack = lambda batch: np.stack([r["pixels"] for r in batch])  # noqa: E731
    return ImageCollator(stack, [0.5] * 3, [0.5] * 3, 3, augmentation, torch.tensor(epoch), seed)


def test_the_same_sample_looks_the_same_in_any_batch_and_after_other_draws():
    without_mixup = ImageAugmentation(crop_area=(0.3, 1.0), horizontal_flip=True, color_jitter=0.4, erasing=0.5)
    batch = rows()
    whole = collator(without_mixup, epoch=3)(batch)["pixel_values"]
    torch.rand(7), np.random.rand(7)
    part = collator(without_mixup, epoch=3)(batch[4:1:-1])["pixel_values"]
    assert torch.equal(whole[[4, 3, 2]], part)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_gives_other_pictures(change):
    batch = rows()
    assert not torch.equal(collator(ALL)(batch)["pixel_values"], collator(ALL, **change)(batch)["pixel_values"])


def test_draws_of_different_samples_are_uncorrelated():
    draws = np.array([[sample_generator(0, e, i).random() for i in range(200)] for e in range(20)])
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.06
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.06
    assert len(np.unique(draws)) == draws.size


def test_padded_crop_is_a_shifted_picture_with_zero_border():
    image = rows(1)[0]["pixels"]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = [padded[t : t + 24, left : left + 24] for t in range(9) for left in range(9)]
    seen = set()
    for sample in range(60):
        out = augment(image, ImageAugmentation(crop_padding=4), sample_generator(0, 0, sample)).permute(1, 2, 0).numpy()
        matches = [i for i, w in enumerate(windows) if np.array_equal(w, out)]
        assert matches
        seen.update(matches)
    assert len(seen) > 30


def test_half_the_pictures_are_mirrored():
    image = rows(1)[0]["pixels"]
    option = ImageAugmentation(horizontal_flip=True)
    mirrored = [
        np.array_equal(augment(image, option, sample_generator(0, 0, i)).permute(1, 2, 0).numpy(), image[:, ::-1])
        for i in range(400)
    ]
    assert 150 < sum(mirrored) < 250


def test_resized_crops_cover_the_areas_asked_for():
    # a horizontal ramp: its range in the crop tells the crop's width
    image = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 120, axis=0).repeat(3, axis=2)
    widths = []
    for i in range(200):
        out = augment(image, ImageAugmentation(crop_area=(0.25, 0.25)), sample_generator(0, 0, i)).float()
        widths.append((out.max() - out.min()).item() / 2 / 120)
    # a quarter of the area at sides 3:4 to 4:3 is 0.5 * sqrt(3/4) to 0.5 * sqrt(4/3) of the width
    assert 0.40 < min(widths) < 0.46 and 0.54 < max(widths) < 0.60


def test_mixup_blends_pictures_and_labels_alike():
    batch = rows()
    plain = collator(None)(batch)["pixel_values"]
    mixed = collator(ImageAugmentation(mixup=1.0))(batch)
    labels = torch.nn.functional.one_hot(torch.tensor([r["label"] for r in batch]), 3).float()
    for i in range(len(batch)):
        weight = mixed["labels"][i, batch[i]["label"]]
        assert torch.allclose(mixed["pixel_values"][i], weight * plain[i] + (1 - weight) * plain[i - 1], atol=1e-5)
        assert torch.allclose(mixed["labels"][i], weight * labels[i] + (1 - weight) * labels[i - 1], atol=1e-6)
    assert mixed["labels"].sum(1).allclose(torch.ones(len(batch)))


def test_batches_are_normalised_and_channels_last():
    batch = collator(None)(rows())
    pixels = torch.tensor(np.stack([r["pixels"] for r in rows()])).permute(0, 3, 1, 2).float()
    assert torch.allclose(batch["pixel_values"], pixels / 127.5 - 1, atol=1e-6)
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert batch["sample_ids"] == [100, 101, 102, 103, 104, 105]


@pytest.mark.parametrize(
    "wrong", [{"crop_area": (0.5, 0.2)}, {"crop_padding": -1}, {"color_jitter": 2}, {"mixup": -1}, {"train_size": 4}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(RunError, match=f"training.{next(iter(wrong))}"):
        ImageAugmentation(**wrong)
