"""The history of a run as one tidy table: a row per (step, split), derived from the Trainer's own log."""

from pathlib import Path
from typing import Any

import pandas as pd

FIRST_COLUMNS = ("step", "epoch", "split", "seconds", "loss")
LAST_COLUMNS = ("learning_rate", "grad_norm")
_LEFT_OUT = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def history_rows(log_history: list[dict[str, Any]], splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows from `TrainerState.log_history`.

    `running` rows hold the loss that was optimised (augmentation, label smoothing and dropout included), averaged
    since the row before; rows of an evaluated split hold what `compute_metrics` gave.
    """
    rows = []
    for entry in log_history:
        common = {"step": entry["step"], "epoch": entry.get("epoch"), "seconds": entry.get("seconds")}
        if "loss" in entry:
            measured = {key: entry[key] for key in ("loss", *LAST_COLUMNS) if key in entry}
            rows.append({**common, "split": "running", **measured})
            continue
        for split in splits:
            prefix = f"eval_{split}_"
            measured = {k.removeprefix(prefix): v for k, v in entry.items() if k.startswith(prefix)}
            measured = {k: v for k, v in measured.items() if k not in _LEFT_OUT}
            if measured:
                rows.append({**common, "split": split, **measured})
    return rows


def write_history(path: Path, log_history: list[dict[str, Any]], splits: tuple[str, ...]) -> None:
    """Write `history.csv`; the file is replaced in one step, so a reader never sees half of it."""
    rows = history_rows(log_history, splits)
    names = {key for row in rows for key in row}
    measured = sorted(name for name in names if name not in FIRST_COLUMNS + LAST_COLUMNS)
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *measured, *LAST_COLUMNS])
    temporary = path.with_name(f".{path.name}.part")
    table.to_csv(temporary, index=False)
    temporary.replace(path)
