"""Reads the course's VAE checkpoint (a pickled state dict) safely and converts it once to safetensors."""

import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model")
IGNORED_PREFIX = "loss."  # the perceptual loss and discriminator that the autoencoder was trained with
SOURCE, CONTENT = "source_sha256", "tensors_sha256"
LFS_POINTER = b"version https://git-lfs"
TEXT_CONTROLS = b"\t\n\f\r"
HEAD_BYTES, SHOWN = 256, 40


class ForeignCheckpoint(ValueError):
    """Tensors that are not those of the VAE: the message names them all, `brief` at most three of each kind."""

    def __init__(self, path: Path, wrong: dict[str, list[str]]):
        super().__init__(self._message(path, wrong, None))
        self.brief = self._message(path, wrong, 3)

    @staticmethod
    def _message(path: Path, wrong: dict[str, list[str]], most: int | None) -> str:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:most])}{', ...' if len(names[:most]) < len(names) else ''}"
            for what, names in wrong.items()
            if names
        ]
        return f"{path} is not a checkpoint of this VAE; {'; '.join(parts)}"


def plain_state_dict(state: dict[str, Any]) -> dict[str, Any]:
    """The state dict itself, out of `{"state_dict": ...}` or `{"model": ...}` and without `loss.*`."""
    for _ in range(2 * len(WRAPPERS)):
        wrapper = next((name for name in WRAPPERS if isinstance(state.get(name), dict)), None)
        if wrapper is None:
            break
        state = state[wrapper]
    if not any(str(name).startswith(IGNORED_PREFIX) for name in state):
        return state
    return {name: value for name, value in state.items() if not str(name).startswith(IGNORED_PREFIX)}


def load_course_checkpoint(
    path: str | Path, expected: dict[str, torch.Size], folder: str | Path | None = None
) -> dict[str, Tensor]:
    """The checkpoint's tensors as fp32, by name.

    A pickled file is read with `weights_only=True` and, where it fits, converted to `<name>.safetensors` in `folder`
    (default: beside it), by a temporary file and a rename; the next call reads the conversion, as long as the
    original has not changed and the conversion is whole. A `.safetensors` file is read as it is.

    Args:
        path: the checkpoint, a plain state dict or one wrapped in a dict; names `loss.*` are ignored.
        expected: shape of every tensor that must be there, by name.
        folder: where the conversion goes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, or not this model's ([`ForeignCheckpoint`]): every missing, surplus or misshapen
            tensor is named.
        OSError: the conversion cannot be written to `folder`; a warning where no folder was given.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of the VAE checkpoint (vae_checkpoint.pth)")
    _check_not_text(path)
    if path.suffix == ".safetensors":
        state, _ = _read_safetensors(path)
        return _checked(plain_state_dict(state), expected, path)
    converted = (Path(folder) if folder is not None else path.parent) / f"{path.stem}.safetensors"
    with path.open("rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    state = _earlier_conversion(converted, source)
    if state is not None:
        return _checked(state, expected, converted)
    state = _checked(plain_state_dict(_unpickle(path)), expected, path)
    try:
        _write(state, converted, source)
    except OSError as error:
        if folder is not None:
            raise
        logger.warning("%s; so it is converted anew each time", error)
    return state


def _check_not_text(path: Path) -> None:
    """ValueError for what is often found in a checkpoint's place: the page of an error, or a pointer of Git LFS."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(LFS_POINTER):
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is a pointer of Git LFS, no checkpoint; get the file itself "
            "with git lfs pull"
        )
    if head and all(byte >= 32 or byte in TEXT_CONTROLS for byte in head) and 127 not in head:
        begin = " ".join(head.decode("utf-8", "replace").split())[:SHOWN]
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is text that begins with {begin!r}, no checkpoint; download "
            "the file itself"
        )


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(path):  # torch checks no sums of the tensors' bytes
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"the checksum of its part {broken} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose message advises to load it unsafely
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ValueError(
                f"{path} cannot be read as a checkpoint: it is no pickle of tensors, or damaged"
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it holds objects other than tensors ({found[1]}); save only its "
            'state dict, torch.save(checkpoint["state_dict"], ...)'
        ) from error
    except Exception as error:  # a damaged pickle is a program that no one wrote: anything may come of it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a checkpoint: {reason[:200]}; it is damaged, take another copy of it"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} where a state dict is expected")
    return state


def _checked(state: dict[str, Any], expected: dict[str, torch.Size], path: Path) -> dict[str, Tensor]:
    """`state` in fp32, if it has exactly the expected names and shapes and finite values."""
    missing = [name for name in expected if name not in state]
    surplus = [str(name) for name in state if name not in expected]
    odd = []
    for name, shape in expected.items():
        value = state.get(name)
        if isinstance(value, Tensor) and value.shape != shape:
            odd.append(f"{name} {list(value.shape)} instead of {list(shape)}")
        elif value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
            odd.append(f"{name} (no floating-point tensor)")
    if missing or surplus or odd:
        raise ForeignCheckpoint(path, {"missing": missing, "surplus": surplus, "misshapen": odd})
    tensors = {name: state[name].detach().float().contiguous() for name in expected}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds values that are not finite in {', '.join(broken)}; take another copy of it")
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}; it is damaged, remove it") from error


def _earlier_conversion(converted: Path, source: str) -> dict[str, Tensor] | None:
    """The tensors of a conversion made from the very same file and still whole, else None."""
    if not converted.exists():
        return None
    try:
        state, metadata = _read_safetensors(converted)
    except ValueError as error:
        raise ValueError(f"{error}, and it is made anew") from error
    if SOURCE not in metadata:
        raise ValueError(f"{converted} is in the way: it is no conversion of a checkpoint; give another folder")
    if metadata[SOURCE] != source or metadata.get(CONTENT) != _digest(state):
        return None
    return state


def _write(state: dict[str, Tensor], converted: Path, source: str) -> None:
    """Write beside the final name, flush to disk, rename."""
    staging = converted.with_name(f".{converted.name}.{os.getpid()}")
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, staging, metadata={SOURCE: source, CONTENT: _digest(state), "format": "pt"})
        with staging.open("rb+") as file:
            os.fsync(file.fileno())
        staging.replace(converted)
    except (OSError, SafetensorError) as error:
        if staging.exists():
            staging.unlink()
        raise OSError(f"the conversion {converted} cannot be written ({error})") from error
