"""How runs of the slot diffusion family are compared: foreground ARI on the same scenes, and over seeds."""

from __future__ import annotations

from .comparison import ComparisonRules
from .scene_comparison import COLUMNS, METRIC, data_key, no_outcomes, sentences, split_of

RULES = ComparisonRules(
    columns=COLUMNS,
    metric=METRIC,
    metric_name="foreground ARI",
    unit="scenes",
    split_of=split_of,
    data_key=data_key,
    outcomes=no_outcomes,
    variant=lambda run: run.folder.name,
    sentences=sentences,
    note="ARI: adjusted Rand index, per scene and then averaged. MSE: images in [0, 1], summed over an image.",
)
