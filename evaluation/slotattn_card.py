"""What the model card says about a member of the Slot Attention family."""

from __future__ import annotations

from .card import CardContent
from .observations import points
from .runs import Run
from .scene_data import is_generated
from .scene_observations import close_split
from .scene_report import MEASURES, PANELS, data_name
from .scene_scores import FOREGROUND
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
    "reconstruction_mse": "Reconstruction MSE (images in [0, 1], summed over an image)",
    "loss": "Loss (images in [-1, 1], summed over channels, mean over pixels)",
    "fid_clean": "Frechet distance of composed pictures (clean-fid, Inception)",
    "frechet_efficientnet_lite0": "Frechet distance of composed pictures (EfficientNet-Lite0 features)",
}
PICTURES = {
    "scenes.png": "Validation scenes from the worst to the best, evenly spaced by rank: image, true masks, predicted "
    "masks, reconstruction, then each slot by itself",
    "clusters.png": "A row for each cluster of the slot library: the slots nearest to its centre",
    "composed.png": "Pictures composed of one training slot of each cluster",
}
SOURCES = {
    "slot attention": "F. Locatello, D. Weissenborn, T. Unterthiner, A. Mahendran, G. Heigold, J. Uszkoreit, "
    "A. Dosovitskiy, T. Kipf: Object-centric learning with Slot Attention. NeurIPS 2020.",
    "clevrtex": "L. Karazija, I. Laina, C. Rupprecht: ClevrTex: A texture-rich benchmark for unsupervised multi-object "
    "segmentation. NeurIPS 2021 (datasets and benchmarks).",
    "slot diffusion": "Z. Wu, J. Hu, W. Lu, I. Gilitschenski, A. Garg: SlotDiffusion: Object-centric generative "
    "modeling with diffusion models. NeurIPS 2023.",
}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    generated = is_generated(run)
    return CardContent(
        task="image-segmentation",
        task_name="Unsupervised object segmentation",
        title=f"Slot Attention: {run.name}",
        summary=f"{describe(run)} It was trained on nothing but the reconstruction of images: a slot's mask is what it "
        "explains.",
        usage=USAGE.format(name=run.folder.name, size=run.config.get("image_size")),
        procedure=_procedure(run, generated),
        intended_use="Teaching, and experiments with object-centric learning. Images should look like those it was "
        "trained on: a few objects on one floor, seen from the same height. Where this project is installed, "
        "`python -m evaluation.segment FOLDER PICTURE... --out FOLDER` writes masks and slots of any pictures.",
        limits=common_limits(run, generated),
        dataset_name=data_name(run),
        dataset_type="generated" if generated else "imagefolder",
        measures=MEASURES,
        beside=BESIDE,
        shares=frozenset(MEASURES),
        intervals_note="bootstrap over scenes",
        panels=PANELS,
        pictures=PICTURES if generated else {},
        sources=_sources(run, generated),
        tags=["slot-attention", "object-centric-learning", "unsupervised-segmentation", "from-scratch"],
    )


def _sources(run: Run, generated: bool) -> list[str]:
    used = ["slot attention"]
    if generated or "clevrtex" in data_name(run).lower():
        used.append("clevrtex")
    if run.config.get("encoder") == "resnet18" or run.evaluation.get("composition"):
        used.append("slot diffusion")
    return [SOURCES[name] for name in used]


def _procedure(run: Run, generated: bool) -> str:
    training, data = run.recipe.get("training") or {}, run.recipe.get("data") or {}
    kind = "scenes drawn by this project's renderer" if generated else "pictures"
    counts = f", {data['num_train']:,} for training" if generated and "num_train" in data else ""
    optimiser = training.get("optim", "the Trainer's default optimiser")
    rate = f", learning rate {training['learning_rate']:g}" if "learning_rate" in training else ""
    schedule = f", {training['lr_scheduler_type']} schedule" if "lr_scheduler_type" in training else ""
    halved = f", halved every {training['halve_lr_every']:,} steps" if training.get("halve_lr_every") else ""
    return (
        f"Data: {data_name(run)}, {kind}{counts}, without their masks, which serve to measure only. Trained from "
        f"random weights with {optimiser}{rate}{schedule}{halved}; the loss is the squared error summed over the "
        "channels, mean over pixels and batch. The noise of sampled slots is a function of seed, epoch and picture."
    )


def common_limits(run: Run, generated: bool) -> list[str]:
    """What every model that splits scenes into slots cannot do."""
    config = run.config
    limits = [
        f"Every picture is split into {config.get('num_slots')} slots, whether it has as many objects or not, and "
        "slots have no order: which one an object gets changes from picture to picture.",
        "Pictures that differ in style, size or number of objects from the training set are split by colour and place "
        "rather than by object.",
    ]
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    bounds = numbers.get(f"{FOREGROUND}_interval")
    if bounds:
        limits.append(
            f"Foreground ARI rests on {numbers['samples']:,} {split} scenes, so it is known to about "
            f"{points((bounds[1] - bounds[0]) / 2)}; another seed of training gives another value."
        )
    limits.append(
        "It was trained on drawn scenes and says little about photographs."
        if generated
        else "The licence of the training images is not known here; they are not part of this repository."
    )
    return limits
