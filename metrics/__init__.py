"""The project's `evaluate` modules, one folder each, loaded by path: no network, from any working directory."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import evaluate

_FOLDER = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.parent.name for path in _FOLDER.glob("*/*.py") if path.stem == path.parent.name))


def load(name: str, **options: Any) -> evaluate.EvaluationModule:
    """`evaluate.load` of the module `name` of this folder; `options` go to it (`num_process`, `process_id`, …).

    A single process keeps the samples in memory. Several write them to files that process 0 reads, so they need a
    common `experiment_id`; only process 0 gets a result. Raises ValueError on an unknown name.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no metric {name!r}{hint}: there are {', '.join(NAMES)}")
    options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
    return evaluate.load(str(_FOLDER / name / f"{name}.py"), **options)
