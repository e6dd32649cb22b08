"""Facts of a run without the folders of the machine that made it: they go into files that may be published."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def last_part(value: Any) -> Any:
    """The last part of a path, anything else as it is: "/data/birds6.tar" -> "birds6.tar"."""
    return Path(value).name if isinstance(value, str) and "/" in value else value


def portable_path(value: Any) -> Any:
    """Of a path that leads out of the working directory (`/...`, `~...`, `../...`) the last part; anything else as it
    is: "/data/birds6.tar" -> "birds6.tar", and "recipes/vae/tiny.yaml" stays."""
    return last_part(value) if isinstance(value, str) and value.startswith(("/", "~", "../")) else value


def portable_command(words: Sequence[str]) -> str:
    """A command line whose paths mean something elsewhere, see [`portable_path`].

    Args:
        words: of the command, not quoted; the program is the first.
    """
    return shlex.join(map(_inside, words))


def _inside(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{portable_path(value)}"
