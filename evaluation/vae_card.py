"""What the model card says about a member of the VQ-VAE family."""

from __future__ import annotations

from .card import CardContent
from .runs import Run
from .scene_data import is_generated
from .scene_observations import close_split
from .scene_report import data_name
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
    "loss": "Loss (reconstruction and commitment)",
    "fid_clean": "Frechet distance of reconstructions (clean-fid, Inception)",
    "frechet_efficientnet_lite0": "Frechet distance of reconstructions (EfficientNet-Lite0 features)",
}
SOURCES = [
    "A. van den Oord, O. Vinyals, K. Kavukcuoglu: Neural Discrete Representation Learning. NeurIPS 2017.",
    "R. Rombach, A. Blattmann, D. Lorenz, P. Esser, B. Ommer: High-Resolution Image Synthesis with Latent Diffusion "
    "Models. CVPR 2022.",
]
CLEVRTEX = (
    "L. Karazija, I. Laina, C. Rupprecht: ClevrTex: A texture-rich benchmark for unsupervised multi-object "
    "segmentation. NeurIPS 2021 (datasets and benchmarks)."
)


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    generated, config = is_generated(run), run.config
    pixels = (run.recipe.get("data") or {}).get("image_size", 128)
    side = pixels // 2 ** (len(config.get("widths") or [64, 128, 256]) - 1)
    usage = USAGE.format(name=run.folder.name, channels=config.get("latent_channels", 3), side=side)
    pictures = {SHEET: "Pictures from the worst to the best: image, reconstruction, four times the error, latent"}
    return CardContent(
        task="image-feature-extraction",
        task_name="Image autoencoding",
        title=f"VQ-VAE: {run.name}",
        summary=f"{describe(run)} Its latents, before quantisation, are what slot diffusion works in.",
        usage=usage,
        procedure=_procedure(run, generated),
        intended_use="The frozen latent space of slot diffusion (`train.py --model slotdiff`, `model.vae`), teaching, "
        "and experiments with discrete codes.",
        limits=_limits(run, generated),
        dataset_name=data_name(run),
        dataset_type="generated" if generated else "imagefolder",
        measures=MEASURES,
        beside=BESIDE,
        shares=frozenset({"explained_variance", "codebook_use"}),
        intervals_note="bootstrap over pictures",
        panels=PANELS,
        pictures=pictures if generated else {},
        sources=[*SOURCES, CLEVRTEX] if generated or "clevrtex" in data_name(run).lower() else SOURCES,
        tags=["vq-vae", "autoencoder", "latent-space", "from-scratch"],
    )


def _procedure(run: Run, generated: bool) -> str:
    training, data, config = run.recipe.get("training") or {}, run.recipe.get("data") or {}, run.config
    kind = "scenes drawn by this project's renderer" if generated else "pictures"
    counts = f", {data['num_train']:,} for training" if generated and "num_train" in data else ""
    optimiser = training.get("optim", "the Trainer's default optimiser")
    rate = f", learning rate {training['learning_rate']:g}" if "learning_rate" in training else ""
    codes = (
        f"codes are moving averages (decay {config['ema_decay']:g})"
        if config.get("ema_decay")
        else "codes are trained by a loss of their own"
    )
    revived = f"; a code unused for {config['revive_after']:,} steps is revived" if config.get("revive_after") else ""
    distance, weight = config.get("reconstruction_loss", "mse"), config.get("commitment_weight", 0.25)
    return (
        f"Data: {data_name(run)}, {kind}{counts}. Trained from random weights with {optimiser}{rate}; the loss is the "
        f"{distance} of the reconstruction and {weight:g} times the commitment loss, {codes}{revived}."
    )


def _limits(run: Run, generated: bool) -> list[str]:
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    limits = ["Fine textures and small objects lose most: the error is a mean over pixels, whatever they show."]
    if "psnr_interval" in numbers:
        low, high = numbers["psnr_interval"]
        limits.append(
            f"PSNR rests on {numbers['samples']:,} {split} pictures and is known to about {(high - low) / 2:.2f} dB; "
            "it says nothing of pictures that look different from these."
        )
    limits.append(
        "It was trained on drawn scenes and says little about photographs."
        if generated
        else "The licence of the training images is not known here; they are not part of this repository."
    )
    return limits
