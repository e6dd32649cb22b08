"""Whether the files of a folder are those that were written to it, by the sha256 of each in `manifest.json`."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem_of(folder: str | os.PathLike, pattern: str = "*") -> str | None:
    """Why a folder is not what was written to it, in a few words; None if its files agree with the manifest.

    Args:
        folder: with a `manifest.json`.
        pattern: of the names that are looked at, as of `PurePath.match`; default: all.
    """
    folder = Path(folder)
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        entries = [(name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if not entries:
        return f"{MANIFEST} names no file"
    for name, size, sha256 in entries:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            return f"{MANIFEST} names a file outside the folder: {name}"
        if not Path(name).match(pattern):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if sha256_of(path) != sha256:
            return f"{name} is damaged (its sha256 differs)"
    return None


class CheckedPreTrainedModel(PreTrainedModel):
    """The library's base class, but what `from_pretrained` reads from a run folder has to be what training wrote.

    The library notices a file that is cut, not a bit that has flipped.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in the library. ValueError where the folder has a `manifest.json` whose sha256 of the weights differs."""
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        if (folder / MANIFEST).is_file() and (problem := problem_of(folder, "*.safetensors")):
            raise ValueError(
                f"{folder} cannot be trusted: {problem}; take another copy, or delete {MANIFEST} if you changed the "
                "weights yourself"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


__all__ = ["MANIFEST", "CheckedPreTrainedModel", "problem_of", "sha256_of"]
