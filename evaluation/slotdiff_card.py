"""What the model card says about a member of the slot diffusion family."""

from __future__ import annotations

from .card import CardContent, optimisation
from .runs import Run
from .scene_card import (
    CLUSTERS,
    FIXED_GRID,
    FLAT_COLOUR,
    SEGMENT,
    SLOT_ATTENTION,
    SLOT_DIFFUSION,
    SLOT_TAGS,
    data_sources,
    frechet_names,
    slot_fields,
    slot_limits,
    unmasked_data_sentence,
)
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
    **FIXED_GRID,
    "reconstruction_mse": "MSE of pictures sampled from slots (images in [0, 1], summed over an image)",
    **FLAT_COLOUR,
    "loss": "Loss (squared error of the denoising, mean over values)",
    **frechet_names("composed pictures"),
    "feature_distance_inception": "Feature distance of pictures sampled from slots (1 - cosine, Inception)",
    "feature_distance_efficientnet_lite0": "Feature distance of pictures sampled from slots (1 - cosine, "
    "EfficientNet-Lite0)",
}
PICTURES = {
    "scenes.png": "Validation scenes from the worst to the best, evenly spaced by rank: image, true masks, predicted "
    "masks, a picture sampled from the slots, then the picture where each slot's attention lies",
    **CLUSTERS,
    EDITS: "Edited slots of two scenes each, from the left: first scene, sampled from its slots, its largest object "
    "removed, the other's in its place, all objects of the second before its background; then the same of the second, "
    "from the right",
    SAMPLES: "The same slots and noise by each sampler; the first column is the scene",
}
DENOISING = "J. Ho, A. Jain, P. Abbeel: Denoising Diffusion Probabilistic Models. NeurIPS 2020."


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    return CardContent(
        title=f"Slot diffusion: {run.name}",
        summary=f"{describe(run)} It was trained on nothing but the denoising of latents: a slot's mask is its "
        "attention, and pictures are sampled from slots.",
        usage=USAGE.format(name=run.folder.name, size=run.config.get("image_size")),
        procedure=_procedure(run),
        intended_use="Teaching, and experiments with object-centric generation: new pictures from slots of others, "
        f"objects removed and swapped. Images should look like those it was trained on. {SEGMENT}",
        limits=_limits(run),
        beside=BESIDE,
        pictures=PICTURES if run.is_generated else {},
        sources=[SLOT_DIFFUSION, SLOT_ATTENTION, *data_sources(run), DENOISING],
        tags=["slot-diffusion", *SLOT_TAGS, "diffusion", "from-scratch"],
        **slot_fields(run),
    )


def _procedure(run: Run) -> str:
    return (
        f"{unmasked_data_sentence(run)} Slot encoder and UNet were trained together with {optimisation(run)}, the "
        "autoencoder stayed as it was; the loss is the mean squared error of the predicted "
        f"{run.config.get('prediction_type', 'epsilon')} at a random time step of "
        f"{run.config.get('num_train_timesteps', 1000):,}. Noise and time steps are functions of seed, epoch and "
        "picture."
    )


def _limits(run: Run) -> list[str]:
    limits = slot_limits(run)
    sampling = run.evaluation.get("sampling")
    if sampling:
        limits.append(
            f"Pictures were sampled by {sampling['scheduler']} in {sampling['steps']} steps. A sampled picture shows "
            "what slots say, not the scene itself: textures and fine shapes are made up."
        )
    return limits
