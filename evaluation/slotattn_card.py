"""What the model card says about a member of the Slot Attention family."""

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
    slot_init,
    slot_limits,
    unmasked_data_sentence,
)
from .slotattn_report import describe

USAGE = """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}", trust_remote_code=True).eval()

pixel_values = processor(Image.open("scene.png").convert("RGB"), return_tensors="pt").pixel_values
output = model(pixel_values)
segments = output.masks.argmax(dim=1)  # the slot of each pixel, [1, {size}, {size}]
again = model.decode(output.slots).reconstruction"""

BESIDE = {
    **FIXED_GRID,
    "reconstruction_mse": "Reconstruction MSE (images in [0, 1], summed over an image)",
    **FLAT_COLOUR,
    "loss": "Loss (images in [-1, 1], summed over channels, mean over pixels)",
    **frechet_names("composed pictures"),
}
PICTURES = {
    "scenes.png": "Validation scenes from the worst to the best, evenly spaced by rank: image, true masks, predicted "
    "masks, reconstruction, then each slot by itself",
    **CLUSTERS,
}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    return CardContent(
        title=f"Slot Attention: {run.name}",
        summary=f"{describe(run)} It was trained on nothing but the reconstruction of images: a slot's mask is what it "
        "explains.",
        usage=USAGE.format(name=run.folder.name, size=run.config.get("image_size")),
        procedure=_procedure(run),
        intended_use="Teaching, and experiments with object-centric learning. Images should look like those it was "
        f"trained on: a few objects on one floor, seen from the same height. {SEGMENT}",
        limits=slot_limits(run),
        beside=BESIDE,
        pictures=PICTURES if run.is_generated else {},
        sources=_sources(run),
        tags=["slot-attention", *SLOT_TAGS, "from-scratch"],
        **slot_fields(run),
    )


def _sources(run: Run) -> list[str]:
    borrowed = run.config.get("encoder") == "resnet18" or run.evaluation.get("composition")
    return [SLOT_ATTENTION, *data_sources(run), *([SLOT_DIFFUSION] if borrowed else [])]


def _procedure(run: Run) -> str:
    every = (run.recipe.get("training") or {}).get("halve_lr_every")
    halved = f", halved every {every:,} steps" if every else ""
    noise = " The noise of the slots is a function of seed, epoch and picture." if slot_init(run) == "sampled" else ""
    return (
        f"{unmasked_data_sentence(run)} Trained from random weights with {optimisation(run)}{halved}; the loss is the "
        f"squared error summed over the channels, mean over pixels and batch.{noise}"
    )
