"""Which code a result depends on, and a fingerprint of what that code does."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from .runs import digest

ROOT = Path(__file__).resolve().parents[1]
MODEL_CODE = {  # per family: the files that decide what its model gives, besides what those in models/ import there
    "resnet": ("models/modeling_resnet.py",),
    "text2math": ("models/modeling_text2math.py", "models/tokenization_text2math.py"),
    "slotattn": ("models/modeling_slot_attention.py", "training/slot_noise.py"),
    "slotdiff": ("models/pipeline_slot_diffusion.py", "training/slot_noise.py", "training/diffusion_noise.py"),
    "vae": ("models/modeling_vqvae.py",),
}


def model_code(family: str) -> list[Path]:
    """The Python files that decide what a family's model gives."""
    files = [ROOT / name for name in MODEL_CODE[family]]
    own = [file for file in files if file.parent.name == "models"]
    return [*with_imports(own), *(file for file in files if file not in own)]


def with_imports(paths: Iterable[Path]) -> list[Path]:
    """Python files and all modules of the same folder that they import relatively, directly or not."""
    found: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            names = _imported(*_state(path))
            waiting.extend(file for file in (path.with_name(f"{name}.py") for name in names) if file.is_file())
    return sorted(found)


def _state(path: Path) -> tuple[Path, int, int]:
    """A file as it stands; of one that has not changed nothing is read twice."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1024)
def _imported(path: Path, mtime: int, size: int) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
    return names


def code_digest(paths: Sequence[Path]) -> str:
    """sha256 over what Python files do: their syntax trees without docstrings, so that words may be mended."""
    return digest([], [[path.name, _bare(*_state(path))] for path in paths])


@lru_cache(maxsize=1024)
def _bare(path: Path, mtime: int, size: int) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]
    return ast.dump(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
