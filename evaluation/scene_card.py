"""What the model cards of the families that work on scenes have in common: data, sources, measures and limits."""

from __future__ import annotations

from typing import Any

from .observations import points
from .runs import Run
from .scene_baselines import GRID, MEAN_COLOUR
from .scene_observations import close_split, with_masks
from .scene_report import PANELS, data_name
from .scene_results import MEASURES
from .scene_scores import FOREGROUND

SLOT_ATTENTION = (
    "F. Locatello, D. Weissenborn, T. Unterthiner, A. Mahendran, G. Heigold, J. Uszkoreit, A. Dosovitskiy, T. Kipf: "
    "Object-centric learning with Slot Attention. NeurIPS 2020."
)
SLOT_DIFFUSION = (
    "Z. Wu, J. Hu, W. Lu, I. Gilitschenski, A. Garg: SlotDiffusion: Object-centric generative modeling with diffusion "
    "models. NeurIPS 2023."
)
CLEVRTEX = (
    "L. Karazija, I. Laina, C. Rupprecht: ClevrTex: A texture-rich benchmark for unsupervised multi-object "
    "segmentation. NeurIPS 2021 (datasets and benchmarks)."
)
FIXED_GRID = {f"{GRID}{key}": f"Fixed grid, no learning: {name}" for key, name in MEASURES.items()}
FLAT_COLOUR = {f"{MEAN_COLOUR}reconstruction_mse": "Each picture's own mean colour, no learning: MSE"}
CLUSTERS = {
    "clusters.png": "A row for each cluster of the slot library: the slots nearest to its centre",
    "composed.png": "Pictures composed of one training slot of each cluster",
}
SEGMENT = (
    "Where this project is installed, `python -m evaluation.segment FOLDER PICTURE... --out FOLDER` writes masks and "
    "slots of any pictures."
)
SLOT_TAGS = ["object-centric-learning", "unsupervised-segmentation"]


def frechet_names(what: str) -> dict[str, str]:
    """Rows of the results: how far pictures of this kind are from the data, by the features at hand."""
    return {
        "fid_clean": f"Frechet distance of {what} (clean-fid, Inception)",
        "frechet_efficientnet_lite0": f"Frechet distance of {what} (EfficientNet-Lite0 features)",
    }


def data_fields(run: Run) -> dict[str, str]:
    """The fields of a `CardContent` that name the data."""
    return {"dataset_name": data_name(run), "dataset_type": "generated" if run.is_generated else "imagefolder"}


def slot_fields(run: Run) -> dict[str, Any]:
    """The fields of a `CardContent` that every model that splits scenes into slots has alike."""
    return {
        "task": "image-segmentation",
        "task_name": "Unsupervised object segmentation",
        "measures": MEASURES,
        "shares": frozenset({*MEASURES, *FIXED_GRID}),
        "intervals_note": "bootstrap over scenes",
        "panels": PANELS,
        **data_fields(run),
    }


def data_sources(run: Run) -> list[str]:
    """Who made the data, or what this project's renderer imitates."""
    return [CLEVRTEX] if run.is_generated or "clevrtex" in data_name(run).lower() else []


def data_sentence(run: Run) -> str:
    """What the model was trained on, up to the full stop."""
    data = run.recipe.get("data") or {}
    kind = "scenes drawn by this project's renderer" if run.is_generated else "pictures"
    counts = f", {data['num_train']:,} for training" if run.is_generated and "num_train" in data else ""
    return f"Data: {data_name(run)}, {kind}{counts}"


def unmasked_data_sentence(run: Run) -> str:
    """The same for models that learn to segment without having been shown how."""
    return f"{data_sentence(run)}, without their masks, which serve to measure only."


def data_limit(run: Run) -> str:
    """What the data keep one from saying."""
    if run.is_generated:
        return "It was trained on drawn scenes and says little about photographs."
    return "The licence of the training images is not known here; they are not part of this repository."


def slot_init(run: Run) -> str:
    """How slots begin, "sampled" or "learned"."""
    return (run.config.get("slot_config") or run.config).get("slot_init") or "sampled"


def slot_limits(run: Run) -> list[str]:
    """What every model that splits scenes into slots cannot do."""
    order = (
        "slots start from learned vectors: each keeps to a part of the picture rather than to a kind of object."
        if slot_init(run) == "learned"
        else "slots have no order: which one an object gets changes from picture to picture."
    )
    limits = [
        f"Every picture is split into {run.config.get('num_slots')} slots, whether it has as many objects or not, and "
        + order,
        "Pictures that differ in style, size or number of objects from the training set are split by colour and place "
        "rather than by object.",
    ]
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    bounds = numbers.get(f"{FOREGROUND}_interval")
    if bounds:
        limits.append(
            f"Foreground ARI rests on {with_masks(numbers):,} {split} scenes, so it is known to about "
            f"{points((bounds[1] - bounds[0]) / 2)}; another seed of training gives another value."
        )
    return [*limits, data_limit(run)]
