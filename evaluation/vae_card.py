"""What the model card says about a member of the VQ-VAE family."""

from __future__ import annotations

from .card import CardContent, optimisation
from .runs import Run
from .scene_card import data_fields, data_limit, data_sentence, data_sources, frechet_names
from .scene_observations import close_split
from .vae_report import PANELS, SHEET, describe

USAGE = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("{name}")
vae = AutoModel.from_pretrained("{name}", trust_remote_code=True).eval()

pixel_values = processor(Image.open("scene.png").convert("RGB"), return_tensors="pt").pixel_values
with torch.no_grad():
    latents = vae.encode(pixel_values)  # [1, {channels}, {side}, {side}], before quantisation
    again = vae.decode(latents)  # quantises first; about [-1, 1]"""

MEASURES = {
    "psnr": "PSNR of reconstructions, dB",
    "explained_variance": "Share of the variance of the colours explained",
    "reconstruction_mse": "Reconstruction MSE (images in [0, 1], summed over an image)",
    "codebook_use": "Share of the codebook in use",
}
BESIDE = {
    "perplexity": "Perplexity of the codes",
    "loss": "Loss (as in training)",
    **frechet_names("reconstructions"),
}
SOURCES = [
    "A. van den Oord, O. Vinyals, K. Kavukcuoglu: Neural Discrete Representation Learning. NeurIPS 2017.",
    "R. Rombach, A. Blattmann, D. Lorenz, P. Esser, B. Ommer: High-Resolution Image Synthesis with Latent Diffusion "
    "Models. CVPR 2022.",
]
PICTURES = {SHEET: "Pictures from the worst to the best: image, reconstruction, four times the error, latent"}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    pixels = (run.recipe.get("data") or {}).get("image_size", 128)
    side = pixels // 2 ** (len(run.config.get("widths") or [64, 128, 256]) - 1)
    usage = USAGE.format(name=run.folder.name, channels=run.config.get("latent_channels", 3), side=side)
    return CardContent(
        task="image-feature-extraction",
        task_name="Image autoencoding",
        title=f"VQ-VAE: {run.name}",
        summary=f"{describe(run)} Its latents, before quantisation, are what slot diffusion works in.",
        usage=usage,
        procedure=_procedure(run),
        intended_use="The frozen latent space of slot diffusion (`train.py --model slotdiff`, `model.vae`), teaching, "
        "and experiments with discrete codes.",
        limits=_limits(run),
        measures=MEASURES,
        beside=BESIDE,
        shares=frozenset({"explained_variance", "codebook_use"}),
        intervals_note="bootstrap over pictures",
        panels=PANELS,
        pictures=PICTURES if run.is_generated else {},
        sources=[*SOURCES, *data_sources(run)],
        tags=["vq-vae", "autoencoder", "latent-space", "from-scratch"],
        **data_fields(run),
    )


def _procedure(run: Run) -> str:
    config = run.config
    codes = (
        f"codes are moving averages (decay {config['ema_decay']:g})"
        if config.get("ema_decay")
        else "codes are trained by a loss of their own"
    )
    revived = f"; a code unused for {config['revive_after']:,} steps is revived" if config.get("revive_after") else ""
    distance, weight = config.get("reconstruction_loss", "mse"), config.get("commitment_weight", 0.25)
    return (
        f"{data_sentence(run)}. Trained from random weights with {optimisation(run)}; the loss is the {distance} of "
        f"the reconstruction and {weight:g} times the commitment loss, {codes}{revived}."
    )


def _limits(run: Run) -> list[str]:
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    limits = ["Fine textures and small objects lose most: the error is a mean over pixels, whatever they show."]
    if "psnr_interval" in numbers:
        low, high = numbers["psnr_interval"]
        limits.append(
            f"PSNR rests on {numbers['samples']:,} {split} pictures and is known to about {(high - low) / 2:.2f} dB; "
            "it says nothing of pictures that look different from these."
        )
    return [*limits, data_limit(run)]
