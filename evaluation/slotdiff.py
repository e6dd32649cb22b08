"""Evaluation of the slot diffusion family: what `scene_evaluation.py` does for all, samplers, and edited slots."""

from __future__ import annotations

from typing import Any

from . import scene_evaluation
from .diffusion_scene_model import DiffusionSceneModel
from .options import Options
from .runs import Run
from .samplers import compare_samplers
from .scene_evaluation import Closely, evaluate_scenes
from .slot_editing import edit, editable

scene_model = DiffusionSceneModel


def settings(run: Run, options: Options) -> Any:
    """What an evaluation depends on besides files."""
    return [*scene_evaluation.settings(run, options), options.sampled_images, options.sampler_images]


def evaluate(run: Run, options: Options) -> dict[str, Any]:
    """Scores, gallery and compositional generation of one run, see `scene_evaluation.evaluate_scenes`; besides, in
    `evaluation` and `pictures`, `samplers` (unless `--sampler-images` is 0) and `edits`."""
    model = scene_model(run, options)

    def own(close: Closely) -> tuple[dict[str, Any], dict[str, Any]]:
        numbers: dict[str, Any] = {"sampling": {"scheduler": "DPM-Solver++", "steps": model.steps}}
        shown: dict[str, Any] = {}
        shown["edits"], numbers["edits"] = edit(model, close.split, editable(close.predicted))
        if options.sampler_images:
            numbers["samplers"], shown["samplers"] = compare_samplers(
                close.store, model, close.split, options.sampler_images, close.made_from
            )
        return numbers, shown

    return evaluate_scenes(run, options, model, own)
