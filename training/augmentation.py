"""Image augmentation whose every choice is a function of (seed, epoch, sample id).

A resumed run therefore sees the pictures that an uninterrupted one would have seen, whatever the number of
workers. The pixel operations are torchvision's; only the drawing of their parameters is done here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from training.errors import RunError


@dataclass(frozen=True)
class ImageAugmentation:
    """What happens to a training picture.

    Args:
        train_size: side of the square the net is trained on; None for the size of the cached picture.
        crop_padding: pixels of zero padding before a random crop back to the same size (He et al. 2016, 4.2).
        crop_area: (low, high) share of the area that a random resized crop covers (Szegedy et al. 2015, section 6),
            sides 3:4 to 4:3; None for no such crop.
        horizontal_flip: mirror every second picture.
        color_jitter: brightness, contrast and saturation are scaled by up to 1 +- this, hue turned by an eighth of
            it; in [0, 1].
        erasing: probability of filling a rectangle of 2 to 20 % of the area with grey (Zhong et al. 2020).
        mixup: alpha of mixup (Zhang et al. 2018), 0 for none: each picture is blended with its neighbour in the
            batch of its process, its weight drawn from Beta(alpha, alpha); labels become soft.
    """

    train_size: int | None = None
    crop_padding: int = 0
    crop_area: tuple[float, float] | None = None
    horizontal_flip: bool = False
    color_jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        if self.train_size is not None and (type(self.train_size) is not int or self.train_size < 8):
            raise RunError(f"training.train_size must be an integer of at least 8, not {self.train_size!r}")
        if type(self.crop_padding) is not int or self.crop_padding < 0:
            raise RunError(f"training.crop_padding must be an integer of 0 or more, not {self.crop_padding!r}")
        area = self.crop_area
        if area is not None and (len(area) != 2 or not 0 < area[0] <= area[1] <= 1):
            raise RunError(f"training.crop_area must be [low, high] within (0, 1], not {list(area)}")
        for name in ("color_jitter", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(f"training.{name} must be in [0, 1], not {getattr(self, name)}")
        if self.mixup < 0:
            raise RunError(f"training.mixup must be 0 or more, not {self.mixup}")


def sample_generator(seed: int, epoch: int, sample_id: int) -> np.random.Generator:
    """A generator of its own for each (seed, epoch, sample id): Philox keys are independent streams."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, (epoch << 40) + sample_id], dtype=np.uint64)))


def augment(image: np.ndarray, options: ImageAugmentation, rng: np.random.Generator) -> torch.Tensor:
    """Augment one picture.

    Args:
        image: uint8 [H, W, 3].
        options: what to do.
        rng: from [`sample_generator`]; the draws are made in a fixed order.

    Returns:
        uint8 [3, S, S], S being `train_size` or the picture's own side.
    """
    picture = torch.tensor(image).permute(2, 0, 1)  # [3,H,W]; copied: what comes from the cache is read-only
    size = options.train_size or picture.shape[-1]
    if options.crop_area is not None:
        picture = _random_resized_crop(picture, options.crop_area, size, rng)
    elif size != picture.shape[-1]:
        picture = F.resize(picture, [size, size], antialias=True)
    if options.crop_padding:
        top, left = rng.integers(0, 2 * options.crop_padding + 1, size=2)
        padded = F.pad(picture, [options.crop_padding])
        picture = padded[:, top : top + size, left : left + size]
    if options.horizontal_flip and rng.random() < 0.5:
        picture = picture.flip(-1)
    if options.color_jitter:
        picture = _color_jitter(picture, options.color_jitter, rng)
    if options.erasing and rng.random() < options.erasing:
        picture = _erase(picture, rng)
    return picture


def _random_resized_crop(picture, area: tuple[float, float], size: int, rng) -> torch.Tensor:
    height, width = picture.shape[-2:]
    for _ in range(10):
        target = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            break
    else:  # no such rectangle fits: the whole picture
        top, left, h, w = 0, 0, height, width
    return F.resized_crop(picture, top, left, h, w, [size, size], antialias=True)


def _color_jitter(picture, strength: float, rng) -> torch.Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    picture = F.adjust_brightness(picture, rng.uniform(low, high))
    picture = F.adjust_contrast(picture, rng.uniform(low, high))
    picture = F.adjust_saturation(picture, rng.uniform(low, high))
    return F.adjust_hue(picture, rng.uniform(-strength / 8, strength / 8))


def _erase(picture, rng) -> torch.Tensor:
    height, width = picture.shape[-2:]
    area = rng.uniform(0.02, 0.2) * height * width
    ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
    h, w = min(height, round(math.sqrt(area * ratio))), min(width, round(math.sqrt(area / ratio)))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return F.erase(picture, top, left, h, w, torch.full((3, 1, 1), 128, dtype=picture.dtype))


class ImageCollator:
    """Turns rows of an image data set into a batch for the net.

    Args:
        pixels_of: gives uint8 [B, H, W, 3] from rows (`data.birds.pixels_of`).
        mean, std: per channel, of pixels scaled to [0, 1]; the image processor's.
        num_labels: number of classes, for the soft labels of mixup.
        augmentation: None for evaluation.
        epoch: a number in shared memory ([`training.callbacks.EpochClock`]); needed with augmentation.
        seed: of the augmentation.
    """

    def __init__(
        self,
        pixels_of: Callable,
        mean: list[float],
        std: list[float],
        num_labels: int,
        augmentation: ImageAugmentation | None = None,
        epoch: torch.Tensor | None = None,
        seed: int = 0,
    ):
        self.pixels_of = pixels_of
        self.mean = torch.tensor(mean)
        self.std = torch.tensor(std)
        self.num_labels = num_labels
        self.augmentation = augmentation
        self.epoch = epoch
        self.seed = seed

    def __call__(self, rows: list[dict]) -> dict:
        """Rows with `pixels`, `label`, `id` -> pixel_values float32 [B,3,S,S], labels [B] or [B,classes], ids."""
        ids = [int(row["id"]) for row in rows]
        labels = torch.tensor([int(row["label"]) for row in rows])
        images = self.pixels_of(rows)  # [B,H,W,3]
        if self.augmentation is None:
            return {"pixel_values": self._normalise(torch.tensor(images)), "labels": labels, "sample_ids": ids}
        epoch = int(self.epoch)
        generators = [sample_generator(self.seed, epoch, i) for i in ids]
        pictures = [augment(m, self.augmentation, g) for m, g in zip(images, generators, strict=True)]
        pixel_values = self._normalise(torch.stack(pictures).permute(0, 2, 3, 1))
        if self.augmentation.mixup:
            pixel_values, labels = self._mixup(pixel_values, labels, generators)
        return {"pixel_values": pixel_values, "labels": labels, "sample_ids": ids}

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B,H,W,3] -> float32 [B,3,H,W], laid out channels_last."""
        scaled = (images.float() / 255 - self.mean) / self.std
        return scaled.permute(0, 3, 1, 2)

    def _mixup(self, pixel_values, labels, generators) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = self.augmentation.mixup
        weight = torch.tensor([g.beta(alpha, alpha) for g in generators], dtype=torch.float32)  # [B]
        mixed = torch.lerp(pixel_values.roll(1, 0), pixel_values, weight[:, None, None, None])
        soft = torch.nn.functional.one_hot(labels, self.num_labels).float()
        return mixed, torch.lerp(soft.roll(1, 0), soft, weight[:, None])
