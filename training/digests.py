"""Fingerprints of what a cache was computed from."""

import hashlib
import json
from typing import Any

from torch import nn


def json_digest(value: Any) -> str:
    """sha256 of a JSON-able value, in hex."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names and values of all parameters and saved buffers of a module, in hex."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
