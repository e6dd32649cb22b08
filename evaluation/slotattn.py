"""Evaluation of the Slot Attention family, see `scene_evaluation.py`."""

from __future__ import annotations

from typing import Any

from .options import Options
from .runs import Run
from .scene_evaluation import evaluate_scenes, settings
from .scene_model import SceneModel

__all__ = ["evaluate", "scene_model", "settings"]

scene_model = SceneModel


def evaluate(run: Run, options: Options) -> dict[str, Any]:
    """Scores, gallery and compositional generation of one run; see `scene_evaluation.evaluate_scenes`."""
    return evaluate_scenes(run, options, scene_model(run, options))
