"""What was computed with a run's model, kept in one file of the run folder: searches, gold programs, the baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .runs import RunError, digest, write_atomically

FILE_NAME = "generated.json"
Entry = dict[str, Any]


class Store:
    """Named results, each with the digest of what it was computed from; one that was computed from something else is
    computed again, and so is everything with `force`.

    The file is written after every new result, so an evaluation that was interrupted goes on where it stopped.
    """

    def __init__(self, folder: Path, force: bool = False) -> None:
        self.path = folder / FILE_NAME
        self.force = force
        try:
            self._entries: dict[str, Entry] = read_entries(folder)
        except RunError:
            if not force:
                raise
            self._entries = {}
        self._fresh: set[str] = set()

    def remember(self, name: str, inputs: str, compute: Callable[[], Entry]) -> Entry:
        """The stored result of this name, or what `compute` gives; `inputs` is the digest of what it depends on."""
        known = self._entries.get(name)
        if known is not None and known.get("inputs") == inputs and (not self.force or name in self._fresh):
            return known
        entry = self._entries[name] = {"inputs": inputs, **compute()}
        self._fresh.add(name)
        write_atomically(self.path, json.dumps(self._entries, ensure_ascii=False))
        return entry


def read_entries(folder: Path) -> dict[str, Entry]:
    """Everything stored in a run folder, `{}` where there is nothing. RunError for a damaged file."""
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}). Delete it, or evaluate with --force.") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise RunError(f"{path}: holds something else than named results. Delete it, or evaluate with --force.")
    return entries


def search_name(split: str, beams: int, constrained: bool = False) -> str:
    """The name of a split's search in the store."""
    return f"{split}, beam {beams}{', constrained' if constrained else ''}"


def gold_name(split: str) -> str:
    """The name of a split's gold programs in the store."""
    return f"{split}, gold"


def text_digest(*columns: Sequence[Any]) -> str:
    """sha256 over parallel columns of a split."""
    return digest([], [list(column) for column in columns])
