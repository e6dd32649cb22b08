"""Latents of a frozen autoencoder, computed once and kept on disk.

The folder of a cache is named after what it was made from: the pixels and ids of all pictures, the preprocessing, and
the autoencoder's config and weights. What no name shows is looked for when it is opened: bytes that have changed, and
latents that the autoencoder would not give today, since its code is another.
"""

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import DatasetDict
from torch import Tensor, nn
from transformers import BitImageProcessor

from data.dataset_cache import MANIFEST, built, cache_root
from models.latent_space import as_latent_space
from training.digests import json_digest, weights_digest
from training.scene_task import PixelCollator
from training.trainer import SAMPLE_IDS

VERSION = 2
BATCH = 64
PROBES = 4  # pictures that are encoded again whenever a cache is opened
TOLERANCE = 0.01  # of the latents' standard deviation: machines and batch sizes round differently
NOT_SETTINGS = ("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")
VALUES, IDS, SUMS = "latents.npy", "ids.npy", "sha256.txt"


class LatentCache:
    """The latents [C, h, w] of every picture of a data set by its id, unscaled, in fp32, read as needed.

    Args:
        folder: what [`compute`] made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.values = np.load(folder / VALUES, mmap_mode="r")  # [pictures, C, h, w]
        ids = np.load(folder / IDS)
        self._rows = dict(zip(ids.tolist(), range(len(ids)), strict=True))

    def __reduce__(self):  # a worker opens the files again, instead of getting their content
        return LatentCache, (self.folder,)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.values.shape[1:]

    def batch(self, ids: Sequence[int]) -> Tensor:
        """fp32 [B, C, h, w] of pictures `ids` [B]."""
        return torch.from_numpy(np.stack([self.values[self._rows[int(i)]] for i in ids]))

    def standard_deviation(self, ids: Sequence[int]) -> float:
        """Of all values of the latents of pictures `ids`, in fp64."""
        count, total, squares = 0, 0.0, 0.0
        for i in ids:
            value = self.values[self._rows[int(i)]].astype(np.float64)
            count, total, squares = count + value.size, total + value.sum(), squares + np.square(value).sum()
        return float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))

    @classmethod
    def compute(
        cls, autoencoder: nn.Module, processor: BitImageProcessor, dataset: DatasetDict, cache_dir: str | None
    ) -> "LatentCache":
        """The latents that `autoencoder` gives for all pictures of `dataset`, from the cache where they are.

        Several processes at once may call it: one computes, the others wait. Says on stderr what it found stale.

        Args:
            autoencoder: frozen, in evaluation mode; a [`models.latent_space.LatentSpace`] or a model of diffusers.
            processor: of the run, its mean and standard deviation.
            dataset: columns `pixels` and `id`, ids unique over the splits.
            cache_dir: of the data, None for the default.
        """
        description = {
            "version": VERSION,
            "pictures": _pictures_digest(dataset),
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
            "autoencoder": _autoencoder_digest(autoencoder),
        }
        folder = cache_root(cache_dir) / f"latents-{json_digest(description)[:16]}"
        encode = _Encoder(autoencoder.to(PartialState().device), PixelCollator(processor))

        def build() -> None:
            built(folder, description, lambda staging: _build(staging, encode, dataset))

        build()
        problem = _problem(folder, encode, dataset)
        if problem:
            print(f"the latents in {folder} are stale: {problem}; encoding again", file=sys.stderr, flush=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            build()
        autoencoder.cpu()
        return cls(folder)


class _Encoder:
    """Rows of pictures -> (latents fp32 [B, C, h, w], ids), on the device of the autoencoder."""

    def __init__(self, autoencoder: nn.Module, collate: PixelCollator):
        self.space, self.collate = as_latent_space(autoencoder), collate
        self.device = next(autoencoder.parameters()).device

    @torch.inference_mode()
    def __call__(self, rows: list[dict[str, Any]]) -> tuple[Tensor, list[int]]:
        batch = self.collate(rows)
        return self.space.encode(batch["pixel_values"].to(self.device)).float().cpu(), batch[SAMPLE_IDS]


def _rows_of(dataset: DatasetDict) -> Iterator[list[dict[str, Any]]]:
    """All pictures with their ids, split after split, a batch at a time."""
    for split in dataset.values():
        narrow = split.select_columns(["pixels", "id"])
        for start in range(0, len(narrow), BATCH):
            columns = narrow[start : start + BATCH]
            yield [{"pixels": p, "id": i} for p, i in zip(columns["pixels"], columns["id"], strict=True)]


def _build(folder: Path, encode: _Encoder, dataset: DatasetDict) -> None:
    count = sum(map(len, dataset.values()))
    print(f"encoding {count} pictures once", flush=True)
    begun, values, ids = time.perf_counter(), None, []
    for rows in _rows_of(dataset):
        latents, found = encode(rows)
        if values is None:
            shape = (count, *latents.shape[1:])
            values = np.lib.format.open_memmap(folder / VALUES, mode="w+", dtype=np.float32, shape=shape)
        values[len(ids) : len(ids) + len(found)] = latents.numpy()
        ids += found
    values.flush()
    np.save(folder / IDS, np.array(ids, dtype=np.int64))
    (folder / SUMS).write_text("\n".join(_sums(folder)))
    print(f"encoded in {time.perf_counter() - begun:.0f} s", flush=True)


def _sums(folder: Path) -> list[str]:
    """A line `digest  name` for each file of numbers."""
    lines = []
    for name in (VALUES, IDS):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}")
    return lines


def _problem(folder: Path, encode: _Encoder, dataset: DatasetDict) -> str | None:
    """Why these are not the latents that `encode` gives, None if they are."""
    try:
        written = (folder / SUMS).read_text().splitlines()
        damaged = [line.split()[1] for line in _sums(folder) if line not in written]
        if damaged:
            return f"{damaged[0]} is damaged"
        cache = LatentCache(folder)
    except (OSError, ValueError, EOFError) as error:
        return f"they cannot be opened ({error})"
    split = next(iter(dataset.values()))
    rows = [split[int(i)] for i in np.linspace(0, len(split) - 1, PROBES)]
    expected, ids = encode(rows)
    apart = (cache.batch(ids) - expected).abs().max().item() / max(expected.std().item(), 1e-12)
    if not apart <= TOLERANCE:
        return f"the autoencoder gives others ({apart:.2g} of their standard deviation apart)"
    return None


def _pictures_digest(dataset: DatasetDict) -> str:
    """Of the content: the name or fingerprint of a data set may stay the same while its files change."""
    total = hashlib.sha256()
    for rows in _rows_of(dataset):
        for row in rows:
            total.update(b"%d:%d:" % (row["id"], len(row["pixels"])))
            total.update(row["pixels"])
    return total.hexdigest()


def _autoencoder_digest(autoencoder: nn.Module) -> str:
    """Of the class, of the settings that are its own and not its file's, and of the weights."""
    config = autoencoder.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    own = {key: value for key, value in values.items() if not key.startswith("_") and key not in NOT_SETTINGS}
    return json_digest([type(autoencoder).__name__, sorted(own.items()), weights_digest(autoencoder)])
