"""States of a frozen text encoder, computed once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from data.dataset_cache import built, cache_root
from training.digests import json_digest, weights_digest

VERSION = 1
BATCH = 64


class EncoderStates:
    """The states [S, D] of every problem of a data set, by sample id; in half precision on disk, read as needed.

    Args:
        folder: what [`compute`] made.
    """

    def __init__(self, folder: Path):
        self.values = np.load(folder / "states.npy", mmap_mode="r")  # [tokens of all problems, D]
        ids, ends = np.load(folder / "ids.npy"), np.load(folder / "ends.npy")
        starts = np.concatenate(([0], ends[:-1]))
        self._spans = {int(i): (int(a), int(b)) for i, a, b in zip(ids, starts, ends, strict=True)}

    def batch(self, ids: Sequence[int]) -> Tensor:
        """fp32 [B, S, D] for samples `ids` [B], zero behind the end of the shorter ones."""
        rows = [torch.from_numpy(self.values[slice(*self._spans[i])].astype(np.float32)) for i in ids]
        return pad_sequence(rows, batch_first=True)

    @classmethod
    def compute(cls, model: PreTrainedModel, tokenizer: Any, dataset: DatasetDict, cache_dir: str | None):
        """The states that `model.encoder_states` gives for all problems of `dataset`, from the cache where they are.

        The cache is keyed by the encoder's weights and the problems' tokens.
        """
        ids = [i for split in dataset.values() for i in split["id"]]
        problems = [text for split in dataset.values() for text in split["problem"]]
        tokens = tokenizer(problems)["input_ids"]
        description = {"version": VERSION, "tokens": json_digest(tokens), "ids": json_digest(ids)}
        description["encoder"] = weights_digest(model.encoder)
        key = json_digest(description)[:16]

        def build(folder: Path) -> None:
            print(f"encoding {len(problems)} problems once", flush=True)
            _build(folder, model, tokenizer, problems, tokens)
            np.save(folder / "ids.npy", np.array(ids, dtype=np.int64))

        return cls(built(cache_root(cache_dir) / f"encoder_states-{key}", description, build))


class ZeroStates:
    """In place of [`EncoderStates`] where only shapes matter: zero for every token."""

    def __init__(self, tokenizer: Any, dataset: DatasetDict, width: int):
        self.width, self._lengths = width, {}
        for split in dataset.values():
            rows = tokenizer(list(split["problem"]))["input_ids"]
            self._lengths |= dict(zip(split["id"], map(len, rows), strict=True))

    def batch(self, ids: Sequence[int]) -> Tensor:
        """fp32 [B, S, D] of zeros for samples `ids` [B]."""
        return torch.zeros(len(ids), max(self._lengths[i] for i in ids), self.width)


@torch.inference_mode()
def _build(folder: Path, model: PreTrainedModel, tokenizer: Any, problems: list[str], tokens: list[list[int]]) -> None:
    lengths = np.array([len(row) for row in tokens])
    ends = lengths.cumsum()
    shape = (int(ends[-1]), model.config.state_size)
    values = np.lib.format.open_memmap(folder / "states.npy", mode="w+", dtype=np.float16, shape=shape)
    model.eval()
    order = lengths.argsort()  # batches of like lengths waste no work on padding
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = tokenizer([problems[i] for i in chosen], padding=True, return_tensors="pt").to(model.device)
        states = model.encoder_states(batch["input_ids"], batch["attention_mask"]).half().cpu().numpy()
        for row, i in zip(states, chosen, strict=True):
            values[ends[i] - lengths[i] : ends[i]] = row[: lengths[i]]
    values.flush()
    np.save(folder / "ends.npy", ends)
