"""What the model card says about a member of the slot diffusion family."""

from __future__ import annotations

from typing import Any

from . import slotattn_card
from .card import CardContent
from .runs import Run
from .scene_data import is_generated
from .scene_report import MEASURES, PANELS, data_name
from .slotdiff_report import EDITS, SAMPLES, describe

USAGE = """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}", trust_remote_code=True).eval()

picture = Image.open("scene.png").convert("RGB")
output = model(processor(picture, return_tensors="pt").pixel_values, return_loss=False)
segments = output.masks.argmax(dim=1)  # the slot of each pixel, [1, {size}, {size}]

pipeline = model.pipeline(processor)
again = pipeline(slots=output.slots, scheduler="dpmsolver++", output_type="pil").images[0]
without_the_first = pipeline(slots=output.slots[:, 1:], scheduler="dpmsolver++", output_type="pil").images[0]"""

BESIDE = {
    **slotattn_card.BESIDE,
    "reconstruction_mse": "MSE of pictures sampled from slots (images in [0, 1], summed over an image)",
    "loss": "Loss (squared error of the denoising, mean over values)",
    "feature_distance_inception": "Feature distance of pictures sampled from slots (1 - cosine, Inception)",
    "feature_distance_efficientnet_lite0": "Feature distance of pictures sampled from slots (1 - cosine, "
    "EfficientNet-Lite0)",
}
PICTURES = {
    **slotattn_card.PICTURES,
    "scenes.png": "Validation scenes from the worst to the best, evenly spaced by rank: image, true masks, predicted "
    "masks, a picture sampled from the slots, then the picture where each slot's attention lies",
    EDITS: "Edited slots of two scenes each, from the left: first scene, sampled from its slots, its largest object "
    "removed, the other's in its place, all objects of the second before its background; then the same of the second, "
    "from the right",
    SAMPLES: "The same slots and noise by each sampler; the first column is the scene",
}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    generated = is_generated(run)
    return CardContent(
        task="image-segmentation",
        task_name="Unsupervised object segmentation",
        title=f"Slot diffusion: {run.name}",
        summary=f"{describe(run)} It was trained on nothing but the denoising of latents: a slot's mask is its "
        "attention, and pictures are sampled from slots.",
        usage=USAGE.format(name=run.folder.name, size=run.config.get("image_size")),
        procedure=_procedure(run, generated),
        intended_use="Teaching, and experiments with object-centric generation: new pictures from slots of others, "
        "objects removed and swapped. Images should look like those it was trained on. Where this project is "
        "installed, `python -m evaluation.segment FOLDER PICTURE... --out FOLDER` writes masks and slots of any "
        "pictures.",
        limits=_limits(run, generated),
        dataset_name=data_name(run),
        dataset_type="generated" if generated else "imagefolder",
        measures=MEASURES,
        beside=BESIDE,
        shares=frozenset(MEASURES),
        intervals_note="bootstrap over scenes",
        panels=PANELS,
        pictures=PICTURES if generated else {},
        sources=_sources(run, generated),
        tags=["slot-diffusion", "object-centric-learning", "unsupervised-segmentation", "diffusion", "from-scratch"],
    )


def _sources(run: Run, generated: bool) -> list[str]:
    used = ["slot diffusion", "slot attention"]
    if generated or "clevrtex" in data_name(run).lower():
        used.append("clevrtex")
    ancestral = "J. Ho, A. Jain, P. Abbeel: Denoising Diffusion Probabilistic Models. NeurIPS 2020."
    return [*(slotattn_card.SOURCES[name] for name in used), ancestral]


def _procedure(run: Run, generated: bool) -> str:
    training, data = run.recipe.get("training") or {}, run.recipe.get("data") or {}
    config: dict[str, Any] = run.config
    kind = "scenes drawn by this project's renderer" if generated else "pictures"
    counts = f", {data['num_train']:,} for training" if generated and "num_train" in data else ""
    optimiser = training.get("optim", "the Trainer's default optimiser")
    rate = f", learning rate {training['learning_rate']:g}" if "learning_rate" in training else ""
    schedule = f", {training['lr_scheduler_type']} schedule" if "lr_scheduler_type" in training else ""
    return (
        f"Data: {data_name(run)}, {kind}{counts}, without their masks, which serve to measure only. Slot encoder and "
        f"UNet were trained together with {optimiser}{rate}{schedule}, the autoencoder stayed as it was; the loss is "
        f"the mean squared error of the predicted {config.get('prediction_type', 'epsilon')} at a random time step of "
        f"{config.get('num_train_timesteps', 1000):,}. Noise and time steps are functions of seed, epoch and picture."
    )


def _limits(run: Run, generated: bool) -> list[str]:
    limits = slotattn_card.common_limits(run, generated)
    sampling = run.evaluation.get("sampling")
    if sampling:
        limits.append(
            f"Pictures were sampled by {sampling['scheduler']} in {sampling['steps']} steps. A sampled picture shows "
            "what slots say, not the scene itself: textures and fine shapes are made up."
        )
    return limits
