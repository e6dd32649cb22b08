"""Facts of a run without the folders of the machine that made it: they go into files that may be published."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def last_part(value: Any) -> Any:
    """The last part of a path, anything else as it is: "/data/birds6.tar" -> "birds6.tar"."""
    return Path(value).name if isinstance(value, str) and "/" in value else value


def portable_command(words: Sequence[str]) -> str:
    """A command line whose paths mean something elsewhere: of those that lead out of the working directory (`/...`,
    `~...`, `../...`) only the last part.

    Args:
        words: of the command, not quoted; the program is the first.
    """
    return shlex.join(map(_inside, words))


def _inside(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{last_part(value)}" if value.startswith(("/", "~", "../")) else word
