"""Fingerprints of data and weights, by which a run and a cache know what they were made from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from torch import nn

TELLING = ("id", "path", "label", "problem", "program")  # columns, as far as a data set has them


def json_digest(value: Any) -> str:
    """sha256 of a JSON-able value, in hex."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def data_digests(splits: Mapping[str, Dataset]) -> dict[str, dict[str, Any]]:
    """For each split `samples`, their number, and `sha256` over their ids and what tells them apart (path, label,
    text): pictures that were added, removed, renamed or moved to another split or class change it."""
    found = {}
    for name, split in splits.items():
        columns = {column: list(split[column]) for column in TELLING if column in split.column_names}
        found[name] = {"samples": len(split), "sha256": json_digest(columns)}
    return found


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names and values of all parameters and saved buffers of a module, in hex."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
